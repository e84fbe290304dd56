"""Shared fixtures: what a model knows of its data, random molecules, double precision."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from moldiff.conditions import Property
from moldiff.model import DataInfo
from moldiff.molecule import Molecules

VOCABULARY = ("H", "C", "N", "O", "N+")


@pytest.fixture(scope="session")
def info() -> DataInfo:
    return DataInfo(
        name="small",
        vocabulary=VOCABULARY,
        hydrogens="explicit",
        coordinate_std=1.4,
        atom_marginal=(0.5, 0.3, 0.1, 0.08, 0.02),
        bond_marginal=(0.85, 0.12, 0.02, 0.01),
        size_histogram=((3, 7, 2), (4, 9, 1)),
        properties=(Property("gap", "eV", 6.6, 1.4, 1.1, 10.0), Property("mu", "D", 3.0, 2.0, 0.0, 20.0)),
        source="random numbers",
        sha256="0" * 64,
    )


@pytest.fixture(scope="session")
def random_molecules() -> Callable[..., Molecules]:
    """``random_molecules(sizes, seed=0, n=None)``: random trees, orders, coordinates and tokens, padded to n."""

    def single(n: int, generator: torch.Generator) -> Molecules:
        bond = torch.zeros(n, n, dtype=torch.long)
        for i in range(1, n):
            j = int(torch.randint(i, (), generator=generator))
            bond[i, j] = bond[j, i] = torch.randint(1, 4, (), generator=generator)
        return Molecules(
            mask=torch.ones(1, n, dtype=torch.bool),
            pos=1.4 * torch.randn(1, n, 3, generator=generator),
            atom=torch.randint(len(VOCABULARY), (1, n), generator=generator),
            bond=bond[None],
        )

    def batch(sizes: Sequence[int], seed: int = 0, n: int | None = None) -> Molecules:
        generator = torch.Generator().manual_seed(seed)
        return Molecules.collate([single(size, generator) for size in sizes], n)

    return batch


@pytest.fixture
def exact(random_molecules) -> Molecules:
    """Four molecules of seven atoms."""
    return random_molecules([7] * 4)


@pytest.fixture
def padded(random_molecules) -> Molecules:
    """Molecules of 1, 2, 5 and 8 atoms, padded to 9."""
    return random_molecules([1, 2, 5, 8], n=9)


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision for everything made meanwhile, constants of e3nn included."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
