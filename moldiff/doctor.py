"""Checks of an installation, for ``moldiff doctor``."""

import time
from collections.abc import Iterator

import torch

from moldiff import __version__, chem
from moldiff.generation import Generator, load
from moldiff.model import Model, choose_device
from moldiff.model_file import ModelFileError
from moldiff.outcomes import Record
from moldiff.predictions import HELPERS
from moldiff.requests import Request
from moldiff.samplers import Sampler
from moldiff.weights import ALIASES, shipped_helpers, shipped_models

GOLDEN = {"n": 4, "seed": 2026, "steps": 20}  # remade by `moldiff doctor`, stored in the weights when they are shipped


def golden_sample(generator: Generator) -> list[str]:
    """A few raw samples as text: SMILES where accepted, else the reason."""
    request = Request(GOLDEN["n"], GOLDEN["seed"], Sampler(steps=GOLDEN["steps"]), max_attempts=GOLDEN["n"])
    outcomes = generator.outcomes(request)
    return [o.smiles if isinstance(o, Record) else o.reason for o in outcomes]


def diagnose(device: str = "auto") -> Iterator[tuple[str, bool, str]]:
    """Checks of an installation, one by one: (what, sound?, finding).

    Raises:
        RequestError: no such device.
    """
    yield "versions", True, f"moldiff {__version__}, torch {torch.__version__}, rdkit {chem.RDKIT_VERSION}"
    device = choose_device(device)
    yield "device", True, device
    shipped = {name: path for name, path in shipped_models().items() if name not in ALIASES}
    yield "weights", bool(shipped), ", ".join(shipped) or "none in this installation; install the package again"
    kinds = HELPERS | {"fast": Model}
    helpers = [(path.stem, path, kind.load) for folder, kind in kinds.items() for path in shipped_helpers(folder)]
    generators = [(name, path, lambda path: load(path, device)) for name, path in shipped.items()]
    for name, path, open_weights in [*helpers, *generators]:
        try:
            found = open_weights(path)
        except ModelFileError as error:
            yield f"weights {name}", False, str(error)
            continue
        yield f"weights {name}", True, f"hash matches, {path.stat().st_size / 2**20:.1f} MiB"
        if isinstance(found, Generator) and "golden" in found.model.info:
            yield f"golden sample {name}", *_remake(found)


def _remake(generator: Generator) -> tuple[bool, str]:
    """Whether the golden sample comes out as it was recorded when the weights were shipped."""
    start = time.perf_counter()
    expected, found = generator.model.info["golden"], golden_sample(generator)
    same = sum(a == b for a, b in zip(found, expected, strict=True))
    text = f"{same} of {len(expected)} as recorded ({time.perf_counter() - start:.1f} s)"
    if 0 < same < len(expected):
        text += "; other processors round differently"
    elif same == 0:
        text += "; torch or the weights do not work here"
    return same > 0, text
