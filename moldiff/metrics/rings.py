"""Ring systems: the fused, spiro or bridged rings of a molecule with the atoms double-bonded to them.

After P. Walters' ring-system lookup (useful_rdkit_utils): a ring system that occurs in no known molecule is a sign of
chemistry that cannot be made, or of a kind that cannot exist.
"""

from collections.abc import Collection

from rdkit import Chem
from rdkit.Chem import BondType, Mol


def ring_systems(mol: Mol) -> tuple[str, ...]:
    """Canonical SMILES of the ring systems of a sanitised molecule, sorted, one for each occurrence.

    Single bonds outside rings are cut and every cut is closed by a hydrogen; stereo is left out.
    """
    cut = [bond.GetIdx() for bond in mol.GetBonds() if not bond.IsInRing() and bond.GetBondType() == BondType.SINGLE]
    if not mol.GetRingInfo().NumRings():
        return ()
    pieces = Chem.FragmentOnBonds(mol, cut, addDummies=True, dummyLabels=[(0, 0)] * len(cut)) if cut else Chem.Mol(mol)
    Chem.RemoveStereochemistry(pieces)
    for atom in pieces.GetAtoms():
        if atom.GetAtomicNum() == 0 and atom.GetDegree() == 1:  # where a bond was cut
            atom.SetAtomicNum(1)
    with_rings = [m for m in Chem.GetMolFrags(pieces, asMols=True, sanitizeFrags=False) if _has_ring(m)]
    return tuple(sorted(Chem.MolToSmiles(Chem.RemoveAllHs(m, sanitize=False)) for m in with_rings))


def unseen(systems: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """Those of a molecule's ring systems, each once, that are not among the known."""
    return tuple(sorted(set(systems) - set(known)))


def _has_ring(mol: Mol) -> bool:
    return mol.GetNumBonds() >= mol.GetNumAtoms()  # a connected piece
