"""What is counted of a molecular graph: that a molecule has what it was told can be verified."""

from collections.abc import Sequence

from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from moldiff.chem import sanitised


def largest_ring(mol: Chem.Mol) -> int:
    """Atoms of the largest ring of a sanitised molecule, 0 without rings."""
    return max(map(len, mol.GetRingInfo().AtomRings()), default=0)


# of a sanitised molecule, by the names of the evaluation and of properties
GRAPH_COUNTS = {
    "hbd": rdMolDescriptors.CalcNumHBD, "hba": rdMolDescriptors.CalcNumHBA, "rings": rdMolDescriptors.CalcNumRings,
    "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings, "largest_ring": largest_ring,
}  # fmt: skip


def graph_counts(mol: Chem.Mol, names: Sequence[str], hydrogens: str = "explicit") -> list[int] | None:
    """Those of :data:`GRAPH_COUNTS` that are named, of a molecule as generated; None where RDKit does not sanitise it.

    ``hydrogens``: "implicit" for molecules of a model that leaves them to valence, without them.
    """
    copy, _ = sanitised(mol, implied=hydrogens == "implicit")
    return None if copy is None else [GRAPH_COUNTS[name](copy) for name in names]
