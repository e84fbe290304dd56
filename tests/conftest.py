"""Shared fixtures: what a model knows of its data, random molecules, double precision."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from rdkit import Chem
from rdkit.Chem import AllChem

from moldiff import chem
from moldiff.conditions import Conditions, Property
from moldiff.config import Config, NetworkConfig
from moldiff.draws import Drawn
from moldiff.known import Known
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules

# What libraries look at, some of them when they are imported, before they print what tests compare
COLOURS_AND_WRAPS = (
    "FORCE_COLOR",
    "PY_COLORS",
    "GITHUB_ACTIONS",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "COLUMNS",
    "TERMINAL_WIDTH",
)
VOCABULARY = ("H", "C", "N", "O", "N+")
# Three heavy atoms and four hydrogens, five atoms in all, and ten: H C N O and molecules.
ROWS = ((4, 2, 1, 0, 2), (4, 2, 0, 1, 1), (4, 1, 1, 1, 3), (3, 2, 0, 0, 5), (6, 4, 0, 0, 4))


def pytest_configure() -> None:
    """The same surroundings on every machine, before any test module is imported."""
    for name in COLOURS_AND_WRAPS:
        os.environ.pop(name, None)
    # several threads on a busy machine wait for each other most of the time
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    # a machine that stands still for a moment is no failure
    settings.register_profile("moldiff", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("moldiff")


def with_compositions(info: DataInfo, rows: Sequence[tuple[int, ...]]) -> DataInfo:
    """``info`` of other training molecules: atoms of each element and, last, molecules."""
    return replace(info, compositions=tuple(rows), examples=())


def drawn(sizes: Drawn) -> Counter:
    """How often each composition, of H and then others, is; their atoms are the size, those behind H the heavy ones."""
    assert (sizes.atoms == sizes.composition.sum(1)).all()
    assert (sizes.heavy == sizes.composition[:, 1:].sum(1)).all()
    return Counter(map(tuple, sizes.composition.tolist()))


def embedded(smiles: str) -> Chem.Mol:
    """With all hydrogens, where RDKit puts them."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


@pytest.fixture(scope="session")
def info() -> DataInfo:
    return DataInfo(
        name="small",
        vocabulary=VOCABULARY,
        hydrogens="explicit",
        coordinate_std=1.4,
        atom_marginal=(0.5, 0.3, 0.1, 0.08, 0.02),
        bond_marginal=(0.85, 0.12, 0.02, 0.01),
        compositions=((4, 2, 1, 0, 2), (5, 3, 0, 1, 1)),  # C2NH4 twice, C3OH5
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
def data(info) -> DataInfo:
    return with_compositions(info, ROWS)


@pytest.fixture
def part() -> Callable[..., Known]:
    """A part of these tokens that is known altogether."""

    def make(*tokens: int, grows: bool = True) -> Known:
        n = len(tokens)
        known = torch.ones(n, dtype=torch.bool)
        bond = torch.zeros(1, n, n, dtype=torch.long)
        molecule = Molecules(known[None], torch.randn(1, n, 3), torch.tensor([tokens]), bond)
        return Known(molecule, known, known, known[:, None] & known, ~known, grows)

    return make


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


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """Weights of a very small model of water, ammonia, methane and formaldehyde, which gets half of them right."""
    vocabulary = ("H", "C", "N", "O")
    molecules = [chem.from_rdkit([embedded(smiles)], vocabulary).centre() for smiles in ("O", "N", "C", "C=O")]
    info = DataInfo(
        name="four molecules",
        vocabulary=vocabulary,
        hydrogens="explicit",
        coordinate_std=float(torch.cat([m.pos[0] for m in molecules]).square().mean().sqrt()),
        atom_marginal=(0.69, 0.12, 0.06, 0.13),
        bond_marginal=(0.56, 0.41, 0.03, 0.0),
        compositions=((2, 0, 0, 1, 1), (3, 0, 1, 0, 1), (4, 1, 0, 0, 1), (2, 1, 0, 1, 1)),
        properties=(),
        source="embedded by RDKit",
        sha256="0" * 64,
    )
    options = {"width": 32, "layers": 2, "vectors": 8, "pair_width": 16, "heads": 4, "radial": 8}
    torch.manual_seed(0)
    model = Model(Config(network=NetworkConfig(options=options)), info)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, 150)
    generator = torch.Generator().manual_seed(0)
    for step in range(150):
        batch = molecules[step % len(molecules)].select([0] * 64)
        optimizer.zero_grad()
        model.loss(batch, Conditions.none(64, 0, 4), generator)["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    path = tmp_path_factory.mktemp("weights") / "four.safetensors"
    model.save(path)
    return path
