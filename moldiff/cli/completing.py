"""What ``moldiff conformers`` and ``moldiff bonds`` share: molecules of a file, one after the other, and a run that goes on."""

import hashlib
import json
import os
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
    rejected: Counter | dict = field(default_factory=Counter)  # attempts by reason

    def __post_init__(self) -> None:
        self.rejected = Counter(self.rejected)


class Completing:
    """One run: what it was asked for, its journal, and what is said of it.

    ``options``: what else decides what comes out. ``record``: what one is called; ``wanted``: of each molecule.
    """

    def __init__(
        self, generator: "Generator", request: "Request", file: Path, output: Path, options: Mapping[str, Any], *,
        record: str, wanted: str, rejects: Path | None = None,
    ):  # fmt: skip
        with open(file, "rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        self.request = {
            "model": generator.hash, "file": os.path.abspath(file), "sha256": sha256, "n": request.n, "seed": request.seed,
            "steps": request.sampler.steps, "max_attempts": request.attempts, **options, "key": generator.key(request),
        }  # fmt: skip
        self.output, self.rejects, self.record, self.wanted = output, rejects, record, wanted
        self.facts = {"device": generator.device, **provenance_of(generator, request.sampler.evaluations)}
        self.sampled, self.started = 0.0, time.monotonic()
        self.show: Callable[[], None] = lambda: None

    def is_complete(self) -> bool:
        """Whether an earlier run has made all of this, which is said then; exits with 3 if anything is missing there."""
        from moldiff.journal import summary_of_complete

        there = summary_of_complete(self.output, self.request)
        if there:
            typer.echo(f"moldiff: {self.output} is complete already", err=True)
            self._check(there)
        return bool(there)

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
        progress.rejected.update(rejected)
        lines = json.dumps(problem) + "\n" if problem else ""
        self.journal.add({"records": "".join(records), "rejects": "".join(rejects), "problems": lines}, progress)

    @contextmanager
    def running(self, force: bool, resume: bool) -> Iterator[None]:
        """Shows itself on standard error; what is made by the end of the block is saved in any case.

        When it ends well the output is made, and the summary is told; exits with 3 if anything is missing.
        """
        from rich.progress import SpinnerColumn, TimeElapsedColumn

        from moldiff.journal import Journal
        from moldiff.workers import WorkerError

        further = {"problems": None, **({"rejects": self.rejects} if self.rejects else {})}
        self.journal = Journal(self.output, self.request, Progress, further, force=force, resume=resume)
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
                summary = self._finish()
        except Interrupted as stop:
            fail(f"interrupted after {counted(self.progress.molecules, 'molecule')}; {self.journal.remedy}", stop.code)
        except WorkerError as error:
            done = counted(self.progress.molecules, "molecule")
            raise WorkerError(f"after {done}: {error}; {self.journal.remedy}") from error
        finally:
            self.journal.close()
        self._tell(summary)

    def _finish(self) -> dict[str, Any]:
        """Make the output and its summary."""
        problems = [json.loads(line) for line in self.journal.paths["problems"].read_text().splitlines()]
        p, seconds = self.progress, round(time.monotonic() - self.started, 2)
        summary = {
            "request": self.request, "molecules": p.molecules, "attempts": p.kept + p.rejected.total(),
            "rejected": dict(p.rejected), "kept": p.kept, "problems": problems, **self.facts,
            "sampled_meanwhile": round(self.sampled), "seconds": seconds,
        }  # fmt: skip
        with self.journal.finishing(summary):
            for kind, path in self.journal.made.items():
                if path is not None:
                    self.journal.turn_into(kind)
        return summary

    def _tell(self, summary: dict[str, Any]) -> None:
        """In short, on standard error."""
        from rich.console import Console

        console = Console(stderr=True, soft_wrap=True)
        for line in self._lines(summary):
            console.print(line, highlight=False, markup=False)
        self._check(summary)

    def _lines(self, summary: dict[str, Any]) -> Iterator[str]:
        problems, rejected = summary["problems"], summary["rejected"]
        yield from problems[:SHOWN]
        if len(problems) > SHOWN:
            yield f"… and {len(problems) - SHOWN} more, see {self.output}.summary.json"
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(rejected.items())) or "none"
        attempts, molecules = counted(summary["attempts"], "attempt"), counted(summary["molecules"], "molecule")
        yield f"{attempts} on {molecules}, rejected: {reasons}"
        yield f"{counted(summary['kept'], self.record)}, {summary['seconds']:.1f} s → {self.output}"

    def _check(self, summary: dict[str, Any]) -> None:
        if count := len(summary["problems"]):
            fail(f"{count} of {counted(summary['molecules'], 'molecule')} without {self.wanted}", code=3)


def sdf_text(record: "Record", title: str, tags: dict[str, Any], facts: dict[str, Any]) -> str:
    """One SDF record: its title, or else the number of its molecule in the source, and all that is known of it."""
    from moldiff import chem
    from moldiff.formats import record_row

    return chem.sdf_record(record.mol, title or f"molecule-{tags['molecule']}", {**tags, **record_row(record), **facts})
