"""What is counted of the rings of molecules: that a molecule has those that it was told can be verified."""

from collections.abc import Sequence

from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from moldiff.chem import SANITISE, quiet


def largest_ring(mol: Chem.Mol) -> int:
    """Atoms of the largest ring of a sanitised molecule, 0 without rings."""
    return max(map(len, mol.GetRingInfo().AtomRings()), default=0)


# what is counted of the rings of a sanitised molecule, by the names of the evaluation and of properties
RING_COUNTS = {
    "rings": rdMolDescriptors.CalcNumRings, "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings,
    "largest_ring": largest_ring,
}  # fmt: skip


def ring_counts(mol: Chem.Mol, names: Sequence[str], hydrogens: str = "explicit") -> list[int] | None:
    """Those of :data:`RING_COUNTS` that are named, of a molecule as generated; None where RDKit does not sanitise it.

    ``hydrogens``: "implicit" for molecules of a model that leaves them to valence, without them.
    """
    copy = Chem.Mol(mol)
    for atom in copy.GetAtoms():
        atom.SetNoImplicit(hydrogens == "explicit")
    with quiet():
        if Chem.SanitizeMol(copy, SANITISE, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
            return None
    return [RING_COUNTS[name](copy) for name in names]
