"""What training sees: every molecule once, the same noise for every held-out loss, generators that depend on a key."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from moldiff.batches import HELD_OUT, Batches, HeldOut, keyed_generator
from moldiff.config import Config, NetworkConfig, TrainConfig
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.model import Model
from moldiff.model_file import DataInfo

DATA = Path(__file__).parents[1] / "data" / "qm9_sample"
SMALL = NetworkConfig("transformer", {"width": 16, "layers": 2, "vectors": 4, "pair_width": 8, "heads": 2, "radial": 4})
CONFIG = Config(network=SMALL)


def test_every_sample_is_drawn_once_per_batch():
    split = read_split(DATA, "train")
    batches = Batches(split, 6, torch.device("cpu"))
    whole, properties = batches.draw(12, keyed_generator(0, 1))
    assert len(whole) == len(properties) <= 12
    assert len(torch.unique(whole.pos[:, 0], dim=0)) == len(whole)
    shares = [batches.draw(12, keyed_generator(0, 1), rank, world=2)[0] for rank in range(2)]
    assert torch.equal(torch.cat([shares[0].pos, shares[1].pos]).sum((1, 2)).sort()[0], whole.pos.sum((1, 2)).sort()[0])


def test_keyed_generators_depend_on_the_key_alone():
    draw = lambda *key: float(torch.rand((), generator=keyed_generator(*key)))  # noqa: E731
    assert draw(0, 1) == draw(0, 1)
    assert len({draw(0, 1), draw(1, 0), draw(0, 2), draw(0, 1, 1), draw(0, 1, 2)}) == 5


def test_the_same_noise_every_time():
    info = DataInfo.from_meta(read_meta(DATA))
    one, two = Model(CONFIG, info), Model(replace(CONFIG, train=TrainConfig(seed=9)), info)
    split = read_split(DATA, "valid")
    weights = dict(one.network.named_parameters())
    losses = [HeldOut(model, split, torch.device("cpu")).losses(weights) for model in (one, two)]
    assert losses[0] == losses[1]
    other = {k: v + 0.1 for k, v in weights.items()}
    assert HeldOut(one, split, torch.device("cpu")).losses(other)["total"] != losses[0]["total"]


def test_of_few_molecules_several_copies_are_taken():
    info, split = DataInfo.from_meta(read_meta(DATA)), read_split(DATA, "valid")
    few = split.select(np.arange(len(split)) < 7)
    held_out = HeldOut(Model(CONFIG, info), few, torch.device("cpu"))
    assert held_out.copies == HELD_OUT // 7
    assert sum(len(m) for m, _ in held_out.batches.repeated(held_out.copies)) == 7 * held_out.copies
