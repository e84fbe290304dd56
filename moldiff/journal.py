"""How a run that was interrupted goes on: what it has made, beside its output, and how much of that counts.

While a run goes on, its records are appended to ``.<name>.partial.sdf`` beside the output, and ``.<name>.partial.json``
tells how much of them counts; ``.<name>.partial.lock`` keeps other runs away. A finished run turns them into the output in
one step, so that the output is either complete or absent.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Generic, TypeVar

from moldiff.errors import RequestError
from moldiff.files import alone, check_apart, check_is_sdf, check_place, discard_unfinished, write_atomically

SAVE_SECONDS = 1.0  # a crash loses no more than what came in this time
# of files by what they hold
ENDINGS = {"records": "sdf", "rejects": "rejects.sdf", "relaxed": "relaxed.sdf", "problems": "problems.jsonl"}
OPTIONS = {"records": "-o", "rejects": "--rejects", "relaxed": "--relax:"}  # by which a user names what is made of them

P = TypeVar("P")


class Journal(Generic[P]):
    """Files that grow, and how far: ``progress``, of what they hold so far.

    Arguments:
        output: the file that is to be made of the records.
        identity: the options that an interrupted run shares with the one that goes on.
        start: makes the progress of a new run without arguments, else of ``vars`` of an earlier one, which JSON can hold.
            It has ``kept``, the number of records that are safe with it.
        further: what else is held, of :data:`ENDINGS`, and the file that is to be made of it; None: no file.

    Raises:
        RequestError: a file cannot be used; also later, when the disk is full.
    """

    def __init__(
        self, output: Path, identity: Mapping[str, Any], start: Callable[..., P],
        further: Mapping[str, Path | None] = MappingProxyType({}), *, force: bool = False, resume: bool = False,
    ):  # fmt: skip
        self.output, self.start = output, start
        self.made = {**further, "records": output}
        rejects = further.get("rejects")
        self.identity = {**identity, "rejects": rejects and os.path.abspath(rejects)}
        self.state = _beside(output, "json")
        self.paths = {kind: _beside(output, ENDINGS[kind]) for kind in self.made}
        self._check(force, resume)
        with ExitStack() as until_closed:
            with named(f"-o {output}"):
                until_closed.enter_context(alone(f"-o {output}", _beside(output, "lock")))
            self._open(force, resume)
            self.until_closed = until_closed.pop_all()

    def _check(self, force: bool, resume: bool) -> None:
        """Whether what is to be made can be, each in a place of its own."""
        going_on = self.state.exists() or (resume and self.paths["records"].exists())
        others = _working_files(self.output)
        for kind, path in reversed(self.made.items()):
            if path is None:
                continue
            label = f"{OPTIONS[kind]} {path}"
            if kind == "rejects":
                check_is_sdf("--rejects", path)
            # without --resume, a run to go on with is refused below, and so is --resume of an output that is complete
            check_place(label, path, force or going_on or (resume and kind == "records"))
            check_apart(label, path, others)
            others = [*others, path]

    def _open(self, force: bool, resume: bool) -> None:
        if not resume and self.state.exists() and not force:
            raise RequestError(
                f"-o {self.output}: an interrupted run is there; --resume goes on with it, --force discards it"
            )
        progress, sizes = self._continued() if resume else (self.start(), {})
        with named(f"-o {self.output}"):
            for written in filter(None, (*self.made.values(), self.state, summary_of(self.output))):
                discard_unfinished(written.parent, written.name)
            if not sizes:
                _tidy(self.output)
            self.files: dict[str, BinaryIO] = {}
            for kind, path in self.paths.items():
                self.files[kind] = open(path, "ab" if sizes else "wb")  # noqa: SIM115
        # One assignment replaces both: at every moment these bytes hold this progress, neither more nor less.
        self.reached: tuple[P, dict[str, int]] = (progress, sizes)
        self.saved, self.saved_at = self.reached, time.monotonic()

    @property
    def progress(self) -> P:
        return self.reached[0]

    @property
    def remedy(self) -> str:
        """What can be done when the run is ended here."""
        return "--resume goes on from there" if self.state.exists() else "nothing is made yet"

    def _continued(self) -> tuple[P, dict[str, int]]:
        """Where the interrupted run was, with its files cut back to that; a new run if there was none."""
        _finish_tidying(self.output)
        if not self.state.exists():
            if self.output.exists() and not self.paths["records"].exists():
                raise RequestError(f"-o {self.output}: is complete, there is nothing to resume; --force makes it again")
            return self.start(), {}
        try:
            state = json.loads(self.state.read_text())
            progress, identity, sizes = self.start(**state["progress"]), state["identity"], state["bytes"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(self.state) from error
        different = [k for k in {**identity, **self.identity} if identity.get(k) != self.identity.get(k)]
        if different:
            plain = [k for k in different if k != "key"] or different  # the key hangs on all of them
            was = ", ".join(f"{k} {identity.get(k)} (now {self.identity.get(k)})" for k in plain)
            raise RequestError(f"-o {self.output}: the interrupted run had {was}; use the same options, or --force")
        for kind, size in sizes.items():
            path = self.paths[kind]
            if not path.is_file() or path.stat().st_size < size:
                raise self._damaged(path)
            os.truncate(path, size)
        return progress, sizes

    def _damaged(self, path: Path) -> RequestError:
        return RequestError(f"-o {self.output}: cannot resume, {path} is damaged or missing; --force starts again")

    def add(self, texts: Mapping[str, str], progress: P) -> None:
        """Append each to the file of its kind, if there is one, and be at this progress."""
        with self._space():
            for kind, text in texts.items():
                if kind in self.files:
                    self.files[kind].write(text.encode())
            self.reached = progress, {kind: file.tell() for kind, file in self.files.items()}
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Everything so far survives a crash from here on."""
        if self.reached is not self.saved:
            self._save(ended=False)

    def _save(self, ended: bool) -> None:
        """``ended``: nothing will be added."""
        reached = self.reached
        with self._space():
            for file in self.files.values():
                file.flush()
                os.fsync(file.fileno())
            progress, sizes = reached
            state = {"identity": self.identity, "progress": vars(progress), "bytes": sizes, "ended": ended}
            with write_atomically(self.state) as temporary:
                temporary.write_text(json.dumps(state))
        self.saved, self.saved_at = reached, time.monotonic()

    @contextmanager
    def finishing(self, summary: Mapping[str, Any], ended: bool = True) -> Iterator[None]:
        """Save, write the summary, and in the block make the output; what is interrupted here, ``resume`` does again.

        Not ``ended``: the output is made, but with ``resume`` the run can go on.
        """
        self._save(ended)
        self._close_files()
        with self.until_closed, self._space():
            with write_atomically(summary_of(self.output)) as temporary:
                temporary.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
            yield
            if ended:
                _tidy(self.output)

    def turn_into(self, kind: str) -> None:
        """Make the file of this kind, the records last: when these are gone from here, all is made.

        Links are written through, and so are pipes and devices.
        """
        held, path = self.paths[kind], self.made[kind]
        if kind == "records" and not path.is_symlink() and (path.is_file() or not path.exists()):
            os.replace(held, path)
        else:
            with write_atomically(path) as place, open(held, "rb") as source, open(place, "wb") as file:
                shutil.copyfileobj(source, file)

    def close(self) -> None:
        """What was saved stays, for ``resume``; if nothing was, nothing does."""
        unfinished = bool(self.files)  # else another run may be there by now
        self._close_files()
        if unfinished and not self.state.exists():
            _tidy(self.output)
        self.until_closed.close()

    def _close_files(self) -> None:
        for file in self.files.values():
            with suppress(OSError):  # a full disk was reported already
                file.close()
        self.files = {}

    @contextmanager
    def _space(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # whoever read has left
            raise
        except OSError as error:
            remedy = f"{self.saved[0].kept} records are safe: free some space, then go on with --resume"
            raise RequestError(f"-o {self.output}: {error.strerror}; {remedy}") from error


def summary_of(output: Path) -> Path:
    """Where the summary of a run is."""
    return output.with_name(f"{output.name}.summary.json")


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f".{output.name}.partial.{ending}")


def _working_files(output: Path) -> list[Path]:
    """The state first: without it there is nothing to resume."""
    return [_beside(output, ending) for ending in ("json", *ENDINGS.values())]


def _tidy(output: Path) -> None:
    """Remove what only an interrupted run needs."""
    for working in _working_files(output):
        working.unlink(missing_ok=True)


def _finish_tidying(output: Path) -> None:
    """:func:`_tidy` after a run that was interrupted when its records had become the output."""
    with suppress(OSError, ValueError, AttributeError):  # no state, nothing to do; one that is damaged is not for here
        if not _beside(output, ENDINGS["records"]).exists() and json.loads(_beside(output, "json").read_text()).get(
            "ended"
        ):
            _tidy(output)


def summary_of_complete(output: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary of a finished run of this request, if there is one here: nothing to resume."""
    if not output.is_file():
        return None
    _finish_tidying(output)
    if _beside(output, "json").exists():
        return None
    try:
        summary = json.loads(summary_of(output).read_text(encoding="utf-8"))
        return summary if summary["request"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def named(what: str) -> Iterator[None]:
    """Name what could not be written; a closed pipe is no error of ours and passes as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RequestError(f"{what}: {error.strerror}; choose another place") from error
