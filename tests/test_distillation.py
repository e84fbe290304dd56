"""What a network for few evaluations is taught, and that teaching it works."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from moldiff.distillation import CERTAIN, SHORT, UNTIL, Lessons, landing, lessons, loss
from moldiff.known import blank
from moldiff.model import Model
from moldiff.molecule import Prediction
from moldiff.requests import choose_sampler
from moldiff.samplers import KeyedRandomness, Run
from moldiff.schedules import NoiseLevel
from moldiff.training_state import State


@pytest.fixture
def small_model(trained):
    model = Model.load(trained)
    model.config = replace(model.config, quality=replace(model.config.quality, told_composition=True))
    return model


@pytest.fixture
def few(small_model):
    """The sampler that a pupil walks with: six levels."""
    return replace(choose_sampler(small_model.config, None, 6), temperature=CERTAIN)


def test_the_state_moves_with_an_estimate_as_far_as_is_told(small_model, few):
    """Walks whose estimates are given: one of them is moved, and with it what comes after it."""
    random, template = KeyedRandomness(0, [0]).of_size(5), blank(1, 5, "cpu")
    free, sigmas = NoiseLevel.free(template, torch.ones(1)), few.sigmas()
    estimates = torch.randn(len(sigmas), 1, 5, 3, generator=torch.Generator().manual_seed(0)).double()

    def states(estimates: torch.Tensor) -> list[torch.Tensor]:
        levels = iter(estimates)

        def given(state, level, previous) -> Prediction:
            return Prediction(next(levels), torch.zeros(1, 5, 4), torch.zeros(1, 5, 5, 4))

        run = Run(given, small_model.process, free, random, 0.0)
        state, found = template.replace(pos=template.pos.double() + 1), []
        for sigma, following in pairwise(sigmas):
            state = few.rule(run, state, sigma, following)
            found.append(state.pos)
        return found

    plain = states(estimates)
    for k in range(len(sigmas) - 1):
        moved = estimates.clone()
        moved[k] += 0.1
        change = states(moved)[k] - plain[k]
        torch.testing.assert_close(change, torch.full_like(change, 0.1 * landing(sigmas, k)))


def test_lessons_are_of_every_size_and_of_the_levels_where_the_pupil_is_asked(small_model, few):
    levels = [sigma for sigma in few.sigmas() if sigma >= UNTIL]
    assert 1 < len(levels) < few.evaluations
    taught = list(lessons(small_model, small_model, few, 3, range(40)))
    assert sum(len(part) for part in taught) == 40 * len(levels)
    assert len({part.noisy.mask.shape[1] for part in taught}) == len(taught) > 1
    for part in taught:
        seen, counts = part.sigma.unique(return_counts=True)
        torch.testing.assert_close(seen.flip(0), torch.tensor(levels))
        assert (counts == counts[0]).all()
        assert part.conditions.composition.any()  # as where nothing is asked for
        for logits in (part.answer.atom_logits, part.answer.bond_logits):
            torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(logits.shape[:-1]), atol=1e-5, rtol=0)


def test_a_teacher_that_always_says_the_same_is_right_already(small_model, few, monkeypatch):
    """Straight lines: one long step and several short ones end at the same place, so that nothing is left to be learned."""
    fixed = torch.randn(1, 11, 3, generator=torch.Generator().manual_seed(1))

    def says(noisy, level, conditions=None, previous=None, seen=None) -> Prediction:
        b, n = noisy.mask.shape
        tokens = len(small_model.data.vocabulary)
        return Prediction(fixed[:, :n].expand(b, -1, -1), torch.zeros(b, n, tokens), torch.zeros(b, n, n, 4))

    monkeypatch.setattr(small_model, "denoise", says)
    for part in lessons(small_model, small_model, few, 0, range(4)):
        torch.testing.assert_close(part.answer.pos, fixed[:, : part.noisy.mask.shape[1]].expand_as(part.answer.pos))
        assert all(abs(float(value)) < 1e-6 for value in loss(small_model, part).values())


def test_evaluations_of_the_teacher(small_model, few, monkeypatch):
    """Of the pupil's levels each costs one of its own, and as many of the teacher's as there are short steps."""
    asked = []
    denoise = small_model.denoise
    monkeypatch.setattr(small_model, "denoise", lambda *of: asked.append(len(of[0])) or denoise(*of))
    taught = list(lessons(small_model, small_model, few, 0, range(3)))
    levels = sum(sigma >= UNTIL for sigma in few.sigmas())
    assert len(asked) == len(taught) * levels * (1 + SHORT)


def test_a_pupil_learns(small_model, few):
    (most, *_) = sorted(lessons(small_model, small_model, few, 0, range(24)), key=len, reverse=True)
    state = State.begin(small_model.requires_grad_(True))
    first = loss(small_model, most)["total"].item()
    for _ in range(30):
        for optimizer in state.optimizers:
            optimizer.zero_grad()
        loss(small_model, most)["total"].backward()
        for optimizer in state.optimizers:
            optimizer.step()
    assert loss(small_model, most)["total"].item() < 0.7 * first


def test_lessons_come_back_from_arrays_as_they_were(small_model, few):
    part = next(lessons(small_model, small_model, few, 0, range(2)))
    again = Lessons.of(torch.from_numpy(x.numpy()) for x in part.tensors())
    assert torch.equal(again.noisy.pos, part.noisy.pos) and torch.equal(
        again.answer.bond_logits, part.answer.bond_logits
    )
    both = Lessons.join([part, again])
    assert len(both) == 2 * len(part) and torch.equal(both.select(torch.tensor([0])).sigma, part.sigma[:1])
