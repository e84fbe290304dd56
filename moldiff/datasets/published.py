"""Collections known by name: where each is found, how it is read, and what has to be said of it.

They come in the wheels of distributions that are never imported (``moses``, ``pdb-ligands``), or as an archive
(``geom-drugs``). QM9, with its own properties and split, is in :mod:`moldiff.datasets.qm9`.
"""

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

from moldiff.datasets.components import count_components, read_components
from moldiff.datasets.geom import count_geom, read_geom
from moldiff.datasets.readers import ReadError
from moldiff.datasets.records import Record


class Published(NamedTuple):
    """``member``: the file within the wheel of ``distribution``; both "" for an archive that is given."""

    about: str
    licence: str
    count: Callable[[BufferedIOBase, str], int]  # of a file and its name in messages
    read: Callable[[BufferedIOBase, str], Iterator[Record]]
    split: str  # the part of the published collection that our split divides
    distribution: str = ""
    member: str = ""
    install: str = ""
    archive: str = ""  # what to give


def count_smiles(file: BufferedIOBase, name: str) -> int:
    return sum(1 for _ in read_smiles(file, name))


def read_smiles(file: BufferedIOBase, name: str) -> Iterator[Record]:
    """MOSES: one column with a heading, compressed; a molecule is known by its row."""
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            if next(lines, "").strip() != "SMILES":
                raise ReadError(f"{name}: no heading SMILES; it should be that of molsets 0.3.1")
            for number, line in enumerate(lines, 1):
                yield Record(number, f"moses-{number}", f"line {number + 1}", "smiles", line.strip())
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ReadError(f"{name}: damaged ({error}); fetch it again") from error


PUBLISHED = {
    "moses": Published(
        "MOSES, train molecules (Polykovskiy et al. 2020, 10.3389/fphar.2020.565644)",
        "molsets: MIT licence, (c) 2018 Insilico Medicine; its molecules are from ZINC's Clean Leads",
        count_smiles, read_smiles, "MOSES' train molecules; its test and test_scaffolds are not read",
        "molsets", "moses/dataset/data/train.csv.gz", "pip install --no-deps molsets", "a downloaded wheel of molsets",
    ),
    "pdb-ligands": Published(
        "wwPDB Chemical Component Dictionary (Westbrook et al. 2015, 10.1093/bioinformatics/btu789), ideal coordinates",
        "wwPDB: CC0 1.0; biotite, which packs it: BSD 3-Clause",
        count_components, read_components, "all components",
        "biotite", "biotite/structure/info/components.bcif", "pip install 'moldiff[pdb-ligands]'",
        "a downloaded wheel of biotite",
    ),
    "geom-drugs": Published(
        "GEOM, drugs (Axelrod & Gómez-Bombarelli 2022, 10.1038/s41597-022-01288-4), lowest GFN2-xTB energy of each",
        "as stated at 10.7910/DVN/JNGTDF",
        count_geom, read_geom, "all molecules", archive="drugs_crude.msgpack.tar.gz of 10.7910/DVN/JNGTDF",
    ),
}  # fmt: skip


def find(name: str, archive: Path | None) -> Path:
    """The file of a collection: ``archive``, or that of the installed distribution.

    Raises :class:`ReadError` if it is not there, or not what it should be.
    """
    known = PUBLISHED[name]
    if archive is None:
        return _installed(name, known)
    if not archive.is_file():
        raise ReadError(f"--archive {archive}: no such file; give {known.archive}")
    if known.member and archive.name != Path(known.member).name:
        if not zipfile.is_zipfile(archive):
            raise ReadError(f"--archive {archive}: is not {known.archive}")
        with zipfile.ZipFile(archive) as wheel:
            if known.member not in wheel.namelist():
                raise ReadError(f"--archive {archive}: has no {known.member}; give {known.archive}")
    return archive


def _installed(name: str, known: Published) -> Path:
    if not known.distribution:
        raise ReadError(f"{name}: no package has it; give {known.archive} with --archive")
    try:
        path = Path(str(distribution(known.distribution).locate_file(known.member)))
    except PackageNotFoundError as error:
        text = f"{name}: is in {known.distribution}, which is not installed; {known.install}, or give {known.archive}"
        raise ReadError(f"{text} with --archive") from error
    if not path.is_file():
        text = f"{name}: {path} is missing; {known.install} again, or give {known.archive} with --archive"
        raise ReadError(text)
    return path


def label(name: str, path: Path) -> str:
    """What the file is called, be it in a wheel or unpacked."""
    return Path(PUBLISHED[name].member or path).name


@contextmanager
def opened(name: str, path: Path) -> Iterator[BufferedIOBase]:
    """The file itself, out of a wheel if it is in one."""
    member = PUBLISHED[name].member
    with open(path, "rb") as file:
        if member and zipfile.is_zipfile(path):
            with zipfile.ZipFile(file) as wheel, wheel.open(member) as inside:
                yield inside
        else:
            yield file


def count_published(name: str, path: Path) -> int:
    with opened(name, path) as file:
        return PUBLISHED[name].count(file, label(name, path))


def read_published(name: str, path: Path) -> Iterator[Record]:
    """The records of a collection in its order."""
    with opened(name, path) as file:
        yield from PUBLISHED[name].read(file, label(name, path))


def hash_published(name: str, path: Path) -> str:
    """SHA-256, that of the file inside a wheel."""
    with opened(name, path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
