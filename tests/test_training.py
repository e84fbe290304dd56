"""Training: stopping and resuming change nothing, damage is refused, the loss falls."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from moldiff import training
from moldiff.checkpoints import PART_BYTES, CheckpointError, latest_checkpoint, read_checkpoint, write_checkpoint
from moldiff.conditions import Conditions
from moldiff.config import Config, NetworkConfig, TrainConfig
from moldiff.datasets.prepared import SPLITS, read_meta, read_split, write_prepared
from moldiff.model import Model
from moldiff.training import LOG, TrainingError, ema_exponent, keyed_generator, schedule, train

DATA = Path(__file__).parents[1] / "data" / "qm9_sample"
SMALL = NetworkConfig("transformer", {"width": 16, "layers": 2, "vectors": 4, "pair_width": 8, "heads": 2, "radial": 4})
CONFIG = Config(network=SMALL, train=TrainConfig(steps=6, batch=8, lr=5e-3, warmup=2))


@pytest.fixture
def straight(tmp_path) -> bytes:
    """The weights file of an uninterrupted run."""
    return without_cpu_time(train(DATA, tmp_path / "straight", CONFIG))


def without_cpu_time(path: Path) -> bytes:
    model = Model.load(path)
    model.info = {k: v for k, v in model.info.items() if k != "cpu_seconds"}
    model.save(path)
    return path.read_bytes()


def content_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def stop_at(step: int, monkeypatch, number: int) -> None:
    """Send this process a signal when the given step begins."""
    original = training.Loop.step

    def watched(loop: training.Loop) -> bool:
        if loop.state.step == step:
            os.kill(os.getpid(), number)
        return original(loop)

    monkeypatch.setattr(training.Loop, "step", watched)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_resuming_is_as_if_nothing_happened(tmp_path, monkeypatch, straight, number):
    run = tmp_path / "stopped"
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        stop_at(3, patched, number)
        assert Model.load(train(DATA, run, CONFIG)).info["steps"] == 3
    assert signal.getsignal(number) == before
    assert without_cpu_time(train(DATA, run, CONFIG, resume=True)) == straight


def test_the_time_limit_stops_and_resuming_is_as_if_nothing_happened(tmp_path, straight):
    run = tmp_path / "limited"
    assert Model.load(train(DATA, run, CONFIG, max_seconds=0.0)).info["steps"] == 0
    assert without_cpu_time(train(DATA, run, CONFIG, resume=True)) == straight


def test_longer_training_may_be_asked_for_later(tmp_path, straight):
    """Without a cool-down the steps already done do not depend on how many there will be."""
    constant = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, cooldown=0.0))
    half = dataclasses.replace(constant, train=dataclasses.replace(constant.train, steps=3))
    whole = Model.load(train(DATA, tmp_path / "whole", constant))
    train(DATA, tmp_path / "half", half)
    continued = Model.load(train(DATA, tmp_path / "half", constant, resume=True))
    assert continued.sha256 == whole.sha256
    assert continued.info["samples"] == whole.info["samples"] == 6 * 8


def test_broken_coordinates_stop_it_and_leave_the_checkpoint(tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(DATA, run, dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=2)))
    good = content_of(latest_checkpoint(run))
    split = read_split(DATA, "train")
    broken = dataclasses.replace(split, pos=np.full_like(split.pos, np.nan))
    monkeypatch.setattr(training, "read_split", lambda *_: broken)
    with pytest.raises(TrainingError, match=r"not finite at step 2.*checkpoint-000000002.*--resume"):
        train(DATA, run, CONFIG, resume=True)
    assert content_of(latest_checkpoint(run)) == good


def test_an_existing_run_is_not_overwritten(tmp_path):
    train(DATA, tmp_path, CONFIG)
    content = content_of(latest_checkpoint(tmp_path))
    with pytest.raises(TrainingError, match="holds a run already; continue it with --resume"):
        train(DATA, tmp_path, CONFIG)
    assert content_of(latest_checkpoint(tmp_path)) == content
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG.to_dict()


def test_what_does_not_fit_is_refused(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(DATA, run, CONFIG, resume=True)
    train(DATA, run, CONFIG, max_seconds=0.0)
    other = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, batch=4))
    with pytest.raises(TrainingError, match=r"train\.batch = 8, now 4"):
        train(DATA, run, other, resume=True)
    meta = {k: v for k, v in read_meta(DATA).items() if k not in ("format", "sha256", "molecules")}
    splits = {name: read_split(DATA, name) for name in SPLITS} | {"train": read_split(DATA, "test")}
    write_prepared(tmp_path / "data", {name: [(split, [])] for name, split in splits.items()}, meta)
    with pytest.raises(TrainingError, match="was trained on other data"):
        train(tmp_path / "data", run, CONFIG, resume=True)
    part = latest_checkpoint(run) / "part-000.safetensors"
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        train(DATA, run, CONFIG, resume=True)


def validation_loss(model: Model, batches: training.Batches, batch: int, count: int) -> dict[str, float]:
    """Mean losses over the same molecules, σ and noise at every call, unconditional."""
    sums: dict[str, float] = {}
    with torch.no_grad():
        for k in range(count):
            molecules, properties = batches.draw(batch, keyed_generator(1, k))
            conditions = Conditions.none(len(molecules), properties.shape[1], molecules.device)
            for name, value in model.loss(molecules, conditions, keyed_generator(2, k)).items():
                sums[name] = sums.get(name, 0.0) + float(value) / count
    return sums


@pytest.mark.parametrize("kind", ["transformer", "egnn", "tensor_product"])
def test_loss_falls(tmp_path, kind):
    options = SMALL.options if kind == "transformer" else {"width": 16, "layers": 1}
    config = Config(network=NetworkConfig(kind, options), train=TrainConfig(steps=30, batch=16, lr=1e-2, warmup=3))
    rows = []
    path = train(DATA, tmp_path / "run", config, progress=rows.append)
    info = Model.load(path).data
    valid = training.Batches(read_split(DATA, "valid"), len(info.properties), torch.device("cpu"))
    before, after = (validation_loss(m, valid, 16, 3) for m in (Model(config, info), Model.load(path)))
    assert after["total"] < 0.7 * before["total"]
    assert after["atom"] < 0.7 * before["atom"]
    logged = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert logged == rows
    assert rows[-1]["step"] == 30


def test_every_sample_is_drawn_once_per_batch():
    split = read_split(DATA, "train")
    batches = training.Batches(split, 6, torch.device("cpu"))
    whole, properties = batches.draw(12, keyed_generator(0, 1))
    assert len(whole) == len(properties) <= 12
    assert len(torch.unique(whole.pos[:, 0], dim=0)) == len(whole)
    shares = [batches.draw(12, keyed_generator(0, 1), rank, world=2)[0] for rank in range(2)]
    assert torch.equal(torch.cat([shares[0].pos, shares[1].pos]).sum((1, 2)).sort()[0], whole.pos.sum((1, 2)).sort()[0])


def test_learning_rate_schedule():
    config = TrainConfig(steps=100, warmup=10, cooldown=0.2)
    factors = [schedule(k, config) for k in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:81] == [1.0] * 72
    assert factors[90] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.05)


def test_average_width():
    """EDM2's table: γ = 6.94 for a relative width of 0.10 and 16.97 for 0.05 (arXiv 2312.02696)."""
    assert ema_exponent(0.10) == pytest.approx(6.94, abs=0.01)
    assert ema_exponent(0.05) == pytest.approx(16.97, abs=0.01)


def test_keyed_generators_depend_on_the_key_alone():
    draw = lambda *key: float(torch.rand((), generator=keyed_generator(*key)))  # noqa: E731
    assert draw(0, 1) == draw(0, 1)
    assert len({draw(0, 1), draw(1, 0), draw(0, 2), draw(0, 1, 1), draw(0, 1, 2)}) == 5


TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
from moldiff import training
from moldiff.checkpoints import PART_BYTES, CheckpointError, latest_checkpoint, read_checkpoint, write_checkpoint
from moldiff.conditions import Conditions
from moldiff.config import Config

go = training.Loop.go

def watched(loop, seconds):
    go(loop, seconds)
    Path(sys.argv[2] + os.environ["RANK"]).write_text(loop.state.model.sha256)

training.Loop.go = watched
training.train(Path(sys.argv[1]), Path(sys.argv[2]), Config.from_dict(json.loads(sys.argv[3])))
"""


def test_two_processes_hold_the_same_weights(tmp_path):
    """Started as on a cluster; each process writes the hash of what it ends with."""
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    run = tmp_path / "run"
    arguments = [str(DATA), str(run), json.dumps(CONFIG.to_dict())]
    done = subprocess.run(
        launcher + arguments, check=False, capture_output=True, text=True, timeout=300, cwd=DATA.parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert Path(f"{run}0").read_text() == Path(f"{run}1").read_text()
    model = Model.load(run / "weights.safetensors")
    assert all(p.isfinite().all() for p in model.parameters())
    assert (model.info["steps"], model.info["samples"]) == (6, 48)


def test_checkpoints_come_in_small_files_and_a_crash_leaves_the_last(tmp_path, monkeypatch):
    tensors = {f"t{k}": torch.randn(3 * 2**18) for k in range(12)}  # 3 MiB each
    write_checkpoint(tmp_path, 1, tensors, {"step": 1})
    files = list(latest_checkpoint(tmp_path).glob("part-*"))
    assert len(files) == 3
    assert all(f.stat().st_size < PART_BYTES + 2**16 for f in files)
    found, header = read_checkpoint(latest_checkpoint(tmp_path))
    assert header == {"step": 1}
    assert all(torch.equal(found[k], v) for k, v in tensors.items())

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", crash)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(tmp_path, 2, tensors, {"step": 2})
    assert read_checkpoint(latest_checkpoint(tmp_path))[1] == {"step": 1}
    write_checkpoint(tmp_path, 2, tensors, {"step": 2})
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-000000002"]


def test_training_needs_neither_rdkit_nor_pandas(tmp_path):
    """As on a machine that has only torch, numpy and safetensors."""
    script = """
import sys
sys.modules |= {"rdkit": None, "pandas": None, "torch_geometric": None, "e3nn": None}
from typer.testing import CliRunner
from moldiff.cli import app
result = CliRunner().invoke(app, sys.argv[1:])
print(result.output)
sys.exit(result.exit_code)
"""
    settings = ["train.steps=2", "train.batch=4", "network.options.layers=1"]
    arguments = ["train", str(DATA), "-o", str(tmp_path / "run"), *(x for s in settings for x in ("--set", s))]
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_training_starts_from_given_weights(tmp_path):
    first = train(DATA, tmp_path / "first", CONFIG)
    none = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=1, lr=0.0))
    copied = Model.load(train(DATA, tmp_path / "second", none, init_from=first))
    history = {k: v for k, v in Model.load(first).info.items() if k in ("samples", "steps", "cpu_seconds")}
    assert copied.info["started_from"] == {"sha256": Model.load(first).sha256, **history}
    assert copied.sha256 == Model.load(first).sha256
    other = dataclasses.replace(CONFIG, network=NetworkConfig("transformer", {**SMALL.options, "layers": 1}))
    with pytest.raises(TrainingError, match=r"weights\.safetensors: its network is .*choose weights or a preset"):
        train(DATA, tmp_path / "third", other, init_from=first)


def test_fine_tuning_speaks_the_language_of_the_weights(tmp_path, monkeypatch):
    """Tokens and properties are matched by name, scale and marginals kept, and a stopped run goes on the same."""
    first = train(DATA, tmp_path / "first", CONFIG)
    source = Model.load(first).data
    data = write_own(tmp_path / "own", reverse=True, properties=["gap"])
    info = training.DataInfo.from_meta(read_meta(data))
    own = Model.load(train(data, tmp_path / "straight", CONFIG, init_from=first)).data
    for name in ("vocabulary", "coordinate_std", "atom_marginal", "bond_marginal", "properties"):
        assert getattr(own, name) == getattr(source, name)
    assert (own.name, own.sha256, own.size_histogram) == ("own", info.sha256, info.size_histogram)
    before, after = read_split(DATA, "test"), training._translate(read_split(data, "train"), info, own)
    assert (before.atom == after.atom).all()
    gap = [p.name for p in source.properties].index("gap")
    assert (before.properties[:, gap] == after.properties[:, gap]).all()
    assert np.isnan(np.delete(after.properties, gap, 1)).all()
    with monkeypatch.context() as patch:
        stop_at(3, patch, signal.SIGTERM)
        train(data, tmp_path / "stopped", CONFIG, init_from=first)
    train(data, tmp_path / "stopped", CONFIG, resume=True)
    runs = [without_cpu_time(tmp_path / name / "weights.safetensors") for name in ("straight", "stopped")]
    assert runs[0] == runs[1]


def test_sets_that_the_weights_do_not_know_are_refused(tmp_path):
    first = train(DATA, tmp_path / "first", CONFIG)
    for change, message in (
        (
            {"hydrogens": "implicit"},
            "its hydrogens are explicit, those of own implicit; prepare the set with --hydrogens",
        ),
        (
            {"element": "Br"},
            r"Br, in \d+ training molecules, is not in its vocabulary \(H C .*--vocabulary-of .*weights",
        ),
        ({"unit": "K"}, r"property gap in K is not one of its own \(.*gap in eV.*\); prepare the set without it"),
    ):
        data = write_own(tmp_path / next(iter(change)) / "own", properties=["gap"], **change)
        with pytest.raises(TrainingError, match=message):
            train(data, tmp_path / "run", CONFIG, init_from=first)
    assert not (tmp_path / "run").exists()


def write_own(
    folder: Path,
    properties: list[str],
    reverse: bool = False,
    hydrogens: str = "explicit",
    element: str = "F",
    unit: str = "eV",
) -> Path:
    """The test molecules of the sample as a set of other tokens, properties and scale; ``element`` in place of F."""
    meta, split = read_meta(DATA), read_split(DATA, "test")
    columns = [k for k, p in enumerate(meta["properties"]) if p["name"] in properties]
    vocabulary = [{"F": element}.get(name, name) for name in meta["vocabulary"]]
    order = vocabulary[::-1] if reverse else vocabulary
    own = dataclasses.replace(split.with_vocabulary(vocabulary, order), properties=split.properties[:, columns])
    told = {
        **{k: v for k, v in meta.items() if k not in ("format", "sha256", "molecules")},
        "name": "own",
        "hydrogens": hydrogens,
        "vocabulary": order,
        "properties": [{**meta["properties"][k], "unit": unit, "mean": 0.0} for k in columns],
        "coordinate_std": 3.0,
        "size_histogram": meta["size_histogram"][:2],
    }
    write_prepared(folder, {name: [(own, [])] for name in SPLITS}, told)
    return folder
