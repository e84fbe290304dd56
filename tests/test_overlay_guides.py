"""Pulls towards a volume and towards points: formulas against autograd and known overlaps, assignments, limits."""

import copy
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from moldiff.guidance import Guide
from moldiff.molecule import BOND_CLASSES, Molecules, Prediction
from moldiff.overlay_guides import EXPONENT, LAST, LONGEST, RADIUS, Feature, FeatureGuide, ShapeGuide, log_tanimoto
from moldiff.schedules import NoiseLevel

HEAVY = (False, True, True, True, True)  # of H C N O N+
REFERENCE = ((-1.9, 0.2, 0.0), (-0.6, -0.3, 0.1), (0.7, 0.4, -0.1), (1.8, -0.3, 0.0))
CARBON, OXYGEN = 1, 3
SPREAD = 1.5  # Å


@pytest.fixture
def state(random_molecules):
    """(estimate, noisy, level at σ = 1) of molecules of 7, 4 and 5 atoms, their tokens nearly certain."""
    molecules = random_molecules((7, 4, 5), seed=3).centre()
    return estimate(molecules), molecules, NoiseLevel.free(molecules, torch.ones(3))


def estimate(molecules: Molecules) -> Prediction:
    one_hot = torch.nn.functional.one_hot
    return Prediction(molecules.pos, 9.0 * one_hot(molecules.atom, 5), 9.0 * one_hot(molecules.bond, BOND_CLASSES))


def heavy_atoms(pos, tokens=None) -> tuple[Prediction, Molecules, NoiseLevel]:
    """One molecule without bonds at σ = 1."""
    pos = torch.tensor([pos])
    n = pos.shape[1]
    atom = torch.tensor([tokens or [CARBON] * n])
    molecules = Molecules(torch.ones(1, n, dtype=torch.bool), pos, atom, torch.zeros(1, n, n, dtype=torch.long))
    return estimate(molecules), molecules, NoiseLevel.free(molecules, torch.ones(1))


def tanimoto(pos, points=REFERENCE) -> float:
    """Of heavy atoms, the centres laid on each other."""
    pos, points = pos.double(), torch.tensor([points]).double()
    pos, points = pos - pos.mean(1, keepdim=True), points - points.mean(1, keepdim=True)
    return float(log_tanimoto(pos, torch.ones_like(pos[..., 0]), points)[0].exp())


def test_an_atoms_gaussian_holds_the_volume_of_its_sphere():
    volume = 2 * 2**0.5 * (torch.pi / EXPONENT) ** 1.5  # ∫ 2√2 exp(-α r²)
    assert volume == pytest.approx(4 / 3 * torch.pi * RADIUS**3)


def test_the_tanimoto_of_two_atoms_is_that_of_their_gaussians():
    apart = torch.exp(torch.tensor(-EXPONENT / 2 * 1.5**2, dtype=torch.double))
    points, one = torch.tensor([[[0.0, 0.0, 1.5]]]).double(), torch.ones(1, 1).double()
    value, _ = log_tanimoto(torch.zeros_like(points), one, points)
    assert value.exp() == pytest.approx(float(apart / (2 - apart)))
    assert log_tanimoto(points, one, points)[0] == pytest.approx(0)


def test_its_gradient_is_that_of_automatic_differentiation():
    generator = torch.Generator().manual_seed(0)
    pos = torch.randn(2, 6, 3, generator=generator).double().requires_grad_()
    share = torch.rand(2, 6, generator=generator).double()
    value, slope = log_tanimoto(pos, share, torch.tensor([REFERENCE] * 2).double())
    (expected,) = torch.autograd.grad(value.sum(), pos)
    torch.testing.assert_close(slope, expected)


def test_steps_lead_into_the_volume():
    x0, noisy, level = heavy_atoms([[-1.0, 0.8, 0.0], [-0.6, -0.4, 0.5], [0.6, -0.3, -0.5], [1.0, 0.7, 0.0]])
    before, guide = tanimoto(x0.pos), ShapeGuide(REFERENCE, HEAVY, SPREAD, weight=0.2)
    for _ in range(20):
        x0 = guide(x0, noisy, level)
    assert before < 0.9
    assert tanimoto(x0.pos) > 0.95


def test_what_fills_the_volume_stays():
    centred = (torch.tensor(REFERENCE) - torch.tensor(REFERENCE).mean(0)).tolist()
    x0, noisy, level = heavy_atoms(centred)
    there = ShapeGuide(tuple(map(tuple, centred)), HEAVY, SPREAD)(x0, noisy, level)
    torch.testing.assert_close(there.pos, x0.pos, atol=0.01, rtol=0)


def feature_guide(*points, **changes) -> FeatureGuide:
    oxygen = tuple(token == OXYGEN for token in range(5))
    features = tuple(Feature(point, oxygen) for point in points or ((2.0, 0.0, 0.0),))
    return replace(FeatureGuide(features, (), SPREAD), **changes)


GUIDES = [ShapeGuide(REFERENCE, HEAVY, SPREAD), feature_guide((2.0, 0.0, 0.0), (0.0, 2.0, 0.0))]


@pytest.mark.parametrize("guide", GUIDES, ids=["shape", "features"])
class TestEveryGuide:
    def test_it_is_a_guide_that_can_travel_and_tells_all(self, guide):
        assert isinstance(guide, Guide)
        assert repr(copy.deepcopy(guide)) == repr(guide)
        assert repr(replace(guide, weight=2 * guide.weight)) != repr(guide)

    def test_steps_are_bounded_and_keep_free_molecules_centred(self, guide, state):
        x0, noisy, level = state
        moved = replace(guide, weight=100.0)(x0, noisy, level).pos
        assert 0.1 < (moved - x0.pos).norm(dim=-1).max() <= 2 * LONGEST + 1e-5  # the step, and the centring
        assert moved.sum(1).abs().max() < 1e-4
        assert not moved[~noisy.mask].any()

    def test_the_geometry_at_the_end_is_the_models_own(self, guide, state):
        x0, noisy, level = state
        late = guide(x0, noisy, level.scaled(0.99 * LAST))
        assert torch.equal(late.pos, x0.pos)
        assert torch.equal(late.atom_logits, x0.atom_logits)

    def test_batch_equals_singles(self, guide, state):
        x0, noisy, level = state
        batch = guide(x0, noisy, level)
        for k, n in enumerate(noisy.size.tolist()):
            row = slice(k, k + 1)
            single = noisy.select(row).split()[0]
            x = x0.select(row)
            x = Prediction(x.pos[:, :n], x.atom_logits[:, :n], x.bond_logits[:, :n, :n])
            alone = guide(x, single, NoiseLevel.free(single, torch.ones(1)))
            torch.testing.assert_close(alone.pos, batch.pos[row, :n])
            torch.testing.assert_close(alone.atom_logits, batch.atom_logits[row, :n])

    def test_steps_are_shorter_where_more_is_known(self, guide, state):
        x0, noisy, level = state
        steps = [(guide(x0, noisy, level.scaled(s)).pos - x0.pos).norm() for s in (2.0, 0.5, 0.2)]
        assert steps[0] > steps[1] > steps[2] > 0


def test_the_nearest_suitable_atom_goes_to_a_point_and_others_do_not():
    x0, noisy, level = heavy_atoms([[1.0, 3.0, 0.0], [-3.0, 0.0, 0.0], [3.0, 0.0, 0.0]], [OXYGEN, OXYGEN, CARBON])
    level.pos[:, 1] = 0  # fixes the frame
    step = feature_guide()(x0, noisy, level).pos - x0.pos
    assert step[0, 0, 0] > 0.05  # the oxygen, though the carbon is nearer
    assert step[0, 0, 1] < -0.05


def test_every_point_has_an_atom_of_its_own_at_the_least_cost():
    generator = torch.Generator().manual_seed(1)
    pos = torch.randn(5, 3, generator=generator).tolist()
    points = tuple(map(tuple, torch.randn(3, 3, generator=generator).tolist()))
    x0, noisy, level = heavy_atoms(pos, [OXYGEN] * 5)
    gain = (feature_guide(*points)(x0, noisy, level).atom_logits - x0.atom_logits)[0, :, OXYGEN]
    apart = torch.cdist(torch.tensor(pos), torch.tensor(points)).square()
    best = min(permutations(range(5), 3), key=lambda atoms: float(apart[list(atoms), range(3)].sum()))
    assert set(gain.nonzero()[:, 0].tolist()) == set(best)


def test_more_points_than_atoms_and_padded_atoms_do_no_harm(random_molecules):
    molecules = random_molecules((4, 2), seed=3).centre()
    x0, level = estimate(molecules), NoiseLevel.free(molecules, torch.ones(2))
    points = ((2.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 2.0))
    gain = feature_guide(*points)(x0, molecules, level).atom_logits - x0.atom_logits
    assert (gain != 0).any(-1).sum(1).tolist() == [3, 2]
    assert not gain[~molecules.mask].any()


def test_what_serves_a_point_is_told_what_to_be():
    x0, noisy, level = heavy_atoms([[2.0, 0.1, 0.0], [-3.0, 0.0, 0.0]])
    gain = feature_guide()(x0, noisy, level).atom_logits - x0.atom_logits
    assert gain[0, 0, OXYGEN] == feature_guide().bonus
    assert not gain[0, 1].any()
    assert not gain[0, 0, [t for t in range(5) if t != OXYGEN]].any()
    level.atom[:, 0] = 0  # known
    assert torch.equal(feature_guide()(x0, noisy, level).atom_logits, x0.atom_logits)


def test_atoms_of_a_ring_are_told_their_bonds():
    points = ((0.0, 0.0, 0.0), (1.4, 0.0, 0.0), (9.0, 0.0, 0.0))
    x0, noisy, level = heavy_atoms([[9.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.1, 0.0, 0.0]], [OXYGEN] * 3)
    guide = feature_guide(*points, bonds=((0, 1, 2),))
    gain = guide(x0, noisy, level).bond_logits - x0.bond_logits
    expected = torch.zeros_like(gain)
    expected[0, 1, 2, 2] = expected[0, 2, 1, 2] = guide.bond_bonus
    torch.testing.assert_close(gain, expected)
    level.bond[:, 1, 2] = level.bond[:, 2, 1] = 0  # known
    assert torch.equal(guide(x0, noisy, level).bond_logits, x0.bond_logits)
