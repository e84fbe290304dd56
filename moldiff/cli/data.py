"""``moldiff data``: training sets."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moldiff.cli.options import EXIT_CODES, Force
from moldiff.terminal import Interrupted, bar, fail, interruptible, one_line_errors

if TYPE_CHECKING:
    from moldiff.datasets.library import Library

data_app = typer.Typer(help="Make training sets.", no_args_is_help=True)


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
