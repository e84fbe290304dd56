"""PoseBusters' checks and the strain of structures that are right, distorted, and impossible; the random draw."""

import builtins
import math
import os

import numpy as np
import pandas as pd
import pytest
from conftest import embedded
from rdkit import Chem
from rdkit.Chem import AllChem

from moldiff.metrics import describe, plausibility, xtb
from moldiff.metrics.plausibility import CHECKS, draw_for_poses, pose_check_metrics, pose_checks
from moldiff.metrics.sampling import Draw, draw, lot
from moldiff.metrics.strain import (
    draw_for_strain,
    mmff_relaxation,
    relax_all,
    relaxation,
    relaxation_metrics,
    strain_metrics,
)
from moldiff.metrics.xtb import GFN2, xtb_relaxation


def relaxed(smiles):
    mol = embedded(smiles)
    AllChem.MMFFOptimizeMolecule(mol, mmffVariant="MMFF94s", maxIters=2000)
    return mol


def moved(mol, change):
    copy = Chem.Mol(mol)
    copy.GetConformer().SetPositions(change(mol.GetConformer().GetPositions()))
    return copy


@pytest.fixture(scope="module")
def toluene():
    return relaxed("Cc1ccccc1")


@pytest.fixture(scope="module")
def some(toluene):
    return [toluene, relaxed("CCO"), relaxed("CC#N"), moved(toluene, lambda x: 0.7 * x), None, Chem.Mol(),
            Chem.AddHs(Chem.MolFromSmiles("CCO")), Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)]  # fmt: skip


def by_name(metrics):
    return {metric.name: metric for metric in metrics}


# ---- the draw


def test_the_draw_follows_seed_and_molecules_but_not_their_order(some):
    table = describe(some)
    everything = pd.Series(True, index=table.index)
    order = np.random.default_rng(0).permutation(len(some))
    shuffled = [some[i] for i in order]
    draws = set()
    for seed in range(8):
        one = draw(some, table, everything, 3, seed)
        other = draw(shuffled, describe(shuffled), everything, 3, seed)
        assert one.rows == tuple(int(order[row]) for row in other.rows) and one.population == len(some)
        draws.add(frozenset(one.rows))
    smallest = min(range(len(some)), key=lambda row: lot(some[row], table["smiles_stereo"].fillna("")[row], 0))
    assert len(draws) > 1 and draw(some, table, everything, 1, 0).rows == (smallest,)


# ---- strain


def test_relaxation_of_one_moved_atom(toluene):
    displaced = moved(toluene, lambda x: x + np.eye(len(x), 3) * np.array([0.3, 0, 0]))  # the methyl carbon
    found = mmff_relaxation(displaced)
    assert found.failure == "" and found.energy > 5 and 0.03 < found.rmsd < 0.3
    at_rest = mmff_relaxation(toluene)
    assert at_rest.energy == pytest.approx(0, abs=1e-2) and at_rest.rmsd < 0.02


def test_rmsd_superposes_and_counts_atoms_as_it_says(toluene):
    turned = moved(toluene, lambda x: x @ np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]) + 5)
    same = relaxation(toluene, turned, 1.0)
    assert (same.rmsd, same.rmsd_heavy) == pytest.approx((0, 0), abs=1e-6)
    hydrogens = np.array([[atom.GetAtomicNum() == 1] for atom in toluene.GetAtoms()])
    waved = relaxation(toluene, moved(toluene, lambda x: x + hydrogens * 0.5), 1.0)
    assert waved.rmsd > 0.1 and waved.rmsd_heavy == pytest.approx(0, abs=1e-6)
    assert math.isnan(mmff_relaxation(relaxed("[H][H]")).rmsd_heavy)


@pytest.mark.parametrize("relax", [mmff_relaxation, xtb_relaxation])
def test_failures_of_relaxation_have_a_reason(relax, some):
    if relax is xtb_relaxation:
        pytest.importorskip("tblite")
        pytest.importorskip("ase")
    assert relax(None).failure == relax(some[-1]).failure == relax(Chem.Mol()).failure == "not valid"
    assert relax(some[6]).failure == "no coordinates"
    nowhere = relax(moved(some[1], lambda x: x * math.nan))
    assert nowhere.failure in {"energy", "not computable"} and math.isnan(nowhere.energy)
    assert mmff_relaxation(relaxed("CB(C)C")).failure == "parameters"


def test_strain_metrics_count_failures(some):
    boron = relaxed("CB(C)C")
    mols = [*some, boron]
    found = by_name(strain_metrics(mols, describe(mols), 99))
    assert set(found) == {"strain", "strain_rmsd", "strain_rmsd_heavy", "strain_relaxed"}
    assert (found["strain_relaxed"].numerator, found["strain_relaxed"].denominator) == (4, 5)
    assert found["strain"].denominator == 4 and "failures: 1 parameters" in found["strain"].definition
    energies = found["strain"].table
    assert energies[3] > 100 > energies[0] and math.isnan(energies[8]) and 4 not in energies.index
    assert found["strain"].value == pytest.approx(float(np.median(energies.dropna())))


def test_no_candidates_give_nan(some):
    mols = some[4:]
    metrics = strain_metrics(mols, describe(mols), 5)
    assert all(math.isnan(m.value) and m.denominator == 0 for m in metrics)


# ---- GFN2-xTB


def test_xtb_strain_is_that_of_tblite():
    pytest.importorskip("ase")
    tblite = pytest.importorskip("tblite.interface")
    water = Chem.AddHs(Chem.MolFromSmiles("O"))
    conformer = Chem.Conformer(3)
    angle = math.radians(107.0)  # of GFN2-xTB: 0.959 Å, 107.2°
    bent = [[0, 0, 0], [0.96, 0, 0], [0.96 * math.cos(angle), 0.96 * math.sin(angle), 0]]
    conformer.SetPositions(np.array(bent))
    water.AddConformer(conformer)
    stretched = moved(water, lambda x: x * np.array([1.1, 1, 1]))

    def energy(mol):  # kcal/mol
        bohr = mol.GetConformer().GetPositions() / 0.529177210903
        calculator = tblite.Calculator("GFN2-xTB", np.array([8, 1, 1]), bohr)
        calculator.set("verbosity", 0)
        return calculator.singlepoint().get("energy") * 627.5094740631

    at_rest, strained = xtb_relaxation(water), xtb_relaxation(stretched)
    assert 0 <= at_rest.energy < 0.2 and at_rest.rmsd < 0.02
    assert strained.energy - at_rest.energy == pytest.approx(energy(stretched) - energy(water), abs=0.1)
    assert strained.energy > 3 and strained.rmsd > 0.02 and strained.rmsd_heavy == pytest.approx(0)


@pytest.mark.parametrize("smiles", ["[NH4+]", "[OH-]", "[CH3]"])
def test_xtb_takes_charge_and_radicals_from_the_molecule(smiles):
    pytest.importorskip("tblite")
    pytest.importorskip("ase")
    assert xtb_relaxation(relaxed(smiles)).failure == ""


def test_xtb_steps_are_bounded(monkeypatch):
    pytest.importorskip("tblite")
    pytest.importorskip("ase")
    monkeypatch.setattr(xtb, "MAX_STEPS", 1)
    mols = [moved(relaxed("CC"), lambda x: 1.2 * x)]
    before = os.environ.get("OMP_NUM_THREADS")
    drawn = draw_for_strain(mols, describe(mols), 5, 0)
    found = by_name(relaxation_metrics("xtb_strain", GFN2, relax_all(xtb_relaxation, mols, drawn), drawn))
    assert (found["xtb_strain_relaxed"].numerator, found["xtb_strain_relaxed"].denominator) == (0, 1)
    assert "1 not converged" in found["xtb_strain"].definition and math.isnan(found["xtb_strain"].value)
    assert os.environ.get("OMP_NUM_THREADS") == before


# ---- PoseBusters


def test_sound_structures_pass_and_broken_ones_fail(some, toluene):
    pytest.importorskip("posebusters")
    assert set(pose_checks(toluene)) == set(CHECKS) and all(pose_checks(toluene).values())
    short = pose_checks(some[3])
    assert not short["bond_lengths"] and short["sanitization"] and short["no_radicals"]
    assert not any(any(pose_checks(mol).values()) for mol in some[4:])
    bent = moved(toluene, lambda x: x + np.array([[0, 0, 1.2 * (i in (1, 4))] for i in range(len(x))]))
    assert not pose_checks(bent)["aromatic_ring_flatness"]


def test_energy_ratio_on_request(toluene):
    pytest.importorskip("posebusters")
    squeezed = moved(toluene, lambda x: 0.7 * x)
    assert pose_checks(toluene, energy_ratio=True)["internal_energy"]
    assert pose_checks(squeezed, energy_ratio=True)["internal_energy"] is False
    assert pose_checks(None, energy_ratio=True)["internal_energy"] is False


def pose_metrics(mols, count):
    drawn = draw_for_poses(mols, describe(mols), count, 0)
    checks = [pose_checks(mols[row]) for row in drawn.rows]
    return pose_check_metrics(pd.DataFrame(checks, index=list(drawn.rows), columns=list(CHECKS)), drawn)


def test_pose_metrics_count_what_is_not_valid(some):
    pytest.importorskip("posebusters")
    found = by_name(pose_metrics(some, 99))
    assert set(found) == {"posebusters", *(f"posebusters_{name}" for name in CHECKS)}
    assert (found["posebusters"].numerator, found["posebusters"].denominator) == (3, 8)
    assert (found["posebusters_sanitization"].numerator, found["posebusters_bond_lengths"].numerator) == (4, 3)
    assert "8 of 8, drawn at random (seed 0)" in found["posebusters"].definition
    assert found["posebusters"].table.sort_index().tolist() == [True] * 3 + [False] * 5


def test_nothing_is_judged_without_any_coordinates(some):
    pytest.importorskip("posebusters")
    metric = pose_metrics(some[4:], 9)[0]
    assert metric.denominator == 0 and math.isnan(metric.value)


def test_undecided_checks_count_for_nobody():
    checks = pd.DataFrame({"a": [True, None, None, False], "b": [True, True, False, True]})
    found = by_name(pose_check_metrics(checks, Draw((0, 1, 2, 3), 4, 0)))
    counts = {name: (metric.numerator, metric.denominator) for name, metric in found.items()}
    assert counts == {"posebusters": (2, 4), "posebusters_a": (1, 2), "posebusters_b": (3, 4)}


@pytest.mark.parametrize(
    ("library", "function", "load", "extra"),
    [("posebusters", pose_checks, plausibility._busters, "eval"), ("tblite", xtb_relaxation, xtb._libraries, "xtb")],
)
def test_a_missing_library_is_an_error(monkeypatch, library, function, load, extra):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == library:
            raise ImportError(name)
        return original(name, *args, **kwargs)

    load.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"pip install 'moldiff\[{extra}\]'"):
        function(None)
    load.cache_clear()
