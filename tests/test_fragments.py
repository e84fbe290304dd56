"""What is kept stays, what may not bond does not, what cannot be is refused before anything is sampled."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import with_compositions
from rdkit import Chem
from rdkit.Chem import AllChem, DataStructs
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from typer.testing import CliRunner

from moldiff import chem, cli, force_field, fragments
from moldiff.errors import RequestError
from moldiff.fragment_checks import is_kept, objection, similarity
from moldiff.fragment_files import draw, draw_plan, read_wishes
from moldiff.fragments import CHURN, STARTS, Plan, Wishes, start_near
from moldiff.generation import load
from moldiff.model_file import DataInfo
from moldiff.outcomes import Record, Tally
from moldiff.requests import Request, choose_sampler
from moldiff.samplers import Heun, Sampler, UniPC


def embed(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    for atom in mol.GetAtoms():  # distance geometry knows no dummies: place an atom, then forget what it is
        if atom.GetAtomicNum() == 0:
            atom.SetAtomicNum(9)
            atom.SetBoolProp("dummy", True)
    AllChem.EmbedMolecule(mol, randomSeed=1)
    pos = mol.GetConformer().GetPositions()
    for part, atoms in enumerate(Chem.GetMolFrags(mol)):  # which it lays on each other
        pos[list(atoms)] += 5.0 * part
    mol.GetConformer().SetPositions(pos)
    for atom in mol.GetAtoms():
        if atom.HasProp("dummy"):
            atom.SetAtomicNum(0)
    return mol


@pytest.fixture
def data(info) -> DataInfo:
    """Molecules of 1 to 9 heavy atoms with up to twice as many hydrogens."""
    return with_compositions(info, [(h, n, 0, 0, 1) for n in range(1, 10) for h in range(2 * n + 1)])


@pytest.fixture
def implicit(data) -> DataInfo:
    bare = replace(data, hydrogens="implicit", vocabulary=("C", "N", "O", "N+"))
    return with_compositions(bare, [(2 * n + 2, n, 0, 0, 1) for n in range(1, 10)])


@pytest.fixture
def planned(data) -> Callable[..., Plan]:
    """The plan for a fragment given as SMILES."""

    def make(smiles: str, data: DataInfo = data, **wishes) -> Plan:
        return fragments.plan(Wishes(fix=embed(smiles), **wishes), data, Sampler())

    return make


def tokens(plan: Plan, data: DataInfo) -> list[str]:
    return [data.vocabulary[k] for k in plan.known.molecule.atom[0].tolist()]


def open_atoms(plan: Plan) -> list[int]:
    return np.flatnonzero(~plan.known.closed.numpy()).tolist()


class TestWhatIsKnown:
    def test_a_ring_without_its_hydrogens(self, planned, data):
        plan = planned("c1cc[nH]c1")
        assert tokens(plan, data) == ["C", "C", "C", "N", "C"]
        assert open_atoms(plan) == [0, 1, 2, 3, 4]
        assert plan.known.pos.all() and plan.known.atom.all() and plan.known.bond.all() and plan.known.grows
        orders = plan.known.molecule.bond[0]
        assert orders.sum(1).tolist() == [3, 3, 3, 2, 3], "Kekulé orders, without hydrogens"
        given = embed("c1cc[nH]c1").GetConformer().GetPositions()[:5]
        assert np.allclose(plan.known.molecule.pos[0].numpy(), given, atol=1e-6)

    def test_a_full_valence_is_closed(self, planned):
        assert open_atoms(planned("CC(=O)N(C)C")) == [0, 4, 5]

    def test_attachments_leave_the_other_hydrogens(self, planned, data):
        plan = planned("CC(=O)N", attach=(0,))
        assert tokens(plan, data) == ["C", "C", "O", "N", "H", "H"]
        assert open_atoms(plan) == [0]
        assert plan.notes == ("attachment: atom 1 (C); counted from 1",)

    def test_a_dummy_leaves_all_hydrogens(self, planned, data):
        plan = planned("CC*")
        assert tokens(plan, data) == ["C", "C"] + 5 * ["H"]
        assert open_atoms(plan) == [1]

    def test_two_parts(self, planned, data):
        plan = planned("C*.O*")
        assert tokens(plan, data) == ["C", "O"] + 4 * ["H"]
        assert open_atoms(plan) == [0, 1]
        assert plan.known.bond[0, 1] and plan.known.molecule.bond[0, 0, 1] == 0

    def test_charges(self, planned, data):
        assert tokens(planned("C[NH3+]"), data) == ["C", "N+"]

    @pytest.mark.parametrize(
        ("smiles", "attach", "expected"),
        [("CC(=O)N", None, [0, 3]), ("CC(=O)N", (0,), [0]), ("*C(N)=O", None, [0]), ("c1cc[nH]c1", (3,), [3])],
    )
    def test_a_model_without_hydrogens(self, planned, implicit, smiles, attach, expected):
        plan = planned(smiles, data=implicit, attach=attach)
        assert len(plan.known) == Chem.MolFromSmiles(smiles).GetNumHeavyAtoms()
        assert open_atoms(plan) == expected

    def test_hydrogens_that_a_file_lacks(self, data):
        bare = Chem.RemoveHs(embed("CC(=O)N"))
        plan = fragments.plan(Wishes(fix=bare, attach=(0,)), data, Sampler())
        assert tokens(plan, data) == ["C", "C", "O", "N", "H", "H"]
        distances = (plan.known.molecule.pos[0, 3] - plan.known.molecule.pos[0, 4:]).norm(dim=-1)
        assert ((distances > 0.9) & (distances < 1.15)).all()


class TestReplace:
    def test_the_neighbours_are_open(self, planned, data):
        plan = planned("CC1CC(O)CN1", replace="[CX4;R]O")
        assert tokens(plan, data) == ["C", "C", "C", "C", "N"] + 9 * ["H"]
        assert open_atoms(plan) == [2, 3]
        assert plan.known.parent.count("@") >= 2, "the stereo of its coordinates"
        assert plan.heavy_atoms == (6, 9)
        assert plan.notes[0] == "replace: atom 4 (C), 5 (O); counted from 1"

    def test_patterns_mean_what_they_mean_in_a_smiles(self, planned):
        assert planned("CC1CC(O)CN1", replace="[OD1]").notes[0] == "replace: atom 5 (O); counted from 1"
        assert planned("CCO", replace="[#1][O]").notes[0].startswith("replace: atom 3 (O), ")

    def test_no_larger_than_the_model_knows(self, planned):
        assert planned("CCCCCCCC", replace="[CH3]").heavy_atoms == (8, 9)

    def test_the_first_of_several(self, planned):
        plan = planned("OCCO", replace="[OH]")
        assert plan.notes == ("replace: the first of 2 matches is atom 1 (O); counted from 1",
                              "attachment: atom 2 (C); counted from 1")  # fmt: skip

    def test_asked_size_counts(self, data):
        wishes = Wishes(fix=embed("OCCO"), replace="[OH]")
        assert fragments.plan(wishes, data, Sampler(), (5, 7)).heavy_atoms == (5, 7)


class TestAnalogues:
    def test_nothing_is_known(self, data):
        plan = fragments.plan(Wishes(like=embed("CCO"), strength=0.3), data, Sampler())
        assert not plan.known.is_part and not plan.known.grows and plan.known.parent == "CCO"
        assert len(plan.known) == 9
        assert STARTS["explicit"][0] < plan.sampler.sigmas()[0] < STARTS["explicit"][1]

    def test_hydrogens(self, data, implicit):
        assert len(fragments.plan(Wishes(like=Chem.RemoveHs(embed("CCO"))), data, Sampler()).known) == 9
        assert len(fragments.plan(Wishes(like=embed("CCO")), implicit, Sampler()).known) == 3

    def test_with_a_fixed_scaffold(self, data):
        wishes = Wishes(like=embed("CCc1cc[nH]c1"), fix=embed("c1cc[nH]c1"))
        plan = fragments.plan(wishes, data, Sampler())
        assert np.flatnonzero(plan.known.pos.numpy()).tolist() == [2, 3, 4, 5, 6]
        assert plan.known.is_part and not plan.known.grows

    @pytest.mark.parametrize(
        "sampler", [Sampler(16), Sampler(30), Sampler(), Sampler(100), Sampler(12), Sampler(40, grid="karras")], ids=str
    )
    @pytest.mark.parametrize("hydrogens", STARTS)
    def test_strength_is_monotone(self, sampler, hydrogens):
        levels = [start_near(sampler, 0.05 * k, hydrogens).sigmas() for k in range(1, 20)]
        starts = [sigmas[0] for sigmas in levels]
        low, high = STARTS[hydrogens]
        assert np.all(np.diff(starts) > 0) and low < starts[0] and starts[-1] < high
        for sigmas in levels:
            assert len(sigmas) == sampler.steps and np.all(np.diff(sigmas) < 0)

    def test_strength_counts_not_the_number_of_steps(self):
        """Nor does it whether all of them are churned, or those below σ 0.25 only."""
        for strength in (0.3, 0.5, 0.6, 0.9):
            near = [start_near(Sampler(steps), strength, "implicit") for steps in (30, 100)]
            assert near[0].sigmas()[0] == near[1].sigmas()[0]
            churned = [sum(s.rule.low < sigma <= s.rule.high for sigma in s.sigmas()[:-1]) for s in near]
            assert [s.rule.churn * n for s, n in zip(near, churned, strict=True)] == pytest.approx([CHURN, CHURN])
        assert start_near(Sampler(8, UniPC(churn=0.0)), 0.5, "implicit").rule == UniPC(churn=0.0)
        assert start_near(Sampler(8, Heun()), 0.5, "implicit").rule == Heun()


BAD = [
    ({"fix": "CC", "attach": (8,)}, "--attach 9: the heavy atoms of the fragment are within 1 to 2"),
    ({"fix": "CC", "attach": (2,)}, "--attach 3: is a hydrogen; name the atom that bears it"),
    ({"fix": "CC(=O)C", "attach": (1,)}, "--attach 2 (C): has no hydrogen to replace, its valence is full"),
    ({"fix": "*CC", "attach": (1,)}, "--attach: the fragment marks its attachments by dummy atoms"),
    ({"fix": "*C.O"}, "--fix: part 2, from atom 3 (O) on, has no attachment"),
    ({"fix": "CC", "attach": ()}, "--attach: names no atom"),
    ({"fix": "*"}, "--fix: holds nothing but dummy atoms"),
    ({"fix": "O=C=O"}, "--fix: no atom of the fragment has a hydrogen to replace"),
    ({"fix": "CS"}, "--fix: atom 2 (S), counted from 1: the model knows H, C, N, O, N+"),
    ({"fix": "CC[O-]"}, "--fix: atom 3 (O-), counted from 1: the model knows H, C, N, O, N+; neutralise it"),
    ({"fix": "CC[N+](=O)[O-]"}, "--fix: atom 5 (O-), counted from 1: the model knows H, C, N, O, N+; leave it out"),
    ({"fix": "CC", "replace": "C("}, "--replace C(: no SMARTS pattern"),
    ({"fix": "CC", "replace": "N"}, "--replace N: matches nothing in CC"),
    ({"fix": "CC", "replace": "CC"}, "--replace CC: matches all of CC"),
    ({"fix": "CCO", "replace": "O", "attach": (0,)}, "--attach with --replace: the cut bonds are the attachments"),
    ({"attach": (0,)}, "--attach: goes with --fix"),
    ({"like": "CC", "replace": "C"}, "--replace: goes with --fix, and not with --like"),
    ({"strength": 0.5}, "--strength 0.5: says how far to go from a molecule; give it by --like"),
    ({"like": "CC", "strength": 1.0}, "--strength 1: must be above 0 and below 1"),
    ({"like": "CC", "strength": 0.0}, "--strength 0: must be above 0 and below 1"),
    ({"like": "CC", "strength": float("nan")}, "--strength nan: must be above 0 and below 1"),
    ({"like": "CCS"}, "--like: atom 3 (S), counted from 1"),
    ({"like": "C.C"}, "--like: a molecule in several parts"),
    ({"like": "CCCCCCCCCCCC"}, "--like: 12 heavy atoms; model small knows 1 to 9"),
    (
        {"like": "CC", "heavy_atoms": (3, 3)},
        "--n-atoms with --like: analogues have as many atoms as the molecule given",
    ),
    ({"like": "CC", "fix": "O"}, "--fix: with --like, the fragment must be a part of that molecule; it is none"),
]


@pytest.mark.parametrize(("wishes", "message"), BAD, ids=lambda x: str(x)[:40])
def test_what_cannot_be_is_refused(data, wishes, message):
    wishes = {k: embed(v) if k in ("fix", "like") else v for k, v in wishes.items()}
    sizes = wishes.pop("heavy_atoms", None)
    with pytest.raises(RequestError, match=re.escape(message)):
        fragments.plan(Wishes(**wishes), data, Sampler(), sizes)


@pytest.mark.parametrize("option", ["fix", "like"])
def test_isotopes_and_atoms_in_one_place_are_refused(data, option):
    labelled, folded = embed("[13CH3]CO"), embed("CCO")
    with pytest.raises(RequestError, match=rf"--{option}: atom 1 \(C\) is an isotope"):
        fragments.plan(Wishes(**{option: labelled}), data, Sampler())
    folded.GetConformer().SetAtomPosition(2, folded.GetConformer().GetAtomPosition(0))
    with pytest.raises(RequestError, match=rf"--{option}: atoms 1 \(C\) and 3 \(O\) are 0\.00 Å apart"):
        fragments.plan(Wishes(**{option: folded}), data, Sampler())


@pytest.mark.parametrize("option", ["fix", "like"])
def test_coordinates_are_needed(data, option):
    flat = Chem.AddHs(Chem.MolFromSmiles("CC"))
    with pytest.raises(RequestError, match=f"--{option}: no 3D coordinates"):
        fragments.plan(Wishes(**{option: flat}), data, Sampler())
    AllChem.Compute2DCoords(flat)
    with pytest.raises(RequestError, match=f"--{option}: no 3D coordinates"):
        fragments.plan(Wishes(**{option: flat}), data, Sampler())


class TestVerification:
    """Acetamide, of which all but the methyl's hydrogens is known; the methyl alone is open."""

    @pytest.fixture
    def case(self, planned, data) -> tuple:
        known = planned("CC(=O)N", attach=(0,)).known
        atoms = known.template(1, 9, "cpu")[0]
        pos, bond = atoms.pos.clone(), atoms.bond.clone()
        pos[0, 6:] = torch.from_numpy(embed("CC(=O)N").GetConformer().GetPositions()[4:7])
        bond[0, 0, 6:] = bond[0, 6:, 0] = 1
        return known, chem.to_rdkit(atoms.replace(pos=pos, bond=bond), data.vocabulary)[0], data.vocabulary

    def test_the_right_one_passes(self, case):
        known, mol, vocabulary = case
        assert chem.check(mol).reason is None
        assert is_kept(known, mol, vocabulary)

    @pytest.mark.parametrize("shift", [5e-5, 2e-4])
    def test_moved(self, case, shift):
        known, mol, vocabulary = case
        x, y, z = mol.GetConformer().GetAtomPosition(2)
        mol.GetConformer().SetAtomPosition(2, (x, y + shift, z))
        assert is_kept(known, mol, vocabulary) == (shift < 1e-4)

    def test_added_atoms_may_lie_anywhere(self, case):
        known, mol, vocabulary = case
        mol.GetConformer().SetAtomPosition(8, (9.0, 9.0, 9.0))
        assert is_kept(known, mol, vocabulary)

    def test_charge(self, case):
        known, mol, vocabulary = case
        mol.GetAtomWithIdx(3).SetFormalCharge(1)
        assert not is_kept(known, mol, vocabulary)

    def test_order(self, case):
        known, mol, vocabulary = case
        mol.GetBondBetweenAtoms(1, 2).SetBondType(Chem.BondType.SINGLE)
        assert not is_kept(known, mol, vocabulary)

    def test_a_bond_within(self, case):
        known, mol, vocabulary = case
        more = Chem.RWMol(mol)
        more.AddBond(0, 3, Chem.BondType.SINGLE)
        assert not is_kept(known, more.GetMol(), vocabulary)

    @pytest.mark.parametrize(("atom", "kept"), [(0, True), (1, False), (5, False)])
    def test_a_new_bond(self, case, atom, kept):
        known, mol, vocabulary = case
        more = Chem.RWMol(mol)
        more.RemoveBond(0, 8)
        more.AddBond(atom, 8, Chem.BondType.SINGLE)
        assert is_kept(known, more.GetMol(), vocabulary) == kept

    def test_hydrogens_of_a_model_without_them_are_not_new(self, planned, implicit):
        known = planned("CC(=O)N", data=implicit, attach=(0,)).known
        mol = force_field.with_hydrogens(chem.to_rdkit(known.molecule, implicit.vocabulary)[0])
        assert mol.GetNumAtoms() == 9 and is_kept(known, mol, implicit.vocabulary)

    @pytest.mark.parametrize("smiles", ["*[C@@H](O)C#N", "*[C@H](O)C#N"])
    def test_a_marked_bond_is_the_one_that_grows(self, planned, implicit, smiles):
        """The hydrogen of a marked atom stays, and nothing new takes its place, which would invert the centre."""
        given = embed(smiles)
        known = fragments.plan(Wishes(fix=given), implicit, Sampler()).known
        assert known.marks.tolist() == [[1, 1], [-1, -1], [-1, -1], [-1, -1]] and known.full.tolist() == [3, -1, -1, -1]
        pos = given.GetConformer().GetPositions()
        mark, hydrogen = pos[0], pos[5]

        def grown(*places: np.ndarray) -> Chem.Mol:
            atoms = known.template(1, 4 + len(places), "cpu")[0]
            new, bond = atoms.pos.clone(), atoms.bond.clone()
            new[0, 4:] = torch.tensor(np.array(places))
            bond[0, 0, 4:] = bond[0, 4:, 0] = 1
            mols = chem.to_rdkit(atoms.replace(pos=new, bond=bond), implicit.vocabulary)
            return force_field.with_hydrogens(mols[0])

        assert is_kept(known, grown(mark), implicit.vocabulary)
        assert not is_kept(known, grown(hydrogen), implicit.vocabulary), "inverted"
        assert not is_kept(known, grown(mark, hydrogen), implicit.vocabulary), "the hydrogen is gone"

    @pytest.mark.parametrize("smiles", ["*/C=C/C#N", "*/C=C\\C#N", "*/N=C(/C)O", "*[S@](=O)C", "*[S@@](=O)C"])
    def test_what_grows_takes_the_place_of_the_mark(self, implicit, smiles):
        """Not that of the hydrogen, nor of a lone pair: the double bond, or the sulfoxide, would be the other isomer."""
        data = replace(implicit, vocabulary=("C", "N", "O", "S"), atom_marginal=(0.4, 0.2, 0.2, 0.2))
        given = embed(smiles)
        known = fragments.plan(Wishes(fix=given), with_compositions(data, [(4, 6, 1, 1, 1, 1)]), Sampler()).known
        pos = given.GetConformer().GetPositions()
        mark, centre = pos[0], pos[1]

        def grown(place: np.ndarray, order: int = 1) -> Chem.Mol:
            atoms = known.template(1, len(known) + 1, "cpu")[0]
            new, bond = atoms.pos.clone(), atoms.bond.clone()
            new[0, -1] = torch.tensor(place)
            bond[0, 0, -1] = bond[0, -1, 0] = order
            return force_field.with_hydrogens(chem.to_rdkit(atoms.replace(pos=new, bond=bond), data.vocabulary)[0])

        side = known.sides[0].numpy() / np.linalg.norm(known.sides[0])
        other = mark - 2 * ((mark - centre) @ side) * side
        assert is_kept(known, grown(mark), data.vocabulary)
        assert not is_kept(known, grown(other), data.vocabulary)
        assert not is_kept(known, grown(mark, 2), data.vocabulary), "of another order"

    def test_nitrogen_inverts_by_itself(self, planned, implicit):
        known = planned("CN(C)*", data=implicit).known
        assert known.marks[:, 0].tolist() == [-1, 1, -1] and known.sides is None
        assert planned("CC", data=implicit).known.marks is None, "any hydrogen may be replaced"

    def test_an_analogue_of_a_molecule_with_labels_is_another(self, data):
        labelled = embed("CC=N")
        for atom in labelled.GetAtoms():
            atom.SetAtomMapNum(atom.GetIdx() + 1)
        parent = fragments.plan(Wishes(like=labelled), data, Sampler()).known.parent
        assert parent == fragments.plan(Wishes(like=embed("CC=N")), data, Sampler()).known.parent

    def test_a_seed_without_stereo_stands_for_all_isomers(self, case):
        known, _, vocabulary = case
        none = replace(known, pos=known.pos & False, atom=known.atom & False, bond=known.bond & False,
                       closed=known.closed & False, parent="CC=N")  # fmt: skip
        for smiles in ("[H]/N=C/C", "[H]/N=C\\C"):
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            AllChem.EmbedMolecule(mol, randomSeed=1)
            assert objection(none, mol, chem.check(mol).mol, vocabulary) == "unchanged"
            assert similarity(mol, "CC=N") == 1

    def test_reasons(self, case, data):
        known, mol, vocabulary = case
        accepted = chem.check(mol).mol
        assert objection(known, mol, accepted, vocabulary) is None
        assert objection(replace(known, parent="CC(N)=O"), mol, accepted, vocabulary) == "unchanged"
        mol.GetAtomWithIdx(3).SetFormalCharge(1)
        assert objection(known, mol, accepted, vocabulary) == "fragment"

    def test_similarity_is_tanimoto_of_morgan(self):
        generator = GetMorganGenerator(radius=2, fpSize=2048)
        a, b = (generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in ("CCCO", "CCCN"))
        assert similarity(embed("CCCO"), "CCCN") == pytest.approx(DataStructs.TanimotoSimilarity(a, b), abs=5e-5)
        assert similarity(embed("CCCO"), "CCCO") == 1


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, *smiles: str) -> Path:
    Path(path).write_text("".join(chem.sdf_record(embed(s), s, {}) for s in smiles))
    return Path(path)


class TestGeneration:
    """The model of four molecules knows one with room for more: formaldehyde."""

    def test_growth_keeps_the_part(self, trained):
        carbon = Chem.MolFromMolBlock(Chem.MolToMolBlock(embed("C")), removeHs=False)
        for k in range(5):
            x, y, z = carbon.GetConformer().GetAtomPosition(k)
            carbon.GetConformer().SetAtomPosition(k, (x + 17.0, y - 5.0, z))
        records = list(load(trained, "cpu").generate(4, steps=8, fix=carbon, max_attempts=60))
        assert {r.smiles for r in records} == {"C=O"}
        for record in records:
            assert record.mol.GetAtomWithIdx(0).GetSymbol() == "C"
            where = record.mol.GetConformer().GetPositions()
            assert np.linalg.norm(where[0] - carbon.GetConformer().GetPositions()[0]) < 1e-5
            assert np.linalg.norm(where - where[0], axis=1).max() < 3
            assert not record.scores

    def test_the_seed_itself_is_no_analogue(self, trained):
        generator = load(trained, "cpu")
        known = fragments.plan(Wishes(like=embed("C=O")), generator.model.data, Sampler()).known
        little = Sampler(rule=UniPC(churn=0.0), sigma_max=0.05, from_template=True)
        outcomes = list(generator.outcomes(Request(3, known=known, sampler=little, max_attempts=8)))
        assert "unchanged" in [o.reason for o in outcomes if not isinstance(o, Record)]
        assert "C=O" not in [o.smiles for o in outcomes if isinstance(o, Record)]

    def test_analogues_have_a_similarity(self, trained, data):
        """Formaldehyde's atoms, C O H H, as the analogue of something else."""
        generator = load(trained, "cpu")
        known = fragments.plan(Wishes(like=embed("C=O"), strength=0.2), generator.model.data, Sampler()).known
        request = Request(1, known=replace(known, parent="CO"), sampler=choose_sampler(generator.model.config, None, 8))
        outcomes = [
            o for o in generator.outcomes(generator.screened(request, None, None, None)) if isinstance(o, Record)
        ]
        assert [set(o.scores) for o in outcomes] == [{"similarity"}]
        assert outcomes[0].scores["similarity"] == similarity(embed("C=O"), "CO")

    def test_the_funnel_has_its_stages(self, planned, data):
        tally = Tally(10, 3, Counter(disconnected=2, fragment=4, unchanged=1))
        grown, hop = planned("CCO"), planned("CCO", replace="O")
        analogues = fragments.plan(Wishes(like=embed("CCO")), data, Sampler())
        expected = {"sampled": 10, "connected": 8, "sanitised": 8, "part kept": 4, "changed": 3, "kept": 3}
        assert tally.funnel(Request(9, known=hop.known)) == expected
        assert "changed" not in tally.funnel(Request(9, known=grown.known))
        assert "part kept" not in tally.funnel(Request(9, known=analogues.known))

    def test_too_large_a_part(self, trained):
        with pytest.raises(RequestError, match=r"the known part has 2 heavy atoms, .* at most 2: no room"):
            load(trained, "cpu").generate(1, fix=embed("CO"))

    def test_other_wishes_other_identifiers(self, trained):
        generator = load(trained, "cpu")
        first = [
            next(generator.generate(1, steps=50, rejects=True, **wishes)).id
            for wishes in ({}, {"fix": embed("C")}, {"fix": embed("O")}, {"like": embed("C=O")},
                           {"like": embed("C=O"), "strength": 0.9}, {"like": embed("C=O"), "fix": embed("O")})
        ]  # fmt: skip
        assert len(set(first)) == len(first)


class TestCommandLine:
    def run(self, *arguments: object):
        result = CliRunner().invoke(cli.app, ["generate", *map(str, arguments)])
        return result.exit_code, result.stderr

    def test_growth(self, trained, folder):
        part = write("part.sdf", "C")
        code, errors = self.run("--model", trained, "--fix", part, "--attach", "1", "-n", 3, "--steps", 8,
                                "--max-attempts", 60, "--picture", "part.svg")  # fmt: skip
        assert code == 0 and "attachment: atom 1 (C); counted from 1" in errors and "part kept" in errors
        made = list(chem.read_sdf(Path("molecules.sdf")))
        start = next(chem.read_sdf(part)).GetConformer().GetPositions()[0]
        assert [chem.smiles(mol) for mol in made] == 3 * ["C=O"]
        assert all(np.abs(mol.GetConformer().GetPositions()[0] - start).max() < 1e-4 for mol in made)
        assert "<svg" in Path("part.svg").read_text()

    def test_a_resumed_run_must_be_of_the_same_part(self, trained, folder):
        part = write("part.sdf", "C")
        arguments = ["--model", trained, "--fix", part, "-n", 1, "--steps", 8, "--max-attempts", 60]
        assert self.run(*arguments)[0] == 0
        assert "is complete already" in self.run(*arguments, "--resume")[1]
        write("part.sdf", "O")
        assert "there is nothing to resume" in self.run(*arguments, "--resume")[1]

    def test_several_files_are_counted_through(self, folder, data):
        apart = embed("O")
        apart.GetConformer().SetPositions(apart.GetConformer().GetPositions() + 5.0)
        Path("b.sdf").write_text(chem.sdf_record(apart, "O", {}))
        wishes = read_wishes([write("a.sdf", "CC"), Path("b.sdf")], ["1, 9"], None, None, None)
        assert wishes.attach == (0, 8)
        moved = wishes.fix.GetConformer()
        assert moved.Is3D() and wishes.fix.GetAtomWithIdx(8).GetSymbol() == "O"
        assert open_atoms(fragments.plan(wishes, data, Sampler())) == [0, 5]

    def test_a_smiles_is_laid_out_and_told(self, trained, folder):
        Path("part.smi").write_text("C\n")
        code, errors = self.run("--model", trained, "--fix", "part.smi", "--attach", "1", "-n", 1, "--steps", 8,
                                "--max-attempts", 60)  # fmt: skip
        assert code == 0 and "--fix part.smi: coordinates made from the SMILES by ETKDGv3 and MMFF94s" in errors
        assert [chem.smiles(mol) for mol in chem.read_sdf(Path("molecules.sdf"))] == ["C=O"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"fix": [Path("none.sdf")]}, "--fix none.sdf: no such file"),
            ({"like": Path("a.xyz")}, "--like a.xyz: give an SDF, with 3D coordinates, or a .smi file of one molecule"),
            ({"fix": [Path("bad.sdf")]}, "--fix bad.sdf: RDKit cannot read molecule 1"),
            ({"fix": [Path("a.sdf"), Path("b.smi")]}, "--fix b.smi: a SMILES does not tell how the parts lie to each"),
            ({"attach": ["1,x"]}, "--attach 1,x: expected numbers of atoms counted from 1, such as 3,5"),
        ],
        ids=lambda x: str(x)[:40],
    )
    def test_what_cannot_be_read_is_refused(self, folder, options, message):
        Path("bad.sdf").write_text("no molecule\n$$$$\n")
        none = dict.fromkeys(("fix", "attach", "replace", "like", "strength"))
        with pytest.raises(RequestError, match=re.escape(message)):
            read_wishes(**{**none, **options})

    @pytest.mark.parametrize(
        ("wishes", "path", "message"),
        [
            ({}, Path("a.png"), "--picture a.png: shows what is given by --fix or --like"),
            ({"fix": embed("CC")}, Path("a.gif"), "--picture a.gif: unknown format"),
        ],
        ids=["nothing", "gif"],
    )
    def test_what_cannot_be_drawn_is_refused(self, data, wishes, path, message):
        with pytest.raises(RequestError, match=re.escape(message)):
            draw_plan(fragments.plan(Wishes(**wishes), data, Sampler()), path)

    def test_a_picture_counts_from_one(self, folder):
        draw(embed("CCO"), (1,), Path("a.png"))
        assert Path("a.png").read_bytes().startswith(b"\x89PNG")


def test_a_record_says_no_more_than_asked(trained):
    assert all(isinstance(r, Record) and not r.scores for r in load(trained, "cpu").generate(2, steps=6))
