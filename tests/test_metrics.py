"""Metrics judged on molecules whose answer is known, good and bad, and on properties every metric must have."""

import builtins
import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem, BondType

from moldiff.metrics import (
    Reference,
    chemnet,
    describe,
    distribution_metrics,
    distributions,
    edm,
    evaluate,
    fcd,
    wilson_interval,
)
from moldiff.metrics.strain import mmff_relaxation
from moldiff.metrics.valence import MIDI_VALENCES, STRICT_VALENCES

ORDER = {"-": BondType.SINGLE, "=": BondType.DOUBLE, "#": BondType.TRIPLE, ":": BondType.AROMATIC, ">": BondType.DATIVE}


def raw(atoms, bonds="", positions=None):
    """Unsanitised molecule from "N+ H H" and "0-1 0=2", as a model might hand it over."""
    mol = Chem.RWMol()
    for token in atoms.split():
        atom = Chem.Atom(token.rstrip("+-"))
        atom.SetFormalCharge(token.count("+") - token.count("-"))
        mol.AddAtom(atom)
    for bond in bonds.split():
        sign = next(s for s in ORDER if s in bond)
        mol.AddBond(*map(int, bond.split(sign)), ORDER[sign])
    if positions is not None:
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(np.array(positions, dtype=float))
        mol.AddConformer(conformer)
    return mol.GetMol()


def named(smiles, coordinates=False, kekule=True):
    """A real molecule: hydrogens as atoms, bonds Kekulé or aromatic, optionally relaxed coordinates."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if coordinates:
        assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
        AllChem.MMFFOptimizeMolecule(mol)
    if kekule:
        Chem.Kekulize(mol, clearAromaticFlags=True)
    return mol


def facts(mol):
    return describe([mol]).iloc[0]


GOOD = {
    "benzene": "c1ccccc1",
    "pyrrole": "c1cc[nH]c1",
    "imidazolium": "c1c[nH]c[nH+]1",
    "nitromethane": "C[N+](=O)[O-]",
    "glycine zwitterion": "[NH3+]CC(=O)[O-]",
    "dimethyl sulfone": "CS(C)(=O)=O",
    "charge-separated sulfone": "C[S+2](C)([O-])[O-]",
    "sulfoxonium": "C[S+](C)(C)=O",
    "ammonium": "[NH4+]",
    "methyl isocyanide": "C[N+]#[C-]",
    "azide": "CN=[N+]=[N-]",
    "phosphate": "COP(=O)(O)O",
    "borate": "F[B-](F)(F)F",
    "boronic acid": "CB(O)O",
    "silane": "C[SiH3]",
    "chloroform": "ClC(Cl)Cl",
    "bromo- and iodobenzene": "Brc1ccc(I)cc1",
    "methyl cation": "[CH3+]",
}


@pytest.mark.parametrize("kekule", [True, False])
@pytest.mark.parametrize("name", GOOD)
def test_good_molecules_pass_every_rule(name, kekule):
    row = facts(named(GOOD[name], kekule=kekule))
    assert row["stable_atoms"] == row["atoms"] > 0
    assert row["valid"] and row["failure"] == "" and row["radicals"] == 0 and row["fragments"] == 1
    assert row["smiles"] == Chem.CanonSmiles(GOOD[name])
    assert row["charge"] == Chem.GetFormalCharge(Chem.MolFromSmiles(GOOD[name]))


METHYL = raw("C H H H", "0-1 0-2 0-3")
# molecule, stable atoms of all, why RDKit refuses it ("" if it does not), unpaired electrons
BAD = {
    "methyl radical": (METHYL, 3, "", 1),
    "carbene": (raw("C H H", "0-1 0-2"), 2, "", 2),
    "amine cation short of a hydrogen": (raw("N+ H H H", "0-1 0-2 0-3"), 3, "", 1),
    "amide radical": (raw("N H H", "0-1 0-2"), 2, "", 1),
    "hydroxyl": (raw("O H", "0-1"), 1, "", 1),
    "bare carbon": (raw("C"), 0, "", 4),
    "NH4 without charge": (raw("N H H H H", "0-1 0-2 0-3 0-4"), 4, "properties", 0),
    "NH3 with a negative charge": (raw("N- H H H", "0-1 0-2 0-3"), 3, "properties", 0),
    "pentavalent carbon": (raw("C H H H H H", "0-1 0-2 0-3 0-4 0-5"), 5, "properties", 0),
    "double-bonded hydrogen": (raw("O H", "0=1"), 1, "properties", 0),
    "bridging hydrogen": (raw("F H F", "0-1 1-2"), 2, "properties", 0),
    "pentavalent nitro": (raw("C N O O H H H", "0-1 1=2 1=3 0-4 0-5 0-6"), 6, "properties", 0),
    "aromatic water": (raw("H O H", "0:1 1:2"), 0, "kekulize", 0),
    "aromatic ring of H, O, H": (raw("H O H", "0:1 1:2 2:0"), 1, "properties", 0),
    "pyrrole without its hydrogen": (
        raw("C C C C N H H H H", "0:1 1:2 2:3 3:4 4:0 0-5 1-6 2-7 3-8"), 4, "kekulize", 0),
    "benzene short of a hydrogen": (
        raw("C C C C C C H H H H H", "0:1 1:2 2:3 3:4 4:5 5:0 0-6 1-7 2-8 3-9 4-10"), 10, "", 1),
    "dative bond": (raw("N H H H B F F F", "0-1 0-2 0-3 0>4 4-5 4-6 4-7"), 6, "properties", 0),
    "empty": (raw(""), 0, "empty", 0),
    "unreadable": (None, 0, "unreadable", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_molecules_fail(name):
    mol, stable, failure, radicals = BAD[name]
    row = facts(mol)
    assert row["stable_atoms"] == stable
    assert (row["failure"], row["valid"], row["radicals"]) == (failure, failure == "", radicals)
    result = evaluate([mol])
    assert result["molecule_stability"].value == result["molecule_stability_connected"].value == 0
    assert result["molecule_stability"].denominator == result["valid"].denominator == 1
    assert pd.isna(row["smiles"]) == (failure != "")


def test_salt_is_stable_and_valid_but_not_connected():
    result = evaluate([named("[NH4+].[Cl-]"), named("C")])
    expected = {"molecule_stability": 1, "molecule_stability_connected": 0.5, "valid": 1, "valid_connected": 0.5,
                "unique": 1, "valid_connected_unique": 0.5, "charged": 0}  # fmt: skip
    assert {name: result[name].value for name in expected} == expected


def test_lenient_table_passes_what_the_strict_one_refuses():
    lenient = describe([METHYL, BAD["amide radical"][0], named("C"), BAD["pentavalent carbon"][0], named("CS(C)=O")])
    assert (lenient["midi_stable_atoms"] == lenient["atoms"]).tolist() == [True, True, True, False, False]
    assert (lenient["stable_atoms"] == lenient["atoms"]).tolist() == [False, False, True, False, True]
    assert facts(raw("Si- H H H H", "0-1 0-2 0-3 0-4"))["midi_stable_atoms"] == 5  # unlisted charge: judged as neutral
    assert facts(raw("Xe"))["midi_stable_atoms"] == 0


def test_strict_table_is_narrower_where_it_matters():
    assert STRICT_VALENCES["C", 0] == (4,) and STRICT_VALENCES["N", 0] == (3,) and ("H", 1) not in STRICT_VALENCES
    assert {"H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Br", "I"} <= {e for e, c in STRICT_VALENCES if c == 0}
    assert MIDI_VALENCES["C"][0] == (3, 4)


def test_rates_over_a_mixed_set():
    result = evaluate([named("C"), METHYL, None, BAD["pentavalent carbon"][0], named("[NH4+]")])
    expected = {
        "atom_stability": (5 + 3 + 5 + 5, 5 + 4 + 6 + 5), "molecule_stability": (2, 5), "valid": (3, 5),
        "valid_connected": (3, 5), "radical": (1, 3), "charged": (1, 3), "unique": (3, 3),
        "valid_connected_unique": (3, 5), "unique_stereo": (3, 3),
    }  # fmt: skip
    assert {name: (result[name].numerator, result[name].denominator) for name in expected} == expected
    frame = result.to_frame()
    assert frame.loc["valid", "value"] == 0.6 and frame.loc["valid", "low"] < 0.6 < frame.loc["valid", "high"]
    assert result["valid"].table.tolist() == [True, True, False, False, True]
    with pytest.raises(KeyError, match=r"no metric 'validity'.*valid_connected"):
        result["validity"]


def test_no_molecules_give_nan_not_zero():
    result = evaluate([])
    assert all(math.isnan(m.value) and m.denominator == 0 for m in result.metrics)


def test_wilson_interval():
    low, high = wilson_interval(8, 10)  # 0.4902, 0.9433: Newcombe, Stat. Med. 1998, 17, 857
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert (wilson_interval(0, 10)[0], wilson_interval(10, 10)[1]) == pytest.approx((0, 1))
    with pytest.raises(ValueError, match="11 of 10"):
        wilson_interval(11, 10)


# ---- uniqueness and novelty


def test_uniqueness_with_and_without_stereo():
    left, right = named("C[C@H](F)Cl", coordinates=True), named("C[C@@H](F)Cl", coordinates=True)
    mirrored = Chem.Mol(left)
    mirrored.GetConformer().SetPositions(-left.GetConformer().GetPositions())
    result = evaluate([left, right, mirrored])
    assert (result["unique"].numerator, result["unique_stereo"].numerator) == (1, 2)
    stereo = result.table["smiles_stereo"]
    assert stereo[1] == stereo[2] != stereo[0], "stereo must come from the coordinates, not from the marks"


def test_double_bond_hydrogens_do_not_split_flat_smiles():
    table = describe([named("[H]/N=C/C", coordinates=True), named("CC=N")])
    assert table["smiles"].nunique() == 1


def test_novelty_names_and_hashes_its_reference():
    mols = [named(s) for s in ("CCO", "OCC", "c1ccccc1", "CCN")] + [METHYL]
    known = Reference("toy", ["CCO", "c1ccccc1"])
    novel = evaluate(mols, known)["novel"]
    assert (novel.numerator, novel.denominator) == (2, 4)  # CCN and the radical, of four distinct
    assert novel.table.tolist() == [False, False, False, True, True]
    assert "toy (2 distinct SMILES" in novel.definition and known.sha256 in novel.definition
    assert known.sha256 == Reference("other", ["c1ccccc1", "CCO", "CCO"]).sha256 != Reference("toy", ["CCO"]).sha256
    with pytest.raises(KeyError):
        evaluate(mols, known)["novel_stereo"]


def test_novelty_with_stereo():
    mols = [named("C[C@H](F)Cl", coordinates=True), named("C[C@@H](F)Cl", coordinates=True)]
    result = evaluate(mols, Reference("one hand", [Chem.CanonSmiles("C[C@H](F)Cl")]))
    assert result["novel"].value == 0
    assert (result["novel_stereo"].numerator, result["novel_stereo"].denominator) == (1, 2)


def test_isotopes_do_not_make_a_molecule_novel():
    assert evaluate([named("[13CH3]O")], Reference("the same", ["[13CH3]O"]))["novel"].value == 0
    assert evaluate([named("CO")], Reference("labelled", ["[13CH3]O"]))["novel"].value == 0


def test_reference_that_is_not_canonical_is_refused():
    with pytest.raises(ValueError, match=r"reference 'old': 1 of 1 .*'OCC'.*not canonical"):
        evaluate([named("CCO")], Reference("old", ["OCC"]))


# ---- EDM's distance table


@pytest.mark.parametrize(
    ("a", "b", "limits"),  # largest lengths (Å) of a triple, double and single bond, 0 where there is none
    [("C", "C", (1.23, 1.39, 1.64)), ("C", "N", (1.19, 1.34, 1.57)), ("C", "O", (1.16, 1.25, 1.53)),
     ("N", "N", (1.13, 1.30, 1.55)), ("N", "O", (0, 1.26, 1.50)), ("O", "O", (0, 1.26, 1.58)),
     ("C", "S", (0, 1.65, 1.92)), ("C", "H", (0, 0, 1.19)), ("H", "H", (0, 0, 0.84)), ("C", "F", (0, 0, 1.45)),
     ("O", "P", (0, 1.55, 1.73)),
     ("P", "S", (0, 1.91, 2.20)), ("I", "I", (0, 0, 2.76)), ("B", "C", (0, 0, 0)), ("Se", "C", (0, 0, 0))],
)  # fmt: skip
def test_edm_bond_orders_at_the_limits(a, b, limits):
    table = Chem.GetPeriodicTable()
    for pair in ((a, b), (b, a)):
        z = np.array([table.GetAtomicNumber(s) for s in pair])
        for order, limit in zip((3, 2, 1), limits, strict=True):
            if limit:
                inside, outside = (edm.bond_orders(z, np.array([[0, 0, 0], [0, 0, x]])) for x in
                                   (limit - 1e-3, limit + 1e-3))  # fmt: skip
                assert inside[0, 1] == inside[1, 0] == order
                assert outside[0, 1] < order and inside[0, 0] == 0
        assert edm.bond_orders(z, np.array([[0, 0, 0], [0, 0, limits[2] + 1e-3]])).sum() == 0


def scalar_order(a, b, distance):
    """EDM's nested rule, pair by pair, as an independent check of the vectorised one."""
    order, pm = 0, 100 * distance
    for table, margin in ((edm.SINGLE, 10), (edm.DOUBLE, 5), (edm.TRIPLE, 3)):
        length = table.get(a, {}).get(b) or table.get(b, {}).get(a)
        if not length or pm >= length + margin:
            return order
        order += 1
    return order


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_edm_vectorised_equals_pair_by_pair(seed, n):
    rng = np.random.default_rng(seed)
    symbols = rng.choice(["H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "As", "Br", "I", "Se"], n).tolist()
    positions = rng.normal(scale=1.2, size=(n, 3))
    orders = edm.bond_orders(np.array([edm._number(s) for s in symbols]), positions)
    for i, j in combinations(range(n), 2):
        distance = float(np.linalg.norm(positions[i] - positions[j]))
        assert orders[i, j] == orders[j, i] == scalar_order(symbols[i], symbols[j], distance)


def edm_row(mol):
    row = facts(mol)
    return row["edm_stable_atoms"], row["edm_valid"], row["edm_connected"], row["edm_smiles"]


WATER = [[0, 0, 0.117], [0, 0.757, -0.469], [0, -0.757, -0.469]]


def test_edm_ignores_the_bonds_and_charges_given():
    assert edm_row(raw("O+ H H", "", WATER)) == (3, True, True, "[H]O[H]")
    formaldehyde = [[0, 0, 0], [0, 0, 1.21], [0, 0.94, -0.59], [0, -0.94, -0.59]]
    assert edm_row(raw("C O H H", "0-1", formaldehyde)) == (4, True, True, "[H]C([H])=O")
    assert edm_row(raw("C O", "", [[0, 0, 0], [0, 0, 1.128]])) == (0, False, False, None)  # no charges: O of valence 3


def test_edm_valid_counts_fragments_and_connected_does_not():
    far = raw("O H H H", "", [*WATER, [9, 9, 9]])
    assert edm_row(far) == (3, True, False, "[H]O[H]")
    result = evaluate([far, raw("O H H", "", WATER), None])
    assert {m.name: m.numerator for m in result.metrics if m.name.startswith("edm")} == {
        "edm_atom_stability": 6, "edm_molecule_stability": 1, "edm_valid": 2, "edm_valid_unique": 1,
        "edm_valid_connected": 1,
    }  # fmt: skip
    assert result["edm_valid"].denominator == 3 and result["edm_atom_stability"].denominator == 7


def test_edm_without_coordinates():
    assert edm_row(named("C"))[:3] == (0, False, False)
    assert math.isnan(evaluate([named("C")])["edm_valid"].value)  # nothing to judge
    assert evaluate([named("C"), raw("O H H", "", WATER)])["edm_valid"].value == 0.5  # one that failed to come with any


@pytest.mark.parametrize("x", [math.nan, math.inf, 0.0])
def test_senseless_coordinates_fail_without_a_crash(x):
    mol = raw("O H H", "0-1 0-2", [[x, 0, 0], [x, 0, 0], [0, x, 0]])
    row = facts(mol)
    assert row["valid"] and row["edm_stable_atoms"] < 3
    result = evaluate([mol, mol], strain=2)
    assert (result["strain"].denominator, math.isnan(result["strain"].value)) in {(0, True), (2, False)}


# ---- properties of all metrics together


@pytest.fixture(scope="module")
def mixed():
    smiles = ["CCO", "c1ccccc1O", "C[C@H](F)Cl", "NCC(=O)O", "CC#N", "C1CC1C=O", "CS(C)(=O)=O"]
    good = [named(s, coordinates=True, kekule=i % 2 == 0) for i, s in enumerate(smiles)]
    return [*good, named("CCO"), *(mol for mol, *_ in BAD.values()), raw("O H H", "0-1 0-2", WATER)]


REFERENCE_SMILES = ["CCO", "CC#N", "CCN"]


def test_metrics_do_not_change_their_input(mixed):
    def binary():
        return [None if m is None else m.ToBinary(Chem.PropertyPickleOptions.AllProps) for m in mixed]

    before = binary()
    evaluate(mixed, Reference("toy", REFERENCE_SMILES, mixed[:4]), strain=3)
    assert binary() == before


def test_metrics_do_not_depend_on_order(mixed):
    reference = Reference("toy", REFERENCE_SMILES, mixed[:4])
    forward = evaluate(mixed, reference, strain=3)
    order = np.random.default_rng(0).permutation(len(mixed))
    shuffled = evaluate([mixed[i] for i in order], reference, strain=3)
    pd.testing.assert_frame_equal(forward.to_frame(), shuffled.to_frame(), rtol=1e-12)
    pd.testing.assert_frame_equal(forward.table.iloc[order].reset_index(drop=True), shuffled.table)


def test_every_metric_says_what_it_is(mixed):
    result = evaluate(mixed, Reference("toy", REFERENCE_SMILES, mixed[:4]), strain=3)
    assert len({m.name for m in result.metrics}) == len(result.metrics) == len(result.to_frame())
    for metric in result.metrics:
        assert len(metric.definition) > 20 and metric.denominator > 0
        if metric.numerator is not None:
            assert metric.value == metric.numerator / metric.denominator and 0 <= metric.value <= 1


# ---- strain


def test_strain_of_relaxed_and_stretched_molecules():
    relaxed = named("CCO", coordinates=True)
    stretched = Chem.Mol(relaxed)
    stretched.GetConformer().SetPositions(1.1 * relaxed.GetConformer().GetPositions())
    assert mmff_relaxation(relaxed).energy == pytest.approx(0, abs=1e-2)
    assert mmff_relaxation(stretched).energy > 20
    assert mmff_relaxation(named("CCO")).failure == "no coordinates"
    assert mmff_relaxation(BAD["NH4 without charge"][0]).failure == "not valid"
    no_parameters = raw("B F F F", "0-1 0-2 0-3", [[0, 0, 0], [1.3, 0, 0], [-0.65, 1.13, 0], [-0.65, -1.13, 0]])
    assert math.isnan(mmff_relaxation(no_parameters).energy)
    metric = evaluate([relaxed, stretched, no_parameters, None], strain=9)["strain"]
    assert metric.denominator == 2 and "failures: 1 parameters" in metric.definition


def test_strain_subset_follows_the_seed(mixed):
    chosen = [set(evaluate(mixed, strain=3, seed=s)["strain"].table.index) for s in range(6)]
    assert all(len(c) == 3 for c in chosen) and len({frozenset(c) for c in chosen}) > 1


# ---- distributions


def test_geometry_of_a_known_molecule():
    angle = math.radians(104.5)
    water = raw("O H H", "0-1 0-2", [[0, 0, 0], [0.96, 0, 0], [0.96 * math.cos(angle), 0.96 * math.sin(angle), 0]])
    assert distributions.internal_coordinates([water], 2)[1, 1, 8] == pytest.approx([0.96, 0.96])
    assert distributions.internal_coordinates([water], 3)[1, 1, 8, 1, 1] == pytest.approx([104.5])
    assert distributions.internal_coordinates([water], 4) == {}


@pytest.mark.parametrize("sign", [1, -1])
def test_torsion_is_that_of_rdkit_without_its_sign(sign):
    mol = named("CCCC", coordinates=True)
    Chem.rdMolTransforms.SetDihedralDeg(mol.GetConformer(), 0, 1, 2, 3, sign * 65.0)
    assert distributions.internal_coordinates([mol], 4)[6, 1, 6, 1, 6, 1, 6] == pytest.approx([65.0])


def test_kekule_structure_does_not_matter_for_types():
    mol = named("c1ccccc1", coordinates=True, kekule=True)
    aromatic = named("c1ccccc1", coordinates=True, kekule=False)
    assert all(m.value == pytest.approx(0, abs=1e-9) for m in distribution_metrics([mol], [aromatic], "itself"))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(-3, 3))
def test_wasserstein_distance_of_a_shift_is_the_shift(values, shift):
    a = np.array(values)
    assert distributions.wasserstein(a, a + shift) == pytest.approx(abs(shift), abs=1e-9)
    assert distributions.wasserstein(a, np.repeat(a, 3)) == pytest.approx(0, abs=1e-9)


def test_distributions_tell_sets_apart():
    ethane, ethene = named("CC", coordinates=True), named("C=C", coordinates=True)
    by_name = {m.name: m for m in distribution_metrics([ethane, None], [ethene], "ethene")}
    assert by_name["size_tv"].value == 1 and by_name["charge_tv"].value == 0
    assert by_name["element_tv"].value == pytest.approx(6 / 8 - 4 / 6)
    assert math.isnan(by_name["ring_size_tv"].value)  # neither has rings
    assert math.isnan(by_name["torsion_w1"].value)  # no common type: HCCH over single and over double bonds
    length, hydrogens = by_name["bond_length_w1"], (1, 1, 6)  # the only common type
    ours, theirs = (distributions.internal_coordinates([mol], 2)[hydrogens] for mol in (ethane, ethene))
    width = distributions._BIN[2]  # of the histograms that are compared
    assert length.value == pytest.approx(distributions.wasserstein(ours, theirs), abs=width) and length.value > width
    assert length.denominator == 6 and "(4 of its 5 values)" in length.definition


# ---- Fréchet ChemNet distance

SMILES = ["CCO", "c1ccccc1", "CC(=O)Nc1ccc(O)cc1", "CCN(CC)CC", "CC#N", "O=C(O)c1ccccc1"]


def test_frechet_distance_in_closed_form():
    mean, zero = np.array([3.0, 4.0]), np.zeros(2)
    a, b = np.diag([4.0, 9.0]), np.diag([1.0, 0.0])  # b is singular
    assert chemnet.frechet_distance(mean, a, zero, b) == pytest.approx(25 + (2 - 1) ** 2 + 3**2)
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert chemnet.frechet_distance(zero, rotation @ a @ rotation.T, zero, rotation @ a @ rotation.T) < 1e-12


def test_moments_of_parts_add_up():
    activations = np.random.default_rng(0).normal(size=(9, 3)) + 5
    total = none = chemnet.Moments(0, np.zeros(3), np.zeros((3, 3)))
    for part in (activations[:1], activations[1:6], activations[6:]):
        total = total + chemnet.Moments.of(part) + none
    assert total.count == 9 and total.mean == pytest.approx(activations.mean(0))
    assert total.scatter / 8 == pytest.approx(np.cov(activations.T))


def test_fcd_is_that_of_fcd_torch(monkeypatch):
    package = pytest.importorskip("fcd_torch")
    load = chemnet.torch.load
    monkeypatch.setattr(chemnet.torch, "load", lambda path: load(path, weights_only=True))
    try:
        theirs = package.FCD(canonize=True)(SMILES[2:], SMILES[:4])
    except (AttributeError, TypeError) as error:  # NumPy 2.5 and SciPy 1.18 dropped functions it calls
        pytest.skip(f"fcd_torch itself does not run here: {error}")
    monkeypatch.undo()
    metric = fcd(SMILES[:4], SMILES[2:], batch_size=3)
    assert metric.value == pytest.approx(theirs, rel=1e-3) and metric.value > 1
    assert metric.denominator == 4 and "the 4 of the reference" in metric.definition


def test_fcd_of_a_set_with_itself_is_zero():
    pytest.importorskip("fcd_torch")
    assert fcd(SMILES, SMILES[::-1], batch_size=4).value == pytest.approx(0, abs=1e-6)
    assert math.isnan(fcd(["C"], SMILES).value)
    assert math.isnan(fcd(SMILES, ["C"]).value)
    with pytest.raises(ValueError, match=r"does not read the SMILES 'C\(\(C'"):
        fcd(["C((C", "C"], SMILES)


def test_fcd_of_an_evaluation_takes_valid_molecules_without_stereo():
    pytest.importorskip("fcd_torch")
    mols = [named("C[C@H](F)Cl", coordinates=True), named("CCO"), BAD["pentavalent carbon"][0], None]
    metric = evaluate(mols, Reference("toy", SMILES), with_fcd=True)["fcd"]
    assert metric.denominator == 2 and metric.value == pytest.approx(fcd(["CC(F)Cl", "CCO"], SMILES).value)


def test_missing_fcd_torch_is_an_error(monkeypatch):
    original = builtins.__import__

    def without_fcd(name, *args, **kwargs):
        if name.startswith("fcd_torch"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_fcd)
    chemnet._chemnet.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'moldiff\[eval\]'"):
        evaluate([named("CCO"), named("CC")], Reference("toy", SMILES), with_fcd=True)
    with pytest.raises(ValueError, match="needs a reference"):
        evaluate([named("CCO")], with_fcd=True)
