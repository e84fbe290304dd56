"""Properties that follow from the graph of a molecule: computed where a file does not give them."""

from collections.abc import Sequence

from rdkit.Chem import Mol

from moldiff.metrics.druglike import graph, properties, rules

UNITS = {
    "qed": "", "sa": "", "logp": "", "weight": "g/mol", "tpsa": "Å²", "fsp3": "", "hbd": "", "hba": "",
    "rotatable_bonds": "", "rings": "", "aromatic_rings": "", "largest_ring": "",
}  # fmt: skip


def compute(mol: Mol, names: Sequence[str]) -> dict[str, float]:
    """Those of :data:`UNITS` that are named, as the evaluation defines them, of a molecule that RDKit sanitises."""
    if not names:
        return {}
    bare = graph(mol)
    found = properties(bare) | rules(bare)
    return {name: float(found[name]) for name in names}
