"""The placer of hydrogens: it moves them alone, to where DFT has them, however a molecule lies and whatever else is placed."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem

from moldiff import chem, generation
from moldiff.config import Config, ConfigError, NetworkConfig, TrainConfig
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.generation import Generator
from moldiff.hydrogens import Hydrogens
from moldiff.model import Model
from moldiff.model_file import DataInfo, ModelFileError
from moldiff.predictions import placer_of, with_placed_hydrogens
from moldiff.training import train

DATA = Path(__file__).parents[1] / "data" / "qm9_sample"
SMALL = NetworkConfig("transformer", {"width": 32, "layers": 1, "vectors": 4, "pair_width": 8, "heads": 2, "radial": 8})
CONFIG = Config(task="place-hydrogens", network=SMALL, train=TrainConfig(steps=5, batch=32, warmup=2))


@pytest.fixture(scope="module")
def meta() -> dict:
    return read_meta(DATA)


@pytest.fixture(scope="module")
def real(meta) -> list[Chem.Mol]:
    """Molecules that no shipped weights were trained on, in their DFT geometry."""
    batches = read_split(DATA, "test").buckets().values()
    return [mol for molecules, _ in batches for mol in chem.to_rdkit(molecules, meta["vocabulary"])]


@pytest.fixture(scope="module")
def shipped() -> Hydrogens:
    return placer_of(generation.load("qm9", "cpu").model.data)


def stripped(mols: list[Chem.Mol]) -> list[Chem.Mol]:
    """With the hydrogens that the force field gives them."""
    return [chem.with_hydrogens(chem.without_hydrogens(mol)) for mol in mols]


def lengths(mols: list[Chem.Mol]) -> np.ndarray:
    """Mean distance of its hydrogens for every atom that has some; Å."""
    found = []
    for mol in mols:
        pos = mol.GetConformer().GetPositions()
        for atom in mol.GetAtoms():
            its = [n.GetIdx() for n in atom.GetNeighbors() if n.GetAtomicNum() == 1]
            if atom.GetAtomicNum() > 1 and its:
                found.append(np.linalg.norm(pos[its] - pos[atom.GetIdx()], axis=1).mean())
    return np.array(found)


def test_only_hydrogens_are_noisy(meta):
    torch.manual_seed(0)
    placer = Hydrogens(CONFIG, DataInfo.from_meta(meta))
    molecules, _ = next(iter(read_split(DATA, "train").buckets().values()))
    level = placer.levels(molecules, torch.full((len(molecules),), 0.3), torch.Generator())
    assert torch.equal(level.pos > 0, (molecules.atom == meta["vocabulary"].index("H")) & molecules.mask)
    assert not level.atom.any() and not level.bond.any()
    placed = placer.place(molecules).pos - molecules.pos
    assert not placed[level.pos == 0].any() and placed[level.pos > 0].any()


def test_training_and_loading(tmp_path):
    weights = train(DATA, tmp_path / "run", CONFIG)
    assert Hydrogens.load(weights).data.name == "qm9"
    with pytest.raises(ModelFileError, match="made to place-hydrogens, not to generate"):
        Model.load(weights)


def test_bonds_to_hydrogens_are_as_long_as_in_the_data(real, shipped):
    before = stripped(real)
    after = with_placed_hydrogens(shipped, before)
    truth = lengths(real)
    assert len(truth) > 100
    errors = [np.abs(lengths(mols) - truth).mean() for mols in (before, after)]
    assert errors[1] < 0.002 < errors[0]


def test_the_other_atoms_stay_and_copies_are_made(real, shipped):
    before = stripped(real[:8])
    positions = [mol.GetConformer().GetPositions() for mol in before]
    for mol, pos, placed in zip(before, positions, with_placed_hydrogens(shipped, before), strict=True):
        heavy = np.array([atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()])
        new = placed.GetConformer().GetPositions()
        assert np.array_equal(new[heavy], pos[heavy]) and np.array_equal(mol.GetConformer().GetPositions(), pos)
        assert (np.linalg.norm(new - pos, axis=1)[~heavy] < 0.3).all()
        assert chem.check(placed).reason is None


def test_neither_the_neighbours_nor_the_frame_matter(real, shipped):
    before = stripped(real[:20])
    together = with_placed_hydrogens(shipped, before)
    for mol, placed in zip(before, together, strict=True):
        (alone,) = with_placed_hydrogens(shipped, [mol])
        assert np.array_equal(alone.GetConformer().GetPositions(), placed.GetConformer().GetPositions())
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    moved = Chem.Mol(before[3])
    moved.GetConformer().SetPositions(before[3].GetConformer().GetPositions() @ rotation + 5.0)
    (placed,) = with_placed_hydrogens(shipped, [moved])
    expected = together[3].GetConformer().GetPositions() @ rotation + 5.0
    assert np.allclose(placed.GetConformer().GetPositions(), expected, atol=1e-4)


def test_a_full_batch_and_a_rest(real, shipped):
    """Molecules of one size, more than are placed at a time, are each as if alone."""
    mol, others = stripped(real[30:31])[0], []
    generator = np.random.default_rng(0)
    for _ in range(70):
        others.append(Chem.Mol(mol))
        pos = mol.GetConformer().GetPositions()
        others[-1].GetConformer().SetPositions(pos + generator.normal(scale=0.02, size=pos.shape))
    placed = with_placed_hydrogens(shipped, others)
    for k in (0, 63, 64, 69):
        (alone,) = with_placed_hydrogens(shipped, [others[k]])
        assert np.array_equal(alone.GetConformer().GetPositions(), placed[k].GetConformer().GetPositions())


def test_a_set_without_hydrogens_is_refused(meta):
    with pytest.raises(ConfigError, match="qm9 has no hydrogens to place; prepare it with --hydrogens explicit"):
        Hydrogens(CONFIG, replace(DataInfo.from_meta(meta), hydrogens="implicit"))


def test_what_cannot_be_read_stays(shipped):
    odd = Chem.MolFromMolBlock(Chem.MolToMolBlock(Chem.AddHs(Chem.MolFromSmiles("CBr"))), removeHs=False)
    (same,) = with_placed_hydrogens(shipped, [odd])
    assert np.array_equal(same.GetConformer().GetPositions(), odd.GetConformer().GetPositions())


def test_it_is_for_models_of_the_same_collection(shipped):
    data = generation.load("qm9", "cpu").model.data
    assert shipped is not None
    assert placer_of(replace(data, name="qm9-generator")) is not None, "a part of it"
    assert placer_of(replace(data, source="mine.sdf")) is None, "trained on from its weights"
    assert placer_of(replace(data, hydrogens="explicit")) is None
    assert placer_of(replace(data, vocabulary=(*data.vocabulary, "S"))) is None
    assert placer_of(generation.load("leads", "cpu").model.data) is None


def test_generated_molecules_have_them(monkeypatch):
    generator = generation.load("qm9", "cpu")
    placed = [record.mol for record in generator.generate(4, seed=3, steps=4)]
    without = Generator(generator.model, "qm9", generator.path)
    monkeypatch.setattr(Generator, "placer", None)
    plain = [record.mol for record in without.generate(4, seed=3, steps=4)]
    moved = Counter()
    for one, other in zip(placed, plain, strict=True):
        same = (one.GetConformer().GetPositions() == other.GetConformer().GetPositions()).all(1)
        moved.update(atom.GetSymbol() for atom, stayed in zip(one.GetAtoms(), same, strict=True) if not stayed)
    assert list(moved) == ["H"]
