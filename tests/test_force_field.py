"""Hydrogens that valences imply, and strain, by MMFF94s, on molecules whose answers are known."""

import numpy as np
import pytest
from conftest import embedded
from rdkit import Chem
from rdkit.Chem import AllChem
from rdkit.Chem.rdMolTransforms import GetBondLength

from moldiff import chem, force_field
from moldiff.metrics.strain import mmff_relaxation

VOCABULARY = ("H", "C", "N", "O")


def test_strain_measures_the_distance_from_the_minimum():
    mol = embedded("CCO")
    AllChem.MMFFOptimizeMolecule(mol, mmffVariant="MMFF94s", maxIters=2000)
    assert force_field.strain(mol) == pytest.approx(0, abs=1e-2)
    conformer = mol.GetConformer()
    conformer.SetPositions(conformer.GetPositions() * 1.1)
    assert force_field.strain(mol) > 10


def test_strain_without_parameters_is_unknown():
    assert force_field.strain(embedded("CB(C)C")) is None


@pytest.mark.parametrize("spacing", [0.0, 1e-6])
def test_atoms_on_top_of_each_other_have_no_strain(spacing):
    """The energy is no number, or the line search of the minimiser gives up."""
    mol = embedded("CC(=O)Nc1ccccc1")
    lying = np.outer(np.arange(mol.GetNumAtoms()) * spacing, [1, 0, 0])
    mol.GetConformer().SetPositions(lying)
    relaxed = force_field.relax(mol)
    assert np.isnan(relaxed.released) and force_field.strain(mol) is None
    assert mmff_relaxation(mol).failure == "energy"
    if spacing:
        assert np.array_equal(relaxed.mol.GetConformer().GetPositions(), lying)


class TestHydrogensOfModelsWithoutThem:
    @staticmethod
    def bare(text: str) -> Chem.Mol:
        """The heavy atoms of an embedded molecule, as a model without hydrogens would give them."""
        mol = Chem.AddHs(Chem.MolFromSmiles(text))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        AllChem.MMFFOptimizeMolecule(mol, mmffVariant="MMFF94s", maxIters=2000)
        return chem.without_hydrogens(mol)

    @pytest.mark.parametrize("text", ["CCO", "c1cc[nH]c1", "C[NH3+]", "CS(=O)(=O)NC", "OC(=O)c1ccccc1Cl", "C#N"])
    def test_valences_are_filled_and_heavy_atoms_stay(self, text):
        heavy = self.bare(text)
        before = heavy.GetConformer().GetPositions()
        whole = force_field.with_hydrogens(heavy)
        assert heavy.GetNumAtoms() == len(before)  # the input is not changed
        assert np.array_equal(whole.GetConformer().GetPositions()[: len(before)], before)
        orders = [Chem.GetAdjacencyMatrix(mol, useBO=True)[: len(before), : len(before)] for mol in (whole, heavy)]
        assert np.array_equal(*orders), "Kekulé orders as they were made"
        accepted, reason = chem.check(whole)
        assert reason is None
        assert chem.smiles(accepted) == Chem.CanonSmiles(text)
        assert force_field.strain(accepted) == pytest.approx(
            0, abs=3
        )  # kcal/mol: hydrogens lie in a minimum, if not the lowest

    @pytest.mark.parametrize(
        ("text", "axis"),
        [("OC=O", (1, 0)), ("OCC=O", (1, 0)), ("CCO", (1, 2)), ("C1CC1N", (2, 3)), ("OCCF", (1, 0)), ("CC(C)=N", (1, 3)),
         ("CCC=N", (2, 3)), ("Oc1ccccc1F", (1, 0)), ("NC=O", (1, 0)), ("CS", (0, 1))],
    )  # fmt: skip
    def test_what_can_turn_is_where_its_energy_is_lowest(self, text, axis):
        whole = force_field.with_hydrogens(self.bare(text))
        heavy, tried = whole.GetNumHeavyAtoms(), Chem.Mol(whole)
        Chem.SanitizeMol(tried)
        turning = [n.GetIdx() for n in tried.GetAtomWithIdx(axis[1]).GetNeighbors() if n.GetIdx() >= heavy]
        start, energies = whole.GetConformer().GetPositions(), []
        for angle in np.radians(np.arange(0, 360, 15)):
            pos = start.copy()
            along = (pos[axis[1]] - pos[axis[0]]) / np.linalg.norm(pos[axis[1]] - pos[axis[0]])
            turn = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) * np.outer(along, along)
            turn += np.sin(angle) * np.cross(np.eye(3), -along)
            pos[turning] = pos[axis[1]] + (pos[turning] - pos[axis[1]]) @ turn.T
            energies.append(self.relaxed_energy(tried, pos, heavy))
        assert energies[0] < min(energies) + 0.05, "kcal/mol"

    def relaxed_energy(self, mol, pos, heavy) -> float:
        mol.GetConformer().SetPositions(pos)
        properties = AllChem.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
        field = AllChem.MMFFGetMoleculeForceField(mol, properties)
        for k in range(heavy):
            field.AddFixedPoint(k)
        field.Minimize(maxIts=1000)
        return field.CalcEnergy()

    def test_of_a_planar_amine_they_are_both_placed(self):
        """From QM9. Without hybridisation RDKit leaves the second one at the origin."""
        symbols, orders = (
            "NCCNCCOCC",
            {(0, 1): 1, (1, 2): 2, (1, 8): 1, (2, 3): 1, (3, 4): 2, (4, 5): 1, (4, 7): 1, (5, 6): 2, (7, 8): 2},
        )
        pos = [[0, 1.4, 0.14], [0.03, 0.03, 0.06], [-1.18, -0.72, 0.04], [-1.23, -2.03, 0.01], [-0.07, -2.72, -0.01],
               [-0.13, -4.2, -0.05], [-1.13, -4.87, -0.06], [1.17, -2.08, 0], [1.22, -0.69, 0.03]]  # fmt: skip
        heavy = Chem.RWMol()
        for symbol in symbols:
            heavy.AddAtom(Chem.Atom(symbol))
        for (i, j), order in orders.items():
            heavy.AddBond(i, j, (Chem.BondType.SINGLE, Chem.BondType.DOUBLE)[order - 1])
        heavy.AddConformer(Chem.Conformer(len(symbols)))
        heavy.GetConformer().SetPositions(np.array(pos))
        whole = force_field.with_hydrogens(heavy.GetMol())
        assert chem.check(whole).reason is None
        bonds = [
            (b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in whole.GetBonds() if b.GetEndAtomIdx() >= len(symbols)
        ]
        lengths = np.array([GetBondLength(whole.GetConformer(), *ends) for ends in bonds])
        assert len(lengths) == 6 and ((lengths > 0.95) & (lengths < 1.15)).all()

    def test_they_are_there_after_conversion(self):
        """A script that forgot them once counted every lead-like molecule as a set of radicals."""
        whole = Chem.AddHs(Chem.MolFromSmiles("CCO"))
        AllChem.EmbedMolecule(whole, randomSeed=1)
        heavy = chem.from_rdkit([whole], VOCABULARY)
        heavy = heavy.select([0]).replace(mask=heavy.mask & (heavy.atom != VOCABULARY.index("H")))
        (bare,), (made,) = chem.to_rdkit(heavy, VOCABULARY), force_field.whole_mols(heavy, VOCABULARY, "implicit")
        assert (bare.GetNumAtoms(), made.GetNumAtoms()) == (3, 9)
        assert chem.check(made).reason is None and chem.check(bare).reason is not None

    def test_an_impossible_valence_is_refused_not_mended(self):
        heavy = self.bare("CC(C)(C)C")
        crowded = Chem.RWMol(heavy)
        crowded.GetBondBetweenAtoms(0, 1).SetBondType(Chem.BondType.DOUBLE)
        whole = force_field.with_hydrogens(crowded.GetMol())
        assert whole.GetNumAtoms() == 5
        assert chem.check(whole).reason == "valence"

    def test_atoms_on_top_of_each_other_do_no_harm(self):
        heavy = self.bare("CCCCCC")
        heavy.GetConformer().SetPositions(np.zeros((6, 3)))
        assert chem.check(force_field.with_hydrogens(heavy)).reason == "coordinates"
