"""Bonds of given atoms: what stays, what is refused, and that neither company nor attempts of others change them."""

import warnings

import numpy as np
import pytest
import torch
from conftest import embedded
from rdkit import Chem
from rdkit.Chem import AllChem

from moldiff import chem, generation
from moldiff.datasets.records import Record
from moldiff.outcomes import Reject
from moldiff.perception import Frame, bonds_request, frames_of, frames_of_file, perceptions


def relaxed(smiles: str) -> Chem.Mol:
    mol = embedded(smiles)
    AllChem.MMFFOptimizeMolecule(mol)
    return mol


def atoms(smiles: str) -> tuple[list[str], np.ndarray]:
    mol = relaxed(smiles)
    return [atom.GetSymbol() for atom in mol.GetAtoms()], mol.GetConformer().GetPositions()


@pytest.fixture(scope="module")
def qm9():
    return generation.load("qm9-atoms", "cpu")


SMILES = ("CCO", "CC#N", "C1CC1", "CC(N)=O", "O=CC=C")


class TestBonds:
    def test_are_found(self, qm9):
        assert [one.smiles for one in qm9.bonds(map(relaxed, SMILES))] == [Chem.CanonSmiles(s) for s in SMILES]

    def test_are_found_wherever_and_in_whatever_order(self, qm9):
        symbols, pos = atoms("CC(N)=O")
        order = np.random.default_rng(0).permutation(len(symbols))
        turn = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
        found = next(qm9.bonds([([symbols[k] for k in order], pos[order] @ turn + 50)]))
        assert found.smiles == "CC(N)=O"
        assert [atom.GetSymbol() for atom in found.mol.GetAtoms()] == [symbols[k] for k in order]

    def test_no_atom_has_more_of_them_than_it_can(self, monkeypatch):
        """What an untrained network finds would have too many."""
        model = generation.load("qm9-atoms", "cpu")
        monkeypatch.setattr(
            model.model.network.to_bond[-1], "bias", torch.nn.Parameter(torch.tensor([0.0, 0.0, 9.0, 9.0]))
        )
        found = list(model.bonds(map(relaxed, SMILES), rejects=True, max_attempts=1))
        assert {one.reason for one in found if isinstance(one, Reject)} <= {"disconnected", "radical"}

    def test_as_many_steps_and_attempts_as_by_default(self, qm9):
        found = [
            next(qm9.bonds([relaxed("CCO")], **options)) for options in ({}, {"steps": None, "max_attempts": None})
        ]
        assert found[0].id == found[1].id

    def test_coordinates_come_back_as_given(self, qm9):
        symbols, pos = atoms("CCO")
        pos = pos + np.pi * 1e-7  # no number of single precision
        assert (next(qm9.bonds([(symbols, pos)])).mol.GetConformer().GetPositions() == pos).all()

    def test_neither_company_changes_them(self, qm9):
        frames = list(frames_of([atoms(s) for s in SMILES]))
        request = bonds_request(seed=5, steps=2)
        together = list(perceptions(qm9, frames, request))
        alone = [next(perceptions(qm9, [frame], request)) for frame in frames]
        assert [[o.id for o in p.outcomes] for p in together] == [[o.id for o in p.outcomes] for p in alone]
        assert [p.record and p.record.smiles for p in together] == [p.record and p.record.smiles for p in alone]

    def test_workers_change_nothing(self, qm9):
        given = [(symbols, pos + np.pi * 1e-7) for symbols, pos in map(atoms, SMILES)]
        one, other = (list(qm9.bonds(given, workers=workers)) for workers in (1, 2))
        assert [(o.id, o.smiles, o.molecule) for o in one] == [(o.id, o.smiles, o.molecule) for o in other]
        for (_, pos), found in zip(given, other, strict=True):
            assert (found.mol.GetConformer().GetPositions() == pos).all()

    def test_the_first_valid_attempt_counts(self, qm9, monkeypatch):
        real, seen = chem.check, []

        def second(mol):
            seen.append(mol)
            return chem.Verdict(None, "valence") if len(seen) < 3 else real(mol)

        monkeypatch.setattr(chem, "check", second)
        found = next(perceptions(qm9, frames_of([atoms("CCO")]), bonds_request()))
        assert (found.record.index, found.rejected, found.problem) == (2, {"valence": 2}, "")


class TestRefusals:
    def test_are_named(self, qm9):
        given = [atoms("CCO"), (["C", "Xx"], np.zeros((2, 3))), atoms("CS"), atoms("CCCCCCCCCC"), Chem.MolFromSmiles("C"),
                 (["C"], np.zeros((2, 3)))]  # fmt: skip
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = list(qm9.bonds(given))
        assert [one.molecule for one in found] == [1]
        texts = [str(warning.message) for warning in caught]
        expected = [
            "unknown element 'Xx'",
            "element S",
            "10 heavy atoms",
            "no coordinates",
            "positions of shape (2, 3)",
        ]
        for number, (text, part) in enumerate(zip(texts, expected, strict=True), 2):
            assert text.startswith(f"molecule {number}: ")
            assert part in text

    def test_invalid_ones_are_rejects(self, qm9):
        symbols, pos = atoms("CCO")
        found = list(qm9.bonds([(symbols[:-1], pos[:-1])], rejects=True, max_attempts=2))  # a hydrogen is missing
        assert [(one.reason in ("radical", "valence"), one.mol.GetNumAtoms()) for one in found] == [(True, 8)]

    def test_hydrogens_for_a_model_without(self, qm9, monkeypatch):
        import dataclasses

        monkeypatch.setattr(qm9.model, "data", dataclasses.replace(qm9.model.data, hydrogens="implicit"))
        found = next(perceptions(qm9, frames_of([atoms("CCO")]), bonds_request()))
        assert "has hydrogens, which model qm9-atoms leaves to valence" in found.problem

    def test_unreadable_frames_of_a_file(self):
        frame = next(frames_of_file([Record(3, "bad", "line 9", "xyz", "2\nbad\nC 0 0 0\n")]))
        assert frame == Frame(3, "bad", problem="2 atoms announced, 1 lines follow")
