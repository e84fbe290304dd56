"""Conformers: what is refused, what is judged how, and that neither company nor number changes them."""

import dataclasses
import warnings
from itertools import islice

import numpy as np
import pytest
from conftest import embedded
from rdkit import Chem
from rdkit.Chem import AllChem

from moldiff import chem, force_field, generation
from moldiff.conformers import GivenGraph, conformers_request, ensembles
from moldiff.datasets.curation import Unusable
from moldiff.datasets.records import Record, records_of
from moldiff.errors import RequestError
from moldiff.model_file import DataInfo

EXPLICIT = DataInfo(
    "small", ("H", "C", "N", "N+", "O", "O-"), "explicit", 1.4, (), (), ((2, 0, 0, 1, 1), (14, 6, 0, 0, 1)), (), "", "",
)  # fmt: skip
IMPLICIT = dataclasses.replace(EXPLICIT, vocabulary=EXPLICIT.vocabulary[1:], hydrogens="implicit",
                               compositions=((6, 2, 0, 0, 1), (16, 7, 0, 0, 1)))  # fmt: skip


def replace_sizes(data: DataInfo) -> DataInfo:
    """Which knows molecules of two to nine heavy atoms."""
    return dataclasses.replace(data, compositions=tuple((2 * n + 2, n, 0, 0, 1) for n in range(2, 10)))


def record(smiles: str) -> Record:
    return Record(1, "", "line 1", "smiles", smiles)


def positions(smiles: str) -> np.ndarray:
    return embedded(smiles).GetConformer().GetPositions()


class TestGraph:
    def test_of_a_model_with_hydrogens(self):
        found = GivenGraph.read(record("C[NH3+]"), EXPLICIT)
        assert found.template.atom.tolist() == [[1, 3, 0, 0, 0, 0, 0, 0]]
        assert found.template.bond[0, 0].tolist() == [0, 1, 1, 1, 1, 0, 0, 0]

    def test_of_a_model_without(self):
        found = GivenGraph.read(record("c1cc[nH]c1"), IMPLICIT)
        assert found.template.atom.tolist() == [[0, 0, 0, 1, 0]]
        assert sorted(found.template.bond[0].triu().flatten().tolist())[-5:] == [1, 1, 1, 2, 2]
        assert found.mol.GetNumAtoms() == 10

    @pytest.mark.parametrize(
        ("smiles", "reason"),
        [
            ("C1CC", "unreadable"), ("CS", "element"), ("[CH3]", "radical"), ("CCCCCCC", "size"), ("C.C", "mixture"),
            ("CC(C)(C)(C)C", "valence"), ("[13CH3]C", "isotope"), ("C[NH-]", "element"), ("C*", "element"),
        ],
    )  # fmt: skip
    def test_refuses(self, smiles, reason):
        with pytest.raises(Unusable) as refusal:
            GivenGraph.read(record(smiles), EXPLICIT)
        assert refusal.value.reason == reason

    def test_hydrogens_that_tell_stereo_count(self):
        """Of a model without hydrogens, too: the two sides of C=NH are told by one."""
        for smiles in ("[H]/N=C(/C)C#N", "[H]/N=C(\\C)C#N"):
            other = "[H]/N=C(\\C)C#N" if smiles.endswith("(/C)C#N") else "[H]/N=C(/C)C#N"
            graph = GivenGraph.read(record(smiles), replace_sizes(IMPLICIT))
            for seen, reason in ((smiles, None), (other, "stereo")):
                mol = embedded(seen)
                order = [1, 2, 3, 4, 5, 0, *range(6, 9)]
                assert graph.judge(mol.GetConformer().GetPositions()[order]).reason == reason

    def test_atoms_stay_in_the_order_of_the_source(self):
        mol = Chem.RenumberAtoms(embedded("CO"), [0, 2, 3, 4, 1, 5])
        (source,) = records_of([mol])
        graph = GivenGraph.read(source, replace_sizes(IMPLICIT))
        assert [a.GetSymbol() for a in graph.mol.GetAtoms()] == ["C", "O", "H", "H", "H", "H"]
        pos = mol.GetConformer().GetPositions()
        found = graph.judge(pos[[0, 4, 1, 2, 3, 5]]).mol
        assert [a.GetSymbol() for a in found.GetAtoms()] == ["C", "H", "H", "H", "O", "H"]
        np.testing.assert_allclose(found.GetConformer().GetPositions(), pos, atol=1e-9)

    def test_refuses_what_has_no_bonds(self):
        with pytest.raises(Unusable, match="moldiff bonds"):
            GivenGraph.read(Record(1, "", "line 1", "xyz", "1\n\nO 0 0 0\n"), EXPLICIT)

    @pytest.mark.parametrize("block", ["2D", "3D"])
    def test_stereo_of_an_sdf_is_told_by_its_drawing_or_coordinates(self, block):
        mol = embedded("C[C@H](O)N")
        if block == "2D":
            mol = Chem.MolFromSmiles("C[C@H](O)N")
            AllChem.Compute2DCoords(mol)
        text = chem.sdf_record(mol, "", {}) if block == "3D" else Chem.MolToMolBlock(mol)
        found = GivenGraph.read(Record(1, "", "line 1", "sdf", text), EXPLICIT)
        assert chem.smiles(found.mol) == Chem.CanonSmiles("C[C@H](O)N")


class TestJudge:
    def test_keeps_what_is_right(self):
        pos = positions("C[C@H](O)N")
        found = GivenGraph.read(record("C[C@H](O)N"), EXPLICIT).judge(pos).mol
        assert chem.smiles(found) == Chem.CanonSmiles("C[C@H](O)N")
        assert (found.GetConformer().GetPositions() == pos).all()

    def test_turns_the_other_hand(self):
        pos = positions("C[C@@H](O)N")
        found = GivenGraph.read(record("C[C@H](O)N"), EXPLICIT).judge(pos).mol
        assert chem.smiles(found) == Chem.CanonSmiles("C[C@H](O)N")
        assert (found.GetConformer().GetPositions() == -pos).all()

    @pytest.mark.parametrize("told, seen", [("C[C@H](O)[C@H](C)N", "C[C@H](O)[C@@H](C)N"), ("C/C=C/C", "C/C=C\\C")])
    def test_rejects_other_stereoisomers(self, told, seen):
        assert GivenGraph.read(record(told), EXPLICIT).judge(positions(seen)).reason == "stereo"

    @pytest.mark.parametrize("model", [EXPLICIT, IMPLICIT])
    def test_rejects_broken_shapes(self, model):
        found, pos = GivenGraph.read(record("CCO"), model), positions("CCO")
        assert found.judge(2 * pos).reason == "geometry"
        assert found.judge(0.1 * pos).reason == "coordinates"

    @pytest.mark.parametrize("smiles", ["C[C@H](O)N", "C/C=C/C", "c1cc[nH]c1", "OC=O"])
    def test_adds_hydrogens_to_a_model_without(self, smiles):
        mol = embedded(smiles)
        heavy = mol.GetConformer().GetPositions()[: mol.GetNumHeavyAtoms()]
        graph = GivenGraph.read(record(smiles), IMPLICIT)
        found = graph.judge(force_field.with_hydrogens(graph.made(heavy)).GetConformer().GetPositions()).mol
        assert chem.smiles(found) == chem.smiles(mol)
        assert found.GetNumAtoms() == mol.GetNumAtoms()
        assert np.allclose(found.GetConformer().GetPositions()[: len(heavy)], heavy, atol=1e-9)


@pytest.mark.parametrize("smiles", ["CC", "C1CC1", "C12CC1C2", "OC1=CC=NC=C1", "C#N"])
def test_real_distances_fit(smiles):
    assert chem.has_fitting_distances(embedded(smiles))


@pytest.fixture(scope="module")
def qm9():
    return generation.load("qm9", "cpu")


class TestEnsembles:
    SMILES = ("CCO", "CS", "C[C@H](O)C#N", "CO", "C/C=C/O")

    def make(self, generator, n, smiles=SMILES, first=1):
        sources = [Record(first + k, "", "", "smiles", text) for k, text in enumerate(smiles)]
        return list(ensembles(generator, sources, conformers_request(generator.model.config, n, 4, steps=8)))

    def test_stereo_is_as_told_and_refusals_are_named(self, qm9):
        found = self.make(qm9, 2)
        assert [len(e.conformers) for e in found] == [2, 0, 2, 2, 2]
        assert "molecule 2: element: atom 2 is S" in found[1].problem(2)
        for ensemble, smiles in zip(found, self.SMILES, strict=True):
            assert {one.smiles for one in ensemble.conformers} <= {Chem.CanonSmiles(smiles)}
        one = found[2].conformers[1]
        assert (one.molecule, one.conformer, one.seed, one.strain > 0) == (3, 2, 4, True)
        assert [atom.GetSymbol() for atom in one.mol.GetAtoms()] == [*"CCOCNHHHHH"]

    def test_neither_company_nor_number_changes_them(self, qm9):
        many, few = self.make(qm9, 3)[2], self.make(qm9, 1, self.SMILES[2:3], first=3)[0]
        assert few.conformers[0].id == many.conformers[0].id
        one, other = (e.conformers[0].mol.GetConformer().GetPositions() for e in (few, many))
        assert (one == other).all()

    def test_workers_change_nothing(self, qm9, monkeypatch):
        monkeypatch.setattr("moldiff.conformers.BATCHES", 0)  # one molecule at a time
        made = [
            list(qm9.conformers([s for s in self.SMILES if s != "CS"], 2, seed=4, steps=4, workers=k)) for k in (1, 2)
        ]
        one, other = ([(c.id, c.smiles, c.molecule, c.conformer, c.strain) for c in found] for found in made)
        assert one == other and len(one) == 8
        for found in zip(*made, strict=True):
            ours, theirs = (conformer.mol.GetConformer().GetPositions() for conformer in found)
            assert (ours == theirs).all()  # to the last bit
            assert found[0].mol.ToBinary(chem.EXACT) == found[1].mol.ToBinary(chem.EXACT)

    def test_attempts_are_bounded(self, qm9, monkeypatch):
        monkeypatch.setattr(GivenGraph, "judge", lambda graph, pos: chem.Verdict(None, "stereo"))
        request = conformers_request(qm9.model.config, 2, steps=2, max_attempts=5)
        found = next(ensembles(qm9, [record("CO")], request))
        assert found.rejected == {"stereo": 5}
        assert found.problem(2) == "molecule 1: 0 of 2 conformers in 5 attempts (stereo 5)"

    def test_they_come_as_a_stream(self, qm9, monkeypatch):
        monkeypatch.setattr("moldiff.conformers.BATCHES", 0)  # one molecule at a time
        endless = (Record(k, "", "", "smiles", "O") for k in range(1, 10**9))
        found = islice(ensembles(qm9, endless, conformers_request(qm9.model.config, 1, steps=2, max_attempts=1)), 3)
        assert [e.source.number for e in found] == [1, 2, 3]


class TestInPython:
    def test_molecules_and_smiles(self, qm9):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = list(qm9.conformers(["CO", Chem.MolFromSmiles("CN"), "CCl"], n=2, steps=8))
        assert [(one.molecule, one.conformer, one.smiles) for one in found] == [
            (1, 1, "CO"), (1, 2, "CO"), (2, 1, "CN"), (2, 2, "CN")
        ]  # fmt: skip
        assert ["molecule 3: element" in str(warning.message) for warning in caught] == [True]

    def test_bad_requests_fail_at_once(self, qm9):
        with pytest.raises(RequestError, match="-n 0"):
            qm9.conformers(["CO"], n=0)

    def test_coordinates_of_given_molecules_do_not_count(self, qm9):
        one, other = (next(qm9.conformers([mol], n=1, steps=4, max_attempts=9)) for mol in ("CO", embedded("CO")))
        assert np.allclose(one.mol.GetConformer().GetPositions(), other.mol.GetConformer().GetPositions(), atol=1e-4)


def test_records_of_molecules_keep_stereo():
    source = next(records_of([Chem.MolFromSmiles("C[C@H](O)N")]))
    assert chem.smiles(GivenGraph.read(source, EXPLICIT).mol) == Chem.CanonSmiles("C[C@H](O)N")
