"""Walks through graphs that are known by heart."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moldiff.denoisers.layers import walk_features

LONGEST = 8


def graph_of(atoms: int, bonds: list[tuple[int, int]]) -> torch.Tensor:
    graph = torch.zeros(1, atoms, atoms, dtype=torch.bool)
    for i, j in bonds:
        graph[0, i, j] = graph[0, j, i] = True
    return graph


def counts(graph: torch.Tensor) -> torch.Tensor:
    """(n, n, LONGEST) numbers of walks, from the features of the only graph."""
    return (2 * walk_features(graph, LONGEST)[0].double().atanh()).round()


def ring(atoms: int) -> list[tuple[int, int]]:
    return [(k, (k + 1) % atoms) for k in range(atoms)]


def by_enumeration(graph: torch.Tensor, longest: int) -> torch.Tensor:
    neighbours = [row.nonzero().flatten().tolist() for row in graph[0]]
    found = torch.zeros(*graph.shape[1:], longest, dtype=torch.float64)
    walks = [(i, j) for i, near in enumerate(neighbours) for j in near]
    for k in range(longest):
        for walk in walks:
            found[walk[0], walk[-1], k] += 1
        walks = [(*walk, j) for walk in walks for j in neighbours[walk[-1]] if j != walk[-2]]
    return found


def test_in_a_chain_they_are_the_distance():
    found = counts(graph_of(6, [(k, k + 1) for k in range(5)]))
    for i in range(6):
        for j in range(6):
            assert found[i, j].tolist() == [float(k == abs(i - j)) for k in range(1, LONGEST + 1)]


@pytest.mark.parametrize("size", range(3, 8))
def test_a_ring_shows_at_its_atoms_and_bonds(size):
    found = counts(graph_of(size, ring(size)))
    assert [k for k in range(1, LONGEST + 1) if found[0, 0, k - 1]] == list(range(size, LONGEST + 1, size))
    assert found[0, 0, size - 1] == 2  # either way round
    assert found[0, 1, 0] == found[0, 1, size - 2] == 1


@settings(max_examples=20, deadline=None)
@given(bonds=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda b: b[0] != b[1]), max_size=8))
def test_counts_are_those_of_enumeration(bonds):
    """Of four bonds at most: beyond, numbers grow so large that their features are all 1."""
    graph = graph_of(6, bonds)
    expected = by_enumeration(graph, 4)
    assert torch.allclose(walk_features(graph, 4)[0].double(), (expected / 2).tanh(), atol=1e-6)


def test_half_precision_around_it_does_not_matter():
    """All pairs of 27 atoms bonded: numbers that bfloat16 has not."""
    graph = ~torch.eye(27, dtype=torch.bool)[None]
    with torch.autocast("cpu", torch.bfloat16):
        features = walk_features(graph, LONGEST)
    assert torch.equal(features, walk_features(graph, LONGEST)) and (features >= 0).all()
