"""The command line: thin over the Python API. Nothing heavy is imported before a command runs."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

EXIT_CODES = "Exit codes: 0 all done, 1 training or checks failed, 2 bad input, 3 fewer molecules than asked, 130 interrupted."

app = typer.Typer(
    help="Generate real, drug-like molecules in 3D with an E(3)-equivariant diffusion model.", epilog=EXIT_CODES,
    no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
)  # fmt: skip
data_app = typer.Typer(help="Make training sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps. Never falls back silently.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Foreseen errors become one line on standard error and exit code 2 (1 for a failed training)."""
    import errno

    from moldiff.chem import ConversionError
    from moldiff.config import ConfigError
    from moldiff.datasets.prepared import PreparedDataError
    from moldiff.datasets.qm9 import QM9Error
    from moldiff.generation import RequestError
    from moldiff.model import ModelFileError
    from moldiff.training import TrainingError

    try:
        yield
    except (RequestError, ModelFileError, ConfigError, PreparedDataError, QM9Error, ConversionError) as error:
        fail(str(error))
    except TrainingError as error:
        fail(str(error), code=1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EISDIR, errno.ENOENT, errno.EDQUOT):
            raise
        remedy = "free some space, then --resume" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the path"
        fail(f"{error.filename or 'output'}: {error.strerror}; {remedy}")


def fail(message: str, code: int = 2) -> None:
    typer.echo(f"moldiff: {message}", err=True)
    raise typer.Exit(code)


def version(show: bool) -> None:
    if show:
        from moldiff import __version__

        typer.echo(f"moldiff {__version__}")
        raise typer.Exit


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
    steps: Annotated[int | None, typer.Option(help="Network evaluations per molecule [default: 50].")] = None,
    seed: Annotated[int, typer.Option(help="Molecule k of a seed is always the same.")] = 0,
    n_atoms: Annotated[str | None, typer.Option(help="Heavy atoms, 9 or 5-9 [default: as in the training data].")] = None,
    unique: Annotated[bool, typer.Option("--unique", help="Skip molecules whose SMILES came before.")] = False,
    rejects: Annotated[Path | None, typer.Option(help="Write rejected molecules, as generated, to this SDF.")] = None,
    batch_size: Annotated[str, typer.Option(help="Molecules per batch, or auto. Does not change the result.")] = "auto",
    workers: Annotated[int | None, typer.Option(help="Worker processes [default: all cores for large n].", min=1)] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Stop after this many [default: 10 n + 100].")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Stop after this many seconds.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    force: Force = False,
) -> None:
    """Generate molecules: connected, sanitisable, no radicals, explicit hydrogens and charges, 3D coordinates.

    Every molecule has a stable ID; the funnel from sampled to kept is printed and written to OUTPUT.summary.json.

    Example: moldiff generate -n 100 -o molecules.sdf
    """
    with one_line_errors():
        from moldiff.generation import Request, load
        from moldiff.outputs import Output, StandardOutput
        from moldiff.samplers import Sampler

        generator = load(model, device)
        sampler = Sampler() if steps is None else Sampler(steps=steps)
        request = Request(n, seed, sampler, _range(n_atoms), unique, max_attempts, time_limit)
        request.check(generator.model)
        batch = None if batch_size == "auto" else _positive(batch_size, "--batch-size")
        provenance = _provenance(generator, sampler)
        identity = {"model": generator.hash, "seed": seed, "steps": sampler.steps, "n_atoms": n_atoms, "unique": unique}
        if output == "-":
            sink = StandardOutput(provenance)
        else:
            sink = Output(Path(output), provenance, identity, rejects=rejects, force=force, resume=resume)
        started, cpu = time.monotonic(), _cpu_seconds()
        interrupted = _run(generator, request, sink, workers=workers, batch_size=batch)
        used = {"seconds": round(time.monotonic() - started, 2), "cpu_seconds": round(_cpu_seconds() - cpu, 2)}
        summary = _summary(request, sink.tally, provenance, generator.device, used)
        if interrupted:
            sink.close()
            typer.echo(f"moldiff: interrupted with {sink.tally.kept} of {n}; --resume continues this run", err=True)
            raise typer.Exit(130)
        sink.finish(summary)
    _print_summary(summary, output)
    if sink.tally.kept < n:
        typer.echo(f"moldiff: {sink.tally.kept} of {n} molecules: attempts or time ran out; raise --max-attempts or "
                   "--time-limit", err=True)  # fmt: skip
        raise typer.Exit(3)


def _run(generator, request, sink, **how: Any) -> bool:
    """Generate into the sink with a progress bar; True when Ctrl-C stopped it (what is there is kept)."""
    last = time.monotonic()
    if sink.tally.kept >= request.n:
        return False
    outcomes = generator.outcomes(request, tally=sink.tally, seen=sink.seen, **how)
    with _progress("generating", request.n) as advance:
        try:
            for outcome in outcomes:
                sink.write(outcome)
                advance(sink.tally.kept)
                if time.monotonic() - last > 1:
                    sink.flush(sink.tally)
                    last = time.monotonic()
        except KeyboardInterrupt:
            sink.flush(sink.tally)
            return True
        finally:
            outcomes.close()
    sink.flush(sink.tally)
    return False


@contextmanager
def _progress(what: str, total: int) -> Iterator[Any]:
    """A bar with speed and time left on standard error; nothing when that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _summary(request, tally, provenance: dict[str, Any], device: str, used: dict[str, float]) -> dict[str, Any]:
    return {
        "asked": request.n, "kept": tally.kept, "funnel": tally.funnel(), "rejected": dict(tally.rejected),
        "seed": request.seed, "device": device, **provenance, **used,
    }  # fmt: skip


def _print_summary(summary: dict[str, Any], output: str) -> None:
    """The funnel as a table on standard error, so that ``-o -`` stays clean."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary['model']} on {summary['device']}, {summary['evaluations']} evaluations a molecule")
    table.add_column("stage")
    table.add_column("molecules", justify="right")
    table.add_column("of sampled", justify="right")
    for stage, count in summary["funnel"].items():
        table.add_row(stage, f"{count}", f"{100 * count / max(1, summary['funnel']['sampled']):.1f} %")
    console = Console(stderr=True)
    console.print(table)
    if summary["rejected"]:
        console.print("rejected: " + ", ".join(f"{k} {v}" for k, v in sorted(summary["rejected"].items())))
    each = summary["seconds"] / max(1, summary["funnel"]["sampled"])
    where = "" if output == "-" else f" → {output}"
    console.print(f"{summary['seconds']:.1f} s, {each:.3f} s per sampled molecule{where}")


def _provenance(generator, sampler) -> dict[str, Any]:
    import torch

    from moldiff import __version__
    from moldiff.chem import RDKIT_VERSION

    return {
        "model": generator.name, "model_sha256": generator.hash, "evaluations": sampler.evaluations,
        "moldiff": __version__, "torch": torch.__version__, "rdkit": RDKIT_VERSION,
    }  # fmt: skip


def _cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    import os

    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    low, _, high = text.partition("-")
    return _positive(low, "--n-atoms"), _positive(high or low, "--n-atoms")


def _positive(text: str, option: str) -> int:
    from moldiff.generation import RequestError

    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise RequestError(f"{option} {text}: expected a positive whole number" + (" or a range such as 5-9" * (option == "--n-atoms")))
    return int(text)


@data_app.command("prepare")
def prepare(
    source: Annotated[str, typer.Argument(help="qm9")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to make.")],
    archive: Annotated[Path | None, typer.Option(help="A local qm9pack wheel or the original QM9 archive.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes [default: all cores].", min=1)] = None,
    force: Force = False,
) -> None:
    """Build a training set and report what was read, kept and dropped, and why."""
    with one_line_errors():
        from moldiff.datasets.qm9 import prepare_qm9
        from moldiff.generation import RequestError

        if source != "qm9":
            raise RequestError(f"data set {source!r}: this version prepares qm9")
        if (output / "meta.json").exists() and not force:
            raise RequestError(f"-o {output}: holds a prepared set already; --force makes it again")
        started = time.monotonic()
        with _progress_of("preparing") as report:
            meta = prepare_qm9(archive, output, jobs, report)
    counts = meta["counts"]
    typer.echo(f"read {counts['read']}, kept {counts['kept']}, dropped {sum(counts['dropped'].values())}")
    for reason, number in counts["dropped"].items():
        typer.echo(f"  dropped, {reason}: {number} (rows {', '.join(map(str, counts['dropped_rows'][reason]))})")
    splits = ", ".join(f"{k} {v}" for k, v in meta["molecules"].items())
    typer.echo(f"{splits}; vocabulary {' '.join(meta['vocabulary'])}; {time.monotonic() - started:.0f} s → {output}")


@contextmanager
def _progress_of(what: str) -> Iterator[Any]:
    """Like :func:`_progress` for callers that report (done, total)."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@app.command(epilog=EXIT_CODES)
def train(
    data: Annotated[Path, typer.Argument(help="A prepared set.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory of the run.")],
    preset: Annotated[str, typer.Option(help="qm9-tiny, qm9-small, qm9-base or qm9-egnn.")] = "qm9-tiny",
    config: Annotated[Path | None, typer.Option(help="A TOML file instead of a preset.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. train.lr=1e-3; repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run's checkpoint.")] = False,
    max_minutes: Annotated[float | None, typer.Option(help="Save and stop after this long.")] = None,
    device: Device = "auto",
) -> None:
    """Train a model. Ctrl-C saves first; --resume continues bit for bit. Under torchrun, all processes take part."""
    with one_line_errors():
        from moldiff.config import preset as named
        from moldiff.config import read_config
        from moldiff.generation import choose_device
        from moldiff.training import train as run

        settings = (read_config(config) if config else named(preset)).override(set_ or [])
        device = choose_device(device)
        seconds = None if max_minutes is None else 60 * max_minutes
        typer.echo(f"{settings.preset}: {settings.train.steps} steps of {settings.train.batch} on {device} → {output}", err=True)
        with _training_progress(settings.train.steps) as report:
            weights = run(data, output, settings, resume=resume, device=device, max_seconds=seconds, progress=report)
    typer.echo(f"averaged weights → {weights}; try them: moldiff generate --model {weights}")


@contextmanager
def _training_progress(steps: int) -> Iterator[Any]:
    """A bar with loss and speed; plain lines when standard error is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TextColumn("left"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps)

        def report(row: dict[str, Any]) -> None:
            text = f"loss {row['loss']:.3f}  {row['molecules_per_s']:.0f} molecules/s"
            bar.update(task, completed=row["step"], description=text)
            if not console.is_terminal:
                typer.echo(f"step {row['step']}/{steps}  {text}", err=True)

        yield report


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="A shipped model's name or a weights file.")] = "qm9",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Print what a model knows: vocabulary, sizes, properties and units, training data, configuration, figures."""
    with one_line_errors():
        from moldiff.generation import load, shipped_models

        generator = load(model, "cpu")
        facts = generator.facts()
        if as_json:
            typer.echo(json.dumps(facts, indent=1))
            return
        for name, value in facts.items():
            typer.echo(f"{name:<18}{_text(value)}")
        typer.echo(f"{'shipped models':<18}{', '.join(shipped_models())}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ("\n" + " " * 18).join(_text(v) for v in value) if value and isinstance(value[0], dict) else " ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@app.command(epilog=EXIT_CODES)
def doctor(device: Device = "auto") -> None:
    """Check the installation: versions, device, shipped weights, and a golden sample made again."""
    with one_line_errors():
        from moldiff.generation import diagnose

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
    file: Annotated[Path, typer.Argument(help="An SDF with hydrogens and coordinates.")],
    reference: Annotated[
        Path | None, typer.Option(help="SMILES, one a line (such as train.smi of a prepared set), for novelty and FCD.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every metric here.")] = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write the table of molecules here.")] = None,
) -> None:
    """Judge molecules: stability, validity, uniqueness, novelty, each with its numerator, denominator and rule."""
    with one_line_errors():
        from moldiff.report import evaluate_file

        evaluation = evaluate_file(file, reference)
        if json_path:
            json_path.write_text(json.dumps(evaluation.to_dict(), indent=1))
        if csv_path:
            evaluation.table.to_csv(csv_path, index=False)
    evaluation.print()


def generate_molecules() -> None:
    """Entry point ``generate-molecules``: the same as ``moldiff generate``."""
    sys.argv.insert(1, "generate")
    app()


if __name__ == "__main__":
    app()
