"""A template holds what is known, where it is known, and closes what is closed; a repr tells all that differs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moldiff.known import Known, blank, size_odds
from moldiff.molecule import Molecules
from moldiff.samplers import KeyedRandomness, Sampler, sample


@pytest.fixture
def part(random_molecules) -> Known:
    """Of three atoms; the last is free but for its position, the second is closed."""
    token = torch.tensor([True, True, False])
    return Known(
        molecule=random_molecules([3]),
        pos=torch.ones(3, dtype=torch.bool),
        atom=token,
        bond=token[:, None] & token[None],
        closed=torch.tensor([False, True, False]),
        grows=True,
    )


def test_template_pads_with_free_atoms(part):
    molecules, free = part.template(2, 5, "cpu")
    assert molecules.mask.all() and molecules.mask.shape == (2, 5)
    assert torch.equal(molecules.pos[:, :3], part.molecule.pos.expand(2, -1, -1))
    assert torch.equal(molecules.bond[1, :3, :3], part.molecule.bond[0])
    assert not molecules.bond[:, 3:].any()
    assert torch.equal(free.pos, torch.tensor([[0.0, 0, 0, 1, 1]] * 2))
    assert torch.equal(free.atom, torch.tensor([[0.0, 0, 1, 1, 1]] * 2))


def test_closed_atoms_have_no_bond_to_added_ones(part):
    molecules, free = part.template(1, 5, "cpu")
    expected = torch.tensor([
        [0.0, 0, 1, 1, 1],
        [0, 0, 1, 0, 0],
        [1, 1, 0, 1, 1],
        [1, 0, 1, 0, 1],
        [1, 0, 1, 1, 0],
    ])  # fmt: skip
    assert torch.equal(free.bond[0], expected)
    assert not molecules.bond[0, 1, 3:].any()


def test_nothing_known_is_all_free(part):
    none = torch.zeros(3, dtype=torch.bool)
    start = replace(part, pos=none, atom=none, bond=none[:, None] & none[None], closed=none, grows=False)
    _, free = start.template(1, 3, "cpu")
    assert not start.is_part and part.is_part
    assert free.pos.all() and free.atom.all() and torch.equal(free.bond[0], 1 - torch.eye(3))


@pytest.mark.parametrize("field", ["pos", "atom", "bond", "closed"])
def test_repr_tells_every_flag(part, field):
    flags = getattr(part, field)
    assert repr(replace(part, **{field: ~flags})) != repr(part)


@pytest.mark.parametrize("change", [{"parent": "CC"}, {"grows": False}], ids=str)
def test_repr_tells_the_rest(part, change):
    assert repr(replace(part, **change)) != repr(part) == repr(replace(part))


def test_repr_tells_the_molecule(part):
    moved = part.molecule.replace(pos=part.molecule.pos + 1e-3)
    assert repr(replace(part, molecule=moved)) != repr(part)


def test_a_sampler_keeps_it_exactly(part, trained):
    """In its own frame, far from the origin."""
    from moldiff.model import Model

    model = Model.load(trained)
    far = replace(part, molecule=part.molecule.replace(pos=part.molecule.pos + torch.tensor([30.0, -20.0, 10.0])))
    far = replace(far, molecule=far.molecule.replace(atom=far.molecule.atom % 4))
    denoiser = lambda noisy, level, previous: model.denoise(noisy, level, None, previous)  # noqa: E731
    template, free = far.template(7, 5, "cpu")
    random = KeyedRandomness(0, range(7)).of_size(5)
    with torch.inference_mode():
        made, _ = sample(denoiser, model.process, template, free, Sampler(4), random)
    assert torch.equal(made.pos[:, :3], template.pos[:, :3])
    assert torch.equal(made.atom[:, :2], template.atom[:, :2])
    assert torch.equal(made.bond[:, :2, :2], template.bond[:, :2, :2])
    assert not made.bond[:, 1, 3:].any()
    assert (made.pos[:, 3:] - template.pos[:, :3].mean(1, keepdim=True)).norm(dim=-1).max() < 15


def test_blank_is_all_zeros():
    empty = blank(2, 3, "cpu")
    assert isinstance(empty, Molecules) and empty.mask.all() and not empty.pos.any() and not empty.bond.any()


class TestSizes:
    """Sizes of nine heavy atoms, hydrogens as frequent as a normal distribution of mean 9 and deviation 3 says."""

    histogram = np.array([(9, 9 + h, round(1e6 * np.exp(-((h - 9) ** 2) / 18))) for h in range(21)])

    def mean(self, known: Known, heavy: int) -> float:
        sizes = np.stack([self.histogram[:, 0], self.histogram[:, 1] - 9], 1)
        weights = self.histogram[:, 2] * size_odds(known, heavy, sizes, self.histogram, valence=3.5)
        return float(np.average(sizes[:, 1], weights=weights))

    def test_hydrogens_follow_from_valences(self, part, random_molecules):
        """One atom in place of all that was cut, by one bond, two and three."""
        eight = replace(part, molecule=random_molecules([8]))
        means = [self.mean(replace(eight, cut=cut), 8) for cut in (1, 2, 3)]
        assert means == pytest.approx([2.5, 1.5, 0.5], abs=0.6)  # none can be below 0

    def test_those_of_the_part_count(self, part, random_molecules):
        """Seven heavy atoms with so many hydrogens, one bond to two atoms."""
        means = [self.mean(replace(part, molecule=random_molecules([7 + h]), cut=1), 7) for h in (2, 6, 10)]
        assert np.diff(means) == pytest.approx([4, 4], abs=0.3)

    def test_hydrogens_taken_off_come_back_but_for_the_bonds(self, part, random_molecules):
        seven = replace(part, molecule=random_molecules([7]))
        assert self.mean(replace(seven, hydrogens=8), 7) - self.mean(replace(seven, cut=1), 7) == pytest.approx(
            5, abs=0.3
        )

    def test_a_model_without_hydrogens_is_left_alone(self, part):
        sizes = np.array([[5, 0], [6, 0]])
        flat = np.array([[5, 5, 1], [6, 6, 1]])
        assert np.isfinite(size_odds(part, 3, sizes, flat, valence=3.5)).all()
