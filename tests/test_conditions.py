"""Property targets: units outside, standard numbers inside."""

import re

import numpy as np
import pytest
import torch

from moldiff.conditions import (
    Conditions,
    Property,
    Target,
    check_targets,
    draw_values,
    properties_by_size,
    read_target,
)
from moldiff.errors import RequestError

PROPERTIES = (Property("gap", "eV", 6.0, 2.0, 1.0, 10.0), Property("mu", "D", 3.0, 0.5, 0.0, 20.0))


def test_from_physical():
    conditions = Conditions.from_physical(torch.tensor([[8.0, 3.0], [torch.nan, 2.0]]), PROPERTIES)
    assert conditions.given.tolist() == [[True, True], [False, True]]
    assert conditions.value.tolist() == [[1.0, 0.0], [0.0, -2.0]]  # what is not given is zero, not NaN


def test_no_properties():
    assert Conditions.from_physical(torch.zeros(3, 0), ()).value.shape == (3, 0)
    assert not Conditions.none(3, 2).given.any()


def test_dropping():
    """Of those above ``drop_all``, a molecule half way to 1 keeps each property in half of the cases."""
    conditions = Conditions(torch.ones(4, 2), torch.tensor([[True, True]] * 3 + [[True, False]]), torch.arange(1, 5))
    uniform = torch.tensor([[0.4, 0.3, 0.1, 0.1], [0.75, 0.1, 0.6, 0.4], [0.75, 0.3, 0.4, 0.4], [0.75, 0.1, 0.4, 0.4]])
    dropped = conditions.dropped(uniform, drop_all=0.5, drop_heavy=0.2)
    assert dropped.heavy.tolist() == [1, 0, 3, 0]
    assert dropped.given.tolist() == [[False, False], [False, True], [True, True], [True, False]]
    assert torch.equal(dropped.value, dropped.given.float())
    untouched = conditions.dropped(torch.tensor([[1.0, 0.5, 0.5, 0.5]] * 4), drop_all=0.0, drop_heavy=0.0)
    assert torch.equal(untouched.given, conditions.given) and torch.equal(untouched.heavy, conditions.heavy)
    assert not conditions.dropped(torch.rand(4, 4), drop_all=1.0, drop_heavy=0.0).given.any()


def test_any_number_of_properties_is_seen_as_often():
    b, generator = 20_000, torch.Generator().manual_seed(0)
    everything = Conditions(torch.zeros(b, 4), torch.ones(b, 4, dtype=torch.bool), torch.ones(b, dtype=torch.long))
    dropped = everything.dropped(torch.rand(b, 6, generator=generator), drop_all=0.5, drop_heavy=0.1)
    shares = torch.bincount(dropped.given.sum(1), minlength=5) / b
    assert torch.allclose(shares, torch.tensor([0.5 + 0.1, 0.1, 0.1, 0.1, 0.1]), atol=0.01)
    assert (dropped.heavy == 0).float().mean() == pytest.approx(0.1, abs=0.01)


def test_select():
    conditions = Conditions(
        torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[True], [False], [True]]), torch.arange(3)
    )
    chosen = conditions.select(torch.tensor([2, 0])).to("cpu")
    assert chosen.value.flatten().tolist() == [3.0, 1.0]
    assert chosen.given.all()


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


def test_statistics_by_size():
    """Sizes with too few known values have none; a property that is the same in all of a size gets some width."""
    rng = np.random.default_rng(0)
    n_atoms = np.repeat([5, 6, 7], [40, 40, 19])
    values = np.stack([n_atoms + rng.normal(size=99), np.repeat([1.0, 2.0, 9.0], [40, 40, 19])], 1)
    values[:10, 0] = np.nan
    rows = properties_by_size(values, np.stack([n_atoms - 2, n_atoms], 1))
    assert [row[:2] for row in rows] == [(3, 5), (4, 6)]
    assert rows[0][2] == pytest.approx([np.nanmean(values[:40, 0]), 1.0])
    assert rows[1][3][1] == pytest.approx(0.1 * values[:, 1].std())
    assert properties_by_size(np.zeros((99, 0)), np.stack([n_atoms, n_atoms], 1)) == []
