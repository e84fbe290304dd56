"""Stereo that a graph tells, and whether coordinates show it."""

import numpy as np
from rdkit import Chem
from rdkit.Chem import Bond, Mol

from moldiff import chem

_CIS = {Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS}
_TRANS = {Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS}


def obey(graph: Mol, pos: np.ndarray) -> np.ndarray | None:
    """The coordinates (Å) if they show the stereo that ``graph`` tells, their mirror image if that does, else None.

    ``graph``: sanitised, with all hydrogens as atoms. Tetrahedral centres and double bonds whose stereo it leaves open are
    free. Two labellings of the same molecule count as the same: the canonical SMILES decides.
    """
    told = _smiles(graph, [bond.GetStereo() in _CIS for bond in graph.GetBonds()])
    return next((seen for seen in (pos, -pos) if _as_seen(graph, seen) == told), None)


def _as_seen(graph: Mol, pos: np.ndarray) -> str:
    """The SMILES of the graph with, wherever it tells any, the stereo of the coordinates."""
    seen = chem.placed(graph, pos)
    Chem.AssignAtomChiralTagsFromStructure(seen, replaceExistingTags=True)
    for told, atom in zip(graph.GetAtoms(), seen.GetAtoms(), strict=True):
        if told.GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED:
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    return _smiles(seen, [bond.GetStereo() in _CIS | _TRANS and _is_cis(bond, pos) for bond in seen.GetBonds()])


def _is_cis(bond: Bond, pos: np.ndarray) -> bool:
    """Whether the two substituents by which the stereo of the bond is told are on the same side of it."""
    begin, end = pos[bond.GetBeginAtomIdx()], pos[bond.GetEndAtomIdx()]
    one, other = (pos[k] for k in bond.GetStereoAtoms())
    return bool(np.cross(one - begin, end - begin) @ np.cross(other - end, begin - end) < 0)


def _smiles(mol: Mol, cis: list[bool]) -> str:
    """Canonical SMILES, the told double bonds being cis or trans."""
    copy = Chem.Mol(mol)
    for bond, is_cis in zip(copy.GetBonds(), cis, strict=True):
        bond.SetBondDir(Chem.BondDir.NONE)  # what a SMILES was read with, and would be written with again
        if bond.GetStereo() in _CIS | _TRANS:
            bond.SetStereo(Chem.BondStereo.STEREOCIS if is_cis else Chem.BondStereo.STEREOTRANS)
    Chem.SetDoubleBondNeighborDirections(copy)
    with chem.quiet():
        return Chem.MolToSmiles(copy)
