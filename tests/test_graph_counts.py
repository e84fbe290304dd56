"""Counts are the same with hydrogens and without them."""

import pytest
from rdkit import Chem

from moldiff.graph_counts import GRAPH_COUNTS, graph_counts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CCO", [1, 1, 0, 0, 0]),
        ("c1ccc2[nH]ccc2c1", [1, 0, 2, 2, 6]),
        ("C1CCC2(CC1)CCCCCC2", [0, 0, 2, 0, 7]),
        ("Oc1cccnc1C1CC1", [1, 2, 2, 1, 6]),
        ("NCC(=O)NC", [2, 2, 0, 0, 0]),
    ],
)
def test_with_and_without_hydrogens(text, expected):
    """As of a model without hydrogens, whose atoms imply them, and of one that makes them."""
    names, bare = list(GRAPH_COUNTS), Chem.MolFromSmiles(text)
    whole = Chem.AddHs(bare)
    for mol, hydrogens in ((bare, "implicit"), (whole, "explicit")):
        Chem.Kekulize(mol, clearAromaticFlags=True)
        for atom in mol.GetAtoms():  # as to_rdkit makes them
            atom.SetNoImplicit(True)
        assert graph_counts(mol, names, hydrogens) == expected
        assert graph_counts(mol, names[1:], hydrogens) == expected[1:]
    crowded = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    assert graph_counts(crowded, names) is None
