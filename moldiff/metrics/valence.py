"""Stability by valence: does every atom carry the bonds its element and formal charge ask for?

The valence of an atom is the sum of its Kekulé bond orders, hydrogens being atoms like any other: a hydrogen that is
not there is not counted. Two tables: :data:`moldiff.valences.STRICT_VALENCES` is the rule; :data:`MIDI_VALENCES` only serves
comparison.
"""

import math
from collections.abc import Callable

import pandas as pd
from rdkit import Chem
from rdkit.Chem import BondType, Mol

from moldiff.metrics.core import Metric, rate
from moldiff.valences import STRICT_VALENCES

MIDI_VALENCES: dict[str, dict[int, tuple[int, ...]]] = {
    "H": {0: (1,), 1: (0,), -1: (0,)},
    "C": {0: (3, 4), 1: (3,), -1: (3,)},
    "N": {0: (2, 3), 1: (2, 3, 4), -1: (2,)},
    "O": {0: (2,), 1: (3,), -1: (1,)},
    "F": {0: (1,), -1: (0,)},
    "B": {0: (3,)},
    "Al": {0: (3,)},
    "Si": {0: (4,)},
    "P": {0: (3, 5), 1: (4,)},
    "S": {0: (2, 6), 1: (2, 3), 2: (4,), 3: (5,), -1: (3,)},
    "Cl": {0: (1,)},
    "As": {0: (3,)},
    "Br": {0: (1,), 1: (2,)},
    "I": {0: (1,)},
    "Hg": {0: (1, 2)},
    "Bi": {0: (3, 5)},
    "Se": {0: (2, 4, 6)},
}
"""The lenient table published with MiDi (Vignac et al., arXiv:2302.09048): element -> charge -> allowed valences.

It passes radicals (C 3, N 2). A charge that an element does not list is judged by its entry for 0, as MiDi does.
"""

_ORDERS = {BondType.SINGLE: 1, BondType.DOUBLE: 2, BondType.TRIPLE: 3, BondType.QUADRUPLE: 4}


def valence_facts(mol: Mol | None) -> dict[str, int]:
    """Atoms, stable atoms under both tables, and fragments of one molecule; zeros for an unreadable one."""
    if mol is None:
        return {"atoms": 0, "stable_atoms": 0, "midi_stable_atoms": 0, "fragments": 0}
    valences = atom_valences(mol)
    return {
        "atoms": len(valences),
        "stable_atoms": _count(valences, lambda element, charge: STRICT_VALENCES.get((element, charge), ())),
        "midi_stable_atoms": _count(valences, _midi_allowed),
        "fragments": len(Chem.GetMolFrags(mol)),
    }


def valence_metrics(table: pd.DataFrame) -> list[Metric]:
    """Atom and molecule stability from the columns of :func:`valence_facts`."""
    strict = "the sum of its Kekulé bond orders is allowed for its (element, formal charge) by moldiff's strict table"
    stable = _all_atoms(table, "stable_atoms")
    connected = stable & (table["fragments"] == 1)
    midi = "MiDi's lenient table (arXiv:2302.09048), applied to Kekulé orders; for comparison only"
    midi_stable = _all_atoms(table, "midi_stable_atoms")
    n = len(table)
    return [
        _atoms(table, "atom_stability", "stable_atoms", f"atoms of readable molecules; stable: {strict}"),
        rate("molecule_stability", stable.sum(), n,
             f"molecules with all atoms stable, of all; stable: {strict}", stable),
        rate("molecule_stability_connected", connected.sum(), n,
             "molecules with all atoms stable (strict table) that are one fragment, of all", connected),
        _atoms(table, "midi_atom_stability", "midi_stable_atoms", f"atoms of readable molecules, stable by {midi}"),
        rate("midi_molecule_stability", midi_stable.sum(), n,
             f"molecules with all atoms stable, of all, by {midi}", midi_stable),
    ]  # fmt: skip


def atom_valences(mol: Mol) -> list[tuple[str, int, float]]:
    """(element, formal charge, sum of Kekulé bond orders) of every atom; NaN where an order is undefined.

    Undefined are aromatic bonds outside rings or that no Kekulé structure satisfies, dative and other special bonds.
    """
    valences = [0.0] * mol.GetNumAtoms()
    for bond in _kekulised(mol).GetBonds():
        order = _ORDERS.get(bond.GetBondType(), math.nan)
        valences[bond.GetBeginAtomIdx()] += order
        valences[bond.GetEndAtomIdx()] += order
    return [(a.GetSymbol(), a.GetFormalCharge(), v) for a, v in zip(mol.GetAtoms(), valences, strict=True)]


def _kekulised(mol: Mol) -> Mol:
    """``mol`` itself if it has no aromatic bonds, else a copy in a Kekulé form; unchanged bonds where there is none."""
    if not any(bond.GetBondType() == BondType.AROMATIC for bond in mol.GetBonds()):
        return mol
    copy = Chem.Mol(mol)
    copy.UpdatePropertyCache(strict=False)
    try:
        Chem.Kekulize(copy, clearAromaticFlags=True)
    except Chem.MolSanitizeException:
        return mol
    return copy


def _count(valences: list[tuple[str, int, float]], allowed: Callable[[str, int], tuple[int, ...]]) -> int:
    return sum(valence in allowed(element, charge) for element, charge, valence in valences)


def _midi_allowed(element: str, charge: int) -> tuple[int, ...]:
    by_charge = MIDI_VALENCES.get(element, {0: ()})
    return by_charge.get(charge, by_charge[0])


def _all_atoms(table: pd.DataFrame, column: str) -> pd.Series:
    return (table[column] == table["atoms"]) & (table["atoms"] > 0)


def _atoms(table: pd.DataFrame, name: str, column: str, definition: str) -> Metric:
    return rate(name, table[column].sum(), table["atoms"].sum(), definition, table[column])
