"""Drug-likeness of molecules whose values are published or can be counted; nearest molecules by brute force."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, RDConfig
from rdkit.Chem import DataStructs

from moldiff.errors import MoldiffError
from moldiff.metrics import druglike
from moldiff.metrics.druglike import DRUGLIKE_COLUMNS, MEANINGS, druglike_facts, graph, properties, ring_novelty
from moldiff.metrics.fingerprints import BYTES, fingerprint, internal_diversity, nearest, packed
from moldiff.metrics.rings import ring_systems, unseen


def named(smiles):
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def test_aspirin():
    facts = druglike_facts(named(ASPIRIN))
    assert set(facts) == set(DRUGLIKE_COLUMNS)
    # QED and SA as RDKit documents them; logP and TPSA of PubChem's RDKit-like models; the rest by counting
    expected = {"qed": 0.550, "sa": 1.580, "logp": 1.310, "weight": 180.159, "tpsa": 63.60, "fsp3": 1 / 9}
    assert {key: facts[key] for key in expected} == pytest.approx(expected, abs=1e-3)
    assert (facts["hbd"], facts["hba"], facts["rotatable_bonds"]) == (1, 3, 2)
    assert facts["lipinski_violations"] == 0 and facts["veber"] is True
    assert (facts["pains"], facts["brenk"], facts["nih"], facts["alerts"]) == (0, 1, 0, "BRENK: phenol_ester")
    assert facts["ring_systems"] == "c1ccccc1"
    assert (facts["rings"], facts["aromatic_rings"]) == (1, 1)


@pytest.mark.parametrize(
    ("smiles", "rings", "aromatic", "largest"),
    [("CCO", 0, 0, 0), ("C1CCCCC1", 1, 0, 6), ("c1ccc2c(c1)CCN2", 2, 1, 6), ("c1ccc2ccccc2c1", 2, 2, 6),
     ("C1CC1C1CCCCCC1", 2, 0, 7)],
)  # fmt: skip
def test_rings(smiles, rings, aromatic, largest):
    facts = druglike_facts(named(smiles))
    assert (facts["rings"], facts["aromatic_rings"], facts["largest_ring"]) == (rings, aromatic, largest)


@pytest.mark.parametrize(
    ("smiles", "violations", "veber"),
    [("C" * 40, 2, False), ("OCC(O)C(O)C(O)C(O)C(O)CO", 1, False), ("CCCC(=O)O", 0, True), ("O" * 11 + "C", 1, True)],
)
def test_rules_of_thumb(smiles, violations, veber):
    facts = druglike_facts(named(smiles))
    assert (facts["lipinski_violations"], facts["veber"]) == (violations, veber)


def test_rhodanine_raises_all_three_alerts():
    facts = druglike_facts(named("O=C1C(=Cc2ccccc2)SC(=S)N1"))
    assert facts["pains"] >= 1 and facts["brenk"] >= 1 and facts["nih"] >= 1
    assert "PAINS: ene_rhod_A(235)" in facts["alerts"].split("; ")


@pytest.mark.parametrize("mol", [None, Chem.Mol(), Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)])
def test_what_is_not_valid_has_no_values(mol):
    assert set(druglike_facts(mol).values()) == {None}


def test_every_number_has_a_meaning():
    assert set(MEANINGS) == {name for name, kind in DRUGLIKE_COLUMNS.items() if kind != "object"}


def test_columns_hold_their_types():
    rows = [druglike_facts(named(ASPIRIN)), druglike_facts(None)]
    table = pd.DataFrame(rows).astype(DRUGLIKE_COLUMNS)
    assert table["hbd"][0] == 1 and table.isna().loc[1].all()


@pytest.mark.parametrize("smiles", [ASPIRIN, "C/C=C/[C@H](F)N", "C/C=N/C", "C[NH3+]", "c1cc[nH]c1", "[CH3]", "[H][H]"])
def test_explicit_hydrogens_and_stereo_do_not_matter(smiles):
    with_hydrogens, without = named(smiles), Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(without)
    assert properties(graph(with_hydrogens)) == pytest.approx(properties(without), rel=1e-12)
    assert fingerprint(graph(with_hydrogens)) == fingerprint(without)


def test_a_missing_score_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(RDConfig, "RDContribDir", str(tmp_path))
    druglike._sa_score.cache_clear()
    with pytest.raises(MoldiffError, match=r"sascorer\.py cannot be loaded"):
        druglike_facts(named("C"))
    druglike._sa_score.cache_clear()


def test_hydrogens_that_mark_a_double_bond_do_not_matter():
    assert druglike_facts(named("[H]/N=C/C")) == druglike_facts(named("CC=N"))


# ---- ring systems


@pytest.mark.parametrize(
    ("smiles", "systems"),
    [("CCO", ()), ("Cc1ccccc1", ("c1ccccc1",)), ("c1ccccc1-c1ccccc1", ("c1ccccc1", "c1ccccc1")),
     ("CC1CCC2(C1)CC2", ("C1CCC2(C1)CC2",)), ("CN1CCC1=O", ("O=C1CCN1",)), ("c1ccn(C)c1", ("c1cc[nH]c1",)),
     ("C1CC1=C1CC1", ("C1CC1=C1CC1",)), ("C1CC1C=C", ("C1CC1",)), ("O=S1(=O)CCCC1", ("O=S1(=O)CCCC1",)),
     ("OC12CC(C1)C2", ("C1C2CC1C2",)), ("C[C@H]1CCO1", ("C1COC1",)), ("O=c1cc[nH]c(N)c1", ("O=c1cc[nH]cc1",)),
     ("c1ccccc1.C1CC1", ("C1CC1", "c1ccccc1"))],
)  # fmt: skip
def test_ring_systems(smiles, systems):
    expected = tuple(sorted(Chem.CanonSmiles(s) for s in systems))
    assert ring_systems(Chem.MolFromSmiles(smiles)) == expected
    assert ring_systems(graph(named(smiles))) == expected


def test_ring_systems_that_the_reference_does_not_have():
    table = pd.DataFrame([druglike_facts(m) for m in (named("Cc1ccccc1"), named("C1CC1C1CCC1"), named("CC"), None)])
    metric = ring_novelty(table, {"c1ccccc1", "C1CC1"}, "toy")
    assert (metric.numerator, metric.denominator) == (1, 3)
    assert metric.table.tolist()[:3] == ["", "C1CCC1", ""] and pd.isna(metric.table[3])
    assert unseen(["a", "b", "b"], ["a"]) == ("b",)


# ---- fingerprints


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.sampled_from([0, 0.02, 0.5]))
def test_nearest_and_diversity_are_those_by_brute_force(seed, n, m, density):
    rng = np.random.default_rng(seed)
    bits = [rng.random((k, 8 * BYTES)) < density for k in (n, m)]
    queries, reference = (np.packbits(b, axis=1, bitorder="little") for b in bits)

    def tanimoto(a, b):
        return 1.0 if not (a | b).any() else (a & b).sum() / (a | b).sum()

    similarities = np.array([[tanimoto(a, b) for b in bits[1]] for a in bits[0]])
    values, index = nearest(queries, reference)
    assert values == pytest.approx(similarities.max(1)) and (index == similarities.argmax(1)).all()
    own = np.array([[tanimoto(a, b) for b in bits[0]] for a in bits[0]])
    expected = [1 - own.mean(), 1 - np.sqrt((own**2).mean(1)).mean()]
    assert internal_diversity(queries) == pytest.approx(expected)


def test_similarities_are_those_of_rdkit():
    mols = [Chem.MolFromSmiles(s) for s in (ASPIRIN, "OC(=O)c1ccccc1O", "CCO", "c1ccccc1")]
    rows = packed(fingerprint(mol) for mol in mols)
    vectors = [DataStructs.CreateFromBinaryText(fingerprint(mol)) for mol in mols]
    values, index = nearest(rows[:1], rows[1:])
    assert (values[0], index[0]) == (DataStructs.TanimotoSimilarity(vectors[0], vectors[1]), 0)
    with pytest.raises(ValueError, match="reference is empty"):
        nearest(rows, rows[:0])
    assert math.isnan(internal_diversity(rows[:0])[0])
