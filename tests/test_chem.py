"""Conversion and the acceptance rule, on molecules whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem
from rdkit.Chem.rdMolTransforms import GetBondLength

from moldiff import chem
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.metrics.strain import mmff_relaxation
from moldiff.molecule import Molecules

VOCABULARY = ("H", "C", "C-", "N", "N-", "N+", "O", "O-", "F")
SAMPLE = Path(__file__).parents[1] / "data" / "qm9_sample"
NAMED = {
    "nitromethane": "C[N+](=O)[O-]",
    "glycine zwitterion": "[NH3+]CC(=O)[O-]",
    "pyrrole": "c1cc[nH]c1",
    "benzene": "c1ccccc1",
    "methyl isocyanide": "[C-]#[N+]C",
    "methyl azide": "CN=[N+]=[N-]",
    "imidazole": "c1c[nH]cn1",
    "fluoroform": "FC(F)F",
}


def embedded(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


def converted(mol: Chem.Mol) -> Chem.Mol:
    return chem.to_rdkit(chem.from_rdkit([mol], VOCABULARY), VOCABULARY)[0]


def star(centre: str, leaves: int) -> Molecules:
    """``centre`` with single bonds to ``leaves`` hydrogens, all at sound distances."""
    n = leaves + 1
    bond = torch.zeros(1, n, n, dtype=torch.long)
    bond[0, 0, 1:] = bond[0, 1:, 0] = 1
    atom = torch.tensor([[VOCABULARY.index(centre)] + [0] * leaves])
    pos = torch.arange(n)[None, :, None] * torch.ones(3)
    return Molecules(torch.ones(1, n, dtype=torch.bool), pos, atom, bond)


@pytest.mark.parametrize("smiles", NAMED.values(), ids=NAMED.keys())
def test_named_molecules_survive_the_round_trip(smiles):
    mol = embedded(smiles)
    verdict = chem.check(converted(mol))
    assert verdict.reason is None
    assert chem.smiles(verdict.mol) == Chem.CanonSmiles(smiles)
    np.testing.assert_allclose(verdict.mol.GetConformer().GetPositions(), mol.GetConformer().GetPositions(), atol=1e-5)
    assert [a.GetSymbol() for a in verdict.mol.GetAtoms()] == [a.GetSymbol() for a in mol.GetAtoms()]


def test_round_trip_from_class_indices_is_exact():
    split, meta = read_split(SAMPLE, "test"), read_meta(SAMPLE)
    for molecules, _ in split.buckets().values():
        back = chem.from_rdkit(chem.to_rdkit(molecules, meta["vocabulary"]), meta["vocabulary"])
        assert torch.equal(back.atom, molecules.atom.long())
        assert torch.equal(back.bond, molecules.bond.long())
        assert torch.equal(back.pos, molecules.pos)


def test_to_rdkit_skips_padding_wherever_it_is():
    single = chem.from_rdkit([embedded("CO")], VOCABULARY)
    wide = Molecules.collate([single], n=9)
    order = torch.tensor([7, 0, 1, 8, 2, 3, 4, 6, 5])
    bond = wide.bond[:, order][:, :, order]
    scattered = Molecules(wide.mask[:, order], wide.pos[:, order], wide.atom[:, order], bond)
    blocks = [Chem.MolToMolBlock(chem.to_rdkit(m, VOCABULARY)[0]) for m in (single, scattered)]
    assert blocks[0] == blocks[1]


def test_to_rdkit_completes_no_valence():
    mol = chem.to_rdkit(star("C", 3), VOCABULARY)[0]
    Chem.SanitizeMol(mol)
    assert mol.GetNumAtoms() == 4
    assert all(atom.GetTotalNumHs() == 0 for atom in mol.GetAtoms())
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == "[CH3]"


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False))
def test_order_of_atoms_does_not_matter(random):
    mol = embedded("C[C@H](N)C(=O)O")
    order = list(range(mol.GetNumAtoms()))
    random.shuffle(order)
    verdict = chem.check(converted(Chem.RenumberAtoms(mol, order)))
    assert chem.smiles(verdict.mol) == Chem.CanonSmiles("C[C@H](N)C(=O)O")


@pytest.mark.parametrize("centre, leaves, reason", [
    ("C", 4, None), ("C", 3, "radical"), ("C", 2, "radical"), ("C", 5, "valence"), ("C-", 3, None),
    ("N", 3, None), ("N", 2, "radical"), ("N", 4, "valence"), ("N+", 4, None), ("N+", 3, "radical"), ("N-", 2, None),
    ("O", 2, None), ("O", 1, "radical"), ("O", 3, "valence"), ("O-", 1, None), ("O-", 2, "valence"),
    ("F", 1, None), ("F", 2, "valence"), ("H", 1, None), ("H", 2, "valence"),
])  # fmt: skip
def test_hydrides_are_judged_by_strict_valence(centre, leaves, reason):
    verdict = chem.check(chem.to_rdkit(star(centre, leaves), VOCABULARY)[0])
    assert verdict.reason == reason
    assert (verdict.mol is None) == (reason is not None)


def test_fragments_are_rejected_whole():
    pair = Chem.CombineMols(embedded("C"), embedded("O"))
    assert chem.check(converted(pair)) == (None, "disconnected")


def test_no_atoms_is_disconnected():
    nothing = star("C", 4).replace(mask=torch.zeros(1, 5, dtype=torch.bool))
    assert chem.check(chem.to_rdkit(nothing, VOCABULARY)[0]).reason == "disconnected"


def test_a_valence_that_rdkit_would_repair_is_rejected():
    proper = chem.from_rdkit([embedded("C[N+](=O)[O-]")], VOCABULARY)
    neutral = {VOCABULARY.index("N+"): VOCABULARY.index("N"), VOCABULARY.index("O-"): VOCABULARY.index("O")}
    atom = proper.atom.clone().apply_(lambda token: neutral.get(token, token))
    pentavalent = proper.replace(atom=atom, bond=torch.where(is_n_o(proper), 2, proper.bond))
    assert chem.check(chem.to_rdkit(pentavalent, VOCABULARY)[0]).reason == "valence"


def is_n_o(molecules: Molecules) -> torch.Tensor:
    """Bonds of the nitrogen N+ to either oxygen."""
    nitrogen = molecules.atom == VOCABULARY.index("N+")
    oxygen = (molecules.atom == VOCABULARY.index("O")) | (molecules.atom == VOCABULARY.index("O-"))
    return (nitrogen[:, :, None] & oxygen[:, None]) | (oxygen[:, :, None] & nitrogen[:, None])


def test_impossible_aromatics_fail_sanitisation():
    assert chem.check(Chem.MolFromSmiles("c1cccc1", sanitize=False)).reason == "sanitisation"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "clash"])
def test_unsound_coordinates_are_rejected(value):
    molecules = star("C", 4)
    pos = molecules.pos.clone()
    pos[0, 3] = pos[0, 2] + 0.2 if value == "clash" else value
    assert chem.check(chem.to_rdkit(molecules.replace(pos=pos), VOCABULARY)[0]).reason == "coordinates"


def test_no_coordinates_are_rejected():
    assert chem.check(Chem.AddHs(Chem.MolFromSmiles("C"))).reason == "coordinates"


@pytest.mark.parametrize("smiles", ["C[C@H](N)C(=O)O", "[CH3]", "c1ccccc1"])
def test_nothing_changes_its_input(smiles):
    mol = converted(embedded(smiles))
    before = mol.ToBinary(Chem.PropertyPickleOptions.AllProps)
    accepted = chem.check(mol).mol
    chem.from_rdkit([mol], VOCABULARY)
    assert mol.ToBinary(Chem.PropertyPickleOptions.AllProps) == before
    if accepted:
        before = accepted.ToBinary(Chem.PropertyPickleOptions.AllProps)
        chem.smiles(accepted), chem.smiles(accepted, stereo=False), chem.strain(accepted), chem.check(accepted)
        chem.from_rdkit([accepted], VOCABULARY)
        assert accepted.ToBinary(Chem.PropertyPickleOptions.AllProps) == before


def test_stereo_comes_from_the_coordinates():
    left = chem.from_rdkit([embedded("C[C@H](N)C(=O)O")], VOCABULARY)
    right = left.replace(pos=left.pos * torch.tensor([1.0, 1.0, -1.0]))
    names = [chem.smiles(chem.check(mol).mol) for m in (left, right) for mol in chem.to_rdkit(m, VOCABULARY)]
    assert names == [Chem.CanonSmiles("C[C@H](N)C(=O)O"), Chem.CanonSmiles("C[C@@H](N)C(=O)O")]


def test_a_distorted_sulfonyl_group_is_no_centre():
    """An angle of 160 degrees, and RDKit would call it a trigonal bipyramid."""
    mol = Chem.AddHs(Chem.MolFromSmiles("CS(=O)(=O)N"))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    pos = mol.GetConformer().GetPositions()
    carbon, sulfur, nitrogen = 0, 1, 4
    away = (pos[sulfur] - pos[carbon]) / np.linalg.norm(pos[sulfur] - pos[carbon])
    mol.GetConformer().SetAtomPosition(nitrogen, (pos[sulfur] + 1.9 * away).tolist())
    copy = Chem.Mol(mol)
    Chem.AssignStereochemistryFrom3D(copy)
    assert "@" in Chem.MolToSmiles(copy), "of no use otherwise"
    assert chem.smiles(chem.check(mol).mol) == "CS(N)(=O)=O"


def test_smiles_without_stereo_has_no_hydrogen_left():
    mol = chem.check(converted(embedded("[H]/N=C/C"))).mol
    assert chem.smiles(mol) == Chem.CanonSmiles("[H]/N=C/C")
    assert chem.smiles(mol, stereo=False) == "CC=N"


@pytest.mark.parametrize("smiles, message", [
    ("CS", r"molecule 1, atom 1 \(S\): not in the vocabulary"),
    ("C[NH2+][O-]", None),
    ("C[OH2+]", r"molecule 1, atom 1 \(O\+\): not in the vocabulary"),
])  # fmt: skip
def test_what_is_not_in_the_vocabulary_is_named(smiles, message):
    mols = [embedded("C"), embedded(smiles)]
    if message is None:
        assert len(chem.from_rdkit(mols, VOCABULARY)) == 2
    else:
        with pytest.raises(chem.ConversionError, match=message):
            chem.from_rdkit(mols, VOCABULARY)


def test_hydrogens_and_coordinates_must_be_explicit():
    with pytest.raises(chem.ConversionError, match=r"molecule 0, atom 0 \(C\): implicit hydrogens"):
        chem.from_rdkit([Chem.RemoveHs(embedded("CO"))], VOCABULARY)
    with pytest.raises(chem.ConversionError, match="molecule 0: no coordinates"):
        chem.from_rdkit([Chem.AddHs(Chem.MolFromSmiles("CO"))], VOCABULARY)
    with pytest.raises(chem.ConversionError, match="no molecules"):
        chem.from_rdkit([], VOCABULARY)


def test_unknown_bond_types_are_named():
    mol = converted(embedded("CO"))
    mol.GetBondWithIdx(0).SetBondType(Chem.BondType.DATIVE)
    with pytest.raises(chem.ConversionError, match="molecule 0, bond 0-1: DATIVE"):
        chem.from_rdkit([mol], VOCABULARY)


@given(st.sampled_from(["H", "C", "N", "Cl", "Br", "Si"]), st.integers(-4, 4))
def test_token_names_parse_back(symbol, charge):
    assert chem.parse_token(chem.token_name(symbol, charge)) == (symbol, charge)


def test_token_names_are_the_usual_ones():
    assert [chem.token_name("N", 1), chem.token_name("O", -1), chem.token_name("S", 2)] == ["N+", "O-", "S2+"]


@pytest.mark.parametrize("name", ["", "c", "Xx", "N++", "N1+", "N0", "N2", "+", "C-1"])
def test_malformed_tokens_are_refused(name):
    with pytest.raises(ValueError, match="expected an element"):
        chem.parse_token(name)


def test_quiet_restores_what_was_there():
    was_on = "rdApp.error:enabled" in rdBase.LogStatus()
    try:
        rdBase.EnableLog("rdApp.error")
        rdBase.DisableLog("rdApp.warning")
        before = rdBase.LogStatus()
        with chem.quiet(), chem.quiet():
            assert "rdApp.error:disabled" in rdBase.LogStatus()
        assert rdBase.LogStatus() == before
        with pytest.raises(RuntimeError), chem.quiet():
            raise RuntimeError
        assert rdBase.LogStatus() == before
    finally:
        rdBase.EnableLog("rdApp.warning")
        (rdBase.EnableLog if was_on else rdBase.DisableLog)("rdApp.error")


def test_strain_measures_the_distance_from_the_minimum():
    mol = chem.check(converted(embedded("CCO"))).mol
    AllChem.MMFFOptimizeMolecule(mol, mmffVariant="MMFF94s", maxIters=2000)
    assert chem.strain(mol) == pytest.approx(0, abs=1e-2)
    conformer = mol.GetConformer()
    conformer.SetPositions(conformer.GetPositions() * 1.1)
    assert chem.strain(mol) > 10


def test_strain_without_parameters_is_unknown():
    assert chem.strain(embedded("CB(C)C")) is None


def test_graph_keeps_the_order_of_the_smiles():
    graph = chem.graph_from_smiles("O=N(=O)C#N")
    assert graph.number.tolist() == [8, 7, 8, 6, 7]
    assert graph.charge[1] == 1
    assert graph.charge.sum() == 0
    assert graph.bond_order.sum() == 7
    assert graph.hydrogens.tolist() == [0] * 5
    assert chem.graph_from_smiles("C1CC") is None


@pytest.mark.parametrize("spacing", [0.0, 1e-6])
def test_atoms_on_top_of_each_other_have_no_strain(spacing):
    """The energy is no number, or the line search of the minimiser gives up."""
    mol = embedded("CC(=O)Nc1ccccc1")
    lying = np.outer(np.arange(mol.GetNumAtoms()) * spacing, [1, 0, 0])
    mol.GetConformer().SetPositions(lying)
    relaxed = chem.relax(mol)
    assert np.isnan(relaxed.released) and chem.strain(mol) is None
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
        whole = chem.with_hydrogens(heavy)
        assert heavy.GetNumAtoms() == len(before)  # the input is not changed
        assert np.array_equal(whole.GetConformer().GetPositions()[: len(before)], before)
        orders = [Chem.GetAdjacencyMatrix(mol, useBO=True)[: len(before), : len(before)] for mol in (whole, heavy)]
        assert np.array_equal(*orders), "Kekulé orders as they were made"
        accepted, reason = chem.check(whole)
        assert reason is None
        assert chem.smiles(accepted) == Chem.CanonSmiles(text)
        assert chem.strain(accepted) == pytest.approx(
            0, abs=3
        )  # kcal/mol: hydrogens lie in a minimum, if not the lowest

    @pytest.mark.parametrize(
        ("text", "axis"),
        [("OC=O", (1, 0)), ("OCC=O", (1, 0)), ("CCO", (1, 2)), ("C1CC1N", (2, 3)), ("OCCF", (1, 0)), ("CC(C)=N", (1, 3)),
         ("CCC=N", (2, 3)), ("Oc1ccccc1F", (1, 0)), ("NC=O", (1, 0)), ("CS", (0, 1))],
    )  # fmt: skip
    def test_what_can_turn_is_where_its_energy_is_lowest(self, text, axis):
        whole = chem.with_hydrogens(self.bare(text))
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
        whole = chem.with_hydrogens(heavy.GetMol())
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
        (bare,), (made,) = chem.to_rdkit(heavy, VOCABULARY), chem.to_rdkit(heavy, VOCABULARY, "implicit")
        assert (bare.GetNumAtoms(), made.GetNumAtoms()) == (3, 9)
        assert chem.check(made).reason is None and chem.check(bare).reason is not None

    def test_an_impossible_valence_is_refused_not_mended(self):
        heavy = self.bare("CC(C)(C)C")
        crowded = Chem.RWMol(heavy)
        crowded.GetBondBetweenAtoms(0, 1).SetBondType(Chem.BondType.DOUBLE)
        whole = chem.with_hydrogens(crowded.GetMol())
        assert whole.GetNumAtoms() == 5
        assert chem.check(whole).reason == "valence"

    def test_atoms_on_top_of_each_other_do_no_harm(self):
        heavy = self.bare("CCCCCC")
        heavy.GetConformer().SetPositions(np.zeros((6, 3)))
        assert chem.check(chem.with_hydrogens(heavy)).reason == "coordinates"
