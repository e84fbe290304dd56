"""What every trained network of this package is: weights, configuration and data statistics in one safetensors file."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Integer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from moldiff.conditions import Property
from moldiff.config import Config, ConfigError
from moldiff.errors import MoldiffError
from moldiff.files import write_atomically
from moldiff.molecule import by_element

FORMAT = 5
READABLE = (4, FORMAT)  # the former without examples
HISTORY = ("samples", "steps", "cpu_seconds", "started_from")  # keys of info: how the weights were trained


class ModelFileError(MoldiffError):
    """A weights file cannot be used; the message names the file, what is wrong and the remedy."""


@dataclass(frozen=True)
class DataInfo:
    """What a model knows of its training data; travels inside the weights file."""

    name: str
    vocabulary: tuple[str, ...]  # token names such as "N+"
    hydrogens: str  # explicit or implicit
    coordinate_std: float  # Å
    atom_marginal: tuple[float, ...]
    bond_marginal: tuple[float, ...]
    compositions: tuple[tuple[int, ...], ...]  # atoms of each of ``elements`` and, last, molecules
    properties: tuple[Property, ...]
    source: str
    sha256: str  # of the training split
    # some training molecules: row of ``compositions``, and properties (None: unknown)
    examples: tuple[tuple[int | float | None, ...], ...] = ()

    @property
    def elements(self) -> tuple[str, ...]:
        """Hydrogen, too, where it is left to valence: it is first, and of no token."""
        return by_element(self.vocabulary, self.hydrogens)[0]

    @property
    def element_of(self) -> tuple[int, ...]:
        """For each token the place of its element in ``elements``."""
        return by_element(self.vocabulary, self.hydrogens)[1]

    def elements_in(self, token: Integer[Tensor, "*sites"]) -> Integer[Tensor, "*sites"]:
        """For each of these tokens the place of its element in ``elements``."""
        return torch.tensor(self.element_of, device=token.device)[token.long()]

    @property
    def made(self) -> tuple[bool, ...]:
        """For each of ``elements`` whether the model makes its atoms."""
        elements, of_token = by_element(self.vocabulary, self.hydrogens)
        return tuple(k in of_token for k in range(len(elements)))

    @cached_property
    def size_histogram(self) -> tuple[tuple[int, int, int], ...]:
        """(heavy atoms, atoms that the model makes, molecules)."""
        sizes: Counter[tuple[int, int]] = Counter()
        heavy, made = [symbol != "H" for symbol in self.elements], self.made
        for *composition, molecules in self.compositions:
            sizes[sum(compress(composition, heavy)), sum(compress(composition, made))] += molecules
        return tuple((*size, molecules) for size, molecules in sorted(sizes.items()))

    @cached_property
    def heavy_range(self) -> tuple[int, int]:
        """Least and most heavy atoms of the training molecules."""
        heavy = [heavy for heavy, _, _ in self.size_histogram]
        return min(heavy), max(heavy)

    @cached_property
    def atom_range(self) -> tuple[int, int]:
        """Least and most atoms of the training molecules, of those that the model makes."""
        atoms = [atoms for _, atoms, _ in self.size_histogram]
        return min(atoms), max(atoms)

    def size_problem(self, heavy: int, atoms: int) -> str:
        """Why a molecule is outside the sizes that the model was trained on, "" if it is not; ``atoms``: as in atom_range."""
        for count, (least, most), what in ((heavy, self.heavy_range, "heavy atoms"), (atoms, self.atom_range, "atoms")):
            if not least <= count <= most:
                return f"{count} {what}, model {self.name} knows {least} to {most}"
        return ""

    @cached_property
    def example_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the examples, (rows of ``compositions``, properties), (examples,) and (examples, properties); NaN: unknown."""
        table = np.array(self.examples, dtype=float).reshape(-1, 1 + len(self.properties))
        return table[:, 0].astype(int), table[:, 1:]

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "DataInfo":
        """From a prepared set's ``meta.json``."""
        return cls.from_dict({**meta, "sha256": meta["sha256"]["train"]})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DataInfo":
        """What else ``values`` tell is ignored."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{
            **{k: v for k, v in values.items() if k in known},
            "vocabulary": tuple(values["vocabulary"]),
            "atom_marginal": tuple(values["atom_marginal"]),
            "bond_marginal": tuple(values["bond_marginal"]),
            "compositions": tuple(tuple(row) for row in values["compositions"]),
            "properties": tuple(Property(**p) for p in values["properties"]),
            "examples": tuple(tuple(row) for row in values.get("examples", ())),
        })  # fmt: skip


class TrainedNetwork(nn.Module):
    """A network with its configuration, what it knows of its data, and its history (``info``)."""

    TASK: ClassVar[str]  # of the configurations that are made for it
    losses: Sequence[str]  # names of what ``loss`` returns, first what is minimised
    network: nn.Module

    def __init__(self, config: Config, data: DataInfo, info: dict[str, Any] | None = None):
        super().__init__()
        self.config, self.data, self.info = config, data, info or {}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def save(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write one safetensors file holding weights and, as JSON metadata, everything needed to use them."""
        tensors = {k: v.detach().to(dtype).cpu().contiguous() for k, v in self.network.state_dict().items()}
        header = {
            "format": FORMAT,
            "config": self.config.to_dict(),
            "data": dataclasses.asdict(self.data),
            "info": self.info,
            "sha256": tensor_hash(tensors),
        }
        text = json.dumps(header)
        # one key, hash first: safetensors writes several in random order, and equal models should be equal files
        metadata = {"moldiff": f"{hashlib.sha256(text.encode()).hexdigest()} {text}"}
        with write_atomically(path) as temporary:
            # save_file would deny other users of the machine to read it
            temporary.write_bytes(save(tensors, metadata=metadata))

    @property
    def sha256(self) -> str:
        """Hash of the weights as they are now."""
        return tensor_hash({k: v.detach().cpu() for k, v in self.network.state_dict().items()})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "TrainedNetwork":
        """Read a file written by :meth:`save`.

        Raises:
            ModelFileError: the file is missing, truncated, a pickle, of another format, made for another task, or its
                weights do not match the hash they were saved with.
        """
        tensors, header = read_file(Path(path))
        if tensor_hash(tensors) != header["sha256"]:
            raise ModelFileError(f"{path}: weights do not match their hash, the file is damaged; get it again")
        try:
            config = Config.from_dict(header["config"])
            if config.task != cls.TASK:
                raise ModelFileError(f"{path}: these weights are made to {config.task}, not to {cls.TASK}; name others")
            model = cls(config, DataInfo.from_dict(header["data"]), header["info"])
        except ConfigError as error:  # settings of another version
            raise ModelFileError(f"{path}: {error}; use the version of moldiff that wrote it") from error
        model.network.load_state_dict({k: v.float() for k, v in tensors.items()})
        model.requires_grad_(False)
        return model.eval().to(device)


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, shapes, types and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        digest.update(f"{name}{tuple(t.shape)}{t.dtype}".encode())
        digest.update(
            t.view(torch.uint8).numpy().tobytes() if t.ndim else t.reshape(1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file written by :meth:`TrainedNetwork.save`. Raises :class:`ModelFileError`."""
    with _opened(path) as file:
        return {k: file.get_tensor(k) for k in file.keys()}, _header(path, file)  # noqa: SIM118 - not a mapping


def read_header(path: Path) -> dict[str, Any]:
    """What a file says of itself, as :func:`read_file`, which takes longer."""
    with _opened(path) as file:
        return _header(path, file)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file of safetensors."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    with open(path, "rb") as file:
        start = file.read(9)
    is_json = start[8:] == b"{"  # after the header's length, whose bytes may look like the start of anything
    if not is_json and (start[:2] == b"PK" or start[:1] == b"\x80"):
        raise ModelFileError(
            f"{path}: a pickle or zip archive, which may run code when opened; refused. Use safetensors"
        )
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a complete safetensors file ({error}); get it again") from error


def _header(path: Path, file: Any) -> dict[str, Any]:
    metadata = file.metadata() or {}
    if "moldiff" not in metadata:
        raise ModelFileError(f"{path}: safetensors, but not written by moldiff (no moldiff metadata)")
    expected, _, text = metadata["moldiff"].partition(" ")
    if expected != hashlib.sha256(text.encode()).hexdigest():
        raise ModelFileError(f"{path}: its header does not match its hash, the file is damaged; get it again")
    header = json.loads(text)
    if header["format"] not in READABLE:
        remedy = "update moldiff" if header["format"] > FORMAT else "train again with this version"
        readable = " and ".join(map(str, sorted(READABLE)))
        raise ModelFileError(f"{path}: format {header['format']}, this version reads {readable}; {remedy}")
    return header
