"""Rings are counted alike with hydrogens and without them."""

import pytest
from rdkit import Chem

from moldiff.ring_counts import ring_counts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CCO", [0, 0, 0]),
        ("c1ccc2[nH]ccc2c1", [2, 2, 6]),
        ("C1CCC2(CC1)CCCCCC2", [2, 0, 7]),
        ("Oc1cccnc1C1CC1", [2, 1, 6]),
    ],
)
def test_rings_are_counted_with_and_without_hydrogens(text, expected):
    """As of a model without hydrogens, whose atoms imply them, and of one that makes them."""
    names, bare = ["rings", "aromatic_rings", "largest_ring"], Chem.MolFromSmiles(text)
    whole = Chem.AddHs(bare)
    for mol, hydrogens in ((bare, "implicit"), (whole, "explicit")):
        Chem.Kekulize(mol, clearAromaticFlags=True)
        for atom in mol.GetAtoms():  # as to_rdkit makes them
            atom.SetNoImplicit(True)
        assert ring_counts(mol, names, hydrogens) == expected
        assert ring_counts(mol, names[1:], hydrogens) == expected[1:]
    crowded = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    assert ring_counts(crowded, names) is None
