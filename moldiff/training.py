"""The training loop: any device, one process or several, resumable bit for bit.

Step k of seed s is a function of (weights, optimiser state, s, k) alone: batch and noise come from generators keyed by
(seed, step, rank), so a checkpoint needs no random state and a stopped run continues as if it had not stopped.
Several processes: start under ``torchrun``; gradients are averaged, each process takes its share of the batch.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from moldiff.batches import Batches, HeldOut, keyed_generator
from moldiff.checkpoints import latest_checkpoint
from moldiff.conditions import Conditions
from moldiff.config import Config, ConfigError, TrainConfig
from moldiff.datasets.prepared import Split, read_meta, read_split
from moldiff.denoisers import compile_layers
from moldiff.files import alone_in, write_atomically
from moldiff.finetuning import adapt, start_from, translate
from moldiff.hydrogens import Hydrogens
from moldiff.model import Model
from moldiff.model_file import HISTORY, DataInfo, TrainedNetwork
from moldiff.predictor import Predictor
from moldiff.training_state import (
    Best,
    LossNotFinite,
    State,
    TrainingError,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

CONFIG = "config.json"
LOG = "log.jsonl"
WEIGHTS = "weights.safetensors"


def train(
    data: Path,
    run: Path,
    config: Config,
    *,
    resume: bool = False,
    init_from: Path | None = None,
    extend_vocabulary: bool = False,
    device: torch.device | str = "cpu",
    max_seconds: float | None = None,
    finish: bool = False,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train on a prepared set and return the path of the averaged weights, ``run/weights.safetensors``.

    Writes ``config.json``, ``log.jsonl`` and (at least every ``checkpoint_seconds``) ``checkpoint-<step>/`` into ``run``.
    SIGINT and SIGTERM save before they stop, and so does ``max_seconds``; with ``finish`` (one process) it is this
    time, not the number of steps, over which the learning rate falls to zero; ``resume`` continues from the checkpoint;
    ``init_from`` starts from the weights in a file, with fresh optimisers and a fresh schedule; tokens and properties of
    the set are matched to theirs by name, and their coordinate scale is kept; ``extend_vocabulary`` adds tokens that they
    lack. With ``config.train.patience`` the weights are the average that did best on the set's ``valid`` split.
    ``progress`` is called with every row of the log.

    Raises:
        TrainingError: the run exists already (and ``resume`` is off), does not fit the data or configuration, or the loss
            stopped being finite; in that case the last good checkpoint is kept.
        RequestError: another training writes there.
    """
    config.train.check()
    run, device = Path(run), _own_device(torch.device(device))
    with _processes(device) as (rank, world):
        if finish and (max_seconds is None or world > 1):
            raise TrainingError("to finish by the clock takes a time limit, and one process: each has its own clock")
        meta = read_meta(data)
        splits = {
            name: read_split(data, name) for name in ("train", "valid") if name == "train" or config.train.patience
        }
        if len(splits.get("valid", [0])) == 0:
            raise TrainingError(
                f"{data}: no held-out molecules; prepare it with --valid 0.1, or train with --patience 0"
            )
        if resume:
            state = _continued(run, meta, config, device)
        else:
            state = _begun(run, meta, config, [*splits.values()], init_from, extend_vocabulary, device)
        if config.train.compile:
            compile_layers(state.model.network)
        with alone_in(run) if rank == 0 else nullcontext():
            if rank == 0:
                with write_atomically(run / CONFIG) as temporary:
                    temporary.write_text(json.dumps(config.to_dict(), indent=1))
            adapted = state.model.data
            seen = {name: translate(split, DataInfo.from_meta(meta), adapted) for name, split in splits.items()}
            held_out = HeldOut(state.model, seen["valid"], device, rank, world) if "valid" in seen else None
            batches = Batches(seen["train"], len(adapted.properties), device)
            Loop(state, config.train, batches, run, rank, world, progress, held_out).go(max_seconds, finish)
            if rank == 0:
                state.shipped().save(run / WEIGHTS)
        return run / WEIGHTS


def _begun(
    run: Path, meta: dict[str, Any], config: Config, splits: list[Split], init_from: Path | None, extend: bool,
    device: torch.device,
) -> State:  # fmt: skip
    """Random weights, or those in ``init_from``."""
    if latest_checkpoint(run):
        raise TrainingError(f"{run}: holds a run already; continue it with --resume, or choose another directory")
    torch.manual_seed(config.train.seed)  # initial weights only
    if init_from is None:
        return State.begin(_kind(config)(config, DataInfo.from_meta(meta)).to(device))
    source = _kind(config).load(init_from)
    model = _kind(config)(config, adapt(meta, source.data, splits, init_from, extend))
    start_from(model, source, init_from)
    state = State.begin(model.to(device))
    state.started_from = {"sha256": source.sha256, **{k: source.info[k] for k in HISTORY if k in source.info}}
    return state


def _continued(run: Path, meta: dict[str, Any], config: Config, device: torch.device) -> State:
    """As the newest checkpoint has it; what a model that began from other weights knows is told there too."""
    info = DataInfo.from_meta(meta)
    checkpoint = find_checkpoint(run, info)
    if checkpoint.header["started_from"]:
        info = DataInfo.from_dict(checkpoint.header["known"])
    state = State.begin(_kind(config)(config, info).to(device))
    load_checkpoint(state, config, checkpoint)
    return state


def _kind(config: Config) -> type[TrainedNetwork]:
    kinds = {kind.TASK: kind for kind in (Model, Predictor, Hydrogens)}
    if config.task not in kinds:
        raise ConfigError(f"task = {config.task!r}: there are {', '.join(kinds)}")
    return kinds[config.task]


class Loop:
    """Steps, and between them logging, saving and, with ``held_out``, checks on molecules kept out of training."""

    def __init__(
        self, state: State, config: TrainConfig, batches: Batches, run: Path, rank: int = 0, world: int = 1,
        progress: Callable[[dict[str, Any]], None] | None = None, held_out: HeldOut | None = None,
    ):  # fmt: skip
        self.state, self.config, self.batches, self.held_out = state, config, batches, held_out
        self.run, self.rank, self.world, self.progress = run, rank, world, progress
        self.gamma = ema_exponent(config.ema)
        self.stop = False
        self.signal: int | None = None  # that asked this process to stop
        self.left: float | None = None  # share of the time, where that is what ends the training
        self.recent: list[Tensor] = []

    def go(self, max_seconds: float | None, finish: bool = False) -> None:
        """Train until the last step, the end of patience, a signal or the time limit; always ends with a checkpoint.

        ``finish``: at the time limit instead of the last step.
        """
        old = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._go(max_seconds, finish)
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _go(self, max_seconds: float | None, finish: bool) -> None:
        start, cpu_start = time.monotonic(), time.process_time()
        began, cpu_began = self.state.seconds, self.state.cpu_seconds
        last_save = last_log = start
        if self.held_out and self.state.best is None:
            self.check()
        while (finish or self.state.step < self.config.steps) and self.patience_left != 0:
            passed = time.monotonic() - start
            self.stop |= max_seconds is not None and passed > max_seconds
            if finish:
                self.left = max(0.0, 1 - passed / max_seconds)
            if not self.step():
                break
            if self.held_out and (
                self.state.step % self.config.check_steps == 0 or self.state.step == self.config.steps
            ):
                self.check()
            now = time.monotonic()
            self.state.seconds = began + now - start
            self.state.cpu_seconds = cpu_began + (time.process_time() - cpu_start) * self.world
            if self.rank == 0 and now - last_log > 10:
                self.log(now - last_log)
                last_log = now
            if self.rank == 0 and now - last_save > self.config.checkpoint_seconds:
                self.save()
                last_save = now
        if finish:
            if self.held_out and not self.signal and self.state.step % self.config.check_steps:
                self.check()
            done = replace(self.config, steps=self.state.step)
            self.state.model.config = replace(self.state.model.config, train=done)
        if self.rank == 0:
            if self.recent:
                self.log(time.monotonic() - last_log)
            if self.signal:
                self.write({"step": self.state.step, "signal": self.signal})
            self.save()

    def step(self) -> bool:
        """One optimiser step; False when any process was asked to stop (nothing is changed then)."""
        c, state = self.config, self.state
        state.begin_step(self.rate)
        molecules, properties = self.batches.draw(c.batch, keyed_generator(c.seed, state.step), self.rank, self.world)
        conditions = Conditions.from_physical(properties, state.model.data.properties)
        generator = keyed_generator(c.seed, state.step, self.rank + 1, device=molecules.device)
        with torch.autocast(molecules.device.type, torch.bfloat16, enabled=c.precision == "bfloat16"):
            losses = state.model.loss(molecules, conditions, generator)
        losses["total"].backward()
        report = torch.stack([losses[k].detach() for k in state.model.losses])
        stop, report, seen = self._share(report, len(molecules))
        if stop:
            return False
        parameters = [p for p in state.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, c.clip)
        if self.rank:  # the first process alone logs them
            self.recent.clear()
        self.recent.append(torch.cat([report, norm.detach()[None], report.new_tensor([seen])]))
        if molecules.device.type == "cpu":
            self.check_finite()
        for optimizer in state.optimizers:
            optimizer.step()
        state.step += 1
        state.samples += seen
        beta = (1 - 1 / state.step) ** (self.gamma + 1)
        state.move_average(1 - beta)
        return True

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.config.lr * schedule(self.state.step, self.config, self.left)

    @property
    def patience_left(self) -> int | None:
        """Checks that may still go by without a new best; None where none are taken."""
        if self.held_out is None or self.state.best is None:
            return None
        checks = (self.state.step - self.state.best.step) // self.config.check_steps
        return max(0, self.config.patience - checks)

    def check(self) -> None:
        """Take the held-out loss of the averaged weights, and keep them if they are the best so far.

        All processes get the same number, so all of them agree on when to stop.
        """
        state = self.state
        losses = self.held_out.losses(state.average)
        if state.best is None or losses["total"] < state.best.loss:
            state.best = Best(state.step, losses["total"], {k: v.clone() for k, v in state.average.items()})
        if self.rank == 0:
            row = {f"held_out_{k}": round(v, 5) for k, v in losses.items() if k != "total"}
            best = {"best_step": state.best.step, "patience_left": self.patience_left}
            self.write({"step": state.step, "held_out": round(losses["total"], 5), **row, **best})

    def check_finite(self) -> None:
        """Stop on a loss or gradient that is not finite. On a GPU only before logging and saving: it waits for the GPU."""
        if self.recent and not torch.isfinite(torch.stack(self.recent)).all():
            last = latest_checkpoint(self.run)
            raise LossNotFinite(
                f"the loss is not finite at step {self.state.step}; "
                + (
                    f"the last good checkpoint is {last}. Try --resume"
                    if last
                    else "no checkpoint was made yet. Try again"
                )
                + f" with --set train.lr={self.config.lr / 2:.1e}, or look for broken coordinates in the data"
            )

    def save(self) -> None:
        self.check_finite()
        save_checkpoint(self.run, self.state)

    def _share(self, report: Tensor, count: int) -> tuple[bool, Tensor, int]:
        """Average gradients and losses over the processes (weighted by their molecules) and agree on stopping."""
        if self.world == 1:
            return self.stop, report, count
        grads = [p.grad for p in self.state.model.parameters() if p.grad is not None]
        extra = torch.cat([report * count, report.new_tensor([count, float(self.stop)])])
        flat = torch.cat([*(g.flatten() * count for g in grads), extra])
        dist.all_reduce(flat)
        total = flat[-2]
        offset = 0
        for grad in grads:
            grad.copy_(flat[offset : offset + grad.numel()].view_as(grad) / total)
            offset += grad.numel()
        return bool(flat[-1] > 0), flat[offset : offset + len(report)] / total, int(total)

    def log(self, seconds: float) -> None:
        self.check_finite()
        means = torch.stack(self.recent).mean(0).tolist()
        seen = sum(int(r[-1]) for r in self.recent)
        self.recent.clear()
        row = {
            "step": self.state.step, "samples": self.state.samples, "seconds": round(self.state.seconds, 1),
            "molecules_per_s": round(seen / max(seconds, 1e-9), 1), "lr": self.rate,
            **dict(zip(("loss", *self.state.model.losses[1:], "grad_norm"), (round(m, 5) for m in means), strict=False)),
        }  # fmt: skip
        self.write(row)

    def write(self, row: dict[str, Any]) -> None:
        """Add a row to the log and show it."""
        with open(self.run / LOG, "a") as file:
            file.write(json.dumps(row) + "\n")
        if self.progress:
            self.progress(row)

    def _ask_to_stop(self, number: int, _: Any) -> None:
        self.stop, self.signal = True, number


def schedule(step: int, config: TrainConfig, left: float | None = None) -> float:
    """Warm-up, constant, then linear cool-down over the last share of the steps: factor of the learning rate.

    ``left``: share of the training that is left, where it is not counted in steps.
    """
    if left is None:
        left = (config.steps - step) / config.steps
    return min(1.0, (step + 1) / config.warmup, left / config.cooldown if config.cooldown else 1.0)


def ema_exponent(width: float) -> float:
    """γ of the power-function average whose profile has relative standard deviation ``width`` (EDM2, equation 123)."""
    t = width**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def _own_device(device: torch.device) -> torch.device:
    """Of several processes on GPUs each has its own, by the number that ``torchrun`` gave it on this machine."""
    if device.type != "cuda" or device.index is not None or "LOCAL_RANK" not in os.environ:
        return device
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


@contextmanager
def _processes(device: torch.device) -> Iterator[tuple[int, int]]:
    """(rank, number of processes) as ``torchrun`` set them, else (0, 1).

    They end together: one that ends while the group's threads run aborts, and then ``torchrun`` stops the others, which
    may be writing still.
    """
    if "RANK" not in os.environ:
        yield 0, 1
        return
    ours = not dist.is_initialized()  # else the caller's, who ends it
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
        dist.barrier()
    finally:
        if ours:
            dist.destroy_process_group()
