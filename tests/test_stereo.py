"""Stereo of coordinates against the stereo that a SMILES tells."""

import numpy as np
import pytest
from conftest import embedded
from rdkit import Chem

from moldiff import chem, stereo


def graph(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def shape(smiles: str) -> np.ndarray:
    return embedded(smiles).GetConformer().GetPositions()


@pytest.mark.parametrize(
    "smiles",
    ["CCO", "C[C@H](O)F", "C/C=C/C", "C/C=C\\C", "[H]/N=C/C", "C[C@H]1CC[C@@H](C)CC1", "C[C@H](F)[C@@H](C)Cl",
     "C[C@]1(O)C2CC1O2"],
)  # fmt: skip
def test_coordinates_of_the_molecule_itself_obey(smiles):
    pos = shape(smiles)
    assert stereo.obey(graph(smiles), pos) is pos


@pytest.mark.parametrize("smiles", ["C[C@H](O)F", "C[C@@H](F)[C@H](C)Cl", "O[C@H]1CO[C@@H]1C"])
def test_a_mirror_image_is_turned(smiles):
    pos = shape(smiles)
    assert (stereo.obey(graph(smiles), -pos) == pos).all()


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ("C[C@H](F)[C@@H](C)Cl", "C[C@H](F)[C@H](C)Cl"),
        ("C[C@H]1CC[C@@H](C)CC1", "C[C@H]1CC[C@H](C)CC1"),
        ("C/C=C/C", "C/C=C\\C"),
        ("[H]/N=C/C", "[H]/N=C\\C"),
        ("C/C=C/[C@H](F)O", "C/C=C\\[C@H](F)O"),
    ],
)
def test_other_stereoisomers_do_not_obey(told, seen):
    assert stereo.obey(graph(told), shape(seen)) is None
    assert stereo.obey(graph(told), -shape(seen)) is None


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ("CC=CC", "C/C=C\\C"),
        ("CC(F)[C@@H](C)Cl", "C[C@H](F)[C@H](C)Cl"),  # one centre told, the other free
        ("CC=C[C@H](F)O", "C/C=C\\[C@H](F)O"),
    ],
)
def test_what_is_not_told_is_free(told, seen):
    assert stereo.obey(graph(told), shape(seen)) is not None


def test_equal_molecules_with_other_labels_are_one():
    """Both ring carbons read from the other side: the same cis ring, other tags at its atoms."""
    told, labelled = graph("O[C@H](F)C1C[C@H](F)C[C@H](F)C1"), graph("O[C@H](F)C1C[C@@H](F)C[C@@H](F)C1")
    assert chem.smiles(told) == chem.smiles(labelled)
    assert stereo.obey(told, shape("O[C@H](F)C1C[C@@H](F)C[C@@H](F)C1")) is not None


def test_flat_centres_do_not_obey():
    pos = shape("C[C@H](O)F")
    pos[:, 2] = 0
    assert stereo.obey(graph("C[C@H](O)F"), pos) is None
