"""``moldiff generate``: molecules into a file, with a funnel."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moldiff.cli.options import (
    COMPILE_HELP,
    DEVICE_HELP,
    FORCE_HELP,
    MODEL_HELP,
    RESUME_HELP,
    WORKERS_HELP,
    positive,
    provenance_of,
)
from moldiff.config import GUIDANCE
from moldiff.errors import RequestError
from moldiff.terminal import Interrupted, bar, fail, interruptible, one_line_errors

if TYPE_CHECKING:
    from moldiff.generation import Generator
    from moldiff.outputs import Output, StandardOutput
    from moldiff.requests import Request

# headings of the help
MAKE = "What to make"
AIM = "What to aim at"
KEEP = "What to keep fixed"
ACCEPT = "What to accept and write"
RUN = "How to run"


def generate(
    n: Annotated[int, typer.Option("-n", "--number", help="Accepted molecules to make.", rich_help_panel=MAKE)] = 10,
    model: Annotated[str, typer.Option(help=MODEL_HELP, rich_help_panel=MAKE)] = "qm9",
    quality: Annotated[
        str | None,
        typer.Option(
            help="fast, balanced or best; `moldiff info MODEL` tells the evaluations.",
            show_default="balanced",
            rich_help_panel=MAKE,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Instead of --quality: network evaluations per try.", rich_help_panel=MAKE)
    ] = None,
    seed: Annotated[int, typer.Option(help="Molecule k of a seed is always the same.", rich_help_panel=MAKE)] = 0,
    first: Annotated[
        int,
        typer.Option(help="Attempt k to begin with: the last number of an ID.", rich_help_panel=MAKE),
    ] = 0,
    n_atoms: Annotated[
        str | None,
        typer.Option(
            help="Heavy atoms: 9, or a range 5-9.",
            show_default="as in the training data; as --shape or --like has",
            rich_help_panel=MAKE,
        ),
    ] = None,
    formula: Annotated[
        str | None,
        typer.Option(help="Instead of --n-atoms: all atoms, such as C7H8O2.", rich_help_panel=MAKE),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Property to aim at, NAME=VALUE or NAME=LOW:HIGH, repeatable; see `moldiff info MODEL`.",
            rich_help_panel=AIM,
        ),
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(help="How strongly targets are followed; any but 1 doubles the evaluations.", rich_help_panel=AIM),
    ] = GUIDANCE,
    fix: Annotated[
        list[Path] | None,
        typer.Option(
            help="SDF with 3D coordinates, or .smi, of a part that stays; repeat it, with SDFs, to link parts.",
            rich_help_panel=KEEP,
        ),
    ] = None,
    attach: Annotated[
        list[str] | None,
        typer.Option(
            help="Atoms of it to build on, such as 3,5, counted from 1 as in the file, and on through all --fix files.",
            show_default="dummy atoms *, else all with hydrogens",
            rich_help_panel=KEEP,
        ),
    ] = None,
    replace: Annotated[
        str | None,
        typer.Option(help="Instead of --attach: SMARTS of the part of it to make anew.", rich_help_panel=KEEP),
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="SDF or .smi of a molecule to make analogues of.", rich_help_panel=KEEP)
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="How far from it, between 0 and 1.", show_default="0.5", rich_help_panel=KEEP),
    ] = None,
    shape: Annotated[
        Path | None,
        typer.Option(help="SDF or .smi of a molecule whose volume to fill, in its place.", rich_help_panel=AIM),
    ] = None,
    pharmacophore: Annotated[
        Path | None,
        typer.Option(
            help="SDF or .smi whose donors, acceptors and aromatic rings to match, in their places.",
            rich_help_panel=AIM,
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw the molecule given, its atoms numbered, to .png or .svg.", rich_help_panel=KEEP),
    ] = None,
    unique: Annotated[
        bool,
        typer.Option(
            "--unique", help="Skip molecules whose SMILES came before; mirror images are two.", rich_help_panel=ACCEPT
        ),
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Skip molecules of qm9's or moses' training set, drugs, or a file's; repeatable. Stereo is ignored.",
            rich_help_panel=ACCEPT,
        ),
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option(
            help='Conditions on scores: "QED>0.6 and SA<3.5 and alerts==0 and F==0"; also similarity, shape_tanimoto, '
            "features_matched and predicted_NAME, where asked for. A wrong name lists all.",
            rich_help_panel=ACCEPT,
        ),
    ] = None,
    diverse: Annotated[
        int | None,
        typer.Option(help="Write only so many of the -n, as unlike each other as possible.", rich_help_panel=ACCEPT),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(help="drug: add QED, SA, logP, alerts and more to every record.", rich_help_panel=ACCEPT),
    ] = None,
    relax: Annotated[
        str | None,
        typer.Option(help="mmff: relaxed conformers too, in OUTPUT's .relaxed.sdf.", rich_help_panel=ACCEPT),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            help=".sdf .smi .csv .parquet .xyz by suffix; - is SDF on standard output.",
            rich_help_panel=ACCEPT,
        ),
    ] = "molecules.sdf",
    rejects: Annotated[
        Path | None,
        typer.Option(help="Write rejected molecules, as generated, to this SDF.", rich_help_panel=ACCEPT),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help=FORCE_HELP, rich_help_panel=ACCEPT)] = False,
    resume: Annotated[bool, typer.Option("--resume", help=RESUME_HELP, rich_help_panel=RUN)] = False,
    max_attempts: Annotated[
        int | None,
        typer.Option(help="Sample no more than this.", show_default="10 n + 100", rich_help_panel=RUN),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Stop after about this many seconds.", rich_help_panel=RUN)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help=WORKERS_HELP, min=1, show_default="by n and cores", rich_help_panel=RUN),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Molecules per batch, or auto. Does not change the result.", rich_help_panel=RUN)
    ] = "auto",
    device: Annotated[str, typer.Option(help=DEVICE_HELP, rich_help_panel=RUN)] = "auto",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help=COMPILE_HELP,
            rich_help_panel=RUN,
        ),
    ] = False,
) -> None:
    """Generate molecules: connected, sanitisable, no radicals, explicit hydrogens and charges, 3D coordinates.

    Every molecule has a stable ID; the funnel from sampled to kept is printed and written to OUTPUT.summary.json.
    Ctrl-C and SIGTERM save what there is; --resume goes on from there.

    Example: moldiff generate -n 100 -o molecules.sdf
    """
    with one_line_errors():
        from moldiff.conditions import read_target
        from moldiff.exclusion import read_excluded
        from moldiff.fragment_files import draw_plan, read_wishes
        from moldiff.generation import load
        from moldiff.journal import summary_of_complete
        from moldiff.outputs import Output, StandardOutput
        from moldiff.overlay import read_overlay
        from moldiff.requests import Request, choose_sampler, with_molecules

        batch = None if batch_size == "auto" else positive(batch_size, f"--batch-size {batch_size}", "or auto")
        sizes = _range(n_atoms)
        if diverse is not None and not 1 <= diverse <= n:
            raise RequestError(f"--diverse {diverse}: must be between 1 and the {n} molecules that -n asks for")
        relaxed = Path(output).with_suffix(".relaxed.sdf") if relax and output != "-" else None
        outputs = {"-o": None if output == "-" else Path(output), "--rejects": rejects, "--relax:": relaxed}
        inputs = (*(fix or ()), like, shape, pharmacophore, *map(Path, exclude or ()))
        _check_inputs_stay(outputs, [path for path in inputs if path is not None])
        generator = load(model, device, compile)
        sampler = choose_sampler(generator.model.config, quality, steps)
        overlay = read_overlay(shape, pharmacophore)
        targets = tuple(map(read_target, target or []))
        kept = {"fix": fix, "attach": attach, "replace": replace, "like": like, "strength": strength}
        draft = Request(
            n, seed, sampler, sizes, formula, unique=unique, exclude=tuple(exclude or ()), first=first,
            max_attempts=max_attempts, time_limit=time_limit, targets=targets, guidance=guidance,
        )  # fmt: skip
        request, planned = with_molecules(draft, generator.model.data, read_wishes(**kept), overlay)
        request = generator.screened(request, scores, filter, relax)
        if picture is not None:
            draw_plan(planned, picture)
        for text in planned.notes:
            typer.echo(text, err=True)
        excluded = read_excluded(request.exclude)
        for text in (*request.check(generator.model), *excluded.notes):
            typer.echo(f"warning: {text}", err=True)
        generator = generator.maker(request)
        provenance = provenance_of(generator, request.evaluations)
        identity = {"model": generator.hash, "seed": seed, "steps": sampler.steps, "n_atoms": n_atoms, "unique": unique}
        if first:
            identity |= {"first": first}
        if compile:
            identity |= {"compile": True}
        if formula is not None:
            identity |= {"formula": formula}
        if targets:
            identity |= {"targets": list(map(str, request.targets)), "guidance": guidance}
        if planned.known or request.guides:
            given = {**kept, "shape": shape, "pharmacophore": pharmacophore}
            identity |= {k: [*map(str, v)] if isinstance(v, list) else str(v) for k, v in given.items() if v}
        identity |= {"key": generator.key(request)}  # of all that decides a molecule, what files hold included
        left_out = {"exclude": exclude, "excluded_sha256": excluded.sha256 if exclude else None}
        asked = {**left_out, "scores": scores, "filter": filter, "relax": relax, "diverse": diverse}
        identity |= {name: value for name, value in asked.items() if value is not None}
        if output == "-":
            for option in ("relax", "diverse"):
                if option in identity:
                    fail(f"--{option} {identity[option]}: not on standard output; write to a file")
            if resume:
                fail("--resume: standard output cannot be resumed; write to a file")
            sink = StandardOutput(provenance, rejects, force)
        elif resume and (there := summary_of_complete(Path(output), identity)) and there["kept"] >= n:
            typer.echo(f"moldiff: {output} is complete already", err=True)
            return
        else:
            sink = Output(
                Path(output), provenance, identity, rejects=rejects, force=force, resume=resume, diverse=diverse,
                scores={**generator.own_columns(request), **request.screen.columns},
                relaxed=relaxed,
            )  # fmt: skip
        facts = {"request": identity, "device": generator.device, **provenance}
        how = {"workers": workers or generator.workers_for(n), "batch_size": batch, "excluded": excluded.smiles}
        summary = _run(generator, request, sink, facts, **how)
    _print_summary(summary, output)
    if summary["kept"] < n:
        out = "attempts" if summary["funnel"]["sampled"] >= request.attempts else "time"
        more = {"attempts": "--max-attempts", "time": "--time-limit"}[out]
        again = "" if output == "-" else ", and --resume goes on"
        fail(f"{summary['kept']} of {n} molecules: {out} ran out; raise {more}{again}", code=3)


def _check_inputs_stay(outputs: dict[str, Path | None], inputs: list[Path]) -> None:
    """Refuse, before any work, to write over what is given."""
    from moldiff.files import check_apart

    for option, path in outputs.items():
        if path is not None:
            check_apart(f"{option} {path}", path, inputs)


def _run(
    generator: "Generator", request: "Request", sink: "Output | StandardOutput", facts: dict[str, Any], **how: Any
) -> dict[str, Any]:
    """Generate into the sink and finish it; returns the summary."""
    from moldiff.workers import WorkerError

    before, started, cpu = sink.tally.sampled, time.monotonic(), _cpu_seconds()
    try:
        with interruptible() as check:
            _fill(generator, request, sink, check, **how)
            tally, funnel = sink.tally, sink.tally.funnel(request)
            if sink.diverse is not None:
                funnel["diverse"] = min(sink.diverse, tally.kept)
            summary = {
                "asked": request.n, "kept": tally.kept, "funnel": funnel,
                "rejected": dict(tally.rejected), **facts, "tries": tally.tries, "sampled_meanwhile": tally.sampled - before,
                "seconds": round(time.monotonic() - started, 2), "cpu_seconds": round(_cpu_seconds() - cpu, 2),
            }  # fmt: skip
            sink.finish(summary, ended=tally.kept >= request.n)
    except Interrupted as stop:
        fail(f"interrupted with {sink.tally.kept} of {request.n} molecules; {sink.remedy}", stop.code)
    except WorkerError as error:
        raise WorkerError(f"{error}; {sink.remedy}") from error
    finally:
        sink.close()
    return summary


def _fill(
    generator: "Generator", request: "Request", sink: "Output | StandardOutput", check: Callable[[], None], **how: Any
) -> None:  # fmt: skip
    """Write outcomes until there are enough, saving and showing the progress; what is there is saved in any case.

    ``check``: raises an interruption that got lost.
    """
    work = 0.0  # molecules' worth of sampling behind those that are not out yet

    def tick(more: float) -> None:
        nonlocal work
        work += more
        check()
        sink.save()
        show(sink.tally.kept, work * sink.tally.acceptance)

    outcomes = generator.outcomes(request, tally=sink.tally, seen=sink.seen, tick=tick, **how)
    try:
        with _progress(request.n, sink.tally.kept, generator.device) as show, closing(outcomes):
            for outcome in outcomes:
                work = 0.0
                check()
                sink.write(outcome)
                show(sink.tally.kept, 0.0)
    finally:
        sink.save()


@contextmanager
def _progress(total: int, kept: int, device: str) -> Iterator[Any]:
    """A bar on standard error, with molecules accepted and time left."""
    from rich.progress import SpinnerColumn, TimeElapsedColumn

    text = f"{{task.fields[kept]}}/{total} molecules on {device}"
    with bar(SpinnerColumn(), text, TimeElapsedColumn()) as shown:
        task = shown.add_task("", total=total, completed=kept, kept=kept)
        yield lambda kept, work: shown.update(task, completed=min(total, kept + work), kept=kept)


def _print_summary(summary: dict[str, Any], output: str) -> None:
    """The funnel as a table on standard error, so that ``-o -`` stays clean."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("stage")
    table.add_column("molecules", justify="right")
    table.add_column("of sampled", justify="right")
    for stage, count in summary["funnel"].items():
        table.add_row(Text(stage), f"{count}", f"{100 * count / max(1, summary['funnel']['sampled']):.1f} %")
    console = Console(stderr=True)
    sampled, evaluations = summary["funnel"]["sampled"], summary["evaluations"]
    cost = f"{round(evaluations * summary['tries'] / max(1, sampled), 1):g} evaluations a molecule"
    if summary["tries"] > sampled:
        cost += f": {evaluations} a try, {summary['tries'] / sampled:.2f} tries each until it is as told"
    title = f"{summary['model']} on {summary['device']}, {cost}"
    console.print(title, highlight=False, markup=False)
    console.print(table)
    if summary["rejected"]:
        rejected = ", ".join(f"{v} {k}" for k, v in sorted(summary["rejected"].items()))
        console.print(f"rejected: {rejected}", markup=False)
    each = summary["seconds"] / max(1, summary["sampled_meanwhile"])
    where = "" if output == "-" else f" → {output}"
    console.print(
        f"{summary['seconds']:.1f} s, {each:.3f} s per sampled molecule{where}", highlight=False, markup=False
    )


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
