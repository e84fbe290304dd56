"""Conversion and the acceptance rule, on molecules whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import embedded
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem

from moldiff import chem, force_field
from moldiff.datasets.prepared import read_meta, read_split
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
        chem.smiles(accepted), chem.smiles(accepted, stereo=False), chem.check(accepted), force_field.strain(accepted)
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


def test_graph_keeps_the_order_of_the_smiles():
    graph = chem.graph_from_smiles("O=N(=O)C#N")
    assert graph.number.tolist() == [8, 7, 8, 6, 7]
    assert graph.charge[1] == 1
    assert graph.charge.sum() == 0
    assert graph.bond_order.sum() == 7
    assert graph.hydrogens.tolist() == [0] * 5
    assert chem.graph_from_smiles("C1CC") is None


def test_placed_is_a_copy():
    mol = Chem.MolFromSmiles("CO")
    copy = chem.placed(mol, np.ones((2, 3)))
    assert (mol.GetNumConformers(), copy.GetNumConformers()) == (0, 1)
    assert (copy.GetConformer().GetPositions() == 1).all()


def test_bonds_are_single_double_or_triple():
    assert chem.kekule_bonds(Chem.MolFromSmiles("C=NC#N")).tolist() == [[0, 1, 2], [1, 2, 1], [2, 3, 3]]
    assert sorted(chem.kekule_bonds(Chem.MolFromSmiles("c1ccccc1"))[:, 2]) == [1, 1, 1, 2, 2, 2]
    fourfold = chem.placed(Chem.MolFromSmiles("C$C"), np.eye(3)[:2])
    with pytest.raises(chem.ConversionError, match="molecule 1, bond 0-1: QUADRUPLE; only orders 1 to 3 are known"):
        chem.from_rdkit([embedded("CO"), fourfold], VOCABULARY)
