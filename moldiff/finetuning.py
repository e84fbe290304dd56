"""Training that starts from other weights: what they keep, what the set gives, and tokens that are new to them."""

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from moldiff.config import Config, NetworkConfig
from moldiff.datasets.prepared import Split
from moldiff.denoisers.layers import BEFORE_PROPERTIES, PER_PROPERTY
from moldiff.denoisers.transformer import TransformerConfig
from moldiff.model_file import DataInfo, TrainedNetwork
from moldiff.training_state import TrainingError

# For hundreds to thousands of molecules on two CPU cores; measured on 240, see "Train on your own molecules" in README.md.
SETTINGS: dict[str, Any] = dict(
    steps=600, lr=5e-4, warmup=50, patience=10, batch=128, seed=0, precision="float32", compile=False
)
NAMED = 3  # rows of a token that a refusal names


def settings_for(source: Config) -> Config:
    """How to train on from weights unless told otherwise: their network and weights of the losses, a short schedule."""
    return dataclasses.replace(source, train=dataclasses.replace(source.train, **SETTINGS))


def adapt(
    meta: dict[str, Any], source: DataInfo, splits: Sequence[Split], path: Path, extend: bool = False
) -> DataInfo:
    """What a model that starts from the weights in ``path`` knows of a set: sizes and names are the set's.

    Tokens, marginals, coordinate scale and properties remain those of the weights, whose numbers have no other meaning;
    properties that are new to them are added at the end.
    ``splits``: all molecules that will be used; ``extend``: tokens of theirs that are new are added at the end, too.

    Raises:
        TrainingError: the set has other hydrogens, one of the properties in another unit or, without ``extend``, a new token.
    """
    info = DataInfo.from_meta(meta)
    if info.hydrogens != source.hydrogens:
        text = f"its hydrogens are {source.hydrogens}, those of {info.name} {info.hydrogens}"
        raise TrainingError(f"{path}: {text}; prepare the set with --hydrogens {source.hydrogens}")
    units = {p.name: p.unit for p in source.properties}
    for p in info.properties:
        if units.get(p.name, p.unit) != p.unit:
            text = f"its property {p.name} is in {units[p.name] or 'no unit'}, that of {info.name} in {p.unit or 'no unit'}"
            raise TrainingError(f"{path}: {text}; prepare the set in the same unit, or give it another name")
    places = {token: _places(token, info, splits) for token in info.vocabulary if token not in source.vocabulary}
    added = [token for token, rows in places.items() if rows]
    if added and not extend:
        text = "; ".join(f"{token}, in {_named(places[token], meta)}," for token in added)
        remedy = f"--extend-vocabulary adds it; `moldiff data prepare --vocabulary-of {path}` drops the molecules"
        raise TrainingError(f"{path}: {text} is not in its vocabulary ({' '.join(source.vocabulary)}); {remedy}")
    names = {"name": info.name, "source": info.source, "sha256": info.sha256}
    grown = extended(source, info, added)
    return dataclasses.replace(grown, **_compositions(info, grown), **names)


def _compositions(info: DataInfo, grown: DataInfo) -> dict[str, tuple]:
    """Those of the set, by the elements and properties of the weights; what else these know of properties is unknown."""
    columns = [info.elements.index(symbol) if symbol in info.elements else -1 for symbol in grown.elements]
    compositions = tuple((*(row[k] if k >= 0 else 0 for k in columns), row[-1]) for row in info.compositions)
    examples = tuple((row, *_by_name(values, info, grown)) for row, *values in info.examples)
    return {"compositions": compositions, "examples": examples}


def _by_name(values: Sequence[int | float | None], info: DataInfo, grown: DataInfo) -> list[int | float | None]:
    """Values of the properties of ``info`` as those of ``grown``."""
    named = {p.name: value for p, value in zip(info.properties, values, strict=True)}
    return [named.get(p.name) for p in grown.properties]


def extended(source: DataInfo, info: DataInfo, added: Sequence[str]) -> DataInfo:
    """``source`` with the properties of the set that it lacks, and with more tokens: these as frequent as in the set, the
    others as frequent among themselves as before."""
    shares = [info.atom_marginal[info.vocabulary.index(token)] for token in added]
    marginal = (*(m * (1 - sum(shares)) for m in source.atom_marginal), *shares)
    known = {p.name for p in source.properties}
    properties = (*source.properties, *(p for p in info.properties if p.name not in known))
    return dataclasses.replace(
        source, vocabulary=(*source.vocabulary, *added), atom_marginal=marginal, properties=properties
    )


def translate(split: Split, info: DataInfo, adapted: DataInfo) -> Split:
    """Tokens and properties by their numbers in ``adapted``; properties that the set lacks are unknown."""
    values = {p.name: column for p, column in zip(info.properties, split.properties.T, strict=True)}
    unknown = np.full(len(split), np.nan, np.float32)
    columns = [values.get(p.name, unknown) for p in adapted.properties]
    properties = np.array(columns, np.float32).reshape(len(columns), len(split)).T
    return dataclasses.replace(split.with_vocabulary(info.vocabulary, adapted.vocabulary), properties=properties)


def start_from(model: TrainedNetwork, source: TrainedNetwork, path: Path) -> None:
    """Give ``model`` the weights of ``source``, which knows the first of its tokens and properties or all of them.

    A transformer may have more layers than its source, which begin as the identity, and be told of longer walks, which count
    nothing at first, so that its estimates are the source's.
    """
    ours, theirs = model.config.network, source.config.network
    layers = _layers_to_keep(ours, theirs)
    if ours != theirs and not layers:
        remedy = "leave --preset and --config out; only layers and walks can be added, to a transformer"
        raise TrainingError(f"{path}: its network is {_told(theirs, ours)}, here {_told(ours, theirs)}; {remedy}")
    widths = [_widths(m.data) for m in (source, model)]
    if widths[0] != widths[1] and ours.kind == "tensor_product":
        raise TrainingError(
            f"{path}: new tokens and properties are not made for {ours.kind} networks; train from nothing"
        )
    if layers:
        model.network.begin_as_identity(layers)
    new = model.network.state_dict()
    weights = {
        k: _grown(old, new[k], *(_columns(k, *w) for w in widths)) for k, old in source.network.state_dict().items()
    }
    model.network.load_state_dict({**new, **weights})


def _told(network: NetworkConfig, other: NetworkConfig) -> str:
    """Its kind, and the options in which another of this kind differs."""
    options = [
        f"{k} {v}" for k, v in network.options.items() if network.kind == other.kind and v != other.options.get(k)
    ]
    return " with ".join([network.kind, *([", ".join(options)] if options else [])])


def _layers_to_keep(ours: NetworkConfig, theirs: NetworkConfig) -> int:
    """Layers of their transformer if ours differs from it by more layers and longer walks only, else 0."""
    if not ours.kind == theirs.kind == "transformer":
        return 0
    mine, yours = (TransformerConfig(**network.options) for network in (ours, theirs))
    more = mine.layers >= yours.layers and mine.walks >= yours.walks
    return yours.layers if more and dataclasses.replace(yours, layers=mine.layers, walks=mine.walks) == mine else 0


def _widths(data: DataInfo) -> tuple[int, int]:
    """Of a token, as numbers, and of the condition vector up to its last property; see :func:`condition_features`."""
    return len(data.vocabulary), BEFORE_PROPERTIES + PER_PROPERTY * len(data.properties)


def _columns(name: str, token: int, condition: int) -> list[int]:
    """Widths of the blocks of input columns of the first layer ``name``, the last block left out: one-hot noisy token, token
    probabilities of the previous estimate, condition vector up to its last property. The last block (element counts; walks
    for pairs) may grow."""
    layer = name.removeprefix("trunk.")  # of a predictor
    if layer.startswith("embed_pair"):
        return []
    if layer.startswith("embed_atom"):
        return [token, token]
    if layer.startswith("embed_condition"):
        return [condition]
    return [token, token, 2 + condition]


def _grown(old: Tensor, new: Tensor, pieces: list[int], wider: list[int]) -> Tensor:
    """Zeros for what is new: rows where tokens come out; where they go in, columns at the end of each of the ``pieces``,
    which are ``wider`` now, and of the last.

    So nothing changes for molecules without new tokens and properties, but for one class more, whose logit is zero.
    """
    if old.shape == new.shape:
        return old
    if len(new) > len(old):
        return torch.cat([old, old.new_zeros(len(new) - len(old), *old.shape[1:])])
    columns = old.split([*pieces, old.shape[1] - sum(pieces)], 1)
    widths = [*wider, new.shape[1] - sum(wider)]
    return torch.cat([pad(piece, (0, width - piece.shape[1])) for piece, width in zip(columns, widths, strict=True)], 1)


def _places(token: str, info: DataInfo, splits: Sequence[Split]) -> list[int]:
    """Running numbers, in the source, of the molecules that hold a token."""
    index = info.vocabulary.index(token)
    return sorted(int(row) for split in splits for row in split.source[split.having([index])])


def _named(places: Sequence[int], meta: dict[str, Any]) -> str:
    """How many molecules, and the files and rows of the first if the set tells them."""
    count = f"{len(places)} molecule{'s' * (len(places) > 1)}"
    if "first_row" not in meta:
        return count
    files, starts = zip(*meta["first_row"].items(), strict=True)
    at = [(place, bisect_right(starts, place) - 1) for place in places[:NAMED]]
    rows = ", ".join(f"{files[k]} row {place - starts[k] + 1}" for place, k in at)
    return f"{count} ({rows}{', …' * (len(places) > NAMED)})"
