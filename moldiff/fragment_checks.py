"""Whether a molecule has the part that was to be kept, and how like it is to the one that it is derived from."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from rdkit import Chem
from rdkit.Chem import DataStructs

from moldiff import chem
from moldiff.known import Known

UNMOVED = 1e-4  # Å


def objection(known: Known, mol: Chem.Mol, accepted: Chem.Mol, vocabulary: Sequence[str]) -> str | None:
    """Why a molecule as generated, of which ``accepted`` is the sanitised copy, is not what was asked for.

    ``fragment``: what is known is not in it; ``unchanged``: it is the molecule that it was to be derived from.
    """
    if not is_kept(known, mol, vocabulary):
        return "fragment"
    return "unchanged" if known.parent and known.parent in _names(accepted) else None


def _names(mol: Chem.Mol) -> set[str]:
    """With stereo and without: a parent that tells none stands for all of its isomers, such as those of C=NH."""
    return {chem.smiles(mol), chem.smiles(mol, stereo=False)}


def is_kept(known: Known, mol: Chem.Mol, vocabulary: Sequence[str]) -> bool:
    """Whether a molecule as generated has all that is known at the same indices, and closed atoms nothing new.

    Positions to 1e-4 Å, elements, charges and Kekulé orders exactly. Hydrogens put on for a model without them are no
    atoms added; where bonds are marked, as many of these orders grow and no others, and on the side of the mark, the hydrogen
    on the other.
    """
    n = len(known)
    moved = np.linalg.norm(mol.GetConformer().GetPositions()[:n] - known.molecule.pos[0].double().numpy(), axis=1)
    names = np.array([chem.token_name(a.GetSymbol(), a.GetFormalCharge()) for a in mol.GetAtoms()])
    orders = Chem.GetAdjacencyMatrix(mol, useBO=True)
    counts = (names != "H") | ("H" in vocabulary)
    counts[:n] = False
    if known.marks is not None:
        marks, new = known.marks.numpy(), orders[:n][:, counts]
        if (np.stack([new.sum(1), (new > 0).sum(1)], 1) != marks)[marks >= 0].any():
            return False
    if known.sides is not None:
        pos, sides = mol.GetConformer().GetPositions(), known.sides.numpy()
        atoms, others = np.nonzero((orders[:n] > 0) & (counts | (names == "H")) & sides.any(1)[:, None])
        height = ((pos[others] - pos[atoms]) * sides[atoms]).sum(1)
        if ((height > 0) != counts[others]).any():
            return False
    return bool(
        (moved < UNMOVED)[known.pos.numpy()].all()
        and (names[:n] == np.array(vocabulary)[known.molecule.atom[0].numpy()])[known.atom.numpy()].all()
        and (orders[:n, :n] == known.molecule.bond[0].numpy())[known.bond.numpy()].all()
        and not orders[:n][known.closed.numpy()][:, counts].any()
    )


def similarity(mol: Chem.Mol, parent: str) -> float:
    """Tanimoto similarity to a molecule given as SMILES: Morgan fingerprints of radius 2 and 2048 bits, no chirality."""
    from moldiff.metrics.druglike import graph
    from moldiff.metrics.fingerprints import long_fingerprint

    return round(DataStructs.TanimotoSimilarity(long_fingerprint(graph(mol)), _parent_fingerprint(parent)), 4)


@lru_cache(maxsize=8)
def _parent_fingerprint(smiles: str) -> DataStructs.ExplicitBitVect:
    from moldiff.metrics.fingerprints import long_fingerprint
    from moldiff.metrics.profiles import read_graph

    return long_fingerprint(read_graph(smiles))
