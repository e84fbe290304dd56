"""What is known in a training sample."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moldiff.molecule import Molecules
from moldiff.tasks import TASKS, closed_atoms, random_fragments, task_levels


def pieces(molecules: Molecules, known: torch.Tensor, k: int) -> int:
    """Connected components of the known atoms of molecule k, by flooding."""
    left = set(known[k].nonzero().flatten().tolist())
    count = 0
    while left:
        front, count = {left.pop()}, count + 1
        while front:
            atom = front.pop()
            near = left & set(molecules.bond[k, atom].nonzero().flatten().tolist())
            left -= near
            front |= near
    return count


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8), seed=st.integers(0, 10_000))
def test_fragments_are_one_or_two_connected_pieces(random_molecules, sizes, seed):
    molecules = random_molecules(sizes, seed, n=13)
    known = random_fragments(molecules, torch.Generator().manual_seed(seed))
    assert not (known & ~molecules.mask).any()
    for k, n in enumerate(sizes):
        assert known[k].sum() < n
        assert pieces(molecules, known, k) <= 2
        assert known[k].any() or n == 1


def test_fragments_of_a_star_stay_connected():
    """Four hydrogens around a carbon: leaving the carbon out would leave four pieces."""
    bond = torch.zeros(200, 5, 5, dtype=torch.long)
    bond[:, 0, 1:] = bond[:, 1:, 0] = 1
    methane = Molecules(torch.ones(200, 5, dtype=torch.bool), torch.zeros(200, 5, 3), torch.zeros(200, 5).long(), bond)
    known = random_fragments(methane, torch.Generator().manual_seed(0))
    assert (known.sum(1) == 4).any()
    assert max(pieces(methane, known, k) for k in range(200)) <= 2


def levels_of(random_molecules, task: str):
    molecules = random_molecules([6, 9], n=10)
    sigma = torch.tensor([0.5, 2.0])
    shares = dict.fromkeys(TASKS, 0.0) | {task: 1.0}
    return molecules, task_levels(molecules, sigma, torch.Generator().manual_seed(1), shares)


@pytest.mark.parametrize(
    ("task", "free"),
    [("free", (True, True, True)), ("conformer", (True, False, False)), ("bonds", (False, True, True))],
)
def test_levels_of_whole_molecules(random_molecules, task, free):
    molecules, level = levels_of(random_molecules, task)
    for field, mask, is_free in zip(
        (level.pos, level.atom, level.bond), (molecules.mask, molecules.mask, molecules.pair_mask), free, strict=True
    ):
        assert ((field > 0) == (mask & torch.tensor(is_free))).all()
    assert level.sigma.tolist() == [0.5, 2.0]


def test_levels_of_fragments(random_molecules):
    """A bond is known when both of its atoms are, and that there is none between a closed atom and all others."""
    molecules, level = levels_of(random_molecules, "fragment")
    known = molecules.mask & (level.pos == 0)
    assert known.any(1).all()
    assert (known.sum(1) < molecules.size).all()
    assert torch.equal(level.pos, level.atom)
    inside = known[:, :, None] & known[:, None]
    outside = molecules.pair_mask & ~known[:, :, None] & ~known[:, None]
    across = molecules.pair_mask & ~inside & ~outside
    assert (level.bond[inside] == 0).all() and (level.bond[outside] > 0).all()
    told = across & (level.bond == 0)
    assert torch.equal(told, told.transpose(1, 2))
    assert (molecules.bond[told] == 0).all()
    rows = (told == across).all(2) | (~told).all(2)
    assert rows[known].all()  # of a known atom all such bonds are told or none


def test_half_of_the_fragments_have_all_their_closed_atoms_told():
    """A chain of four, the first two known: nothing is bonded to the first, and the third is bonded to the second."""
    bond = torch.diag_embed(torch.ones(3, dtype=torch.long), 1)
    bond = (bond + bond.T).expand(4000, 4, 4)
    ones = torch.ones(4000, 4, dtype=torch.bool)
    chains = Molecules(ones, torch.zeros(4000, 4, 3), ones.long(), bond)
    known = torch.tensor([True, True, False, False]).expand(4000, 4)
    told = closed_atoms(chains, known, torch.Generator().manual_seed(0))
    assert not told[:, 1:].any()
    assert float(told[:, 0].float().mean()) == pytest.approx(0.75, abs=0.03)


def test_shares(random_molecules):
    molecules = random_molecules([5]).select([0] * 4000)
    level = task_levels(molecules, torch.ones(4000), torch.Generator().manual_seed(0))
    known_pos, known_atom = (level.pos == 0), (level.atom == 0)
    counts = {
        "free": (~known_pos & ~known_atom).all(1),
        "conformer": known_atom.all(1),
        "bonds": known_pos.all(1),
        "fragment": (known_pos & known_atom).any(1),
    }
    for task, share in TASKS.items():
        assert float(counts[task].float().mean()) == pytest.approx(share, abs=0.02)
