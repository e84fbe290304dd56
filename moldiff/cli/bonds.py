"""``moldiff bonds``: bonds and charges of given atoms."""

from pathlib import Path
from typing import Annotated

import typer

from moldiff.cli.completing import Completing, sdf_text
from moldiff.cli.options import MODEL_HELP, Compile, Device, Force, Resume, Workers
from moldiff.config import BONDS_ATTEMPTS, BONDS_EVALUATIONS
from moldiff.files import check_apart, check_is_sdf
from moldiff.terminal import one_line_errors


def bonds(
    file: Annotated[Path, typer.Argument(help="XYZ, of any number of frames; .gz too.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="SDF to write.")] = Path("with_bonds.sdf"),
    rejects: Annotated[
        Path | None, typer.Option(help="Write molecules of which no attempt is valid, as first made, to this SDF.")
    ] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "qm9-atoms",
    steps: Annotated[int, typer.Option(help="Network evaluations per attempt.")] = BONDS_EVALUATIONS,
    max_attempts: Annotated[
        int, typer.Option(help="For each molecule, until what is made is valid.", min=1)
    ] = BONDS_ATTEMPTS,
    seed: Annotated[int, typer.Option(help="Molecule k of a seed is always the same.")] = 0,
    workers: Workers = None,
    device: Device = "auto",
    compile: Compile = False,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Find bonds and formal charges from elements and coordinates, all hydrogens given.

    Coordinates and the order of the atoms stay. Molecules of which no attempt is valid, and those that the model does not
    know, are named, and the others go on.

    Example: moldiff bonds frames.xyz -o with_bonds.sdf
    """
    with one_line_errors():
        from moldiff.datasets.readers import read_records
        from moldiff.formats import reject_text
        from moldiff.generation import load
        from moldiff.perception import bonds_request, frames_of_file, perceptions

        _check(file, output, rejects)
        sources = read_records(file)
        request, generator = bonds_request(seed, steps, max_attempts), load(model, device, compile)
        run = Completing(
            generator, request, file, output, {}, record="molecule with bonds", wanted="valid bonds", rejects=rejects
        )
        if resume and run.is_complete():
            return
        with run.running(force, resume):
            for one in perceptions(generator, frames_of_file(run.rest(sources)), request, workers, run.tick):
                made, refused = one.record, one.reject
                texts = [sdf_text(made, made.title, {"molecule": made.molecule}, run.facts)] if made else []
                run.add(texts, [reject_text(refused, run.facts)] if refused else [], one.rejected, one.problem)


def _check(file: Path, output: Path, rejects: Path | None) -> None:
    """Refuse, before any work, what cannot be read or written."""
    from moldiff.datasets.readers import kind_of
    from moldiff.errors import RequestError

    if kind_of(file) != "xyz":
        raise RequestError(f"{file}: is not XYZ, the format of atoms and coordinates alone; the others tell bonds")
    check_is_sdf("-o", output)
    check_apart(f"-o {output}", output, [file])
    if rejects is not None:
        check_apart(f"--rejects {rejects}", rejects, [file])
