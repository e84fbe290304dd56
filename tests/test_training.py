"""Training: stopping and resuming change nothing, damage is refused, the loss falls."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from moldiff import batches, training
from moldiff.batches import HeldOut
from moldiff.checkpoints import CheckpointError, latest_checkpoint
from moldiff.cli import app
from moldiff.config import Config, NetworkConfig, TrainConfig
from moldiff.datasets.prepared import SPLITS, read_meta, read_split, write_prepared
from moldiff.errors import RequestError
from moldiff.model import Model
from moldiff.training import LOG, LossNotFinite, TrainingError, ema_exponent, schedule, train

DATA = Path(__file__).parents[1] / "data" / "qm9_sample"
SMALL = NetworkConfig("transformer", {"width": 16, "layers": 2, "vectors": 4, "pair_width": 8, "heads": 2, "radial": 4})
CONFIG = Config(network=SMALL, train=TrainConfig(steps=6, batch=8, lr=5e-3, warmup=2))


def changed(**values: object) -> Config:
    """The configuration of these tests with other settings of the training."""
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **values))


@pytest.fixture(autouse=True)
def small_checks(monkeypatch) -> None:
    """Held-out losses of few molecules, for speed."""
    monkeypatch.setattr(batches, "HELD_OUT", 48)


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


def clock(seconds: float):
    """A clock on which every look takes so long."""
    now = itertools.count()
    return lambda: seconds * next(now)


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_exit_code_tells_the_signal(tmp_path, monkeypatch, number, code):
    stop_at(3, monkeypatch, number)
    settings = [f"--set=train.{key}={value}" for key, value in {"steps": 6, "batch": 8, "warmup": 2}.items()]
    settings += [f"--set=network.options.{key}={value}" for key, value in SMALL.options.items()]
    result = CliRunner().invoke(app, ["train", str(DATA), "-o", str(tmp_path / "run"), "--device", "cpu", *settings])
    assert (result.exit_code, "stopped at step 3 of 6; --resume goes on" in result.stderr) == (code, True)


def test_one_training_at_a_time(tmp_path):
    refused = []

    def again(_: dict) -> None:
        with pytest.raises(RequestError, match=r"-o .*run: another run is writing there"):
            train(DATA, tmp_path / "run", CONFIG)
        refused.append(True)

    train(DATA, tmp_path / "run", changed(steps=1, warmup=1), progress=again)
    assert refused and not (tmp_path / "run" / ".lock").exists()


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch, straight):
    """Nothing is saved when it ends: what came after the checkpoint is done again."""
    save, step = training.Loop.save, training.Loop.step

    def killed(loop: training.Loop) -> bool:
        if loop.state.step == 4:
            raise KeyboardInterrupt
        return step(loop)

    with monkeypatch.context() as patched:
        patched.setattr(training.Loop, "save", lambda loop: save(loop) if loop.state.step == 2 else None)
        patched.setattr(training.Loop, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(DATA, tmp_path / "killed", changed(checkpoint_seconds=0.0))
    assert latest_checkpoint(tmp_path / "killed").name == "checkpoint-000000002"
    assert without_cpu_time(train(DATA, tmp_path / "killed", CONFIG, resume=True)) == straight


def test_the_time_limit_stops_and_resuming_is_as_if_nothing_happened(tmp_path, straight):
    run = tmp_path / "limited"
    assert Model.load(train(DATA, run, CONFIG, max_seconds=0.0)).info["steps"] == 0
    assert without_cpu_time(train(DATA, run, CONFIG, resume=True)) == straight


def test_longer_training_may_be_asked_for_later(tmp_path, straight):
    """Without a cool-down the steps already done do not depend on how many there will be."""
    constant, half = changed(cooldown=0.0), changed(cooldown=0.0, steps=3)
    whole = Model.load(train(DATA, tmp_path / "whole", constant))
    train(DATA, tmp_path / "half", half)
    continued = Model.load(train(DATA, tmp_path / "half", constant, resume=True))
    assert continued.sha256 == whole.sha256
    assert continued.info["samples"] == whole.info["samples"] == 6 * 8


def test_broken_coordinates_stop_it_and_leave_the_checkpoint(tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(DATA, run, changed(steps=2))
    good = content_of(latest_checkpoint(run))
    split = read_split(DATA, "train")
    broken = dataclasses.replace(split, pos=np.full_like(split.pos, np.nan))
    monkeypatch.setattr(training, "read_split", lambda *_: broken)
    with pytest.raises(LossNotFinite, match=r"not finite at step 2.*checkpoint-000000002.*--resume"):
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
    with pytest.raises(TrainingError, match=r"train\.batch = 8, now 4"):
        train(DATA, run, changed(batch=4), resume=True)
    meta = {k: v for k, v in read_meta(DATA).items() if k not in ("format", "sha256", "molecules")}
    splits = {name: read_split(DATA, name) for name in SPLITS} | {"train": read_split(DATA, "test")}
    write_prepared(tmp_path / "data", {name: [(split, [])] for name, split in splits.items()}, meta)
    with pytest.raises(TrainingError, match="was trained on other data"):
        train(tmp_path / "data", run, CONFIG, resume=True)
    part = latest_checkpoint(run) / "part-000.safetensors"
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        train(DATA, run, CONFIG, resume=True)


@pytest.mark.parametrize("kind", ["transformer", "egnn", "tensor_product"])
def test_loss_falls(tmp_path, kind):
    options = SMALL.options if kind == "transformer" else {"width": 16, "layers": 1}
    config = Config(network=NetworkConfig(kind, options), train=TrainConfig(steps=30, batch=16, lr=1e-2, warmup=3))
    rows = []
    path = train(DATA, tmp_path / "run", config, progress=rows.append)
    trained = Model.load(path)
    held_out = HeldOut(trained, read_split(DATA, "valid"), torch.device("cpu"))
    networks = (Model(config, trained.data).network, trained.network)
    before, after = (held_out.losses(network.state_dict()) for network in networks)
    assert after["total"] < 0.7 * before["total"]
    assert after["atom"] < 0.7 * before["atom"]
    logged = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert logged == rows
    assert rows[-1]["step"] == 30


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


class TestHeldOut:
    """Losses on molecules kept out of training: what is kept, when training ends, and that stopping changes neither."""

    CONFIG = changed(patience=3, check_steps=1)
    LOSSES = (3.0, 1.0, 2.0, 2.5, 2.0)  # before the first step, after it, and so on

    def tell(self, monkeypatch) -> list[dict[str, torch.Tensor]]:
        """Let the losses be ``LOSSES``; returns the weights they are asked for, as they come."""
        asked: list[dict[str, torch.Tensor]] = []

        def losses(_: HeldOut, weights: dict[str, torch.Tensor]) -> dict[str, float]:
            asked.append({k: v.clone() for k, v in weights.items()})
            return {"total": self.LOSSES[len(asked) - 1]}

        monkeypatch.setattr(HeldOut, "losses", losses)
        return asked

    def test_the_best_average_is_kept_and_patience_ends(self, tmp_path, monkeypatch):
        asked, rows = self.tell(monkeypatch), []
        model = Model.load(train(DATA, tmp_path, self.CONFIG, progress=rows.append))
        assert len(asked) == len(self.LOSSES)
        assert all(torch.equal(p, asked[1][name]) for name, p in model.network.named_parameters())
        assert model.info["steps"] == 4
        assert model.info["held_out"] == {"step": 1, "loss": 1.0}
        checks = [row for row in rows if "held_out" in row]
        assert [row["step"] for row in checks] == [0, 1, 2, 3, 4]
        assert [row["best_step"] for row in checks] == [0, 1, 1, 1, 1]
        assert [row["patience_left"] for row in checks] == [3, 3, 2, 1, 0]
        assert [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()] == rows

    @pytest.mark.parametrize("step", [0, 1, 3])
    def test_stopping_and_resuming_changes_nothing(self, tmp_path, monkeypatch, step):
        with monkeypatch.context() as patched:
            self.tell(patched)
            straight = train(DATA, tmp_path / "straight", self.CONFIG)
        self.tell(monkeypatch)
        with monkeypatch.context() as patched:
            stop_at(step, patched, signal.SIGTERM)
            assert Model.load(train(DATA, tmp_path / "stopped", self.CONFIG)).info["steps"] == step
        resumed = train(DATA, tmp_path / "stopped", self.CONFIG, resume=True)
        assert without_cpu_time(resumed) == without_cpu_time(straight)
        last = [latest_checkpoint(tmp_path / name) for name in ("straight", "stopped")]
        parts = [{k: v for k, v in content_of(path).items() if k != "header.json"} for path in last]
        assert last[0].name == last[1].name == "checkpoint-000000004"
        assert parts[0] == parts[1]

    def test_a_set_without_held_out_molecules(self, tmp_path):
        meta = {k: v for k, v in read_meta(DATA).items() if k not in ("format", "sha256", "molecules")}
        splits = {name: read_split(DATA, name) for name in SPLITS}
        splits["valid"] = splits["valid"].select(np.zeros(len(splits["valid"]), bool))
        write_prepared(tmp_path / "data", {name: [(split, [])] for name, split in splits.items()}, meta)
        with pytest.raises(
            TrainingError, match=r"no held-out molecules; prepare it with --valid 0\.1, or .*--patience 0"
        ):
            train(tmp_path / "data", tmp_path / "run", self.CONFIG)


TWO_PROCESSES = """
import json, os, sys
import torch.distributed as dist
from pathlib import Path
from moldiff import batches, training
from moldiff.config import Config

batches.HELD_OUT = 48
go, data, ends = training.Loop.go, Path(sys.argv[1]), []

def watched(loop, *arguments):
    go(loop, *arguments)
    ends.append([loop.state.model.sha256, loop.state.step, loop.state.best.step, loop.state.best.loss])

training.Loop.go = watched
dist.init_process_group("gloo")  # one for both trainings: gloo may hang when a second one begins in a process
for text in sys.argv[3:]:
    training.train(data, Path(sys.argv[2]) / str(len(ends)), Config.from_dict(json.loads(text)))
Path(sys.argv[2] + os.environ["RANK"]).write_text(json.dumps(ends))
dist.barrier()  # they end together, see training
dist.destroy_process_group()
"""


def test_two_processes_hold_the_same_weights_and_stop_together(tmp_path):
    """Started as on a cluster; each process writes what it ends with. The second run stands still, until patience ends."""
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    run = tmp_path / "run"
    configs = [changed(patience=2, check_steps=3), changed(patience=2, check_steps=1, lr=0.0)]
    arguments = [str(DATA), str(run), *(json.dumps(config.to_dict()) for config in configs)]
    done = subprocess.run(
        launcher + arguments, check=False, capture_output=True, text=True, timeout=300, cwd=DATA.parents[1]
    )
    assert done.returncode == 0, done.stderr
    ends = [json.loads(Path(f"{run}{rank}").read_text()) for rank in range(2)]
    assert ends[0] == ends[1]
    assert [end[1:3] for end in ends[0]] == [[6, 6], [2, 0]]
    model = Model.load(run / "0" / "weights.safetensors")
    assert all(p.isfinite().all() for p in model.parameters())
    assert (model.info["steps"], model.info["samples"]) == (6, 48)
    alone = HeldOut(model, read_split(DATA, "valid"), torch.device("cpu")).losses(
        dict(model.network.named_parameters())
    )
    assert ends[0][0][3] == pytest.approx(alone["total"], rel=1e-4)


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


def test_a_training_that_is_to_finish_cools_down_by_the_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(training.time, "monotonic", clock(0.5))  # two looks a step: a step takes a second
    weights = train(DATA, tmp_path, changed(steps=10_000, cooldown=0.5), max_seconds=80.0, finish=True)
    model = Model.load(weights)
    assert 75 <= model.info["steps"] == model.config.train.steps <= 80
    rates = [json.loads(line)["lr"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert rates[0] == CONFIG.train.lr and rates[-1] < 0.1 * CONFIG.train.lr


def test_to_finish_takes_a_time_limit(tmp_path):
    with pytest.raises(TrainingError, match="time limit"):
        train(DATA, tmp_path, CONFIG, finish=True)
    assert not latest_checkpoint(tmp_path)
