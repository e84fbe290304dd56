"""A SMILES laid onto the coordinates of the same molecule, whose atoms are in another order."""

import numpy as np
from rdkit import Chem
from rdkit.Chem import Mol, rdDetermineBonds

from moldiff.chem import placed

MAX_MATCHES = 1000  # different ways, all of which keep elements, hydrogens and neighbours


def lay_smiles(text: str, atoms: Mol) -> tuple[Mol | None, str]:
    """(the molecule of the SMILES ``text`` with the coordinates, Å, of ``atoms``, "") or (None, why they do not fit).

    ``atoms``: without bonds. They are the same molecule if distances tell the same neighbours of every atom; orders and
    charges are the SMILES'. Of several ways, symmetries aside, the one taken puts the highest orders on the shortest
    distances. Stereo is left to the coordinates.
    """
    graph = Chem.MolFromSmiles(text)
    if graph is None or any(atom.GetAtomicNum() == 1 for atom in graph.GetAtoms()):
        return None, f"not a SMILES, or one of hydrogen alone: {text[:60]!r}"
    Chem.RemoveStereochemistry(graph)
    full = Chem.AddHs(graph)
    near = Chem.Mol(atoms)
    rdDetermineBonds.DetermineConnectivity(near)
    heavy = [a.GetIdx() for a in near.GetAtoms() if a.GetAtomicNum() > 1]
    skeleton, of_near = _skeleton(full), _skeleton(near)
    same = full.GetNumAtoms() == near.GetNumAtoms() and skeleton.GetNumBonds() == of_near.GetNumBonds()
    matches = of_near.GetSubstructMatches(skeleton, uniquify=False, maxMatches=MAX_MATCHES) if same else ()
    if not matches:
        return None, f"the neighbours told by the distances are not those of {text}"
    pos = near.GetConformer().GetPositions()
    order = np.array(heavy)[_shortest(graph, np.array(matches), pos[heavy])]
    return _posed(full, near, order.tolist(), pos), ""


def _skeleton(mol: Mol) -> Mol:
    """Heavy atoms in their order, each marked with its number of hydrogens, and which of them are bonded."""
    skeleton, place = Chem.RWMol(), {}
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() > 1:
            bare = Chem.Atom(atom.GetAtomicNum())
            bare.SetIsotope(1 + sum(other.GetAtomicNum() == 1 for other in atom.GetNeighbors()))
            bare.SetNoImplicit(True)
            place[atom.GetIdx()] = skeleton.AddAtom(bare)
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if ends[0] in place and ends[1] in place:
            skeleton.AddBond(place[ends[0]], place[ends[1]], Chem.BondType.SINGLE)
    skeleton.UpdatePropertyCache(strict=False)
    return skeleton.GetMol()


def _shortest(graph: Mol, matches: np.ndarray, pos: np.ndarray) -> np.ndarray:
    """The match, of (M, N), with the least sum of bond order times distance; ``pos`` in Å."""
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondTypeAsDouble()) for b in graph.GetBonds()]
    first, second, order = np.array(bonds).reshape(-1, 3).T
    ends = pos[matches[:, first.astype(int)]] - pos[matches[:, second.astype(int)]]
    return matches[(np.linalg.norm(ends, axis=-1) * order).sum(1).argmin()]


def _posed(full: Mol, near: Mol, order: list[int], pos: np.ndarray) -> Mol:
    """``order``: of each heavy atom of ``full``, which come first, its index in ``near``; hydrogens follow theirs."""
    left = {k: [n.GetIdx() for n in near.GetAtomWithIdx(k).GetNeighbors() if n.GetAtomicNum() == 1] for k in order}
    place = order + [
        left[order[hydrogen.GetNeighbors()[0].GetIdx()]].pop()
        for hydrogen in full.GetAtoms()
        if hydrogen.GetIdx() >= len(order)
    ]
    return placed(full, pos[place])
