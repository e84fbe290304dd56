"""What MMFF94s says of molecules: where the hydrogens are that their valences imply, and how strained they are."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from moldiff.chem import ORDERS, quiet, to_rdkit
from moldiff.molecule import Molecules

MAX_RELAXATION_STEPS = 500
TURNS = (1.75, 3.84)  # radians: about thirds of a turn, and off them, since a symmetric start may be a saddle point
SAME_ENERGY = 0.01  # kcal/mol, by which conformers that mirror each other may differ


class Relaxed(NamedTuple):
    """The outcome of :func:`relax`."""

    released: float  # energy, kcal/mol
    mol: Chem.Mol
    before: float  # energy of the given coordinates, kcal/mol
    converged: bool  # else the steps ran out


def whole_mols(molecules: Molecules, vocabulary: Sequence[str], hydrogens: str) -> list[Chem.Mol]:
    """As :func:`moldiff.chem.to_rdkit` has them; with ``hydrogens`` "implicit", of a set without them, with those implied."""
    mols = to_rdkit(molecules, vocabulary)
    return [with_hydrogens(mol) for mol in mols] if hydrogens == "implicit" else mols


def with_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    """A copy with the hydrogens that the valences of its heavy atoms imply, behind them, as a model without them means it.

    Heavy atoms stay exactly where they are. Hydrogens are placed by bond lengths and angles (RDKit) and then relaxed in
    the fixed frame of the others by MMFF94s, where it has parameters. A molecule with an impossible valence, or with
    atoms where RDKit finds no direction for a hydrogen, comes back as it is, for :func:`moldiff.chem.check` to refuse.
    """
    copy = Chem.Mol(mol)
    with quiet():
        for atom in copy.GetAtoms():
            atom.SetNoImplicit(False)
        try:
            copy.UpdatePropertyCache(strict=True)
        except Chem.AtomValenceException:
            return Chem.Mol(mol)
        Chem.GetSymmSSSR(copy)  # rings, conjugation and hybridisation decide where hydrogens go
        Chem.SetConjugation(copy)
        Chem.SetHybridization(copy)
        try:
            copy = Chem.AddHs(copy, addCoords=True)
        except RuntimeError:  # no direction between atoms in one place
            return Chem.Mol(mol)
        _relax_from(copy, mol.GetNumAtoms())
    for atom in copy.GetAtoms():
        atom.SetNoImplicit(True)
    return copy


def _relax_from(mol: Chem.Mol, first: int) -> None:
    """Relax the atoms from ``first`` on by MMFF94s, the others fixed; nothing where it has no parameters.

    OH, NH2, =NH and the like are tried at about thirds of a turn from there, one after the other, and stay where the energy is
    lowest.
    """
    copy = Chem.Mol(mol)  # whose Kekulé bonds the force field makes aromatic
    Chem.GetSymmSSSR(copy)
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(copy, mmffVariant="MMFF94s")
    field = properties and rdForceFieldHelpers.MMFFGetMoleculeForceField(copy, properties)
    if not field:
        return
    for k in range(first):
        field.AddFixedPoint(k)
    conformer = copy.GetConformer()

    def relaxed(pos: np.ndarray) -> tuple[float, np.ndarray]:
        conformer.SetPositions(pos)  # which the force field holds
        field.Minimize(maxIts=MAX_RELAXATION_STEPS)
        return field.CalcEnergy(), conformer.GetPositions()

    with suppress(RuntimeError):  # no downhill direction among atoms that lie on each other
        energy, pos = relaxed(mol.GetConformer().GetPositions())
        mol.GetConformer().SetPositions(pos)
        for axis, hydrogens in _turnable(copy):
            for turned in [_turned(pos, axis, hydrogens, angle) for angle in TURNS]:
                other_energy, other = relaxed(turned)
                if other_energy < energy - SAME_ENERGY:
                    energy, pos = other_energy, other
                    mol.GetConformer().SetPositions(pos)


def _turnable(mol: Chem.Mol) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Axes (fixed atom, turning atom) and hydrogens of terminal groups with a lone pair; turns of others are alike or none."""
    for atom in mol.GetAtoms():
        hydrogens = [n.GetIdx() for n in atom.GetNeighbors() if n.GetAtomicNum() == 1]
        heavy = [bond for bond in atom.GetBonds() if bond.GetOtherAtom(atom).GetAtomicNum() > 1]
        if hydrogens and len(heavy) == 1 and len(hydrogens) + ORDERS[heavy[0].GetBondType()] < 4:
            yield (heavy[0].GetOtherAtomIdx(atom.GetIdx()), atom.GetIdx()), hydrogens


def _turned(pos: np.ndarray, axis: tuple[int, int], atoms: list[int], angle: float) -> np.ndarray:
    """A copy with these atoms turned about an axis (Rodrigues' formula)."""
    start, end = pos[list(axis)]
    along = (end - start) / np.linalg.norm(end - start)
    arm = pos[atoms] - end
    parallel = np.outer(arm @ along, along)
    turned = pos.copy()
    turned[atoms] = end + parallel + math.cos(angle) * (arm - parallel) + math.sin(angle) * np.cross(along, arm)
    return turned


def strain(mol: Chem.Mol) -> float | None:
    """MMFF94s energy (kcal/mol) that a sanitised molecule with hydrogens loses on relaxing a copy for ≤ 500 steps.

    None where MMFF94s has no parameters for an atom, or no way down from atoms that lie on each other.
    """
    relaxed = relax(mol)
    return None if relaxed is None or not math.isfinite(relaxed.released) else relaxed.released


def relax(mol: Chem.Mol) -> Relaxed | None:
    """:func:`strain` with the relaxed copy that it was measured on; what is released is NaN where there is no way down."""
    copy = Chem.Mol(mol)
    with quiet():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(copy, mmffVariant="MMFF94s")
        field = properties and rdForceFieldHelpers.MMFFGetMoleculeForceField(copy, properties)
        if not field:
            return None
        start = field.CalcEnergy()
        try:
            converged = field.Minimize(maxIts=MAX_RELAXATION_STEPS) == 0
        except RuntimeError:  # the line search of atoms that lie on each other
            return Relaxed(math.nan, Chem.Mol(mol), start, False)
        return Relaxed(start - field.CalcEnergy(), copy, start, converged)
