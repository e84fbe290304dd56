"""The batch: geometry, splitting, exchange."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moldiff.molecule import Molecules, Prediction, by_element, centred

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def assert_equal(one: Molecules, other: Molecules) -> None:
    for field in dataclasses.fields(Molecules):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs), field.name


def test_tokens_of_an_element():
    """In the order of their first tokens, whatever their charges."""
    assert by_element(("H", "C", "C-", "N", "O2-")) == (("H", "C", "N", "O"), (0, 1, 1, 2, 3))
    assert by_element(("N+", "Cl", "C", "N")) == (("N", "Cl", "C"), (0, 1, 2, 0))
    assert by_element(()) == ((), ())
    assert by_element(("C", "N+", "N"), "implicit") == (("H", "C", "N"), (1, 2, 2))


def test_sizes_and_pairs_by_hand(random_molecules):
    molecules = random_molecules([2, 3], n=4)
    assert len(molecules) == 2
    assert molecules.size.tolist() == [2, 3]
    assert molecules.pair_mask.sum((1, 2)).tolist() == [2, 6]
    assert not molecules.pair_mask.diagonal(dim1=1, dim2=2).any()


def test_frozen(exact):
    with pytest.raises(dataclasses.FrozenInstanceError):
        exact.pos = exact.pos
    assert exact.replace(pos=exact.pos + 1).pos is not exact.pos


def test_centre(padded):
    moved = padded.replace(pos=(padded.pos + 3) * padded.mask[..., None])
    for centre in (moved.centre(), moved.centre(torch.zeros(4, 9))):  # no weight at all means every atom
        assert torch.allclose(centre.pos.sum(1), torch.zeros(4, 3), atol=1e-5)
        assert (centre.pos[~padded.mask] == 0).all()
    assert torch.allclose(moved.centre().pos, padded.centre().pos, atol=1e-5)


def test_centre_on_chosen_atoms(padded):
    weights = torch.zeros(4, 9)
    weights[2, :2] = 0.25  # only their ratios matter
    weights[:, 8] = 1.0  # padding never counts
    pos = padded.centre(weights).pos
    assert torch.allclose(pos[2, :2].mean(0), torch.zeros(3), atol=1e-6)
    assert torch.allclose(pos[3].sum(0), torch.zeros(3), atol=1e-5)
    assert torch.equal(pos, centred(padded.pos, padded.mask, weights))


def test_rotate_is_a_matrix_from_the_left(exact):
    quarter_turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # x → y
    x, y, z = exact.pos.unbind(-1)
    assert torch.allclose(exact.rotate(quarter_turn).pos, torch.stack([-y, x, z], -1))


@settings(max_examples=30, deadline=None)
@given(sizes=sizes, extra=st.integers(0, 4), seed=st.integers(0, 99))
def test_split_and_collate_are_inverse(random_molecules, sizes, extra, seed):
    molecules = random_molecules(sizes, seed, n=max(sizes) + extra)
    singles = molecules.split()
    assert [s.mask.shape[1] for s in singles] == sizes
    assert all(s.mask.all() for s in singles)
    assert_equal(Molecules.collate(singles, max(sizes) + extra), molecules)
    assert_equal(Molecules.collate([molecules.select([k]) for k in range(len(sizes))]), molecules)


@settings(max_examples=10, deadline=None)
@given(sizes=sizes, seed=st.integers(0, 99), dtype=st.sampled_from([torch.long, torch.uint8]))
def test_pyg_round_trip(random_molecules, sizes, seed, dtype):
    molecules = random_molecules(sizes, seed)
    molecules = molecules.replace(atom=molecules.atom.to(dtype), bond=molecules.bond.to(dtype))
    graphs = molecules.to_pyg()
    assert [g.num_nodes for g in graphs] == sizes
    assert [g.num_edges for g in graphs] == [2 * (n - 1) for n in sizes]  # trees, both directions
    assert all(g.is_undirected() for g in graphs)
    assert_equal(Molecules.from_pyg(graphs), molecules)


def test_select_prediction(exact):
    prediction = Prediction(exact.pos, torch.rand(4, 7, 5), torch.rand(4, 7, 7, 4))
    chosen = prediction.select(torch.tensor([2, 0]))
    assert torch.equal(chosen.atom_logits, prediction.atom_logits[[2, 0]])
    assert torch.equal(chosen.pos, exact.pos[[2, 0]])
