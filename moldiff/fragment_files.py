"""What ``moldiff generate`` is told to keep fixed: files and numbers → wishes, and a picture with the atoms' numbers."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

from moldiff import chem
from moldiff.errors import RequestError
from moldiff.files import write_atomically
from moldiff.fragments import Plan, Wishes
from moldiff.given_files import is_smiles, read_one

SIZE = 600, 450  # of a picture, pixels


def read_wishes(
    fix: Sequence[Path] | None, attach: Sequence[str] | None, replace: str | None, like: Path | None,
    strength: float | None,
) -> Wishes:  # fmt: skip
    """From options of the command line: files of one molecule each; attachments such as ``3,5`` from 1.

    Several files make one fragment in several parts, its atoms counted on from file to file; they lie as their coordinates say.

    Raises:
        RequestError: a file or a number cannot be read.
    """
    numbers = None
    if attach:
        texts = [part.strip() for text in attach for part in text.split(",")]
        if not all(part.isascii() and part.isdigit() for part in texts):
            raise RequestError(f"--attach {','.join(texts)}: expected numbers of atoms counted from 1, such as 3,5")
        numbers = tuple(int(part) - 1 for part in texts)
    if like is None and len(fix or ()) > 1 and (flat := [path for path in fix if is_smiles(path)]):
        raise RequestError(
            f"--fix {flat[0]}: a SMILES does not tell how the parts lie to each other; give SDFs to link"
        )
    parts = [read_one("--fix", path) for path in fix or ()]
    whole = reduce(Chem.CombineMols, parts) if parts else None
    return Wishes(whole, numbers, replace, like and read_one("--like", like), strength)


def draw_plan(plan: Plan, path: Path) -> None:
    """A picture of the molecule that a plan starts from. Raises RequestError if there is none."""
    if plan.drawing is None:
        raise RequestError(f"--picture {path}: shows what is given by --fix or --like; give one of them")
    draw(*plan.drawing, path)


def draw(mol: Chem.Mol, marked: Sequence[int], path: Path) -> None:
    """A picture (.png or .svg) of a molecule with its atoms counted from 1 in file order, some of them marked."""
    copy = Chem.RWMol(mol)
    for atom in copy.GetAtoms():
        if atom.GetAtomicNum() != 1:
            atom.SetProp("atomNote", str(atom.GetIdx() + 1))
        atom.SetBoolProp("marked", atom.GetIdx() in marked)
    with chem.quiet():
        flat = Chem.RemoveHs(copy)
        Chem.rdDepictor.Compute2DCoords(flat)
        if path.suffix.lower() == ".svg":
            drawer = rdMolDraw2D.MolDraw2DSVG(*SIZE)
        elif path.suffix.lower() == ".png":
            drawer = rdMolDraw2D.MolDraw2DCairo(*SIZE)
        else:
            raise RequestError(f"--picture {path}: unknown format; use .png or .svg")
        highlighted = [a.GetIdx() for a in flat.GetAtoms() if a.GetBoolProp("marked")]
        rdMolDraw2D.PrepareAndDrawMolecule(drawer, flat, highlightAtoms=highlighted)
        drawer.FinishDrawing()
    text = drawer.GetDrawingText()
    with write_atomically(path) as temporary:
        temporary.write_bytes(text if isinstance(text, bytes) else text.encode())
