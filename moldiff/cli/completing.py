"""What ``moldiff conformers`` and ``moldiff bonds`` share: molecules of a file, one after the other, and a run that goes on."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from moldiff.cli.options import provenance_of
from moldiff.terminal import Interrupted, bar, fail, interruptible

if TYPE_CHECKING:
    from moldiff.generation import Generator
    from moldiff.outcomes import Record
    from moldiff.requests import Request

SHOWN = 20  # problems at the terminal; all are in the summary

S = TypeVar("S")


def counted(count: int, what: str) -> str:
    """E.g. 1 molecule with bonds, 2 molecules with bonds: the first word takes the s."""
    first, *rest = what.split()
    return " ".join([str(count), first + "s" * (count != 1), *rest])


@dataclass
class Progress:
    """How far a run is."""

    molecules: int = 0  # of the file, from the first on
    kept: int = 0  # records
    problems: int = 0  # molecules of which something is missing
    rejected: Counter | dict = field(default_factory=Counter)  # attempts by reason

    def __post_init__(self) -> None:
        self.rejected = Counter(self.rejected)


class Completing:
    """One run: what it was asked for, its journal, and what is said of it.

    ``options``: what else decides what comes out. ``record``: what one is called; ``wanted``: of each molecule.
    """

    def __init__(
        self, generator: "Generator", request: "Request", file: Path, output: Path, options: Mapping[str, Any], *,
        record: str, wanted: str, rejects: Path | None = None, force: bool = False, resume: bool = False,
    ):  # fmt: skip
        from moldiff.journal import Journal, is_complete

        request.check(generator.model)
        with open(file, "rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        self.request = {
            "model": generator.hash, "file": str(file), "sha256": sha256, "n": request.n, "seed": request.seed,
            "steps": request.sampler.steps, "max_attempts": request.attempts, **options, "key": generator.key(request),
        }  # fmt: skip
        self.record, self.wanted = record, wanted
        self.facts = {"device": generator.device, **provenance_of(generator, request.sampler.evaluations)}
        if resume and is_complete(output, self.request, lambda summary: not summary["problems"]):
            typer.echo(f"moldiff: {output} is complete already", err=True)
            raise typer.Exit
        self.journal = Journal(
            output, self.request, Progress, ("problems",), rejects=rejects, force=force, resume=resume
        )
        self.sampled, self.started = 0.0, time.monotonic()
        self.show: Callable[[], None] = lambda: None

    @property
    def progress(self) -> Progress:
        return self.journal.progress

    def rest(self, sources: Iterable[S]) -> Iterator[S]:
        """Those that an interrupted run has not come to."""
        return islice(sources, self.progress.molecules, None)

    def tick(self, work: float) -> None:
        self.sampled += work
        self.show()

    def add(self, records: list[str], rejects: list[str], rejected: Mapping[str, int], problem: str) -> None:
        """One molecule: texts of its records and rejects, why attempts were refused, and why there is too little, or ""."""
        progress = replace(self.progress)
        progress.molecules += 1
        progress.kept += len(records)
        progress.problems += bool(problem)
        progress.rejected.update(rejected)
        lines = json.dumps(problem) + "\n" if problem else ""
        self.journal.add({"records": "".join(records), "rejects": "".join(rejects), "problems": lines}, progress)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Shows itself on standard error, if that is a terminal; what is made by the end of the block is saved in any case."""
        from rich.progress import SpinnerColumn, TimeElapsedColumn

        from moldiff.workers import WorkerError

        text = "{task.fields[molecules]} molecules, {task.fields[sampled]:.0f} attempts"
        try:
            with interruptible() as check, bar(SpinnerColumn(), text, TimeElapsedColumn()) as shown:
                task = shown.add_task("", total=None, molecules=self.progress.molecules, sampled=0.0)

                def show() -> None:
                    check()
                    shown.update(task, molecules=self.progress.molecules, sampled=self.sampled)

                self.show = show
                try:
                    yield
                finally:
                    self.journal.save()
                self._finish()
        except Interrupted as stop:
            fail(f"interrupted after {counted(self.progress.molecules, 'molecule')}; {self.journal.remedy}", stop.code)
        except WorkerError as error:
            raise WorkerError(f"{error}; {self.journal.remedy}") from error
        finally:
            self.journal.close()
        self._tell()

    def _finish(self) -> None:
        """Make the output and its summary."""
        self.problems = [json.loads(line) for line in self.journal.paths["problems"].read_text().splitlines()]
        p, seconds = self.progress, round(time.monotonic() - self.started, 2)
        summary = {
            "request": self.request, "molecules": p.molecules, "attempts": p.kept + p.rejected.total(),
            "rejected": dict(p.rejected), "kept": p.kept, "problems": self.problems, **self.facts,
            "sampled_meanwhile": round(self.sampled), "seconds": seconds,
        }  # fmt: skip
        with self.journal.finishing(summary):
            self.journal.turn_into_output()

    def _tell(self) -> None:
        """The summary in short on standard error; exits with 3 if anything is missing."""
        from rich.console import Console

        console = Console(stderr=True, soft_wrap=True)
        for line in self._lines():
            console.print(line, highlight=False, markup=False)
        if self.problems:
            missing = f"{len(self.problems)} of {counted(self.progress.molecules, 'molecule')}"
            fail(f"{missing} without {self.wanted}", code=3)

    def _lines(self) -> Iterator[str]:
        p, output = self.progress, self.journal.output
        yield from self.problems[:SHOWN]
        if len(self.problems) > SHOWN:
            yield f"… and {len(self.problems) - SHOWN} more, see {output}.summary.json"
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(p.rejected.items())) or "none"
        attempts = counted(p.kept + p.rejected.total(), "attempt")
        yield f"{attempts} on {counted(p.molecules, 'molecule')}, rejected: {reasons}"
        yield f"{counted(p.kept, self.record)}, {time.monotonic() - self.started:.1f} s → {output}"


def sdf_text(record: "Record", title: str, tags: dict[str, Any], facts: dict[str, Any]) -> str:
    """One SDF record: its title, or else the number of its molecule in the source, and all that is known of it."""
    from moldiff import chem
    from moldiff.formats import record_row

    return chem.sdf_record(record.mol, title or f"molecule-{tags['molecule']}", {**tags, **record_row(record), **facts})
