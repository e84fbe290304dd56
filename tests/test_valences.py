"""Hydrogens that valences imply: those that RDKit puts on the same atoms."""

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from moldiff import chem
from moldiff.molecule import Molecules
from moldiff.valences import implied_hydrogens

VOCABULARY = ("C", "C-", "N", "N+", "O", "O-", "F", "S", "Cl", "P")


def heavy(smiles: str) -> Molecules:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return chem.from_rdkit([chem.without_hydrogens(mol)], VOCABULARY)


@pytest.mark.parametrize(
    "smiles",
    ["C", "CO", "c1cc[nH]c1", "C[NH3+]", "CS(=O)(=O)NC", "CS(C)=O", "CS", "CP(=O)(O)O", "C#CC(=O)[O-]", "FC(Cl)Cl"],
)
def test_as_rdkit_implies_them(smiles):
    expected = sum(atom.GetTotalNumHs() for atom in Chem.MolFromSmiles(smiles).GetAtoms())
    assert implied_hydrogens(heavy(smiles), VOCABULARY).tolist() == [expected]


def test_padding_has_none():
    batch = Molecules.collate([heavy("CCO"), heavy("C#N")])
    assert implied_hydrogens(batch, VOCABULARY).tolist() == [6, 1]


def test_an_atom_with_too_many_bonds_has_none():
    ethane = heavy("CC")
    five = ethane.replace(bond=torch.tensor([[[0, 5], [5, 0]]]))
    assert implied_hydrogens(five, VOCABULARY).tolist() == [0]
