"""Closures around a denoiser: formulas, counts of evaluations, and what is known stays known."""

import pytest
import torch

from moldiff.conditions import Conditions
from moldiff.guidance import AllowedAtoms, classifier_free, evaluations, guided
from moldiff.molecule import BOND_CLASSES, Molecules, Prediction
from moldiff.schedules import NoiseLevel

TOKENS = 5
GIVEN = torch.ones(4, 2, dtype=torch.bool)
ASKED = Conditions(torch.ones(4, 2), GIVEN, torch.arange(5, 9), torch.arange(1, 13).view(4, 3))


class Model:
    """Answers with 1 where a property is given, with 0 where none is."""

    def __init__(self):
        self.calls = []

    def __call__(self, state, level, conditions, previous) -> Prediction:
        self.calls.append((conditions, previous))
        value = float(conditions is not None and conditions.given.any())
        b, n = state.mask.shape
        atom = torch.zeros(b, n, TOKENS)
        atom[..., 0] = value
        return Prediction(torch.full((b, n, 3), value), atom, torch.zeros(b, n, n, BOND_CLASSES))


@pytest.fixture
def state(exact) -> tuple[Molecules, NoiseLevel]:
    return exact, NoiseLevel.free(exact, torch.ones(len(exact)))


@pytest.mark.parametrize("weight", [0.5, 2.0, 5.0])
def test_classifier_free_guidance_extrapolates_positions_and_log_probabilities(state, weight):
    model = Model()
    x0 = classifier_free(model, ASKED, weight)(*state, None)
    assert [bool(conditions.given.any()) for conditions, _ in model.calls] == [True, False]
    for name in ("heavy", "composition"):
        assert all(torch.equal(getattr(conditions, name), getattr(ASKED, name)) for conditions, _ in model.calls)
    assert torch.allclose(x0.pos, torch.full_like(x0.pos, weight))
    log_odds = (x0.atom_logits[..., 0] - x0.atom_logits[..., 1]).unique()
    assert torch.allclose(log_odds, torch.tensor(weight))  # 0 without, 1 with


@pytest.mark.parametrize(("conditions", "weight"), [(Conditions.none(4, 2, 3), 2.0), (ASKED, 1.0)])
def test_no_second_evaluation_where_none_is_needed(state, conditions, weight):
    model = Model()
    classifier_free(model, conditions, weight)(*state, None)
    assert [given for given, _ in model.calls] == [conditions]
    assert evaluations(conditions is ASKED, weight) == 1


def test_both_evaluations_see_the_guided_estimate_before(state):
    model, before = Model(), Prediction(torch.ones(4, 7, 3), torch.ones(4, 7, TOKENS), torch.ones(4, 7, 7, 4))
    classifier_free(model, ASKED, 3.0)(*state, before)
    assert [previous for _, previous in model.calls] == [before, before]
    assert evaluations(True, 3.0) == 2


class Push:
    """A guide that moves everything."""

    def __init__(self, shift: float):
        self.shift = shift

    def __call__(self, x0, noisy, level) -> Prediction:
        return x0.replace(pos=2 * x0.pos + self.shift)


def test_guides_act_in_order_and_leave_known_positions_alone(state):
    molecules, level = state
    known = NoiseLevel(level.pos.clone(), level.atom, level.bond)
    known.pos[:, 2] = 0
    model = lambda noisy, level, previous: Model()(noisy, level, None, previous)  # noqa: E731
    pos = guided(model, [Push(1.0), Push(5.0)])(molecules, known, None).pos
    assert set(pos[:, 2].flatten().tolist()) == {0.0}
    assert set(pos[:, 3].flatten().tolist()) == {7.0}  # 2 (2 · 0 + 1) + 5
    assert guided(model, []) is model


def test_atoms_become_only_what_is_allowed(state):
    allowed = torch.zeros(4, 7, TOKENS, dtype=torch.bool)
    allowed[..., 3] = True
    x0 = AllowedAtoms(allowed)(Model()(*state, ASKED, None), *state)
    assert (x0.atom_logits.argmax(-1) == 3).all()
    assert torch.isfinite(x0.atom_logits.log_softmax(-1)).all()
