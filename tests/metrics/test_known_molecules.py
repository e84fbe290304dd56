"""Every rule of the package on the same named molecules, good and bad, each answer known beforehand."""

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem, BondType

from moldiff import chem
from moldiff.metrics import describe, evaluate
from moldiff.metrics.druglike import druglike_facts
from moldiff.metrics.moses import moses_facts
from moldiff.metrics.plausibility import pose_checks
from moldiff.metrics.profiles import profile
from moldiff.metrics.strain import mmff_relaxation, strain_metrics
from moldiff.metrics.xtb import xtb_relaxation

ORDERS = {"-": BondType.SINGLE, ":": BondType.AROMATIC}


def named(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    AllChem.MMFFOptimizeMolecule(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return mol


def built(atoms, bonds, positions):
    """Not sanitised: from "Na+ Cl-" or "C H H", and "0-1 0-2"."""
    mol = Chem.RWMol()
    for token in atoms.split():
        atom = Chem.Atom(token.rstrip("+-"))
        atom.SetFormalCharge(token.count("+") - token.count("-"))
        mol.AddAtom(atom)
    for bond in bonds.split():
        sign = next(s for s in ORDERS if s in bond)
        mol.AddBond(*map(int, bond.split(sign)), ORDERS[sign])
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.array(positions, dtype=float))
    mol.AddConformer(conformer)
    return mol.GetMol()


WATER = [[0, 0.757, -0.469], [0, 0, 0.117], [0, -0.757, -0.469]]
TRIGONAL = [[1.08, 0, 0], [-0.54, 0.935, 0], [-0.54, -0.935, 0]]
MOLECULES = {
    "benzene": named("c1ccccc1"),
    "pyrrole": named("c1cc[nH]c1"),
    "nitromethane": named("C[N+](=O)[O-]"),
    "glycine zwitterion": named("[NH3+]CC(=O)[O-]"),
    "dimethyl sulfone": named("CS(C)(=O)=O"),
    "ammonium": named("[NH4+]"),
    "methyl radical": built("C H H H", "0-1 0-2 0-3", [[0, 0, 0], *TRIGONAL]),
    "carbene": built("C H H", "0-1 0-2", [[0, 0, 0], [1.1, 0, 0], [-0.2, 1.08, 0]]),
    "pentavalent carbon": built(
        "C H H H H H", "0-1 0-2 0-3 0-4 0-5", [[0, 0, 0], *TRIGONAL, [0, 0, 1.1], [0, 0, -1.1]]),
    "aromatic water": built("H O H", "0:1 1:2", WATER),
    "aromatic ring of H, O, H": built("H O H", "0:1 1:2 2:0", WATER),
    "sodium chloride": built("Na+ Cl-", "", [[0, 0, 0], [0, 0, 2.36]]),
}  # fmt: skip
RULES = (
    "strict",
    "midi",
    "edm",
    "edm_valid",
    "valid",
    "connected",
    "radical",
    "charged",
    "moses",
    "filters",
    "busters",
)
# EDM's table counts bonds without charges or resonance: it refuses benzene at 1.395 Å (six atoms of three bonds) and
# whatever needs a charge, and accepts water under any bonds. MiDi's table accepts radicals and not the sodium ion.
# MOSES' filters judge what RDKit reads, radicals included, and refuse every charged atom.
ANSWERS = {
    #                            strict midi edm edm_v valid conn radic charg moses filt  busters
    "benzene":                  (True,  True,  False, True,  True,  True,  False, False, True,  True,  True),
    "pyrrole":                  (True,  True,  True,  True,  True,  True,  False, False, True,  True,  True),
    "nitromethane":             (True,  True,  False, True,  True,  True,  False, False, True,  False, True),
    "glycine zwitterion":       (True,  True,  False, False, True,  True,  False, False, True,  False, True),
    "dimethyl sulfone":         (True,  True,  False, True,  True,  True,  False, False, True,  True,  True),
    "ammonium":                 (True,  True,  False, False, True,  True,  False, True,  True,  False, True),
    "methyl radical":           (False, True,  False, True,  True,  True,  True,  False, True,  True,  False),
    "carbene":                  (False, False, False, True,  True,  True,  True,  False, True,  True,  False),
    "pentavalent carbon":       (False, False, False, False, False, False, False, False, False, False, False),
    "aromatic water":           (False, False, True,  True,  False, False, False, False, False, False, False),
    "aromatic ring of H, O, H": (False, False, True,  True,  False, False, False, False, False, False, False),
    "sodium chloride":          (True,  False, False, True,  True,  False, False, False, True,  False, False),
}  # fmt: skip


def judged(name):
    mol = MOLECULES[name]
    row = describe([mol]).iloc[0]
    moses = moses_facts(row["smiles"] if row["valid"] else None)
    return {
        "strict": row["stable_atoms"] == row["atoms"], "midi": row["midi_stable_atoms"] == row["atoms"],
        "edm": row["edm_stable_atoms"] == row["atoms"], "edm_valid": row["edm_valid"], "valid": row["valid"],
        "connected": row["valid"] and row["fragments"] == 1, "radical": row["radicals"] > 0,
        "charged": bool(row["valid"] and row["charge"]), "moses": moses["moses_smiles"] is not None,
        "filters": moses["moses_alert"] == "", "busters": all(pose_checks(mol).values()),
    }  # fmt: skip


@pytest.mark.parametrize("name", MOLECULES)
def test_every_rule_on_a_known_molecule(name):
    pytest.importorskip("posebusters")
    assert {rule: bool(answer) for rule, answer in judged(name).items()} == dict(zip(RULES, ANSWERS[name], strict=True))


@pytest.mark.parametrize("name", MOLECULES)
def test_generation_accepts_the_closed_shell_molecules_that_are_connected(name):
    _, _, _, _, valid, connected, radical, *_ = ANSWERS[name]
    mol = Chem.Mol(MOLECULES[name])
    for atom in mol.GetAtoms():
        atom.SetNoImplicit(True)  # as all molecules that a model makes
    assert (chem.check(mol).reason is None) == (valid and connected and not radical)


@pytest.mark.parametrize("name", MOLECULES)
def test_drug_likeness_is_there_for_whatever_is_valid(name):
    valid = ANSWERS[name][RULES.index("valid")]
    values = druglike_facts(MOLECULES[name]).values()
    assert all(value is not None for value in values) if valid else set(values) == {None}


@pytest.mark.parametrize("measure", [druglike_facts, mmff_relaxation, xtb_relaxation, pose_checks])
def test_facts_do_not_change_their_molecule(measure):
    for library in ("posebusters", "tblite", "ase"):
        pytest.importorskip(library)
    mols = [MOLECULES[name] for name in ("benzene", "methyl radical", "sodium chloride", "pentavalent carbon")]

    def binary():
        return [mol.ToBinary(Chem.PropertyPickleOptions.AllProps) for mol in mols]

    before = binary()
    for mol in mols:
        measure(mol)
    assert binary() == before


def test_sampled_metrics_do_not_depend_on_order():
    mols = [*MOLECULES.values(), None]
    order = np.random.default_rng(1).permutation(len(mols))
    shuffled = [mols[i] for i in order]
    a, b = (strain_metrics(side, describe(side), 4, 3) for side in (mols, shuffled))
    assert [(m.name, m.numerator, m.denominator) for m in a] == [(m.name, m.numerator, m.denominator) for m in b]
    assert [m.value for m in a] == pytest.approx([m.value for m in b], rel=1e-9, nan_ok=True)
    back = b[0].table.rename(index=lambda row: int(order[row])).sort_index()
    pd.testing.assert_series_equal(a[0].table.sort_index(), back, check_exact=False)


def test_profiles_do_not_depend_on_order():
    smiles = ["c1ccccc1", "CC(=O)Nc1ccc(O)cc1", "CCO", "c1ccccc1"]
    one, other = profile(smiles), profile(smiles[::-1])
    assert (one.fragments, one.scaffolds, one.ring_systems) == (other.fragments, other.scaffolds, other.ring_systems)
    assert np.array_equal(one.values, other.values[::-1])
    assert np.array_equal(one.fingerprints, other.fingerprints[::-1])


def test_rates_of_the_whole_set_add_up():
    result = evaluate(list(MOLECULES.values()))
    counts = {"molecule_stability": "strict", "midi_molecule_stability": "midi", "edm_molecule_stability": "edm",
              "edm_valid": "edm_valid", "valid": "valid", "valid_connected": "connected", "radical": "radical",
              "charged": "charged"}  # fmt: skip
    for metric, rule in counts.items():
        assert result[metric].numerator == sum(answer[RULES.index(rule)] for answer in ANSWERS.values()), metric
