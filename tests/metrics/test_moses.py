"""The MOSES metrics against values of the original program, and their parts against counts by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from moldiff.metrics.moses import diversity_metrics, moses_facts, moses_metrics, similarity_metrics
from moldiff.metrics.profiles import Profile, ProfileError, cosine_similarity, fragments, profile, scaffold

FIXTURE = json.loads((Path(__file__).parents[1] / "data" / "moses.json").read_text())
ORIGINAL = FIXTURE["metrics"]
NAMES = {"snn": "SNN", "frag": "Frag", "scaf": "Scaf", "fcd": "FCD"}
PROPERTY_NAMES = {"logp_w1": "logP", "sa_w1": "SA", "qed_w1": "QED", "weight_w1": "weight"}


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame([moses_facts(smiles) for smiles in FIXTURE["generated"]])


@pytest.fixture(scope="module")
def ours(table):
    return profile(table["moses_smiles"].dropna().tolist())


def by_name(metrics):
    return {metric.name: metric for metric in metrics}


def test_set_metrics_are_those_of_the_original(table, monkeypatch):
    monkeypatch.setattr("moldiff.metrics.moses.UNIQUE_AT", (50, 150))
    found = by_name(moses_metrics(table, FIXTURE["train"]))
    for key in ("valid", "unique@50", "unique@150"):
        assert found[f"moses_{key}"].value == pytest.approx(ORIGINAL[key], rel=1e-12)
    assert found["moses_filters"].value == pytest.approx(ORIGINAL["Filters"])
    assert found["moses_novelty"].value == pytest.approx(ORIGINAL["Novelty"])


def test_filters_judge_every_molecule_as_the_original(table):
    passes = [None if pd.isna(alert) else alert == "" for alert in table["moses_alert"]]
    assert passes == FIXTURE["passes_filters"] and {True, False, None} == set(passes)


@pytest.mark.parametrize(("key", "suffix"), [("test", "/Test"), ("test_scaffolds", "/TestSF")])
def test_similarities_are_those_of_the_original(ours, key, suffix):
    found = by_name(similarity_metrics(ours, profile(FIXTURE[key]), key))
    assert "fcd" not in found  # no activations were asked for
    for name in ("snn", "frag", "scaf"):
        assert found[name].value == pytest.approx(ORIGINAL[NAMES[name] + suffix], rel=1e-6)
    if suffix == "/Test":
        for name, theirs in PROPERTY_NAMES.items():
            assert found[name].value == pytest.approx(ORIGINAL[theirs], rel=1e-9)
    assert all(m.denominator == len(ours) and "MOSES" in m.definition for m in found.values())


def test_internal_diversity_is_that_of_the_original(ours):
    found = by_name(diversity_metrics(ours))
    assert found["intdiv"].value == pytest.approx(ORIGINAL["IntDiv"], rel=1e-6)
    assert found["intdiv2"].value == pytest.approx(ORIGINAL["IntDiv2"], rel=1e-6)


def test_fcd_is_that_of_the_original(table):
    pytest.importorskip("fcd_torch")
    subset = FIXTURE["fcd_subsets"]
    smiles = table["moses_smiles"].dropna().tolist()[: subset["generated"]]
    parts = [profile(part, chemnet=True) for part in (smiles[:20], smiles[20:21], smiles[21:])]
    reference = profile(FIXTURE["test"][: subset["test"]], chemnet=True)
    found = by_name(similarity_metrics(parts[0] + parts[1] + parts[2], reference, "test"))
    assert found["fcd"].value == pytest.approx(subset["FCD"], rel=1e-3)


@pytest.mark.parametrize(
    ("smiles", "alert"),
    [("c1ccccc1", ""), ("C1CCCCCC1", ""), ("C1CCCCCCC1", "ring of 8 or more"), ("C[N+](=O)[O-]", "charged atom"),
     ("CCP", "element"), ("CI", "element"), ("CCBr", "MCF4"), ("C1CO1", "MCF5"), ("CC=O", "MCF7"), ("C1CN1", "MCF9"),
     ("CN=N", "MCF11"), ("CSSC", "MCF16"), ("Oc1ccccc1O", "catechol_A(92)"), ("[CH3]", ""),
     ("O.O", ""), ("C(C)(C)(C)(C)C", None), ("", None), (None, None)],
)  # fmt: skip
def test_filters_on_known_molecules(smiles, alert):
    facts = moses_facts(smiles)
    assert facts["moses_alert"] == alert and (facts["moses_smiles"] is None) == (alert is None)


def test_the_first_k_in_the_order_given_are_unique():
    smiles = ["CCO", "CCO", None, *(f"[{isotope}CH4]" for isotope in range(1, 1100))]
    found = by_name(moses_metrics(pd.DataFrame({"moses_smiles": smiles, "moses_alert": ""})))
    assert (found["moses_unique@1000"].numerator, found["moses_unique@1000"].denominator) == (999, 1000)
    assert (found["moses_unique@10000"].numerator, found["moses_unique@10000"].denominator) == (1100, 1101)
    assert "first 1101" in found["moses_unique@10000"].definition and "moses_novelty" not in found


def test_nothing_valid_gives_nan():
    table = pd.DataFrame([moses_facts(None), moses_facts("bad")])
    metrics = moses_metrics(table, ["C"]) + diversity_metrics(profile([]))
    metrics += similarity_metrics(profile([]), profile(["CCO"]), "one")
    assert metrics[0].value == 0 and all(math.isnan(m.value) for m in metrics[1:])


def test_fragments_and_scaffolds_of_known_molecules():
    anisole, biphenyl = Chem.MolFromSmiles("COc1ccccc1"), Chem.MolFromSmiles("CCc1ccc(-c2ccccc2)cc1")
    assert sorted(fragments(anisole)) == sorted(["[3*]OC", "[16*]c1ccccc1"])
    assert scaffold(anisole) is None and scaffold(biphenyl) == "c1ccc(-c2ccccc2)cc1"
    assert cosine_similarity({"a": 3, "b": 4}, {"a": 1}) == pytest.approx(0.6)
    assert cosine_similarity({"a": 1}, {"b": 1}) == 0 and math.isnan(cosine_similarity({}, {"b": 1}))


# ---- profiles


def assert_equal(a, b):
    assert np.array_equal(a.values, b.values) and np.array_equal(a.fingerprints, b.fingerprints)
    assert (a.fragments, a.scaffolds, a.ring_systems) == (b.fragments, b.scaffolds, b.ring_systems)


def test_parts_add_up_and_files_keep_everything(tmp_path):
    smiles = FIXTURE["test"][:20]
    whole = profile(smiles)
    assert_equal(profile(smiles[:7]) + profile(smiles[7:]) + profile([]), whole)
    whole.save(tmp_path / "test.profile")
    assert_equal(Profile.load(tmp_path / "test.profile"), whole)
    assert Profile.load(tmp_path / "test.profile").chemnet is None


def test_chemnet_moments_are_kept(tmp_path):
    pytest.importorskip("fcd_torch")
    whole = profile(FIXTURE["test"][:6], chemnet=True)
    whole.save(tmp_path / "with")
    read = Profile.load(tmp_path / "with").chemnet
    assert read.count == 6 and np.array_equal(read.scatter, whole.chemnet.scatter)
    with pytest.raises(ProfileError, match="do not add up"):
        whole + profile(["C"])


def test_what_is_no_profile_is_refused(tmp_path):
    (tmp_path / "no").write_bytes(b"\x80\x04 pickle")
    for path in (tmp_path / "no", tmp_path / "absent"):
        with pytest.raises(ProfileError, match=rf"{path.name}: is not a profile"):
            Profile.load(path)
    with pytest.raises(ProfileError, match="does not read the SMILES 'C1'"):
        profile(["C", "C1"])
