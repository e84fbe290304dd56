"""A chemist's own files, or a published collection: what is asked of them, and their records one after the other."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moldiff.chem import RDKIT_VERSION
from moldiff.datasets.computed import UNITS
from moldiff.datasets.curation import Curation
from moldiff.datasets.published import PUBLISHED, count_published, hash_published, label, read_published
from moldiff.datasets.readers import ReadError, format_of, read_records
from moldiff.datasets.records import Record
from moldiff.errors import RequestError
from moldiff.molecule import HYDROGENS

DRAW = 1  # sets the drawing of records apart from that of the split
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
    source: str = ""  # name of a published collection, whose file is the only one; "": own files
    limit: int | None = None  # records to take, drawn at random; None: all
    computed: Sequence[str] = ()  # of the properties, those that are computed; :func:`survey` finds them

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
        if self.curation.hydrogens not in HYDROGENS:
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
    def given(self) -> list[str]:
        """Of the properties, those that the files have."""
        return [name for name in self.names if name not in self.computed]

    @property
    def labels(self) -> list[str]:
        """Names of the files, with their folders where names alone would be ambiguous."""
        if self.source:
            return [label(self.source, path) for path in self.files]
        names = [path.name for path in self.files]
        return names if len(set(names)) == len(names) else [str(path) for path in self.files]

    @property
    def origin(self) -> dict[str, str]:
        """What the metadata says of it."""
        if not self.source:
            return {"source": ", ".join(self.labels)}
        known = PUBLISHED[self.source]
        return {"source": f"{known.about}, from {self.labels[0]}", "licence": known.licence}

    def taken(self, there: int) -> int:
        """How many of the records that are there."""
        return there if self.limit is None else min(self.limit, there)

    def request(self) -> dict[str, Any]:
        """All that decides the result, as JSON."""
        settings = {k: v for k, v in asdict(self).items() if k != "files"}
        return {
            "sha256": {name: _hash(path, self) for name, path in zip(self.labels, self.files, strict=True)},
            "rdkit": RDKIT_VERSION,
            **settings,
        }


class Item(NamedTuple):
    """One record of all files, with the texts of its properties where a table has them."""

    source: int  # running number, from 1
    file: str
    record: Record
    properties: list[str] | None


def read_items(library: Library, there: int) -> Iterator[Item]:
    """Those of the records of all files, ``there`` are, that are taken; the same ones for the same seed."""
    if library.taken(there) == there:
        return _all_items(library)
    chosen = np.zeros(there, dtype=bool)
    random = np.random.default_rng((library.curation.seed, DRAW))
    chosen[random.choice(there, library.limit, replace=False)] = True
    return compress(_all_items(library), chosen)


def _all_items(library: Library) -> Iterator[Item]:
    number = 0
    for path, name in zip(library.files, library.labels, strict=True):
        in_table = bool(library.given) and _is_table(path, library)
        columns = [_texts(path, column) for column in library.given if in_table]
        for record in _records(path, library):
            number += 1
            yield Item(number, name, record, [next(texts) for texts in columns] if in_table else None)


def survey(library: Library) -> tuple[Library, list[int]]:
    """Before the work: with the properties to compute set, and how many records each file has.

    Raises a :class:`moldiff.errors.MoldiffError` for what cannot be met, or if a file cannot be read or lacks a property.
    """
    library.check()
    counts, lacking = zip(*(_look_through(path, library) for path in library.files), strict=True)
    if library.curation.charge and not (library.source or any(format_of(path) == "xyz" for path in library.files)):
        raise RequestError(f"--charge {library.curation.charge}: for XYZ files only; leave it out")
    if not any(counts):
        raise ReadError(f"{', '.join(map(str, library.files))}: no record in it; give a file with molecules")
    properties, computed = [], []
    for name, unit in library.properties:
        problems = [lacks[name] for lacks in lacking if name in lacks]
        known = name.lower()
        if problems and (known not in UNITS or len(problems) < len(library.files)):
            raise ReadError(problems[0])
        if problems:
            if unit not in ("", UNITS[known]):
                raise RequestError(
                    f"--property {name}:{unit}: is computed in {UNITS[known] or 'no unit'}; leave it out"
                )
            name, unit = known, UNITS[known]
            computed.append(name)
        properties.append((name, unit))
    library = replace(library, properties=properties, computed=computed)
    library.check()
    return library, list(counts)


def _look_through(path: Path, library: Library) -> tuple[int, dict[str, str]]:
    """How many records a file has, and for each property that it lacks, why that cannot be read."""
    if library.source:
        text = f"{library.source} has none; computed are {', '.join(UNITS)}"
        return count_published(library.source, path), {name: f"--property {name}: {text}" for name in library.names}
    if format_of(path) == "sdf":
        return _look_through_sdf(path, library)
    count = sum(1 for _ in _records(path, library))
    if _is_table(path, library):
        return count, _lacking_columns(path, library)
    text = f"{path} has no properties; give an SDF or a table, or one that is computed: {', '.join(UNITS)}"
    return count, {name: f"--property {name}: {text}" for name in library.names}


def _look_through_sdf(path: Path, library: Library) -> tuple[int, dict[str, str]]:
    count, missing = 0, set(library.names)
    for record in _records(path, library):
        count += 1
        low = record.text.lower() if missing else ""
        missing -= {name for name in missing if f"<{name.lower()}>" in low}
    return count, {name: f"--property {name}: no record of {path} has such a data field" for name in missing}


def _lacking_columns(path: Path, library: Library) -> dict[str, str]:
    lacks = {}
    for name in library.names:
        try:
            _texts(path, name)
        except ReadError as error:
            lacks[name] = str(error)
    return lacks


def _records(path: Path, library: Library) -> Iterator[Record]:
    if library.source:
        return read_published(library.source, path)
    return read_records(path, _column(path, library))


def _is_table(path: Path, library: Library) -> bool:
    return not library.source and format_of(path) in WITH_COLUMNS


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


def _hash(path: Path, library: Library) -> str:
    if library.source:
        return hash_published(library.source, path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
