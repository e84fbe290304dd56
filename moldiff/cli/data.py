"""``moldiff data``: training sets."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moldiff.cli.options import EXIT_CODES, Force
from moldiff.terminal import Interrupted, bar, fail, interruptible, one_line_errors

if TYPE_CHECKING:
    from moldiff.datasets.library import Library

data_app = typer.Typer(help="Make training sets.", no_args_is_help=True)


SOURCE, MOLECULES, PROPERTIES, SPLIT, WORK = "Source", "Molecules", "Properties", "Split", "Work"


def _option(panel: str, *names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


@data_app.command("prepare", epilog=EXIT_CODES)
def prepare(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="qm9, moses, pdb-ligands or geom-drugs; or your own SDF, SMILES (.smi .txt), CSV, TSV, Parquet or XYZ; "
            ".gz too."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to make.")],
    archive: Annotated[
        Path | None,
        _option(SOURCE, help="Of a named source: a downloaded wheel or archive.", show_default="installed package"),
    ] = None,
    limit: Annotated[
        int | None, _option(SOURCE, help="Take so many molecules, at random; not of qm9.", min=1, show_default="all")
    ] = None,
    column: Annotated[
        str | None, _option(SOURCE, help="Of a table: the one with SMILES.", show_default="by name")
    ] = None,
    charge: Annotated[int, _option(SOURCE, help="Net charge of each molecule of an XYZ file, e.")] = 0,
    hydrogens: Annotated[
        str | None,
        _option(MOLECULES, help="explicit or implicit.", show_default="those of --vocabulary-of, else explicit"),
    ] = None,
    largest_fragment: Annotated[
        bool, _option(MOLECULES, "--largest-fragment", help="Of salts and mixtures; else they are dropped.")
    ] = False,
    neutralise: Annotated[
        bool, _option(MOLECULES, "--neutralise", help="Add or remove protons where charged.")
    ] = False,
    max_heavy: Annotated[int, _option(MOLECULES, help="Heavy atoms; larger molecules are dropped.", min=1)] = 50,
    min_count: Annotated[
        int,
        _option(MOLECULES, help="Drop molecules with an element and charge that fewer than so many have.", min=1),
    ] = 1,
    vocabulary_of: Annotated[
        str | None, _option(MOLECULES, help="Only what this model knows: a shipped name or a file.")
    ] = None,
    property_: Annotated[
        list[str] | None,
        _option(
            PROPERTIES,
            "--property",
            help="A column or SDF data field of numbers, NAME or NAME:unit; repeatable. Computed where no file has it: "
            "qed, sa, logp, weight, tpsa, fsp3, hbd, hba, rotatable_bonds, rings, aromatic_rings, largest_ring.",
        ),
    ] = None,
    split: Annotated[str, _option(SPLIT, help="random, or scaffold: each in one part only.")] = "random",
    valid: Annotated[float, _option(SPLIT, help="Share held out for validation.")] = 0.1,
    test: Annotated[float, _option(SPLIT, help="Share held out for the test.")] = 0.1,
    seed: Annotated[int, _option(SPLIT, help="Of the split, the conformers and --limit.")] = 0,
    timeout: Annotated[float, _option(WORK, help="Seconds for a molecule; beyond them it is dropped.")] = 60.0,
    jobs: Annotated[int | None, _option(WORK, help="Processes.", show_default="all cores", min=1)] = None,
    force: Force = False,
) -> None:
    """Build a training set and report what was read, kept and dropped, and why.

    Molecules without 3D coordinates get a conformer (ETKDGv3, MMFF94s). The same command goes on where an interrupted
    one ended. Examples:

    moldiff data prepare series.csv --property pIC50 --vocabulary-of leads -o series

    moldiff data prepare moses --limit 10000 --hydrogens implicit --property qed -o leads
    """
    started = time.monotonic()
    with one_line_errors():
        from moldiff.datasets.curation import Curation
        from moldiff.datasets.library import Library
        from moldiff.datasets.shards import check_folder

        vocabulary, hydrogens = _vocabulary_of(vocabulary_of, hydrogens)
        curation = Curation(hydrogens, max_heavy, largest_fragment, neutralise, charge, vocabulary, seed)
        properties = tuple((name, unit) for name, _, unit in (text.partition(":") for text in property_ or []))
        files = [Path(source) for source in sources]
        library = Library(files, column, properties, curation, min_count, split, valid, test, timeout, limit=limit)
        name = _name_of(sources)
        _check_given(library, name, archive)
        if name == "qm9":
            check_folder(output, [archive] if archive else [], force)
            meta = _prepare_qm9(archive, output, jobs, force, hydrogens)
        else:
            library = _located(library, name, archive)
            check_folder(output, library.files, force)
            meta = _prepare_library(library, output, jobs, force)
    _print_set(meta, output, time.monotonic() - started)


def _name_of(sources: list[str]) -> str:
    """Of a named source; "" for own files."""
    from moldiff.datasets.published import PUBLISHED
    from moldiff.errors import RequestError

    named = [source for source in sources if source in ("qm9", *PUBLISHED)]
    if named and len(sources) > 1:
        raise RequestError(f"{named[0]}: goes with no other source; give it alone")
    return named[0] if named else ""


def _check_given(library: "Library", name: str, archive: Path | None) -> None:
    """Refuse options that do not go with the source."""
    from moldiff.datasets.curation import Curation
    from moldiff.errors import RequestError

    library.check()
    if name == "qm9" and library != type(library)(library.files, curation=Curation(library.curation.hydrogens)):
        raise RequestError("qm9: only --archive, --hydrogens, --jobs and --force go with it; leave others out")
    if not name and archive is not None:
        raise RequestError(f"--archive {archive}: for named sources only; leave it out")
    if name and library.column is not None:
        raise RequestError(f"--column {library.column}: for tables only; leave it out with {name}")
    if name and library.curation.charge:
        raise RequestError(f"--charge {library.curation.charge}: for XYZ files only; leave it out with {name}")


def _located(library: "Library", name: str, archive: Path | None) -> "Library":
    """With the file of a named source."""
    from moldiff.datasets.published import find

    return replace(library, files=[find(name, archive)], source=name) if name else library


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


def _prepare_qm9(archive: Path | None, output: Path, jobs: int | None, force: bool, hydrogens: str) -> dict[str, Any]:
    from moldiff.datasets.qm9 import prepare_qm9

    try:
        with interruptible(), _preparing() as report:
            return prepare_qm9(archive, output, jobs, report, force, hydrogens)
    except Interrupted as stop:
        fail("stopped before the set was complete; the same command begins again", stop.code)


def _prepare_library(library: "Library", output: Path, jobs: int | None, force: bool) -> dict[str, Any]:
    from moldiff.datasets.preparing import prepare_library

    try:
        with interruptible(), _preparing() as report:
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
    if computed := meta.get("settings", {}).get("computed"):
        typer.echo(f"computed by RDKit: {', '.join(computed)}")
    if ambiguous := _named_as_computed(meta):
        text = "read from the file; what generate and evaluate call by this name is RDKit's; rename it if it is another"
        typer.echo(f"note: {', '.join(ambiguous)}: {text}", err=True)
    splits = ", ".join(f"{k} {v}" for k, v in meta["molecules"].items())
    typer.echo(f"{splits}; vocabulary {' '.join(meta['vocabulary'])}; {seconds:.0f} s → {output}")


def _named_as_computed(meta: dict[str, Any]) -> list[str]:
    """Properties of the file with names of those that RDKit computes."""
    from moldiff.datasets.computed import UNITS

    computed = meta.get("settings", {}).get("computed", ())
    return [p["name"] for p in meta["properties"] if p["name"] in UNITS and p["name"] not in computed]


@contextmanager
def _preparing() -> Iterator[Any]:
    """A bar on the screen; yields what it is moved on with: (done, total)."""
    with bar("preparing {task.completed}") as shown:
        task = shown.add_task("", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
