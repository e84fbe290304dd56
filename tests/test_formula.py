"""Formulas: what they say, which no molecule has, and which a model cannot make."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import with_compositions
from rdkit import Chem

from moldiff.draws import SizeDraw
from moldiff.errors import RequestError
from moldiff.formula import composition_of, has_formula, read_formula


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("C7H8O2", {"C": 7, "H": 8, "O": 2}),
        ("CH4", {"C": 1, "H": 4}),
        ("CHF2Cl", {"C": 1, "H": 1, "F": 2, "Cl": 1}),
        ("CH3CO2H", {"C": 2, "H": 4, "O": 2}),
        ("C2H6OS", {"C": 2, "H": 6, "O": 1, "S": 1}),
        ("C6H5NO2", {"C": 6, "H": 5, "N": 1, "O": 2}),
    ],
)
def test_atoms_of_each_element(text, counts):
    assert read_formula(text) == counts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "write elements"),
        ("7CH", "write elements"),
        ("c6h6", "write elements"),
        ("C7H8O2+", "write elements"),
        ("C0H4", "write elements"),
        ("C2Xx3", "does not exist"),
    ],
)
def test_what_is_no_formula(text, reason, capfd):
    """And the one line is all that is said of it."""
    with pytest.raises(RequestError, match=reason):
        read_formula(text)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("C7H9", "only radicals"),
        ("CH4N", "only radicals"),
        ("C2H8", "2 hydrogens more"),
        ("CH6O", "2 hydrogens more"),
        ("C4H11F5S", "2 hydrogens more"),
        ("C4H9F5S", "10 heavy atoms, model small knows 3 to 4"),  # CCCCS(F)(F)(F)(F)F
        ("C10H10Fe", "Fe, and model small knows"),  # what RDKit counts as its valence is odd
    ],
)
def test_no_molecule_has_it(text, reason, info):
    with pytest.raises(RequestError, match=reason):
        composition_of(text, replace(info, vocabulary=("H", "C", "N", "O", "F", "S")))


def test_a_model_makes_its_elements_and_sizes_only(info):
    assert composition_of("C2H4O", info).tolist() == [4, 2, 0, 1]  # of H, C, N, O; 7 atoms, 3 of them heavy
    for text, reason in [("CH3Cl", "Cl, and model small knows H C N O"), ("C5H2O", "6 heavy atoms, model small knows 3 to 4"),
                         ("C3H8", "11 atoms, model small knows 7 to 9")]:  # fmt: skip
        with pytest.raises(RequestError, match=reason):
            composition_of(text, info)


def test_every_molecule_is_told_the_formula(info):
    drawn = SizeDraw(info, formula="C2H4O")(np.linspace(0, 0.99, 5))
    assert drawn.atoms.tolist() == [7] * 5 and drawn.composition.tolist() == [[4, 2, 0, 1]] * 5
    assert drawn.heavy.tolist() == [3] * 5


def test_hydrogens_that_are_left_to_valence_are_told(info):
    """They are no atoms that the model makes."""
    bare = replace(info, vocabulary=("C", "N", "O"), hydrogens="implicit")
    bare = with_compositions(bare, [(6, 2, 0, 1, 1), (10, 4, 0, 0, 1)])
    assert composition_of("C2H6O", bare).tolist() == [6, 2, 0, 1]
    drawn = SizeDraw(bare, formula="C2H6O")(np.array([0.5]))
    assert (drawn.atoms.tolist(), drawn.heavy.tolist(), drawn.composition.tolist()) == ([3], [3], [[6, 2, 0, 1]])
    for text, reason in [("C2H7O", "only radicals"), ("CH4", "1 heavy atoms, model small knows 3 to 4")]:
        with pytest.raises(RequestError, match=reason):
            composition_of(text, bare)


def test_a_formula_and_another_size_contradict_each_other(info):
    with pytest.raises(RequestError, match="--n-atoms"):
        SizeDraw(info, (3, 3), formula="C2H4O")


def test_comparison_counts_all_hydrogens():
    acetaldehyde, vinyl_alcohol = (Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in ("CC=O", "C=CO"))
    assert has_formula(acetaldehyde, "C2H4O") and has_formula(vinyl_alcohol, "C2H4O")
    assert not has_formula(acetaldehyde, "C2H6O")
