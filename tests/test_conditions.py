"""Property targets: units outside, standard numbers inside."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from moldiff.conditions import (
    Conditions,
    Property,
    Target,
    asked_values,
    check_targets,
    draw_values,
    read_target,
    target_of,
)
from moldiff.errors import RequestError

FIELDS = ("value", "given", "heavy", "composition")
PROPERTIES = (Property("gap", "eV", 6.0, 2.0, 1.0, 10.0), Property("mu", "D", 3.0, 0.5, 0.0, 20.0))


def test_from_physical():
    conditions = Conditions.from_physical(torch.tensor([[8.0, 3.0], [torch.nan, 2.0]]), PROPERTIES)
    assert conditions.given.tolist() == [[True, True], [False, True]]
    assert conditions.value.tolist() == [[1.0, 0.0], [0.0, -2.0]]  # what is not given is zero, not NaN


def test_no_properties():
    assert Conditions.from_physical(torch.zeros(3, 0), ()).value.shape == (3, 0)
    none = Conditions.none(3, 2, 4)
    assert not none.given.any() and none.composition.tolist() == [[0] * 4] * 3 and none.heavy.tolist() == [0] * 3
    of_values = Conditions.from_physical(torch.zeros(3, 0), ())
    assert of_values.composition.shape == (3, 0) and of_values.heavy.tolist() == [0] * 3


def test_dropping():
    """Of those above ``drop_all``, a molecule half way to 1 keeps each property in half of the cases.

    The composition goes before the number of heavy atoms.
    """
    composition, heavy = torch.tensor([[4, 1], [3, 1], [2, 2], [0, 5]]), torch.tensor([1, 2, 3, 5])
    given = torch.tensor([[True, True]] * 3 + [[True, False]])
    conditions = Conditions(torch.ones(4, 2), given, heavy, composition)
    uniform = torch.tensor([[0.4, 0.3, 0.1, 0.1], [0.75, 0.1, 0.6, 0.4], [0.75, 0.3, 0.4, 0.4], [0.75, 0.0, 0.4, 0.4]])
    dropped = conditions.dropped(uniform, drop_all=0.5, drop_heavy=0.1, drop_composition=0.2)
    assert dropped.composition.tolist() == [[4, 1], [0, 0], [2, 2], [0, 0]]
    assert dropped.heavy.tolist() == [1, 2, 3, 0]
    assert dropped.given.tolist() == [[False, False], [False, True], [True, True], [True, False]]
    assert torch.equal(dropped.value, dropped.given.float())
    untouched = conditions.dropped(torch.tensor([[1.0, 0.0, 0.5, 0.5]] * 4), 0.0, 0.0, 0.0)
    assert all(torch.equal(getattr(untouched, name), getattr(conditions, name)) for name in FIELDS if name != "value")
    assert torch.equal(untouched.value, given.float())
    assert not conditions.dropped(torch.rand(4, 4), 1.0, 0.0, 0.0).given.any()
    kept = conditions.dropped(
        torch.tensor([[0.4, 1, 1, 1], [0.5, 1, 0.1, 0.6], [0.61, 1, 1, 1], [0.9, 1, 1, 1]]), 0.4, 0.0, 0.0, 0.4
    )
    assert kept.given.tolist() == [[False, False], [True, False], [True, True], [True, False]]


@pytest.mark.parametrize(("heavy", "composition"), [(0.5, 0.1), (0.5, 0.5), (1.0, 0.0)])
def test_no_composition_is_told_without_the_number_of_heavy_atoms(heavy, composition):
    """Whichever is dropped more often."""
    b = 1000
    uniform = torch.rand(b, 2, generator=torch.Generator().manual_seed(0))
    everything = dataclasses.replace(
        Conditions.none(b, 0, 2), heavy=torch.ones(b).long(), composition=torch.ones(b, 2).long()
    )
    dropped = everything.dropped(uniform, 0.0, heavy, composition)
    assert torch.equal(dropped.heavy > 0, uniform[:, 1] >= heavy)
    assert torch.equal(dropped.composition.sum(1) > 0, dropped.heavy > 0)


def test_the_composition_is_taken_from_some():
    heavy, composition = torch.tensor([1, 2, 3]), torch.arange(1, 7).view(3, 2)
    all_told = Conditions(torch.ones(3, 1), torch.ones(3, 1, dtype=torch.bool), heavy, composition)
    fewer = all_told.without_composition(torch.tensor([True, False, True]))
    assert fewer.composition.tolist() == [[0, 0], [3, 4], [0, 0]]
    assert all(torch.equal(getattr(fewer, name), getattr(all_told, name)) for name in FIELDS if name != "composition")
    assert torch.equal(all_told.composition, torch.arange(1, 7).view(3, 2)), "the original was changed"


def test_properties_are_taken_and_atoms_stay():
    heavy, composition = torch.tensor([1, 2, 3]), torch.arange(1, 7).view(3, 2)
    bare = Conditions(torch.ones(3, 1), torch.ones(3, 1, dtype=torch.bool), heavy, composition).without_properties()
    assert not bare.given.any() and not bare.value.any()
    assert torch.equal(bare.heavy, heavy) and torch.equal(bare.composition, composition)


def test_any_number_of_properties_is_seen_as_often():
    b, generator = 20_000, torch.Generator().manual_seed(0)
    given, heavy, composition = torch.ones(b, 4) > 0, torch.full((b,), 2), torch.ones(b, 3, dtype=torch.long)
    everything = Conditions(torch.zeros(b, 4), given, heavy, composition)
    dropped = everything.dropped(torch.rand(b, 6, generator=generator), 0.5, drop_heavy=0.1, drop_composition=0.4)
    shares = torch.bincount(dropped.given.sum(1), minlength=5) / b
    assert torch.allclose(shares, torch.tensor([0.5 + 0.1, 0.1, 0.1, 0.1, 0.1]), atol=0.01)
    told = dropped.composition.sum(1)
    assert set(told.tolist()) == {0, 3}  # all elements or none
    assert set(dropped.heavy.tolist()) == {0, 2}
    for share, left in [(0.4, told), (0.1, dropped.heavy)]:
        assert (left == 0).float().mean() == pytest.approx(share, abs=0.01)
        assert (left[dropped.given.any(1)] == 0).float().mean() == pytest.approx(
            share, abs=0.02
        )  # whatever else is told
    assert (dropped.heavy[told > 0] > 0).all()


def test_select():
    conditions = Conditions(
        torch.tensor([[1.0], [2.0], [3.0]]),
        torch.tensor([[True], [False], [True]]),
        torch.tensor([7, 8, 9]),
        torch.arange(6).view(3, 2),
    )
    chosen = conditions.select(torch.tensor([2, 0])).to("cpu")
    assert chosen.value.flatten().tolist() == [3.0, 1.0]
    assert chosen.given.all()
    assert chosen.heavy.tolist() == [9, 7]
    assert chosen.composition.tolist() == [[4, 5], [0, 1]]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("gap=6.5", Target("gap", 6.5, 6.5)),
        (" GAP = -1e-3", Target("GAP", -0.001, -0.001)),
        ("qed=0.7:0.9", Target("qed", 0.7, 0.9)),
    ],
)
def test_targets_are_read(text, target):
    assert read_target(text) == target
    assert read_target(str(target)) == target


def test_targets_of_numbers():
    assert target_of("gap", np.float64(6.5), np.int64(7)) == Target("gap", 6.5, 7.0)
    with pytest.raises(RequestError, match="--target gap=high: write NAME=VALUE"):
        target_of("gap", "high", "high")


@pytest.mark.parametrize(
    "text", ["gap", "gap=", "gap=high", "=3", "gap=1:", "gap=:1", "gap=1:2:3", "gap=nan", "gap=inf"]
)
def test_what_is_no_target(text):
    with pytest.raises(RequestError, match=re.escape(f"--target {text}: write NAME=VALUE")):
        read_target(text)


def test_a_reversed_range_is_named():
    with pytest.raises(RequestError, match="reversed; write gap=5:7"):
        read_target("gap=7:5")


def test_targets_and_the_training_range():
    """gap is 1 to 10 eV there: 10.9 is a tenth of the range too far at most, 11 is not."""
    assert check_targets([Target("GAP", 1.0, 10.0), Target("mu", 3.0, 3.0)], PROPERTIES) == []
    (warning,) = check_targets([Target("gap", 9.0, 10.8)], PROPERTIES)
    assert "--target gap=9:10.8: the training data have 1 to 10 eV" in warning
    for low, high in ((0.0, 5.0), (5.0, 11.0)):
        with pytest.raises(RequestError, match="the training data have 1 to 10 eV; stay within"):
            check_targets([Target("gap", low, high)], PROPERTIES)
    with pytest.raises(RequestError, match=re.escape("it knows gap (eV), mu (D)")):
        check_targets([Target("logp", 1.0, 1.0)], PROPERTIES)
    with pytest.raises(RequestError, match="gap is asked for twice"):
        check_targets([Target("gap", 5.0, 5.0), Target("Gap", 6.0, 6.0)], PROPERTIES)


def test_every_molecule_draws_its_own_value_within_a_range():
    uniform = np.array([[0.0, 0.3], [0.5, 0.9], [1.0, 0.1]])
    values = draw_values([Target("mu", 2.0, 4.0), Target("gap", 7.0, 7.0)], PROPERTIES, uniform)
    assert values.tolist() == [[7, 2], [7, 3], [7, 4]]
    assert np.isnan(draw_values([Target("mu", 2.0, 4.0)], PROPERTIES, uniform[:, :1])[:, 0]).all()


def test_what_is_asked_for_as_scores():
    targets = [Target("MU", 2.0, 4.0), Target("gap", 7.0, 7.0)]
    assert asked_values(targets, PROPERTIES) == {"asked_mu_low": 2.0, "asked_mu_high": 4.0, "asked_gap": 7.0}
    assert asked_values([], PROPERTIES) == {}
