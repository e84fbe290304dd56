"""Property targets: units outside, standard numbers inside."""

import torch

from moldiff.conditions import Conditions, Property

PROPERTIES = (Property("gap", "eV", 6.0, 2.0, 1.0, 10.0), Property("mu", "D", 3.0, 0.5, 0.0, 20.0))


def test_from_physical():
    conditions = Conditions.from_physical(torch.tensor([[8.0, 3.0], [torch.nan, 2.0]]), PROPERTIES)
    assert conditions.given.tolist() == [[True, True], [False, True]]
    assert conditions.value.tolist() == [[1.0, 0.0], [0.0, -2.0]]  # what is not given is zero, not NaN


def test_no_properties():
    assert Conditions.from_physical(torch.zeros(3, 0), ()).value.shape == (3, 0)
    assert not Conditions.none(3, 2).given.any()


def test_dropping():
    conditions = Conditions(torch.ones(4, 2), torch.tensor([[True, True]] * 3 + [[True, False]]))
    uniform = torch.tensor([[0.4, 0.9, 0.9], [0.6, 0.1, 0.9], [0.6, 0.9, 0.9], [0.6, 0.9, 0.9]])
    dropped = conditions.dropped(uniform, drop_all=0.5, drop_each=0.2)
    assert dropped.given.tolist() == [[False, False], [False, True], [True, True], [True, False]]
    assert torch.equal(dropped.value, dropped.given.float())
    untouched = conditions.dropped(torch.rand(4, 3), drop_all=0.0, drop_each=0.0)
    assert torch.equal(untouched.given, conditions.given)
    assert not conditions.dropped(torch.rand(4, 3), drop_all=1.0, drop_each=0.0).given.any()


def test_select():
    conditions = Conditions(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[True], [False], [True]]))
    chosen = conditions.select(torch.tensor([2, 0])).to("cpu")
    assert chosen.value.flatten().tolist() == [3.0, 1.0]
    assert chosen.given.all()
