"""The command line: thin over the Python API. Nothing heavy is imported before a command runs."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moldiff.config import PRESETS
from moldiff.terminal import Interrupted, bar, fail, interruptible, one_line_errors

if TYPE_CHECKING:
    from moldiff.attempts import Request
    from moldiff.datasets.library import Library
    from moldiff.generation import Generator
    from moldiff.outputs import Output, StandardOutput

EXIT_CODES = (
    "Exit codes: 0 all done, 1 training or checks failed, 2 bad input, 3 fewer molecules than asked, "
    "130 interrupted (Ctrl-C), 143 terminated."
)

FEW = 100  # training molecules

app = typer.Typer(
    help="Generate real, drug-like molecules in 3D with an E(3)-equivariant diffusion model.", epilog=EXIT_CODES,
    no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
)  # fmt: skip
data_app = typer.Typer(help="Make training sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps. Never falls back silently.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


def version(show: bool) -> bool:
    if show:
        from moldiff import __version__

        typer.echo(f"moldiff {__version__}")
        raise typer.Exit
    return show


@app.callback()
def main(
    _: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command(epilog=EXIT_CODES)
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
        from moldiff.generation import Request, load
        from moldiff.outputs import Output, StandardOutput, is_complete

        batch = None if batch_size == "auto" else _positive(batch_size, f"--batch-size {batch_size}", "or auto")
        sizes = _range(n_atoms)
        generator = load(model, device)
        sampler = choose_sampler(quality, steps)
        request = Request(n, seed, sampler, sizes, unique, max_attempts, time_limit)
        request.check(generator.model)
        provenance = _provenance(generator, sampler.evaluations)
        identity = {"model": generator.hash, "seed": seed, "steps": sampler.steps, "n_atoms": n_atoms, "unique": unique}
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
    bounds = [_positive(part, f"--n-atoms {text}", "or a range such as 5-9") for part in (low, high if dash else low)]
    return bounds[0], bounds[1]


def _positive(text: str, option: str, remedy: str) -> int:
    from moldiff.errors import RequestError

    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise RequestError(f"{option}: expected a positive whole number {remedy}")
    return int(text)


@data_app.command("prepare", epilog=EXIT_CODES)
def prepare(
    sources: Annotated[
        list[str], typer.Argument(help="qm9, or your own SDF, SMILES (.smi .txt), CSV, TSV, Parquet or XYZ; .gz too.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to make.")],
    archive: Annotated[Path | None, typer.Option(help="qm9: a local qm9pack wheel or the original archive.")] = None,
    column: Annotated[str | None, typer.Option(help="Of a table: the one with SMILES.", show_default="by name")] = None,
    property_: Annotated[
        list[str] | None,
        typer.Option("--property", help="A column or SDF data field of numbers, NAME or NAME:unit; repeatable."),
    ] = None,
    hydrogens: Annotated[str | None, typer.Option(help="explicit or implicit.", show_default="explicit")] = None,
    largest_fragment: Annotated[bool, typer.Option("--largest-fragment", help="Of salts and mixtures.")] = False,
    neutralise: Annotated[bool, typer.Option("--neutralise", help="Add or remove protons where charged.")] = False,
    charge: Annotated[int, typer.Option(help="Of each molecule of an XYZ file, e.")] = 0,
    max_heavy: Annotated[int, typer.Option(help="Heavy atoms; larger molecules are dropped.", min=1)] = 50,
    min_count: Annotated[int, typer.Option(help="Molecules that must have an element with its charge.", min=1)] = 1,
    vocabulary_of: Annotated[
        str | None, typer.Option(help="Only what this model knows: a shipped name or a file.")
    ] = None,
    split: Annotated[str, typer.Option(help="random, or scaffold: each in one part only.")] = "random",
    valid: Annotated[float, typer.Option(help="Share held out for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share held out for the test.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the conformers and the split.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds for a molecule; beyond them it is dropped.")] = 60.0,
    jobs: Annotated[int | None, typer.Option(help="Processes [default: all cores].", min=1)] = None,
    force: Force = False,
) -> None:
    """Build a training set and report what was read, kept and dropped, and why.

    Files of your own: molecules without 3D coordinates get a conformer (ETKDGv3, MMFF94s). The same command goes on
    where an interrupted one ended. Example: moldiff data prepare series.csv --property pIC50 -o series
    """
    started = time.monotonic()
    with one_line_errors():
        from moldiff.datasets.curation import Curation
        from moldiff.datasets.library import Library
        from moldiff.errors import RequestError

        vocabulary, hydrogens = _vocabulary_of(vocabulary_of, hydrogens)
        curation = Curation(hydrogens, max_heavy, largest_fragment, neutralise, charge, vocabulary, seed)
        properties = tuple((name, unit) for name, _, unit in (text.partition(":") for text in property_ or []))
        files = [Path(source) for source in sources]
        library = Library(files, column, properties, curation, min_count, split, valid, test, timeout)
        own = sources != ["qm9"]
        _check_given(library, own, archive)
        if (output / "meta.json").exists() and not force:
            raise RequestError(f"-o {output}: holds a prepared set already; --force makes it again")
        meta = _prepare_own(library, output, jobs, force) if own else _prepare_qm9(archive, output, jobs)
    _print_set(meta, output, time.monotonic() - started)


def _check_given(library: "Library", own: bool, archive: Path | None) -> None:
    """Refuse options that do not go with the source."""
    from moldiff.errors import RequestError

    if own and archive is not None:
        raise RequestError(f"--archive {archive}: for qm9 only; leave it out")
    if not own and library != type(library)(library.files):
        raise RequestError("qm9: only --archive, --jobs and --force go with it; leave the other options out")


def _vocabulary_of(model: str | None, hydrogens: str | None) -> tuple[tuple[str, ...] | None, str]:
    """The tokens that may occur (None: all), and whether hydrogens are explicit or implicit."""
    if model is None:
        return None, hydrogens or "explicit"
    from moldiff.errors import RequestError
    from moldiff.model import Model
    from moldiff.weights import find_weights

    data = Model.load(find_weights(model)).data
    if hydrogens not in (None, data.hydrogens):
        raise RequestError(f"--hydrogens {hydrogens}: those of model {model} are {data.hydrogens}; leave it out")
    return data.vocabulary, data.hydrogens


def _prepare_qm9(archive: Path | None, output: Path, jobs: int | None) -> dict[str, Any]:
    from moldiff.datasets.qm9 import prepare_qm9

    with _progress_of("preparing") as report:
        return prepare_qm9(archive, output, jobs, report)


def _prepare_own(library: "Library", output: Path, jobs: int | None, force: bool) -> dict[str, Any]:
    from moldiff.datasets.preparing import prepare_library

    try:
        with interruptible(), _progress_of("preparing") as report:
            return prepare_library(library, output, jobs, report, force)
    except Interrupted as stop:
        fail("stopped; the same command goes on from there", stop.code)


def _print_set(meta: dict[str, Any], output: Path, seconds: float) -> None:
    counts = meta["counts"]
    typer.echo(f"read {counts['read']}, kept {counts['kept']}, dropped {sum(counts['dropped'].values())}")
    for reason, number in counts["dropped"].items():
        rows = counts.get("dropped_rows", {}).get(reason)
        typer.echo(f"  dropped, {reason}: {number}" + (f" (rows {', '.join(map(str, rows))})" if rows else ""))
    if counts["dropped"] and "dropped_rows" not in counts:
        typer.echo(f"  each with its row and reason in {output / 'dropped.csv'}")
    splits = ", ".join(f"{k} {v}" for k, v in meta["molecules"].items())
    typer.echo(f"{splits}; vocabulary {' '.join(meta['vocabulary'])}; {seconds:.0f} s → {output}")


@contextmanager
def _progress_of(what: str) -> Iterator[Any]:
    """Like :func:`_progress` for callers that report (done, total)."""
    with bar(what) as shown:
        task = shown.add_task("", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@app.command(epilog=EXIT_CODES)
def train(
    data: Annotated[Path, typer.Argument(help="A prepared set.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory of the run.")],
    preset: Annotated[str, typer.Option(help=", ".join(PRESETS))] = "qm9-tiny",
    config: Annotated[Path | None, typer.Option(help="A TOML file instead of a preset.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. train.lr=1e-3; repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run's checkpoint.")] = False,
    init_from: Annotated[str | None, typer.Option(help="Start from these weights: a shipped name or a file.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Save and stop after this long.")] = None,
    device: Device = "auto",
) -> None:
    """Train a model. Ctrl-C saves first; --resume continues bit for bit. Under torchrun, all processes take part."""
    with one_line_errors():
        from moldiff.config import preset as named
        from moldiff.config import read_config
        from moldiff.datasets.prepared import read_meta
        from moldiff.model import choose_device
        from moldiff.training import train as run
        from moldiff.weights import find_weights

        settings = (read_config(config) if config else named(preset)).override(set_ or [])
        device = choose_device(device)
        seconds = None if max_minutes is None else 60 * max_minutes
        steps, batch = settings.train.steps, settings.train.batch
        meta = read_meta(data)
        typer.echo(f"{settings.preset} on {meta['name']}: {steps} steps of {batch} on {device} → {output}", err=True)
        if (count := meta["molecules"]["train"]) < FEW:
            text = f"only {count} training molecules: expect copies of them; check with `moldiff evaluate --reference`"
            typer.echo(f"warning: {text}", err=True)
        started, last = time.monotonic(), {"step": steps}
        with _training_progress(steps) as report:
            show = lambda row: (last.update(row), report(row))  # noqa: E731
            start = None if init_from is None else find_weights(init_from)
            weights = run(
                data,
                output,
                settings,
                resume=resume,
                init_from=start,
                device=device,
                max_seconds=seconds,
                progress=show,
            )
        if last["step"] < steps:
            in_time = seconds is None or time.monotonic() - started < seconds
            text = f"stopped at step {last['step']} of {steps}; --resume goes on from there"
            fail(text, code=130 if in_time else 0)
    typer.echo(f"averaged weights → {weights}; try them: moldiff generate --model {weights}")


@contextmanager
def _training_progress(steps: int) -> Iterator[Any]:
    """A bar with loss and speed; plain lines when standard error is not a terminal."""
    with bar("{task.completed}/{task.total}", "{task.description}") as shown:
        task = shown.add_task("", total=steps)

        def report(row: dict[str, Any]) -> None:
            text = f"loss {row['loss']:.3f}  {row['molecules_per_s']:.0f} molecules/s"
            shown.update(task, completed=row["step"], description=text)
            if shown.disable:
                typer.echo(f"step {row['step']}/{steps}  {text}", err=True)

        yield report


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="A shipped model's name or a weights file.")] = "qm9",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Print what a model knows: vocabulary, sizes, properties and units, training data, configuration, figures."""
    with one_line_errors():
        from moldiff.generation import load
        from moldiff.weights import shipped_models

        generator = load(model, "cpu")
        facts = generator.facts()
        if as_json:
            typer.echo(json.dumps(facts, indent=1))
            return
        for name, value in facts.items():
            typer.echo(f"{name:<18}{_text(value)}")
        typer.echo(f"{'shipped models':<18}{', '.join(shipped_models())}")


def _text(value: Any) -> str:
    if value in ({}, [], ()):
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        between = "\n" + " " * 18 if value and isinstance(value[0], dict) else " "
        return between.join(_text(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@app.command(epilog=EXIT_CODES)
def doctor(device: Device = "auto") -> None:
    """Check the installation: versions, device, shipped weights, and a golden sample made again."""
    with one_line_errors():
        from moldiff.doctor import diagnose

        sound = True
        for name, good, text in diagnose(device):
            typer.echo(f"{'ok  ' if good else 'FAIL'} {name}: {text}")
            sound &= good
    raise typer.Exit(0 if sound else 1)


@app.command()
def cite() -> None:
    """Print the references of this program and of the methods in it, as BibTeX."""
    from moldiff.citations import BIBTEX

    typer.echo(BIBTEX)


@app.command(epilog=EXIT_CODES)
def evaluate(
    file: Annotated[Path, typer.Argument(help="SDF, XYZ, SMILES (.smi .txt), CSV, TSV or Parquet; .gz too.")],
    reference: Annotated[
        str | None, typer.Option(help="qm9, moses or a file with bonds: for novelty, FCD and similarity.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="model-bonds, edm-table or moses.", show_default="by what the file holds")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Of a table: the one with SMILES.", show_default="by name")] = None,
    fcd: Annotated[
        bool | None, typer.Option("--fcd/--no-fcd", help="Fréchet ChemNet distance.", show_default="with a reference")
    ] = None,
    strain: Annotated[int, typer.Option(help="Relax so many by MMFF94s, drawn at random by --seed.", min=0)] = 1000,
    posebusters: Annotated[
        str | None,
        typer.Option(help="Check so many by PoseBusters, drawn by --seed, or all.", show_default="1000 if installed"),
    ] = None,
    energy_ratio: Annotated[
        bool, typer.Option("--energy-ratio", help="PoseBusters' energy check too: seconds a molecule.")
    ] = False,
    xtb: Annotated[int, typer.Option(help="Relax so many by GFN2-xTB, about a second each.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of these draws.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes. Does not change the result.", min=1)] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds; a molecule that takes longer is a failure.")] = 30.0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every metric here.")] = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write the table of molecules here.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report for human review to this HTML file.")] = None,
) -> None:
    """Judge molecules of any generator as they are written; every number with its counts and its rule.

    Records that cannot be read are counted and named. Example: moldiff evaluate molecules.sdf --reference qm9
    """
    with one_line_errors():
        from moldiff.report import evaluate_file

        poses = sys.maxsize if posebusters == "all" else posebusters and _count(posebusters, "--posebusters")
        _check_folders(json_path, csv_path, report)
        with interruptible(), _stages() as progress:
            try:
                evaluation = evaluate_file(
                    file, reference, protocol=protocol, column=column, fcd=fcd, strain=strain, posebusters=poses, xtb=xtb,
                    energy_ratio=energy_ratio, jobs=jobs, timeout=timeout, seed=seed, progress=progress,
                )  # fmt: skip
            except Interrupted as stop:
                fail("interrupted; nothing was written", stop.code)
        if json_path:
            json_path.write_text(json.dumps(evaluation.to_dict(), indent=1))
        if csv_path:
            evaluation.table.to_csv(csv_path, index=False)
        if report:
            from moldiff.html import write_html

            write_html(evaluation, report)
    evaluation.print()


@contextmanager
def _stages() -> Iterator[Any]:
    """A bar for the stage in work; for callers that report (stage, done, total or None)."""
    with bar("{task.description}", "{task.completed}") as shown:
        task = shown.add_task("starting", total=None)
        yield lambda stage, done, total: shown.update(task, description=stage, completed=done, total=total)


def _count(text: str, option: str) -> int:
    return 0 if text == "0" else _positive(text, f"{option} {text}", "or all")


def _check_folders(*paths: Path | None) -> None:
    """Refuse before any work what could not be written at the end."""
    from moldiff.errors import RequestError

    for path in paths:
        if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
            raise RequestError(f"{path}: is a folder, or its folder does not exist; name a file in one that does")


def generate_molecules() -> None:
    """Entry point ``generate-molecules``: the same as ``moldiff generate``."""
    app(["generate", *sys.argv[1:]], prog_name="moldiff")


if __name__ == "__main__":
    app()
