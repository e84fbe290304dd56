"""``moldiff conformers``: three-dimensional shapes of given molecules."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moldiff.cli.completing import Completing, sdf_text
from moldiff.cli.options import MODEL_HELP, Compile, Device, Force, Resume, Workers
from moldiff.files import check_apart, check_is_sdf
from moldiff.terminal import one_line_errors

if TYPE_CHECKING:
    from moldiff.conformers import Conformer


def conformers(
    file: Annotated[Path, typer.Argument(help="SMILES (.smi .txt), CSV, TSV, Parquet or SDF; .gz too.")],
    n: Annotated[int, typer.Option("-n", "--number", help="Conformers of each molecule.")] = 10,
    output: Annotated[Path, typer.Option("-o", "--output", help="SDF to write.")] = Path("conformers.sdf"),
    model: Annotated[str, typer.Option(help=f"{MODEL_HELP} qm9: nine heavy atoms of C, N, O, F at most.")] = "qm9",
    column: Annotated[str | None, typer.Option(help="Of a table: the one with SMILES.", show_default="by name")] = None,
    quality: Annotated[
        str | None,
        typer.Option(help="fast, balanced or best; `moldiff info` tells the evaluations.", show_default="balanced"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Instead of --quality: network evaluations per try.")] = None,
    seed: Annotated[int, typer.Option(help="Conformer j of molecule k of a seed is always the same.")] = 0,
    max_attempts: Annotated[int | None, typer.Option(help="For each molecule.", show_default="10 n + 100")] = None,
    workers: Workers = None,
    device: Device = "auto",
    compile: Compile = False,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Make conformers: the graph is given, coordinates are made.

    Stereo that the molecule tells is checked on every conformer; what it leaves open is free. Molecules that the model cannot
    make are named, and the others go on. Conformers are drawn, not searched for: a rigid molecule gives equal ones.

    Example: moldiff conformers molecules.smi -n 10 -o conformers.sdf
    """
    with one_line_errors():
        from moldiff.conformers import conformers_request, ensembles
        from moldiff.datasets.readers import read_records
        from moldiff.generation import load

        check_is_sdf("-o", output)
        check_apart(f"-o {output}", output, [file])
        sources = read_records(file, column)
        generator = load(model, device, compile)
        request = conformers_request(generator.model.config, n, seed, quality, steps, max_attempts)
        wanted = f"all of their {n} conformers" if n > 1 else "their conformer"
        run = Completing(generator, request, file, output, {"column": column}, record="conformer", wanted=wanted)
        if resume and run.is_complete():
            return
        with run.running(force, resume):
            for ensemble in ensembles(generator, run.rest(sources), request, workers, run.tick):
                texts = [sdf_text(one, one.title, _tags(one), run.facts) for one in ensemble.conformers]
                run.add(texts, [], ensemble.rejected, ensemble.problem(n))


def _tags(one: "Conformer") -> dict[str, Any]:
    strain = {} if one.strain is None else {"strain_kcal_mol": round(one.strain, 3)}
    return {"molecule": one.molecule, "conformer": one.conformer, **strain}
