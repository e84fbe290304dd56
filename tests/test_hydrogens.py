"""The placer of hydrogens: it moves them alone, to where DFT has them, however a molecule lies and whatever else is placed."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from moldiff import chem, force_field, generation
from moldiff.config import Config, ConfigError, NetworkConfig, TrainConfig
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.generation import Generator
from moldiff.hydrogens import NOISES, Hydrogens
from moldiff.metrics.distributions import internal_coordinates, wasserstein
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
    return [force_field.with_hydrogens(chem.without_hydrogens(mol)) for mol in mols]


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
    moved = placer.place(molecules)[0].pos - molecules.pos
    assert not moved[level.pos == 0].any() and moved[level.pos > 0].all()


def test_what_is_sound(meta, real):
    """A guess is, and one with a hydrogen upon another atom or far from its own is not."""
    placer = Hydrogens(CONFIG, DataInfo.from_meta(meta))
    guess = chem.from_rdkit([real[5]], meta["vocabulary"])
    heavy, hydrogen = (~placer.are_hydrogens(guess)[0]).nonzero()[0], placer.are_hydrogens(guess)[0].nonzero()[-1]
    bonded = guess.bond[0, hydrogen[0]].bool()
    away = guess.pos[0, hydrogen] - guess.pos[0, bonded]
    other = (~bonded & ~placer.are_hydrogens(guess)[0]).nonzero()[0]
    for place, sound in [
        (guess.pos[0, hydrogen], True),
        (guess.pos[0, bonded] + 1.03 * away, True),
        (guess.pos[0, bonded] + 1.2 * away, False),
        (guess.pos[0, other] + 0.6, False),
    ]:
        pos = guess.pos.clone()
        pos[0, hydrogen] = place
        assert placer.sound(guess.replace(pos=pos), guess).tolist() == [sound]
    pos = guess.pos.clone()
    pos[0, heavy] += 9.0
    far = guess.replace(pos=pos)
    assert placer.sound(far, far).all(), "what is odd in a guess is not held against what is made of it"


def test_training_and_loading(tmp_path):
    weights = train(DATA, tmp_path / "run", CONFIG)
    assert Hydrogens.load(weights).data.name == "qm9"
    with pytest.raises(ModelFileError, match="made to place-hydrogens, not to generate"):
        Model.load(weights)
    frozen = replace(CONFIG, train=replace(CONFIG.train, steps=1, lr=0.0))
    copied = Hydrogens.load(train(DATA, tmp_path / "on", frozen, init_from=weights))
    assert copied.info["started_from"]["sha256"] == Hydrogens.load(weights).sha256 == copied.sha256


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
        assert chem.check(placed).reason is None


def test_they_are_turned_as_in_the_data(real, shipped):
    """Angles and torsions: MMFF94s has NH2 beside a double bond flat, and hydroxyl groups elsewhere; the network has not."""
    before = stripped(real)
    after = with_placed_hydrogens(shipped, before)
    for length, most in ((3, 0.3), (4, 0.6)):
        truth = internal_coordinates(map(sanitised_mol, real), length)
        total = sum(map(len, truth.values()))
        errors = []
        for mols in (before, after):
            found = internal_coordinates(map(sanitised_mol, mols), length)
            errors.append(sum(wasserstein(found[kind], of) * len(of) / total for kind, of in truth.items()))
        assert errors[1] < most * errors[0]


def sanitised_mol(mol: Chem.Mol) -> Chem.Mol:
    return chem.sanitised(mol)[0]


def test_the_neighbours_do_not_matter(real, shipped):
    before = stripped(real[:20])
    together = with_placed_hydrogens(shipped, before)
    for mol, placed in zip(before, together, strict=True):
        (alone,) = with_placed_hydrogens(shipped, [mol])
        assert np.array_equal(alone.GetConformer().GetPositions(), placed.GetConformer().GetPositions())


def test_how_a_processor_rounds_does_not_matter(real, shipped):
    before = stripped(real[:20])
    moved = [Chem.Mol(mol) for mol in before]
    for mol in moved:
        mol.GetConformer().SetPositions(mol.GetConformer().GetPositions() + 1e-5)
    for one, other in zip(*(with_placed_hydrogens(shipped, mols) for mols in (before, moved)), strict=True):
        assert np.allclose(one.GetConformer().GetPositions(), other.GetConformer().GetPositions(), atol=1e-3)


def test_without_hydrogens_there_is_nothing_to_place(shipped):
    bare = Chem.MolFromSmiles("N#CC#N")
    AllChem.EmbedMolecule(bare, randomSeed=0)
    (same,) = with_placed_hydrogens(shipped, [bare])
    assert np.array_equal(same.GetConformer().GetPositions(), bare.GetConformer().GetPositions())


def test_another_frame_is_another_draw(real, shipped):
    (before,) = stripped(real[3:4])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    moved = Chem.Mol(before)
    moved.GetConformer().SetPositions(before.GetConformer().GetPositions() @ rotation + 5.0)
    placed, other = with_placed_hydrogens(shipped, [before, moved])
    expected = placed.GetConformer().GetPositions() @ rotation + 5.0
    assert not np.allclose(other.GetConformer().GetPositions(), expected, atol=1e-4)
    assert np.allclose(lengths([other]), lengths([placed]), atol=0.01)


def test_what_comes_to_nothing_is_tried_again(real, shipped, monkeypatch):
    before = stripped(real[:6])
    asked = []

    def place(self, molecules, attempt):
        asked.append((attempt, len(molecules)))
        drawn, _ = original(self, molecules, attempt)
        return drawn, torch.full((len(molecules),), attempt >= needed)

    original = Hydrogens.place
    monkeypatch.setattr(Hydrogens, "place", place)
    for needed in (1, len(NOISES)):
        asked.clear()
        after = with_placed_hydrogens(shipped, before)
        assert {attempt for attempt, _ in asked} == set(range(min(needed + 1, len(NOISES))))
        moved = [
            not np.array_equal(a.GetConformer().GetPositions(), b.GetConformer().GetPositions())
            for a, b in zip(before, after, strict=True)
        ]
        assert moved == [needed < len(NOISES)] * 6


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
