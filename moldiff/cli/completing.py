"""What ``moldiff conformers`` and ``moldiff bonds`` share: SDFs written as they come, a tally, its summary."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moldiff.cli.options import provenance_of
from moldiff.terminal import Interrupted, bar, fail, interruptible

if TYPE_CHECKING:
    from moldiff.generation import Generator
    from moldiff.outcomes import Record
    from moldiff.requests import Request

SHOWN = 20  # problems at the terminal; all are in the summary


def counted(count: int, what: str) -> str:
    """E.g. 1 molecule with bonds, 2 molecules with bonds: the first word takes the s."""
    first, *rest = what.split()
    return " ".join([str(count), first + "s" * (count != 1), *rest])


class Tally:
    """What has come out so far, molecule by molecule. ``record``: what one is called; ``wanted``: of each molecule."""

    def __init__(self, generator: "Generator", request: "Request", record: str, wanted: str):
        self.request, self.record, self.wanted = request, record, wanted
        self.facts = {"device": generator.device, **provenance_of(generator, request.sampler.evaluations)}
        self.molecules = self.kept = self.stopped = 0
        self.error = ""  # that stopped it
        self.rejected: Counter[str] = Counter()
        self.problems: list[str] = []
        self.sampled, self.started = 0.0, time.monotonic()
        self.written: list[tuple[Path, Path]] = []  # each file, and what it was to be
        self.show: Callable[[], None] = lambda: None

    def tick(self, work: float) -> None:
        self.sampled += work
        self.show()

    def add(self, kept: int, rejected: Mapping[str, int], problem: str) -> None:
        """One molecule: of how many attempts something was kept, why others were not, and why there is too little, or ""."""
        self.molecules += 1
        self.kept += kept
        self.rejected.update(rejected)
        self.problems += [problem] if problem else []

    @contextmanager
    def sdf_file(self, path: Path | None) -> Iterator[Callable[[str], Any]]:
        """Yields what writes a record; the file is there when the block ends well. Without a path nothing is written.

        When :meth:`running`, within the block, was interrupted, a file that was there stays, and the new one is beside it.
        """
        from moldiff.files import write_atomically

        if path is None:
            yield lambda text: None
            return
        made = _beside(path)
        try:
            with write_atomically(made) as temporary, open(temporary, "w", encoding="utf-8") as file:
                yield file.write
        except OSError as error:
            error.filename = str(path) if error.filename == str(made) else error.filename
            raise
        if not self.stopped or not path.exists():
            made = made.replace(path)
        self.written.insert(0, (made, path))  # of several files the first ends last

    @contextmanager
    def running(self) -> Iterator[None]:
        """Shows itself on standard error, if that is a terminal; what ends the block early is remembered."""
        from rich.progress import SpinnerColumn, TimeElapsedColumn

        from moldiff.workers import WorkerError

        text = "{task.fields[molecules]} molecules, {task.fields[sampled]:.0f} attempts"
        try:
            with interruptible(), bar(SpinnerColumn(), text, TimeElapsedColumn()) as shown:
                task = shown.add_task("", total=None, molecules=0, sampled=0.0)
                self.show = lambda: shown.update(task, molecules=self.molecules, sampled=self.sampled)
                yield
        except Interrupted as stop:
            self.stopped = stop.code
        except WorkerError as error:
            self.stopped, self.error = 2, f" ({error})"

    def finish(self) -> None:
        """Write FILE.summary.json, tell the same in short on standard error, and exit with 3 or more if anything is missing."""
        from rich.console import Console

        from moldiff.files import write_atomically

        path, _ = self.written[0]
        with write_atomically(path.with_name(f"{path.name}.summary.json")) as temporary:
            temporary.write_text(json.dumps(self._summary(), indent=1, ensure_ascii=False), encoding="utf-8")
        console = Console(stderr=True, soft_wrap=True)
        for line in self._lines(path):
            console.print(line, highlight=False, markup=False)
        if self.stopped:
            places = " and ".join(f"{a}{f' ({b} stays as it was)' if a != b else ''}" for a, b in self.written)
            how = "stopped" if self.error else "interrupted"
            after = f"{how} after {counted(self.molecules, 'molecule')}{self.error}"
            fail(f"{after}; what is made is in {places}", self.stopped)
        if self.problems:
            fail(f"{len(self.problems)} of {counted(self.molecules, 'molecule')} without {self.wanted}", code=3)

    def _summary(self) -> dict[str, Any]:
        r = self.request
        return {
            "request": {"n": r.n, "seed": r.seed, "steps": r.sampler.steps, "max_attempts": r.attempts},
            "molecules": self.molecules, "attempts": self.kept + self.rejected.total(), "rejected": dict(self.rejected),
            "kept": self.kept, "problems": self.problems, **self.facts, "sampled": round(self.sampled),
            "seconds": round(time.monotonic() - self.started, 2),
        }  # fmt: skip

    def _lines(self, path: Path) -> Iterator[str]:
        yield from self.problems[:SHOWN]
        if len(self.problems) > SHOWN:
            yield f"… and {len(self.problems) - SHOWN} more, see {path}.summary.json"
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.rejected.items())) or "none"
        attempts = counted(self.kept + self.rejected.total(), "attempt")
        yield f"{attempts} on {counted(self.molecules, 'molecule')}, rejected: {reasons}"
        yield f"{counted(self.kept, self.record)}, {time.monotonic() - self.started:.1f} s → {path}"


def _beside(path: Path) -> Path:
    """A free name for what may not become ``path``, e.g. out.partial.sdf; a pipe or a device has no other."""
    if path.exists() and not path.is_file():
        return path
    names = (path.with_name(f"{path.stem}.partial{number}{path.suffix}") for number in ("", *range(2, 10**6)))
    return next(name for name in names if not name.exists())


def sdf_text(record: "Record", title: str, tags: dict[str, Any], facts: dict[str, Any]) -> str:
    """One SDF record: its title, or else the number of its molecule in the source, and all that is known of it."""
    from moldiff import chem
    from moldiff.formats import record_row

    return chem.sdf_record(record.mol, title or f"molecule-{tags['molecule']}", {**tags, **record_row(record), **facts})
