"""Where generated molecules go: to standard output as they come, or to a file in the format asked for, made of a journal."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from moldiff import chem
from moldiff.diversity import pick_diverse
from moldiff.errors import RequestError
from moldiff.files import check_sdf, write_atomically
from moldiff.formats import COLUMNS, WRITERS, records, reject_text, require_pyarrow, sdf_text, title
from moldiff.journal import Journal, named
from moldiff.outcomes import Record, Reject, Tally


class StandardOutput:
    """SDF on standard output, each record as it comes. Rejects, if wanted, go to a file."""

    remedy = "write to a file, and --resume can go on with it"
    diverse = None

    def __init__(self, provenance: dict[str, Any], rejects: Path | None = None, force: bool = False):
        self.provenance = provenance
        self.tally, self.seen = Tally(), set[str]()
        self.stream: BinaryIO = sys.stdout.buffer
        self.rejects: BinaryIO | None = None
        if rejects:
            check_sdf("--rejects", rejects, force)
            with named(f"--rejects {rejects}"):
                self.rejects = open(rejects, "wb")  # noqa: SIM115

    def write(self, outcome: Record | Reject) -> None:
        if isinstance(outcome, Record):
            with named("standard output"), self._hanging_up():
                self.stream.write(sdf_text(outcome, self.provenance).encode())
        elif self.rejects:
            self.rejects.write(reject_text(outcome, self.provenance).encode())
        self.tally.add(outcome)

    def save(self) -> None:
        with named("standard output"), self._hanging_up():
            self.stream.flush()

    def finish(self, summary: dict[str, Any], ended: bool = True) -> None:
        self.save()
        self.close()

    def close(self) -> None:
        if self.rejects:
            self.rejects.close()

    @contextmanager
    def _hanging_up(self) -> Iterator[None]:
        """After an error write nowhere, or the interpreter would try again when it ends, and complain."""
        try:
            yield
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            raise


class Output:
    """A file of any format, made of the records of its journal. ``identity``: see :class:`moldiff.journal.Journal`.

    ``scores``: names and pandas types of the scores that records carry; ``relaxed``: an SDF for their relaxed conformers;
    ``diverse``: how many of the accepted molecules to write, picked by :func:`moldiff.diverse`; None: all.

    Raises:
        RequestError: the output or the journal cannot be used; also later, when the disk is full.
    """

    def __init__(
        self, path: Path, provenance: dict[str, Any], identity: dict[str, Any], *, rejects: Path | None = None,
        scores: Mapping[str, str] = MappingProxyType({}), relaxed: Path | None = None, diverse: int | None = None,
        force: bool = False, resume: bool = False,
    ):  # fmt: skip
        check_format(path)
        self.path, self.provenance = path, provenance
        self.columns, self.relaxed, self.diverse = {**COLUMNS, **scores}, relaxed, diverse
        further = {kind: made for kind, made in (("rejects", rejects), ("relaxed", relaxed)) if made}
        self.journal = Journal(path, identity, Tally, further, force=force, resume=resume)
        self.seen: set[str] = set()  # SMILES, where they have to be unique
        if identity.get("unique") and self.tally.kept:
            self.seen = {row["smiles"] for row, _ in records(self._records())}

    @property
    def tally(self) -> Tally:
        return self.journal.progress

    @property
    def remedy(self) -> str:
        return self.journal.remedy

    def _records(self) -> Iterator[str]:
        return chem.sdf_records(self.journal.paths["records"])

    def write(self, outcome: Record | Reject) -> None:
        tally = self.tally.copy()
        tally.add(outcome)
        if isinstance(outcome, Reject):
            texts = {"rejects": reject_text(outcome, self.provenance)}
        else:
            texts = {"records": sdf_text(outcome, self.provenance)}
            if outcome.relaxed is not None and self.relaxed:
                texts["relaxed"] = sdf_text(outcome, self.provenance, outcome.relaxed)
        self.journal.add(texts, tally)

    def save(self) -> None:
        self.journal.save()

    def finish(self, summary: dict[str, Any], ended: bool = True) -> None:
        """Write the summary and make the output; see :meth:`moldiff.journal.Journal.finishing`."""
        with self.journal.finishing(summary, ended):
            chosen = None if self.diverse is None else self._diverse(self.diverse)
            for kind, path in self.journal.made.items():
                of_all = chosen if kind != "rejects" else None
                if ended and of_all is None and path.suffix.lower() == ".sdf":
                    self.journal.turn_into(kind)
                else:
                    self._copy(self.journal.paths[kind], path, of_all)

    def _diverse(self, count: int) -> set[str]:
        """The titles of the molecules picked."""
        titles = [title(text) for text in self._records()]
        smiles = (row["smiles"] for row, _ in records(self._records()))
        return {titles[k] for k in pick_diverse(smiles, count)}

    def _copy(self, journal: Path, path: Path, chosen: set[str] | None) -> None:
        texts = (text for text in chem.sdf_records(journal) if chosen is None or title(text) in chosen)
        with write_atomically(path) as temporary:
            WRITERS[path.suffix.lower()](texts, temporary, self.columns)

    def close(self) -> None:
        self.journal.close()


def check_format(path: Path) -> None:
    """Refuse, before any work, what is no kind of output."""
    if path.suffix.lower() not in WRITERS:
        formats = " ".join(WRITERS)
        raise RequestError(f"-o {path}: unknown format {path.suffix or '(no suffix)'}; use {formats}, or -")
    if path.suffix.lower() == ".parquet":
        require_pyarrow()
