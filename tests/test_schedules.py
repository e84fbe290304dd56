"""Noise levels, the training distribution, the grids."""

import dataclasses
import math

import pytest
import torch

from moldiff.schedules import (
    GRIDS,
    STAGES,
    NoiseLevel,
    arcsin_grid,
    karras_grid,
    log_grid,
    staged_grid,
    training_sigmas,
)


def test_free_level(padded):
    level = NoiseLevel.free(padded, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert ((level.pos > 0) == padded.mask).all()
    assert ((level.atom > 0) == padded.mask).all()
    assert ((level.bond > 0) == padded.pair_mask).all()
    assert torch.allclose(level.sigma, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert (level.fixed_pos[padded.mask] == 0).all()


def test_sigma_is_that_of_whatever_is_free(exact):
    free = NoiseLevel.free(exact, torch.full((4,), 0.5))
    chosen = lambda x, k: x * (torch.arange(4) == k).view(-1, *[1] * (x.ndim - 1))  # noqa: E731
    level = NoiseLevel(chosen(free.pos, 0), chosen(free.atom, 1), chosen(free.bond, 2))
    assert level.sigma.tolist() == [0.5, 0.5, 0.5, 0.0]


def test_scaling_keeps_what_is_fixed(exact):
    free = NoiseLevel.free(exact, torch.ones(4))
    level = dataclasses.replace(free, pos=free.pos * (torch.arange(7) >= 2))
    halved = level.scaled(0.5)
    assert (halved.pos[:, :2] == 0).all()
    assert halved.sigma.tolist() == [0.5] * 4
    each = level.scaled(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert each.sigma.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert each.select(slice(1, 2)).bond.max() == 2.0


def test_training_sigmas_follow_their_mixture():
    """The body's median is e^mean, 68.3 % lies within one standard deviation; the tail is uniform in ln σ."""
    uniform = torch.full((100_000,), 0.5)
    body = training_sigmas(uniform, mean=-1.2, std=1.0, tail=0.0).log()
    assert float(body.median()) == pytest.approx(-1.2, abs=1e-3)
    assert float(((body + 1.2).abs() < 1).float().mean()) == pytest.approx(math.erf(2**-0.5), abs=1e-3)
    tail = training_sigmas(uniform, tail=1.0, tail_range=(0.01, 1.0)).log()
    assert float(tail.quantile(0.25)) == pytest.approx(0.75 * math.log(0.01), abs=1e-3)
    both = training_sigmas(uniform, tail=0.1, tail_range=(0.002, 20.0))
    assert both.min() >= 0.002 * (1 - 1e-5)
    assert both.max() <= 20.0 * (1 + 1e-5)


def test_training_sigmas_are_stratified():
    """Whatever the random numbers, a batch of ten has one σ in each tenth of the distribution."""
    edges = training_sigmas(torch.zeros(10), tail=0.0).sort().values
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        sigma = training_sigmas(torch.rand(10, generator=generator), tail=0.0)
        assert (torch.searchsorted(edges, sigma, right=True) == torch.arange(1, 11)).all()


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [2, 5, 100])
def test_grids_fall_from_end_to_end(name, steps):
    grid = GRIDS[name](steps, 20.0, 0.002)
    assert grid.shape == (steps,)
    assert float(grid[0]) == pytest.approx(20.0)
    assert float(grid[-1]) == pytest.approx(0.002)
    assert (grid.diff() < 0).all()


def test_grids_at_their_middle():
    assert float(log_grid(3, 4.0, 0.25)[1]) == pytest.approx(1.0)
    assert float(karras_grid(3, 4.0, 0.25, rho=2.0)[1]) == pytest.approx(((2 + 0.5) / 2) ** 2)
    grid = staged_grid(1001, 8.0, 0.003)
    assert [float(grid[round(1000 * share)]) for share, _ in STAGES] == pytest.approx([sigma for _, sigma in STAGES])
    assert torch.allclose(staged_grid(9, 0.02, 0.01), log_grid(9, 0.02, 0.01))  # between two stages
    grid = arcsin_grid(101, 4.0, 0.25)
    assert float(grid[50]) == pytest.approx(1.0)
    steps = -grid.log().diff()
    assert steps[50] < steps.mean() / 2 < 2 * steps.mean() < steps[0]  # dense in the middle, thin at the ends
    assert torch.allclose(arcsin_grid(9, 4.0, 0.25, rho=0.0), log_grid(9, 4.0, 0.25))
