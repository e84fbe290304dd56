"""One record of a file, and the molecule in it: as written, or the reason why there is none."""

import base64
import math
import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import Mol

from moldiff.chem import parse_sdf_record, placed, quiet, unmapped
from moldiff.datasets.laying import lay_smiles

Kind = Literal["sdf", "xyz", "smiles", "mol", "conformer"]


class Record(NamedTuple):
    """``number`` counts from 1; ``id`` is its title or name; ``where`` the line, or row of a table, it starts at.

    ``text``: what stands there ("mol": RDKit's binary form in base 64; "conformer": a SMILES in the first line, below it the
    coordinates of its atoms, in any order, as in an XYZ file); ``reason``: why that cannot be read, or "".
    """

    number: int
    id: str
    where: str
    kind: Kind
    text: str
    reason: str = ""

    def read(self) -> tuple[Mol | None, str]:
        """(the molecule, "") or (None, why there is none): nothing is sanitised, repaired or left out,
        but atom map numbers, which are no part of a molecule.

        XYZ: atoms and coordinates without bonds. SMILES, and molecules given without coordinates: the hydrogens that
        they imply are made atoms, since nobody writes them there.
        """
        if self.reason:
            return None, self.reason
        with quiet():
            mol, reason = _READ[self.kind](self.text)
        return (None if mol is None else unmapped(mol)), reason


def records_of(mols: Iterable[Mol | None]) -> Iterator[Record]:
    """Molecules in memory as records."""
    keep = Chem.PropertyPickleOptions.MolProps | Chem.PropertyPickleOptions.PrivateProps
    for number, mol in enumerate(mols, 1):
        where = f"molecule {number}"
        if mol is None:
            yield Record(number, "", where, "mol", "", "None instead of a molecule")
        else:
            name = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
            yield Record(number, name, where, "mol", base64.b64encode(mol.ToBinary(keep)).decode())


def _read_sdf(text: str) -> tuple[Mol | None, str]:
    problem = _sdf_problem(text)  # first: RDKit takes blank coordinates for those of another column, and 1,5 for 1
    mol = None if problem else parse_sdf_record(text, sanitize=False)
    return (mol, "") if mol is not None else (None, problem or "RDKit cannot read it as SDF")


def _sdf_problem(text: str) -> str:
    """What is wrong with a V2000 record, "" if that is not seen here."""
    lines = text.split("\n")  # as the readers cut: splitlines() would cut at a form feed within a title
    while lines and (not lines[-1].strip() or lines[-1].startswith("$$$$")):
        lines.pop()
    if not lines:
        return "an empty record"
    if len(lines) < 4:
        return f"ends after {len(lines)} line{'s' * (len(lines) > 1)}, before any atom"
    if "V3000" in lines[3]:
        return ""
    try:
        atoms, bonds = int(lines[3][:3]), int(lines[3][3:6])
    except ValueError:
        return f"its line 4, {lines[3][:30]!r}, does not say how many atoms and bonds there are"
    if len(lines) < 4 + atoms + bonds:
        return f"ends after {len(lines)} lines, though {atoms} atoms and {bonds} bonds are announced"
    return next(filter(None, map(_sdf_atom_problem, range(1, atoms + 1), lines[4 : 4 + atoms])), "")


def _sdf_atom_problem(number: int, line: str) -> str:
    if _position([line[:10], line[10:20], line[20:30]]) is None:
        return f"atom {number}: coordinates {line[:30].strip()!r} are no three numbers"
    symbol = line[31:34].strip()
    known = _atomic_number(symbol) is not None or symbol in _PSEUDO_ATOMS or re.fullmatch(r"R\d*", symbol)
    return "" if known else f"atom {number}: unknown element {symbol!r}"


_PSEUDO_ATOMS = {"R#", "*", "A", "Q", "L", "LP", "D", "T", "X", "M", "AH", "QH", "XH", "MH", "Du", "Pol", "Mod"}


def _read_xyz(text: str) -> tuple[Mol | None, str]:
    lines = text.rstrip().split("\n")
    if not lines[0].strip().isdecimal():
        return None, f"starts with {lines[0].strip()[:30]!r} instead of the number of atoms"
    announced, atoms = int(lines[0]), lines[2:]
    if len(atoms) != announced:
        return None, f"{announced} atoms announced, {len(atoms)} lines follow"
    if not atoms:
        return None, "no atoms"
    mol, pos = Chem.RWMol(), []
    for number, line in enumerate(atoms, 1):
        words = line.split()
        z = _atomic_number(words[0].capitalize()) if words else None
        position = _position(words[1:4])
        if z is None:
            return None, f"atom {number}: unknown element {words[0] if words else ''!r}"
        if position is None:
            return None, f"atom {number}: coordinates {' '.join(words[1:4])!r} are no three numbers"
        atom = Chem.Atom(z)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
        pos.append(position)
    return placed(mol, np.array(pos)), ""


def _read_smiles(text: str) -> tuple[Mol | None, str]:
    mol = Chem.MolFromSmiles(text, sanitize=False)
    if mol is None:
        return None, f"not a SMILES: {text[:60]!r}"
    return _with_hydrogens(mol), ""


def _read_mol(text: str) -> tuple[Mol | None, str]:
    mol = Chem.Mol(base64.b64decode(text))
    return (mol if mol.GetNumConformers() else _with_hydrogens(mol)), ""


def _read_conformer(text: str) -> tuple[Mol | None, str]:
    smiles, _, frame = text.partition("\n")
    atoms, reason = _read_xyz(frame)
    return (None, reason) if atoms is None else lay_smiles(smiles, atoms)


def _with_hydrogens(mol: Mol) -> Mol:
    mol.UpdatePropertyCache(strict=False)
    return Chem.AddHs(mol)


def _position(words: list[str]) -> tuple[float, ...] | None:
    """Three finite coordinates (Å)."""
    try:
        values = tuple(map(float, words))
    except ValueError:
        return None
    return values if len(values) == 3 and all(map(math.isfinite, values)) else None


def _atomic_number(symbol: str) -> int | None:
    """Also of a number in place of a symbol, as some programs write XYZ."""
    if symbol.isdecimal():
        return int(symbol) if 0 < int(symbol) < 119 else None
    try:
        return Chem.GetPeriodicTable().GetAtomicNumber(symbol) or None
    except RuntimeError:  # how RDKit reports an unknown symbol
        return None


_READ = {"sdf": _read_sdf, "xyz": _read_xyz, "smiles": _read_smiles, "mol": _read_mol, "conformer": _read_conformer}
