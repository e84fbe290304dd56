"""Drawings of molecules as small SVG bodies, and the mol blocks that the viewer shows and an export writes."""

import re

from rdkit import Chem
from rdkit.Chem import Mol
from rdkit.Chem.Draw import rdMolDraw2D

from moldiff.chem import assign_stereo, quiet, sanitised

WIDTH, HEIGHT = 160, 110  # of the view box; the page scales it
LINE_WIDTH = 1.4
MAX_ATOMS = 400  # hydrogens included; larger drawings take seconds, and nobody could read them
_PATH = re.compile(r"<path [^>]*?d='([^']*)' style='([^']*)'")
_TEXT = re.compile(r"<text x='([^']*)' y='([^']*)'[^>]*?style='font-size:(\d+)px[^']*?fill:(#\w+)' *>(.*?)</text>")
_NUMBER = re.compile(r"-?\d+\.\d+")


def draw(mol: Mol | None) -> str:
    """The body of an SVG of ``WIDTH`` × ``HEIGHT``, hydrogens of carbon left out; empty where nothing can be drawn.

    Hydrogens count as given: an open valence shows. A molecule that RDKit does not sanitise is drawn as written, with
    all its atoms. The input is not changed.
    """
    if mol is None:
        return ""
    with quiet():
        return _body(_graph(mol))


def draw_smiles(smiles: str) -> str:
    """As :func:`draw`, of a SMILES, whose hydrogens are implied; of a piece of an aromatic molecule too."""
    with quiet():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            mol = Chem.MolFromSmiles(smiles, sanitize=False)
        if mol is None:
            return ""
        mol.UpdatePropertyCache(strict=False)
        return _body(mol)


def mol_block(mol: Mol, name: str) -> str:
    """V2000 (V3000 if large) with the coordinates of ``mol``, ``name`` on the first line.

    Without coordinates: in the plane, hydrogens implied.
    """
    copy = Chem.Mol(mol)
    with quiet():
        if copy.GetNumConformers() == 0:
            copy = Chem.RemoveHs(copy, sanitize=False)
            copy.UpdatePropertyCache(strict=False)  # the hydrogens that are implied now: they decide Kekulé structures
            Chem.rdDepictor.Compute2DCoords(copy)
        copy.SetProp("_Name", name)
        try:
            return Chem.MolToMolBlock(copy)
        except ValueError:  # no Kekulé structure is found: aromatic bonds stay as they are
            return Chem.MolToMolBlock(copy, kekulize=False)


def _graph(mol: Mol) -> Mol:
    """A copy without the hydrogens that need not be seen, nor any property, since those hold text of the file."""
    copy, _ = sanitised(mol)
    if copy is None:
        copy = Chem.Mol(mol)
        copy.UpdatePropertyCache(strict=False)
    else:
        if copy.GetNumConformers() and copy.GetConformer().Is3D():
            assign_stereo(copy)
        copy = Chem.RemoveHs(copy, sanitize=False)
    for atom in copy.GetAtoms():
        for key in atom.GetPropNames():
            atom.ClearProp(key)
    copy.RemoveAllConformers()
    return copy


def _body(mol: Mol) -> str:
    if not 0 < mol.GetNumAtoms() <= MAX_ATOMS:
        return ""
    try:
        Chem.rdDepictor.Compute2DCoords(mol)
        return _compact(_svg(mol))
    except (RuntimeError, ValueError):  # RDKit's drawing code raises both for what it cannot place
        return ""


def _svg(mol: Mol) -> str:
    canvas = rdMolDraw2D.MolDraw2DSVG(WIDTH, HEIGHT, -1, -1, True)  # True: letters as text, not as outlines
    options = canvas.drawOptions()
    options.padding, options.fixedBondLength = 0.05, 24
    options.bondLineWidth, options.minFontSize = LINE_WIDTH, 10
    options.clearBackground = options.prepareMolsBeforeDrawing = False
    canvas.DrawMolecule(_kekulised(mol))
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def _kekulised(mol: Mol) -> Mol:
    """Ready for drawing; aromatic bonds stay as they are where no Kekulé structure is found."""
    try:
        return rdMolDraw2D.PrepareMolForDrawing(mol, kekulize=True, addChiralHs=False)
    except ValueError:
        return rdMolDraw2D.PrepareMolForDrawing(mol, kekulize=False, addChiralHs=False)


def _compact(svg: str) -> str:
    """One path for the lines of each colour, one for the areas, and the letters, with coordinates to 0.1."""
    lines: dict[str, list[str]] = {}
    areas: dict[str, list[str]] = {}
    for shape, style in _PATH.findall(svg):
        fill, stroke = (re.search(rf"{key}:(#\w+|none)", style)[1] for key in ("fill", "stroke"))
        kind, colour = (lines, stroke) if fill == "none" else (areas, fill)
        kind.setdefault(colour, []).append(_NUMBER.sub(_short, shape).replace(" L ", "L").replace("M ", "M"))
    body = [f'<path stroke="{colour}" d="{"".join(shapes)}"/>' for colour, shapes in lines.items()]
    body += [f'<path fill="{colour}" d="{"".join(shapes)}"/>' for colour, shapes in areas.items()]
    for x, y, size, colour, text in _TEXT.findall(svg):
        body.append(f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}">{text}</text>')
    return "".join(body)


def _short(number: re.Match) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")
