"""``moldiff generate``: molecules into a file, with a funnel."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moldiff.cli.options import Device, Force, positive
from moldiff.config import GUIDANCE
from moldiff.terminal import Interrupted, bar, fail, interruptible, one_line_errors

if TYPE_CHECKING:
    from moldiff.attempts import Request
    from moldiff.generation import Generator
    from moldiff.outputs import Output, StandardOutput


def generate(
    n: Annotated[int, typer.Option("-n", "--number", help="Accepted molecules to write.")] = 10,
    output: Annotated[
        str, typer.Option("-o", "--output", help=".sdf .smi .csv .parquet .xyz by suffix; - is SDF on standard output.")
    ] = "molecules.sdf",
    model: Annotated[str, typer.Option(help="A shipped model's name or a weights file.")] = "qm9",
    quality: Annotated[
        str | None, typer.Option(help="fast, balanced or best: 30, 50 or 100 evaluations.", show_default="balanced")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Instead: network evaluations per molecule.")] = None,
    seed: Annotated[int, typer.Option(help="Molecule k of a seed is always the same.")] = 0,
    n_atoms: Annotated[
        str | None, typer.Option(help="Heavy atoms: 9, or a range 5-9.", show_default="as in the training data")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Property to aim at, NAME=VALUE or NAME=LOW:HIGH, repeatable; see `moldiff info`."),
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="How strongly targets are followed; above 1 doubles the evaluations.")
    ] = GUIDANCE,
    unique: Annotated[bool, typer.Option("--unique", help="Skip molecules whose SMILES came before.")] = False,
    rejects: Annotated[Path | None, typer.Option(help="Write rejected molecules, as generated, to this SDF.")] = None,
    batch_size: Annotated[str, typer.Option(help="Molecules per batch, or auto. Does not change the result.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes. Does not change the result.", min=1, show_default="by n and cores")
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(help="Sample no more than this.", show_default="10 n + 100")
    ] = None,
    time_limit: Annotated[float | None, typer.Option(help="Stop after about this many seconds.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    force: Force = False,
) -> None:
    """Generate molecules: connected, sanitisable, no radicals, explicit hydrogens and charges, 3D coordinates.

    Every molecule has a stable ID; the funnel from sampled to kept is printed and written to OUTPUT.summary.json.
    Ctrl-C and SIGTERM save what there is; --resume goes on from there.

    Example: moldiff generate -n 100 -o molecules.sdf
    """
    with one_line_errors():
        from moldiff.attempts import choose_sampler
        from moldiff.conditions import read_target
        from moldiff.generation import Request, load
        from moldiff.outputs import Output, StandardOutput, is_complete

        batch = None if batch_size == "auto" else positive(batch_size, f"--batch-size {batch_size}", "or auto")
        sizes = _range(n_atoms)
        generator = load(model, device)
        sampler = choose_sampler(quality, steps)
        targets = tuple(map(read_target, target or []))
        request = Request(n, seed, sampler, sizes, unique, max_attempts, time_limit, targets, guidance)
        for text in request.check(generator.model):
            typer.echo(f"warning: {text}", err=True)
        provenance = _provenance(generator, request.evaluations)
        identity = {"model": generator.hash, "seed": seed, "steps": sampler.steps, "n_atoms": n_atoms, "unique": unique}
        if targets:
            identity |= {"targets": list(map(str, targets)), "guidance": guidance}
        if output == "-":
            if resume:
                fail("--resume: standard output cannot be resumed; write to a file")
            sink = StandardOutput(provenance, rejects, force)
        elif resume and is_complete(Path(output), n, identity):
            typer.echo(f"moldiff: {output} is complete already", err=True)
            return
        else:
            sink = Output(Path(output), provenance, identity, rejects=rejects, force=force, resume=resume)
        facts = {"request": identity, "device": generator.device, **provenance}
        summary = _run(generator, request, sink, facts, workers=workers or generator.workers_for(n), batch_size=batch)
    _print_summary(summary, output)
    if summary["kept"] < n:
        out = "attempts" if summary["funnel"]["sampled"] >= request.attempts else "time"
        more = {"attempts": "--max-attempts", "time": "--time-limit"}[out]
        fail(f"{summary['kept']} of {n} molecules: {out} ran out; raise {more}", code=3)


def _run(
    generator: "Generator", request: "Request", sink: "Output | StandardOutput", facts: dict[str, Any], **how: Any
) -> dict[str, Any]:
    """Generate into the sink and finish it; returns the summary."""
    first, started, cpu = sink.tally.next_index, time.monotonic(), _cpu_seconds()
    with interruptible():
        try:
            _fill(generator, request, sink, **how)
            tally = sink.tally
            summary = {
                "asked": request.n, "kept": tally.kept, "funnel": tally.funnel(request),
                "rejected": dict(tally.rejected), **facts, "sampled_meanwhile": tally.next_index - first,
                "seconds": round(time.monotonic() - started, 2), "cpu_seconds": round(_cpu_seconds() - cpu, 2),
            }  # fmt: skip
            sink.finish(summary)
        except Interrupted as stop:
            sink.close()
            fail(f"interrupted with {sink.tally.kept} of {request.n} molecules; {sink.remedy}", stop.code)
    return summary


def _fill(generator: "Generator", request: "Request", sink: "Output | StandardOutput", **how: Any) -> None:
    """Write outcomes until there are enough, saving and showing the progress; what is there is saved in any case."""
    work = 0.0  # molecules' worth of sampling behind those that are not out yet

    def tick(more: float) -> None:
        nonlocal work
        work += more
        sink.save()
        show(sink.tally.kept, work * sink.tally.acceptance)

    outcomes = generator.outcomes(request, tally=sink.tally, seen=sink.seen, tick=tick, **how)
    try:
        with _progress(request.n, sink.tally.kept) as show, closing(outcomes):
            for outcome in outcomes:
                work = 0.0
                sink.write(outcome)
                show(sink.tally.kept, 0.0)
    finally:
        sink.save()


@contextmanager
def _progress(total: int, kept: int) -> Iterator[Any]:
    """A bar on standard error, with molecules accepted and time left; nothing when that is not a terminal."""
    from rich.progress import SpinnerColumn, TimeElapsedColumn

    text = f"{{task.fields[kept]}}/{total} molecules"
    with bar(SpinnerColumn(), text, TimeElapsedColumn()) as shown:
        task = shown.add_task("", total=total, completed=kept, kept=kept)
        yield lambda kept, work: shown.update(task, completed=min(total, kept + work), kept=kept)


def _print_summary(summary: dict[str, Any], output: str) -> None:
    """The funnel as a table on standard error, so that ``-o -`` stays clean."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("stage")
    table.add_column("molecules", justify="right")
    table.add_column("of sampled", justify="right")
    for stage, count in summary["funnel"].items():
        table.add_row(stage, f"{count}", f"{100 * count / max(1, summary['funnel']['sampled']):.1f} %")
    console = Console(stderr=True)
    title = f"{summary['model']} on {summary['device']}, {summary['evaluations']} evaluations a molecule"
    console.print(title, highlight=False)
    console.print(table)
    if summary["rejected"]:
        console.print("rejected: " + ", ".join(f"{k} {v}" for k, v in sorted(summary["rejected"].items())))
    each = summary["seconds"] / max(1, summary["sampled_meanwhile"])
    where = "" if output == "-" else f" → {output}"
    console.print(f"{summary['seconds']:.1f} s, {each:.3f} s per sampled molecule{where}", highlight=False)


def _provenance(generator: "Generator", evaluations: int) -> dict[str, Any]:
    import torch

    from moldiff import __version__
    from moldiff.chem import RDKIT_VERSION

    return {
        "model": generator.name, "model_sha256": generator.hash, "evaluations": evaluations,
        "moldiff": __version__, "torch": torch.__version__, "rdkit": RDKIT_VERSION,
    }  # fmt: skip


def _cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    import os

    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def _range(text: str | None) -> tuple[int, int] | None:
    """``9`` or ``5-9``."""
    if text is None:
        return None
    low, dash, high = text.partition("-")
    bounds = [positive(part, f"--n-atoms {text}", "or a range such as 5-9") for part in (low, high if dash else low)]
    return bounds[0], bounds[1]
