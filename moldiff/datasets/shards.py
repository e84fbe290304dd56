"""Work done so far on a data set, in pieces on disk: each complete or absent, so that a killed run loses at most one."""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save

from moldiff.datasets.prepared import SPLITS, PreparedDataError, Split
from moldiff.files import discard_unfinished, write_atomically

SIZE = 1000  # records
WORK = ".work"
ABOUT = ("meta.json", "dropped.csv")  # files of a set beside its splits
FILES = (*(f"{split}.{end}" for split in SPLITS for end in ("safetensors", "smi")), *ABOUT)


class Dropped(NamedTuple):
    """A record that is not in the set, as a row of ``dropped.csv``."""

    source: int  # running number over all files, from 1
    file: str
    row: int  # record of the file, from 1
    where: str  # line, or row of a table
    id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Shard:
    """``split.atom`` counts in ``vocabulary``, the tokens of this shard; lists are per molecule of ``split``."""

    split: Split
    vocabulary: list[str]
    smiles: list[str]
    identity: list[str]  # hashes of 32 characters
    scaffold: list[str]
    origin: list[str]  # of the coordinates
    id: list[str]
    where: list[str]
    dropped: list[Dropped]


def identity_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Shards:
    """The folder ``.work`` of a set; ``request`` says what the work is for, and other work is refused."""

    def __init__(self, directory: Path, request: dict[str, Any]):
        self.folder = directory / WORK
        told, text = self.folder / "request.json", json.dumps(request, indent=1)
        if told.is_file() and told.read_text() != text:
            before, now = json.loads(told.read_text()), json.loads(text)
            names = ", ".join(sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k)))
            text = f"an interrupted run with other settings ({names}) is there"
            raise PreparedDataError(f"-o {directory}: {text}; use the same ones to go on, or --force to begin again")
        self.folder.mkdir(parents=True, exist_ok=True)
        discard_unfinished(self.folder)
        for name in FILES:  # beside them others may be written at the moment
            discard_unfinished(directory, name)
        with write_atomically(told) as temporary:
            temporary.write_text(text)

    def __len__(self) -> int:
        return next(k for k in range(10**9) if not self._path(k).is_file())

    def __iter__(self) -> Iterator[Shard]:
        return (_read(self._path(number)) for number in range(len(self)))

    def add(self, shard: Shard) -> None:
        facts = {name: value for name, value in vars(shard).items() if name != "split"}
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        with write_atomically(self._path(len(self))) as temporary:
            temporary.write_bytes(save({**vars(shard.split), "facts": text}))

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"


def check_folder(directory: Path, sources: Iterable[Path], force: bool) -> None:
    """Refuse, before any work, to write a set over its own source, and without ``force`` over anything else.

    Raises :class:`PreparedDataError`.
    """
    there = [directory / name for name in FILES if (directory / name).exists()]
    for source in sources:
        if any(path.samefile(source) for path in there if source.exists()):
            raise PreparedDataError(f"-o {directory}: {source} would be written over; choose another directory")
    if force or (directory / WORK).is_dir():
        return
    if (directory / "meta.json").exists():
        raise PreparedDataError(f"-o {directory}: holds a prepared set already; --force makes it again")
    if there:
        raise PreparedDataError(f"-o {directory}: {there[0].name} is there already; --force replaces it")


def discard(directory: Path) -> None:
    """Forget a prepared set, and unfinished work on one: metadata first, by which a set counts as complete."""
    for name in ABOUT:
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / WORK, ignore_errors=True)


def _read(path: Path) -> Shard:
    arrays = load_file(path)
    facts = json.loads(arrays.pop("facts").tobytes())
    return Shard(**{**facts, "split": Split(**arrays), "dropped": [Dropped(*row) for row in facts["dropped"]]})


def write_dropped(path: Path, rows: Iterator[Dropped]) -> None:
    """``dropped.csv``: one row for each record that is not in the set."""
    with write_atomically(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Dropped._fields[1:])
        writer.writerows(row[1:] for row in rows)
