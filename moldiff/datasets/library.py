"""A chemist's own files: what is asked of them, and their records one after the other."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from moldiff.chem import RDKIT_VERSION
from moldiff.datasets.curation import Curation
from moldiff.datasets.readers import ReadError, format_of, read_records
from moldiff.datasets.records import Record
from moldiff.errors import RequestError

WITH_COLUMNS = ("table", "parquet")
SPLIT_RULES = {"random": "at random, seed {}", "scaffold": "by Bemis–Murcko scaffold"}


@dataclass(frozen=True)
class Library:
    """What is to be prepared, and how. All of it, the content of the files included, decides the result."""

    files: Sequence[Path]
    column: str | None = None  # of tables: the one with SMILES
    properties: Sequence[tuple[str, str]] = ()  # (column or data field, unit)
    curation: Curation = field(default_factory=Curation)
    min_count: int = 1  # molecules that must hold a token for it to be in the vocabulary
    split: str = "random"  # or scaffold
    valid: float = 0.1  # share of the molecules
    test: float = 0.1
    timeout: float = 60.0  # seconds for a molecule

    def check(self) -> None:
        """Raise :class:`RequestError` for what no file could meet."""
        if not (0 < self.valid < 1 and 0 < self.test < 1 and self.valid + self.test < 1):
            raise RequestError(
                f"--valid {self.valid:g} --test {self.test:g}: shares above 0 that leave some for training"
            )
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise RequestError(f"--timeout {self.timeout:g}: must be positive (seconds)")
        if not 0 <= self.curation.seed < 2**31:
            raise RequestError(f"--seed {self.curation.seed}: must be between 0 and 2^31 - 1")
        if self.split not in SPLIT_RULES:
            raise RequestError(f"--split {self.split}: choose {' or '.join(SPLIT_RULES)}")
        if self.curation.hydrogens not in ("explicit", "implicit"):
            raise RequestError(f"--hydrogens {self.curation.hydrogens}: choose explicit or implicit")
        for what, values in (("--property", self.names), ("file", [str(path) for path in self.files])):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise RequestError(f"{what} {twice[0]}: given twice; give it once")

    @property
    def names(self) -> list[str]:
        """Of the properties."""
        return [name for name, _ in self.properties]

    @property
    def labels(self) -> list[str]:
        """Names of the files, with their folders where names alone would be ambiguous."""
        names = [path.name for path in self.files]
        return names if len(set(names)) == len(names) else [str(path) for path in self.files]

    def request(self) -> dict[str, Any]:
        """All that decides the result, as JSON."""
        settings = {k: v for k, v in asdict(self).items() if k != "files"}
        return {
            "sha256": dict(zip(self.labels, map(_hash, self.files), strict=True)),
            "rdkit": RDKIT_VERSION,
            **settings,
        }


class Item(NamedTuple):
    """One record of all files, with the texts of its properties where a table has them."""

    source: int  # running number, from 1
    file: str
    record: Record
    properties: list[str] | None


def read_items(library: Library) -> Iterator[Item]:
    """All records of all files."""
    number = 0
    for path, label in zip(library.files, library.labels, strict=True):
        in_table = bool(library.names) and format_of(path) in WITH_COLUMNS
        columns = [_texts(path, name) for name in library.names if in_table]
        for record in read_records(path, _column(path, library)):
            number += 1
            yield Item(number, label, record, [next(texts) for texts in columns] if in_table else None)


def count_records(path: Path, library: Library) -> int:
    """Before the work: how many there are, and whether the file can be read and has the properties."""
    if format_of(path) == "sdf":
        missing = set(library.names)
        count = 0
        for record in read_records(path, _column(path, library)):
            count += 1
            missing -= {name for name in missing if f"<{name}>" in record.text}
        if missing:
            raise ReadError(f"--property {min(missing)}: no record of {path} has such a data field")
        return count
    if library.names and format_of(path) not in WITH_COLUMNS:
        raise ReadError(f"--property {library.names[0]}: {path} has no properties; give an SDF or a table")
    for name in library.names:
        _texts(path, name)
    return sum(1 for _ in read_records(path, _column(path, library)))


def _column(path: Path, library: Library) -> str | None:
    """Given to a file without columns only if there are no others, so that the reader refuses it."""
    tables = [p for p in library.files if format_of(p) in WITH_COLUMNS]
    return library.column if path in tables or not tables else None


def _texts(path: Path, name: str) -> Iterator[str]:
    """A column as text, "" where a row has nothing there: the reader yields a record a row whatever column it is given."""
    try:
        return (record.text for record in read_records(path, name))
    except ReadError as error:
        raise ReadError(str(error).replace("--column", "--property")) from error


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
