"""``moldiff evaluate``."""

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from moldiff.cli.options import positive
from moldiff.terminal import Interrupted, bar, fail, interruptible, one_line_errors

_OWN = b"record,id,where,reason,"  # how a table of molecules begins


def evaluate(
    file: Annotated[Path, typer.Argument(help="SDF, XYZ, SMILES (.smi .txt), CSV, TSV or Parquet; .gz too.")],
    reference: Annotated[
        str | None, typer.Option(help="qm9, moses, drugs or a file with bonds: for novelty, FCD and similarity.")
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
        from moldiff.files import write_atomically
        from moldiff.report import evaluate_file

        poses = sys.maxsize if posebusters == "all" else posebusters and _count(posebusters, "--posebusters")
        _check_places({"--json": json_path, "--csv": csv_path, "--report": report}, [file, Path(reference or file)])
        try:
            with interruptible(), _stages() as progress:
                evaluation = evaluate_file(
                    file, reference, protocol=protocol, column=column, fcd=fcd, strain=strain, posebusters=poses, xtb=xtb,
                    energy_ratio=energy_ratio, jobs=jobs, timeout=timeout, seed=seed, progress=progress,
                )  # fmt: skip
        except Interrupted as stop:
            fail("interrupted; nothing was written", stop.code)
        evaluation.print()
        if json_path:
            with write_atomically(json_path) as temporary:
                temporary.write_text(json.dumps(evaluation.to_dict(), indent=1), encoding="utf-8")
        if csv_path:
            with write_atomically(csv_path) as temporary:
                compression = "gzip" if csv_path.suffix.lower() == ".gz" else None
                evaluation.table.to_csv(temporary, index=False, compression=compression)
        if report:
            from moldiff.html import write_html

            write_html(evaluation, report)


@contextmanager
def _stages() -> Iterator[Any]:
    """A bar for the stage in work; for callers that report (stage, done, total or None)."""
    with bar("{task.description}", "{task.completed}") as shown:
        task = shown.add_task("starting", total=None)
        yield lambda stage, done, total: shown.update(task, description=stage, completed=done, total=total)


def _count(text: str, option: str) -> int:
    return 0 if text == "0" else positive(text, f"{option} {text}", "or all")


def _check_places(outputs: dict[str, Path | None], inputs: list[Path]) -> None:
    """Refuse before any work what could not be written at the end, and what would be written over molecules."""
    from moldiff.datasets.readers import FORMATS
    from moldiff.errors import RequestError
    from moldiff.files import check_apart, check_place

    named = {option: path for option, path in outputs.items() if path is not None}
    for option, path in named.items():
        if path.exists() and not path.is_file() and not path.is_dir():
            continue  # a pipe or a device
        check_place(f"{option} {path}", path, force=True)
        check_apart(f"{option} {path}", path, [*inputs, *(other for name, other in named.items() if name != option)])
        suffix = Path(path.name.lower().removesuffix(".gz")).suffix
        if path.exists() and suffix in FORMATS and not _is_own_table(path):
            raise RequestError(f"{option} {path}: may hold molecules, which are not written over; choose another name")


def _is_own_table(path: Path) -> bool:
    """Whether a file is a table as ``--csv`` writes it."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with suppress(OSError, EOFError, zlib.error), opened(path, "rb") as file:  # also of what is no gzip
        return file.readline(len(_OWN)) == _OWN
    return False
