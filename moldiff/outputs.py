"""Where generated molecules go: a journal that survives interruption, then one complete file in the format asked for.

While a run goes on, accepted molecules are appended to ``.<name>.partial.sdf`` beside the output, and
``.<name>.partial.json`` records how much of it counts; ``.<name>.partial.lock`` keeps other runs away. A finished run
turns the journal into the output in one step, so that the output is either complete or absent. Relaxed conformers have a
journal and a file of their own.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from moldiff import chem
from moldiff.diversity import pick_diverse
from moldiff.errors import RequestError
from moldiff.files import alone, check_apart, check_place, check_sdf, discard_unfinished, write_atomically
from moldiff.formats import COLUMNS, WRITERS, records, reject_text, require_pyarrow, sdf_text, title
from moldiff.outcomes import Record, Reject, Tally

SAVE_SECONDS = 1.0  # a crash loses no more than what came in this time


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
    """A file and its journal. ``identity``: the options that an interrupted run shares with the one that resumes it.

    ``scores``: names and pandas types of the scores that records carry; ``relaxed``: an SDF for their relaxed conformers;
    ``diverse``: how many of the accepted molecules to write, picked by :func:`moldiff.diverse`; None: all.

    Raises:
        RequestError: the output or the journal cannot be used; also later, when the disk is full.
    """

    remedy = "--resume goes on from there"

    def __init__(
        self, path: Path, provenance: dict[str, Any], identity: dict[str, Any], *, rejects: Path | None = None,
        scores: Mapping[str, str] = MappingProxyType({}), relaxed: Path | None = None, diverse: int | None = None,
        force: bool = False, resume: bool = False,
    ):  # fmt: skip
        check_format(path)
        self.path, self.provenance = path, provenance
        self.columns, self.relaxed, self.diverse = {**COLUMNS, **scores}, relaxed, diverse
        self.identity = {**identity, "rejects": rejects and os.path.abspath(rejects)}
        self.state, self.journal, self.relaxed_journal = _working_files(path)
        check_place(f"-o {path}", path, force=force or resume or self.state.exists())
        with ExitStack() as until_closed:
            with named(f"-o {path}"):
                until_closed.enter_context(alone(f"-o {path}", path.with_name(f".{path.name}.partial.lock")))
            self._begin(rejects, force, resume)
            self.until_closed = until_closed.pop_all()

    def _begin(self, rejects: Path | None, force: bool, resume: bool) -> None:
        """Check what is there, and open the files."""
        path, relaxed = self.path, self.relaxed
        if not resume and self.state.exists() and not force:
            raise RequestError(f"-o {path}: an interrupted run is there; --resume goes on with it, --force discards it")
        self.summary_path = path.with_name(f"{path.name}.summary.json")
        self.seen: set[str] = set()
        self.paths = {"journal": self.journal} | ({"rejects": rejects} if rejects else {})
        if relaxed:
            check_place(f"--relax: {relaxed}", relaxed, force=force or resume)
            self.paths["relaxed"] = self.relaxed_journal
        if rejects:
            check_sdf("--rejects", rejects, force=force or resume)
            others = (path, relaxed, self.journal, self.relaxed_journal)
            check_apart(f"--rejects {rejects}", rejects, [other for other in others if other])
        tally, sizes = self._continued() if resume else (Tally(), {})
        mode = "ab" if sizes else "wb"
        self.files: dict[str, BinaryIO] = {}
        with named(f"-o {path}"):
            for written in filter(None, (path, self.state, self.summary_path, relaxed)):
                discard_unfinished(written.parent, written.name)
            if not sizes:
                self.state.unlink(missing_ok=True)  # before the journals that it describes
                self.relaxed_journal.unlink(missing_ok=True)
        for kind, written in self.paths.items():
            with named(f"--rejects {rejects}" if kind == "rejects" else f"-o {path}"):
                self.files[kind] = open(written, mode)  # noqa: SIM115
        # One assignment replaces both: at every moment these bytes hold this tally's molecules, neither more nor fewer.
        self.reached: tuple[Tally, dict[str, int]] = (tally, sizes)
        self.saved, self.saved_at = self.reached, time.monotonic()

    @property
    def tally(self) -> Tally:
        return self.reached[0]

    def _continued(self) -> tuple[Tally, dict[str, int]]:
        """Where the interrupted run was, with its files cut back to that; a new run if there was none."""
        _finish_tidying(self.path)
        if not self.state.exists():
            if self.path.exists():
                raise RequestError(f"-o {self.path}: is complete, there is nothing to resume; --force makes it again")
            return Tally(), {}
        try:
            state = json.loads(self.state.read_text())
            tally = Tally(state["next_index"], state["kept"], Counter(state["rejected"]), state["tries"])
            identity, sizes = state["identity"], state["bytes"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(self.state) from error
        different = [k for k in {**identity, **self.identity} if identity.get(k) != self.identity.get(k)]
        if different:
            named = [k for k in different if k != "key"] or different  # the key hangs on all of them
            was = ", ".join(f"{k} {identity.get(k)} (now {self.identity.get(k)})" for k in named)
            raise RequestError(f"-o {self.path}: the interrupted run had {was}; use the same options, or --force")
        for name, size in sizes.items():
            path = self.paths[name]
            if not path.is_file() or path.stat().st_size < size:
                raise self._damaged(path)
            os.truncate(path, size)
        if self.identity.get("unique"):
            self.seen = {row["smiles"] for row, _ in records(chem.sdf_records(self.journal))}
        return tally, sizes

    def _damaged(self, path: Path) -> RequestError:
        return RequestError(f"-o {self.path}: cannot resume, {path} is damaged or missing; --force starts again")

    def write(self, outcome: Record | Reject) -> None:
        with self._space():
            if isinstance(outcome, Record):
                self.files["journal"].write(sdf_text(outcome, self.provenance).encode())
                if outcome.relaxed is not None and "relaxed" in self.files:
                    self.files["relaxed"].write(sdf_text(outcome, self.provenance, outcome.relaxed).encode())
            elif "rejects" in self.files:
                self.files["rejects"].write(reject_text(outcome, self.provenance).encode())
            tally = self.tally.copy()
            tally.add(outcome)
            self.reached = tally, {name: file.tell() for name, file in self.files.items()}
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save()

    def save(self, ended: bool = False) -> None:
        """Everything so far survives a crash from here on; ``ended``: nothing will be added."""
        reached = self.reached
        if reached is self.saved and not ended:
            return
        with self._space():
            for file in self.files.values():
                file.flush()
                os.fsync(file.fileno())
            tally, sizes = reached
            state = {
                "identity": self.identity, "next_index": tally.next_index, "kept": tally.kept,
                "rejected": tally.rejected, "tries": tally.tries, "bytes": sizes, "ended": ended,
            }  # fmt: skip
            with write_atomically(self.state) as temporary:
                temporary.write_text(json.dumps(state))
        self.saved, self.saved_at = reached, time.monotonic()

    def finish(self, summary: dict[str, Any], ended: bool = True) -> None:
        """Write the summary and turn the journal into the output; what is interrupted here, ``resume`` does again.

        Not ``ended``: the output is made, but with ``resume`` the run can go on.
        """
        self.save(ended)
        self._close_files()
        with self.until_closed, self._space():
            with write_atomically(self.summary_path) as temporary:
                temporary.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
            chosen = None if self.diverse is None else self._diverse(self.diverse)
            if self.relaxed:
                self._copy(self.relaxed_journal, self.relaxed, chosen)
            plain = self.path.suffix.lower() == ".sdf" and not self.path.is_symlink()
            if ended and plain and chosen is None:
                os.replace(self.journal, self.path)
            else:
                self._copy(self.journal, self.path, chosen)
            if ended:
                _tidy(self.path)

    def _diverse(self, count: int) -> set[str]:
        """The titles of the molecules picked."""
        titles = [title(text) for text in chem.sdf_records(self.journal)]
        smiles = (row["smiles"] for row, _ in records(chem.sdf_records(self.journal)))
        return {titles[k] for k in pick_diverse(smiles, count)}

    def _copy(self, journal: Path, path: Path, chosen: set[str] | None) -> None:
        texts = (text for text in chem.sdf_records(journal) if chosen is None or title(text) in chosen)
        with write_atomically(path) as temporary:
            WRITERS[path.suffix.lower()](texts, temporary, self.columns)

    def close(self) -> None:
        self._close_files()
        self.until_closed.close()

    def _close_files(self) -> None:
        for file in self.files.values():
            with suppress(OSError):  # a full disk was reported already
                file.close()

    @contextmanager
    def _space(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = f"{self.saved[0].kept} molecules are safe: free some space, then go on with --resume"
            raise RequestError(f"-o {self.path}: {error.strerror}; {remedy}") from error


def _working_files(path: Path) -> tuple[Path, Path, Path]:
    """The state of a run that writes to ``path``, its journal, and the one of relaxed conformers."""
    ends = ("json", "sdf", "relaxed.sdf")
    state, journal, relaxed = (path.with_name(f".{path.name}.partial.{end}") for end in ends)
    return state, journal, relaxed


def _tidy(path: Path) -> None:
    """Remove what only an interrupted run needs, the state first: without it there is nothing to resume."""
    for working in _working_files(path):
        working.unlink(missing_ok=True)


def _finish_tidying(path: Path) -> None:
    """:func:`_tidy` after a run that was interrupted when its journal had become the output."""
    state, journal, _ = _working_files(path)
    with suppress(OSError, ValueError, AttributeError):  # no state, nothing to do; one that is damaged is not for here
        if not journal.exists() and json.loads(state.read_text()).get("ended"):
            _tidy(path)


def is_complete(path: Path, n: int, identity: dict[str, Any]) -> bool:
    """Whether a finished run of this request left at least ``n`` molecules here, so that there is nothing to resume."""
    if not path.is_file():
        return False
    _finish_tidying(path)
    if _working_files(path)[0].exists():
        return False
    try:
        found = json.loads(path.with_name(f"{path.name}.summary.json").read_text(encoding="utf-8"))
        return found["request"] == identity and found["kept"] >= n
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def named(what: str) -> Iterator[None]:
    """Name what could not be written; a closed pipe is no error of ours and passes as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RequestError(f"{what}: {error.strerror}; choose another place") from error


def check_format(path: Path) -> None:
    """Refuse, before any work, what is no kind of output."""
    if path.suffix.lower() not in WRITERS:
        formats = " ".join(WRITERS)
        raise RequestError(f"-o {path}: unknown format {path.suffix or '(no suffix)'}; use {formats}, or -")
    if path.suffix.lower() == ".parquet":
        require_pyarrow()
