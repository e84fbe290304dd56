"""The protocol of EDM: bonds, and so valences and validity, from distances alone.

Tables and rules: Hoogeboom et al., "Equivariant Diffusion for Molecule Generation in 3D", arXiv:2203.17003, and the
evaluation published with it. Only elements and coordinates of a molecule are used; its bonds and charges are ignored.
The margins were tuned by EDM on QM9. Even QM9's own molecules do not all pass, and a score has to be read against
theirs: published 99.0 % of atoms stable, 95.2 % of molecules stable, 97.7 % valid; the rule as published gives 99.3,
95.2 and 97.7 % on the 13,083 molecules of the test split.
"""

from functools import cache

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from rdkit import Chem
from rdkit.Chem import BondType, Mol

from moldiff.metrics.core import Metric, distinct_share, rate

MARGINS = (10, 5, 3)  # pm added to single, double, triple lengths

# Bond lengths in pm, each pair once.
SINGLE = {
    "H": {"H": 74, "C": 109, "N": 101, "O": 96, "F": 92, "B": 119, "Si": 148, "P": 144, "As": 152, "S": 134, "Cl": 127,
          "Br": 141, "I": 161},
    "B": {"Cl": 175},
    "C": {"C": 154, "N": 147, "O": 143, "F": 135, "Si": 185, "P": 184, "S": 182, "Cl": 177, "Br": 194, "I": 214},
    "N": {"N": 145, "O": 140, "F": 136, "P": 177, "S": 168, "Cl": 175, "Br": 214, "I": 222},
    "O": {"O": 148, "F": 142, "Si": 163, "P": 163, "S": 151, "Cl": 164, "Br": 172, "I": 194},
    "F": {"F": 142, "Si": 160, "P": 156, "S": 158, "Cl": 166, "Br": 178, "I": 187},
    "Si": {"Si": 233, "S": 200, "Cl": 202, "Br": 215, "I": 243},
    "P": {"P": 221, "S": 210, "Cl": 203, "Br": 222},
    "S": {"S": 204, "Cl": 207, "Br": 225, "I": 234},
    "Cl": {"Cl": 199, "Br": 214},
    "Br": {"Br": 228},
    "I": {"I": 266},
}  # fmt: skip
DOUBLE = {
    "C": {"C": 134, "N": 129, "O": 120, "S": 160},
    "N": {"N": 125, "O": 121},
    "O": {"O": 121, "P": 150},
    "P": {"S": 186},
}
TRIPLE = {"C": {"C": 120, "N": 116, "O": 113}, "N": {"N": 110}}

VALENCES = {"H": (1,), "B": (3,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "Al": (3,), "Si": (4,), "P": (3, 5),
            "S": (4,), "Cl": (1,), "As": (3,), "Br": (1,), "I": (1,), "Hg": (1, 2), "Bi": (3, 5)}  # fmt: skip

_BONDS = (None, BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE)
_MAX_VALENCE = 8  # one more than any allowed valence needs; larger sums are clipped to it and never allowed


def bond_orders(atomic_numbers: Int[np.ndarray, " n"], positions: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "n n"]:
    """Order 0-3 of every pair: the highest whose table length plus margin exceeds the distance (Å).

    Pairs that the tables do not list are not bonded. EDM's C=S entry, which its published tables list in one direction
    only, holds in both.
    """
    with np.errstate(invalid="ignore"):  # infinite coordinates: the distance is NaN, which is no bond
        distance = 100 * np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    orders = (distance < _thresholds()[:, atomic_numbers[:, None], atomic_numbers[None]]).sum(0)
    np.fill_diagonal(orders, 0)
    return orders


def edm_facts(mol: Mol | None) -> dict[str, int | bool | str | None]:
    """Stable atoms, validity, connectedness and SMILES by distances; without a conformer nothing passes."""
    if mol is None or mol.GetNumConformers() == 0 or mol.GetNumAtoms() == 0:
        return {"edm_stable_atoms": 0, "edm_valid": False, "edm_connected": False, "edm_smiles": None}
    z = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    orders = bond_orders(z, mol.GetConformer().GetPositions())
    valences = np.minimum(orders.sum(1), _MAX_VALENCE)
    smiles, connected = _edm_smiles(z, orders)
    return {
        "edm_stable_atoms": int(_allowed()[z, valences].sum()),
        "edm_valid": smiles is not None,
        "edm_connected": connected,
        "edm_smiles": smiles,
    }


def edm_metrics(table: pd.DataFrame) -> list[Metric]:
    """EDM's metrics from the columns of :func:`edm_facts`; over nothing if no molecule of all has coordinates."""
    table = table if table["coordinates"].any() else table.iloc[:0]
    n, atoms = len(table), table["atoms"]
    bonds = "bonds by EDM's distance table (arXiv:2203.17003)"
    stable = (table["edm_stable_atoms"] == atoms) & (atoms > 0)
    valid, connected = table["edm_valid"], table["edm_connected"]
    distinct = table["edm_smiles"].dropna().nunique()
    return [
        rate("edm_atom_stability", table["edm_stable_atoms"].sum(), atoms.sum(),
             f"atoms of readable molecules with the exact valence of their element, charges ignored; {bonds}",
             table["edm_stable_atoms"]),
        rate("edm_molecule_stability", stable.sum(), n, f"molecules with all atoms stable, of all; {bonds}", stable),
        rate("edm_valid", valid.sum(), n,
             "molecules RDKit sanitises (its clean-up and implicit hydrogens included), of all; as EDM defines it, "
             f"disconnected ones count, represented by their largest fragment; {bonds}", valid),
        distinct_share(
            "edm_valid_unique", distinct, n,
            f"distinct SMILES of the largest fragments of the molecules valid after EDM, over all molecules; {bonds}",
        ),
        rate("edm_valid_connected", connected.sum(), n,
             f"molecules valid after EDM that are one fragment, of all; {bonds}", connected),
    ]  # fmt: skip


@cache
def _thresholds() -> Float[np.ndarray, "3 z z"]:
    """Distances (pm) below which a pair of atomic numbers has a bond of order at least 1, 2, 3."""
    thresholds = np.full((3, 119, 119), -np.inf)
    for k, (lengths, margin) in enumerate(zip((SINGLE, DOUBLE, TRIPLE), MARGINS, strict=True)):
        for a, row in lengths.items():
            for b, length in row.items():
                i, j = _number(a), _number(b)
                thresholds[k, i, j] = thresholds[k, j, i] = length + margin
    return thresholds


@cache
def _allowed() -> np.ndarray:
    """(atomic number, valence) -> stable?"""
    allowed = np.zeros((119, _MAX_VALENCE + 1), dtype=bool)
    for element, valences in VALENCES.items():
        allowed[_number(element), list(valences)] = True
    return allowed


def _number(symbol: str) -> int:
    return Chem.GetPeriodicTable().GetAtomicNumber(symbol)


def _edm_smiles(z: Int[np.ndarray, " n"], orders: Int[np.ndarray, "n n"]) -> tuple[str | None, bool]:
    """SMILES of the largest fragment (None if RDKit does not sanitise the whole), and whether it is the only one."""
    mol = Chem.RWMol()
    for number in z.tolist():
        mol.AddAtom(Chem.Atom(number))
    for i, j in zip(*(k.tolist() for k in np.nonzero(np.triu(orders))), strict=True):
        mol.AddBond(i, j, _BONDS[orders[i, j]])
    if Chem.SanitizeMol(mol, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
        return None, False
    fragments = Chem.GetMolFrags(mol)
    if len(fragments) == 1:
        return Chem.MolToSmiles(mol), True
    return Chem.MolFragmentToSmiles(mol, max(fragments, key=len)), False
