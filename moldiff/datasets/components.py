"""The Chemical Component Dictionary of the wwPDB, as the distribution ``biotite`` packs it: one BinaryCIF file.

Every component of every structure in the PDB: atoms with charges, hydrogens included, Kekulé bonds, and "ideal"
coordinates, which are rule-based.
"""

import base64
from collections.abc import Iterator
from io import BufferedIOBase
from typing import Any

import numpy as np
from rdkit import Chem

from moldiff.chem import placed
from moldiff.datasets.binarycif import read_columns
from moldiff.datasets.records import Record

POSITION = tuple(f"pdbx_model_Cartn_{axis}_ideal" for axis in "xyz")
COLUMNS = {
    "_chem_comp": ("id", "pdbx_release_status"),
    "_chem_comp_atom": ("comp_id", "atom_id", "type_symbol", "charge", *POSITION),
    "_chem_comp_bond": ("comp_id", "atom_id_1", "atom_id_2", "value_order"),
}
ORDERS = {"SING": Chem.BondType.SINGLE, "DOUB": Chem.BondType.DOUBLE, "TRIP": Chem.BondType.TRIPLE}


def count_components(file: BufferedIOBase, name: str) -> int:
    return len(read_columns(file, name, {"_chem_comp": ("id",)})["_chem_comp"]["id"])


def read_components(file: BufferedIOBase, name: str) -> Iterator[Record]:
    """One record a component, in the order of the file."""
    tables = read_columns(file, name, COLUMNS)
    atoms, bonds = tables["_chem_comp_atom"], tables["_chem_comp_bond"]
    of_atom, of_bond = _ranges(atoms["comp_id"].data), _ranges(bonds["comp_id"].data)
    nothing = slice(0, 0)
    known = zip(*(column.tolist() for column in tables["_chem_comp"].values()), strict=True)
    for number, (identity, status) in enumerate(known, 1):
        where = f"component {identity}"
        if status == "OBS":
            yield Record(number, identity, where, "mol", "", "withdrawn by the wwPDB")
            continue
        mol, reason = _mol(_part(atoms, of_atom.get(identity, nothing)), _part(bonds, of_bond.get(identity, nothing)))
        text = "" if mol is None else base64.b64encode(mol.ToBinary()).decode()
        yield Record(number, identity, where, "mol", text, reason)


def _ranges(ids: np.ndarray) -> dict[str, slice]:
    """Where the rows of each component are: one after the other."""
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.zeros(0, int)
    ends = [*starts[1:].tolist(), len(ids)]
    return {str(ids[a]): slice(a, b) for a, b in zip(starts.tolist(), ends, strict=True)}


def _part(table: dict[str, np.ma.MaskedArray], rows: slice) -> dict[str, np.ma.MaskedArray]:
    return {name: column[rows] for name, column in table.items()}


def _mol(atoms: dict[str, np.ma.MaskedArray], bonds: dict[str, np.ma.MaskedArray]) -> tuple[Chem.Mol | None, str]:
    """(the molecule exactly as listed, "") or (None, why there is none)."""
    mol, place = Chem.RWMol(), {}
    for identity, symbol, charge in zip(*(atoms[k].tolist() for k in COLUMNS["_chem_comp_atom"][1:4]), strict=True):
        place[identity] = mol.AddAtom(_atom(symbol, charge))
    for first, second, order in zip(*(bonds[k].tolist() for k in COLUMNS["_chem_comp_bond"][1:]), strict=True):
        if first not in place or second not in place or order not in ORDERS:
            return None, f"bond {first} {second} {order}: no such atom or order"
        mol.AddBond(place[first], place[second], ORDERS[order])
    position = np.ma.stack([atoms[name] for name in POSITION], axis=1)
    if np.ma.getmaskarray(position).any():
        return None, "no ideal coordinates"
    return placed(mol, position.data), ""


def _atom(symbol: str, charge: int | None) -> Any:
    """Without implied hydrogens, for all are listed; D is deuterium, X any atom."""
    known = {"D": "H", "X": "*"}
    atom = Chem.Atom(known.get(symbol, symbol.capitalize()))
    if symbol == "D":
        atom.SetIsotope(2)
    atom.SetFormalCharge(charge or 0)
    atom.SetNoImplicit(True)
    return atom
