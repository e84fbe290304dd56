"""``moldiff bonds``: bonds and charges of given atoms."""

from pathlib import Path
from typing import Annotated

import typer

from moldiff.cli.completing import Tally, sdf_text
from moldiff.cli.options import Compile, Device, Force, Workers
from moldiff.config import BONDS_ATTEMPTS, BONDS_EVALUATIONS
from moldiff.files import check_apart, check_sdf
from moldiff.terminal import one_line_errors


def bonds(
    file: Annotated[Path, typer.Argument(help="XYZ, of any number of frames; .gz too.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="SDF to write.")] = Path("with_bonds.sdf"),
    rejects: Annotated[
        Path | None, typer.Option(help="Write molecules of which no attempt is valid, as first made, to this SDF.")
    ] = None,
    model: Annotated[str, typer.Option(help="A shipped model's name or a weights file.")] = "qm9-atoms",
    steps: Annotated[int, typer.Option(help="Network evaluations per attempt.")] = BONDS_EVALUATIONS,
    max_attempts: Annotated[
        int, typer.Option(help="For each molecule, until what is made is valid.", min=1)
    ] = BONDS_ATTEMPTS,
    seed: Annotated[int, typer.Option(help="Molecule k of a seed is always the same.")] = 0,
    workers: Workers = None,
    device: Device = "auto",
    compile: Compile = False,
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

        _check(file, output, rejects, force)
        frames = frames_of_file(read_records(file))
        request, generator = bonds_request(seed, steps, max_attempts), load(model, device, compile)
        tally = Tally(generator, request, "molecule with bonds", "valid bonds")
        found = perceptions(generator, frames, request, workers, tally.tick)
        with tally.sdf_file(output) as write, tally.sdf_file(rejects) as write_reject, tally.running():
            for one in found:
                if one.record is not None:
                    write(sdf_text(one.record, one.record.title, {"molecule": one.record.molecule}, tally.facts))
                elif one.reject is not None:
                    write_reject(reject_text(one.reject, tally.facts))
                tally.add(one.record is not None, one.rejected, one.problem)
        tally.finish()


def _check(file: Path, output: Path, rejects: Path | None, force: bool) -> None:
    """Refuse, before any work, what cannot be read or written."""
    from moldiff.datasets.readers import kind_of
    from moldiff.errors import RequestError

    if kind_of(file) != "xyz":
        raise RequestError(f"{file}: is not XYZ, the format of atoms and coordinates alone; the others tell bonds")
    check_sdf("-o", output, force)
    check_apart(f"-o {output}", output, [file])
    if rejects is not None:
        check_sdf("--rejects", rejects, force)
        check_apart(f"--rejects {rejects}", rejects, [file, output])
