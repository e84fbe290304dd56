"""The training loop: any device, one process or several, resumable bit for bit.

Step k of seed s is a function of (weights, optimiser state, s, k) alone: batch and noise come from generators keyed by
(seed, step, rank), so a checkpoint needs no random state and a stopped run continues as if it had not stopped.
Several processes: start under ``torchrun``; gradients are averaged, each process takes its share of the batch.
"""

import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from moldiff.checkpoints import latest_checkpoint, read_checkpoint, write_checkpoint
from moldiff.conditions import Conditions
from moldiff.config import Config, TrainConfig
from moldiff.datasets.prepared import Split, read_meta, read_split
from moldiff.errors import MoldiffError
from moldiff.files import write_atomically
from moldiff.model import HISTORY, DataInfo, Model
from moldiff.molecule import Molecules

LOG = "log.jsonl"
WEIGHTS = "weights.safetensors"
COUNTERS = ("step", "samples", "seconds", "cpu_seconds", "started_from")  # of a checkpoint's header
MAY_CHANGE_ON_RESUME = {"steps", "cooldown", "checkpoint_seconds", "compile"}


class TrainingError(MoldiffError):
    """Training cannot start or go on; the message says why and what to try."""

    exit_code = 1


class Batches:
    """Random batches of one exact size each, resident on the device. Size n is drawn in proportion to its molecules."""

    def __init__(self, split: Split, properties: int, device: torch.device):
        values = torch.from_numpy(split.properties)
        self.sizes, self.molecules, self.properties = [], [], []
        for molecules, rows in split.buckets().values():
            self.molecules.append(molecules.to(device))
            self.properties.append(values[rows].to(device) if properties else torch.zeros(len(rows), 0, device=device))
            self.sizes.append(len(rows))
        self.shares = torch.tensor(self.sizes, dtype=torch.float64)

    def draw(self, count: int, generator: torch.Generator, rank: int = 0, world: int = 1) -> tuple[Molecules, Tensor]:
        """``count`` different molecules of one size (fewer if there are fewer), and their properties.

        All ranks draw the same batch and keep every world-th molecule.
        """
        bucket = int(torch.multinomial(self.shares, 1, generator=generator))
        rows = torch.randperm(self.sizes[bucket], generator=generator)[:count]
        rows = rows[rank::world] if len(rows) >= world else rows
        rows = rows.to(self.molecules[bucket].device)
        return self.molecules[bucket].select(rows), self.properties[bucket][rows]


@dataclass
class State:
    """Everything that a checkpoint holds besides the configuration."""

    model: Model
    average: dict[str, Tensor]  # the weight average that is shipped
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    samples: int = 0
    seconds: float = 0.0  # wall-clock time spent training, over all runs
    cpu_seconds: float = 0.0  # CPU time of all processes
    started_from: dict[str, Any] | None = None  # hash and training of the weights that this run began with

    @classmethod
    def begin(cls, model: Model) -> "State":
        """An untrained model: its average is itself, its optimisers are fresh."""
        average = {k: p.detach().clone() for k, p in model.network.named_parameters()}
        return cls(model, average, _optimizers(model, model.config.train))


def train(
    data: Path,
    run: Path,
    config: Config,
    *,
    resume: bool = False,
    init_from: Path | None = None,
    device: torch.device | str = "cpu",
    max_seconds: float | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train on a prepared set and return the path of the averaged weights, ``run/weights.safetensors``.

    Writes ``config.json``, ``log.jsonl`` and (at least every ``checkpoint_seconds``) ``checkpoint-<step>/`` into ``run``.
    SIGINT and SIGTERM save before they stop, and so does ``max_seconds``; ``resume`` continues from the checkpoint;
    ``init_from`` starts from the weights in a file, with fresh optimisers and a fresh schedule; tokens and properties of
    the set are matched to theirs by name, and their coordinate scale is kept.

    Raises:
        TrainingError: the run exists already (and ``resume`` is off), does not fit the data or configuration, or the loss
            stopped being finite; in that case the last good checkpoint is kept.
    """
    rank, world = _join_processes()
    run, device = Path(run), torch.device(device)
    meta = read_meta(data)
    info = DataInfo.from_meta(meta)
    split = read_split(data, "train")
    source = Model.load(init_from) if init_from is not None and not resume else None
    checkpoint = _read_run(run, info) if resume else None
    if source:
        adapted = _adapt(info, source.data, split, init_from)
    elif checkpoint and checkpoint.header["started_from"]:
        adapted = DataInfo.from_dict(checkpoint.header["known"])
    else:
        adapted = info
    torch.manual_seed(config.train.seed)  # initial weights only
    model = Model(config, adapted).to(device)
    if source:
        _start_from(model, source, init_from)
    state = State.begin(model)
    if source:
        state.started_from = {"sha256": source.sha256, **{k: source.info[k] for k in HISTORY if k in source.info}}
    if checkpoint:
        _load_checkpoint(state, config, checkpoint)
    elif latest_checkpoint(run):
        raise TrainingError(f"{run}: holds a run already; continue it with --resume, or choose another directory")
    if config.train.compile:
        model.network.compile(dynamic=True)
    if rank == 0:
        run.mkdir(parents=True, exist_ok=True)
        with write_atomically(run / "config.json") as temporary:
            temporary.write_text(json.dumps(config.to_dict(), indent=1))
    batches = Batches(_translate(split, info, adapted), len(adapted.properties), device)
    loop = Loop(state, config.train, batches, run, rank, world, progress)
    loop.go(max_seconds)
    if rank == 0:
        state.model.info = {"samples": state.samples, "steps": state.step, "cpu_seconds": round(state.cpu_seconds)}
        if state.started_from:
            state.model.info["started_from"] = state.started_from
        _averaged(state).save(run / WEIGHTS)
    return run / WEIGHTS


class Loop:
    def __init__(self, state, config: TrainConfig, batches: Batches, run: Path, rank: int, world: int, progress):
        self.state, self.config, self.batches = state, config, batches
        self.run, self.rank, self.world, self.progress = run, rank, world, progress
        self.gamma = ema_exponent(config.ema)
        self.stop = False
        self.recent: list[Tensor] = []

    def go(self, max_seconds: float | None) -> None:
        """Train until the last step, a signal or the time limit; always ends with a checkpoint."""
        old = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        start, cpu_start = time.monotonic(), time.process_time()
        began, cpu_began = self.state.seconds, self.state.cpu_seconds
        last_save = last_log = start
        try:
            while self.state.step < self.config.steps:
                self.stop |= max_seconds is not None and time.monotonic() - start > max_seconds
                if not self.step():
                    break
                now = time.monotonic()
                self.state.seconds = began + now - start
                self.state.cpu_seconds = cpu_began + (time.process_time() - cpu_start) * self.world
                if self.rank == 0 and now - last_log > 10:
                    self.log(now - last_log)
                    last_log = now
                if self.rank == 0 and now - last_save > self.config.checkpoint_seconds:
                    self.save()
                    last_save = now
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        if self.rank == 0:
            if self.recent:
                self.log(time.monotonic() - last_log)
            self.save()

    def step(self) -> bool:
        """One optimiser step; False when any process was asked to stop (nothing is changed then)."""
        c, state = self.config, self.state
        lr = c.lr * schedule(state.step, c)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
        molecules, properties = self.batches.draw(c.batch, keyed_generator(c.seed, state.step), self.rank, self.world)
        conditions = Conditions.from_physical(properties, state.model.data.properties)
        generator = keyed_generator(c.seed, state.step, self.rank + 1, device=molecules.device)
        with torch.autocast(molecules.device.type, torch.bfloat16, enabled=c.precision == "bfloat16"):
            losses = state.model.loss(molecules, conditions, generator)
        losses["total"].backward()
        report = torch.stack([*(losses[k].detach() for k in ("total", "pos", "atom", "bond"))])
        stop, report, seen = self._share(report, len(molecules))
        if stop:
            return False
        parameters = [p for p in state.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, c.clip)
        self.recent.append(torch.cat([report, norm.detach()[None], report.new_tensor([seen])]))
        if molecules.device.type == "cpu":
            self.check_finite()
        for optimizer in state.optimizers:
            optimizer.step()
        state.step += 1
        state.samples += seen
        beta = (1 - 1 / state.step) ** (self.gamma + 1)
        weights = dict(state.model.network.named_parameters())
        torch._foreach_lerp_(list(state.average.values()), [weights[k].detach() for k in state.average], 1 - beta)
        return True

    def check_finite(self) -> None:
        """Stop on a loss or gradient that is not finite. On a GPU only before logging and saving: it waits for the GPU."""
        if self.recent and not torch.isfinite(torch.stack(self.recent)).all():
            last = latest_checkpoint(self.run)
            raise TrainingError(
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
            "molecules_per_s": round(seen / max(seconds, 1e-9), 1), "lr": self.config.lr * schedule(self.state.step, self.config),
            **dict(zip(("loss", "pos", "atom", "bond", "grad_norm"), (round(m, 5) for m in means), strict=False)),
        }  # fmt: skip
        with open(self.run / LOG, "a") as file:
            file.write(json.dumps(row) + "\n")
        if self.progress:
            self.progress(row)

    def _ask_to_stop(self, *_: Any) -> None:
        self.stop = True


def schedule(step: int, config: TrainConfig) -> float:
    """Warm-up, constant, then linear cool-down over the last share of the steps: factor of the learning rate."""
    cool = config.steps * config.cooldown
    return min(1.0, (step + 1) / config.warmup, (config.steps - step) / cool if cool else 1.0)


def ema_exponent(width: float) -> float:
    """γ of the power-function average whose profile has relative standard deviation ``width`` (EDM2, equation 123)."""
    t = width**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def keyed_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the key alone (numpy's SeedSequence hashes it; zeros at its end do not count).

    On a GPU it lives there, with other numbers than on a CPU: drawing on the host would hold the GPU up.
    """
    seed = np.random.SeedSequence(key).generate_state(2, np.uint64)[0]
    on_gpu = torch.device(device).type == "cuda"
    return torch.Generator(device if on_gpu else "cpu").manual_seed(int(seed >> 1))


def save_checkpoint(run: Path, state: State) -> None:
    """Weights, average and optimiser state."""
    tensors = {f"model.{k}": v for k, v in state.model.network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in state.average.items()}
    for i, optimizer in enumerate(state.optimizers):
        for j, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{k}": torch.as_tensor(v) for k, v in values.items()}
    counters = {k: getattr(state, k) for k in COUNTERS}
    data = state.model.data
    header = {
        "config": state.model.config.to_dict(),
        "data": data.sha256,
        "known": dataclasses.asdict(data),
        **counters,
    }
    write_checkpoint(run, state.step, tensors, header)


class Checkpoint(NamedTuple):
    path: Path
    tensors: dict[str, Tensor]
    header: dict[str, Any]


def _read_run(run: Path, data: DataInfo) -> Checkpoint:
    path = latest_checkpoint(run)
    if path is None:
        raise TrainingError(f"{run}: nothing to resume; start without --resume")
    found = Checkpoint(path, *read_checkpoint(path))
    there = found.header["data"]
    if there != data.sha256:
        raise TrainingError(f"{path}: was trained on other data (hash {there[:12]}, here {data.sha256[:12]})")
    return found


def _load_checkpoint(state: State, config: Config, checkpoint: Checkpoint) -> None:
    path, tensors, header = checkpoint
    _check_same(header["config"], config.to_dict(), path)
    state.model.network.load_state_dict(_under(tensors, "model."))
    for name, value in _under(tensors, "average.").items():
        state.average[name].copy_(value)
    for i, optimizer in enumerate(state.optimizers):
        values: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under(tensors, f"optimizer.{i}.").items():
            j, _, name = key.partition(".")
            values.setdefault(int(j), {})[name] = tensor
        optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
    for key in COUNTERS:
        setattr(state, key, header[key])


def _adapt(info: DataInfo, source: DataInfo, split: Split, path: Path) -> DataInfo:
    """What a model that starts from other weights knows of a set: sizes and names are the set's.

    Tokens, marginals, coordinate scale and properties remain those of the weights, whose numbers have no other meaning.
    """
    if info.hydrogens != source.hydrogens:
        text = f"its hydrogens are {source.hydrogens}, those of {info.name} {info.hydrogens}"
        raise TrainingError(f"{path}: {text}; prepare the set with --hydrogens {source.hydrogens}")
    for token in sorted(set(info.vocabulary) - set(source.vocabulary)):
        count = int(split.having([info.vocabulary.index(token)]).sum())
        if count:
            text = f"{token}, in {count} training molecules, is not in its vocabulary ({' '.join(source.vocabulary)})"
            raise TrainingError(f"{path}: {text}; prepare the set with --vocabulary-of {path}, which drops them by row")
    known = {(p.name, p.unit) for p in source.properties}
    for p in info.properties:
        if (p.name, p.unit) not in known:
            there = ", ".join(f"{name} in {unit}" for name, unit in sorted(known)) or "none"
            text = f"property {p.name} in {p.unit or 'no unit'} is not one of its own ({there})"
            raise TrainingError(f"{path}: {text}; prepare the set without it")
    names = {"name": info.name, "source": info.source, "sha256": info.sha256}
    return dataclasses.replace(source, size_histogram=info.size_histogram, **names)


def _translate(split: Split, info: DataInfo, adapted: DataInfo) -> Split:
    """Tokens and properties by their numbers in ``adapted``; properties that the set lacks are unknown."""
    values = {p.name: column for p, column in zip(info.properties, split.properties.T, strict=True)}
    unknown = np.full(len(split), np.nan, np.float32)
    columns = [values.get(p.name, unknown) for p in adapted.properties]
    properties = np.array(columns, np.float32).reshape(len(columns), len(split)).T
    return dataclasses.replace(split.with_vocabulary(info.vocabulary, adapted.vocabulary), properties=properties)


def _start_from(model: Model, source: Model, path: Path) -> None:
    ours, theirs = model.config.network, source.config.network
    if ours != theirs:
        raise TrainingError(f"{path}: its network is {theirs}, here {ours}; choose weights or a preset that fit")
    model.network.load_state_dict(source.network.state_dict())


def _check_same(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    for section in ("network", "process", "train"):
        for key in old[section]:
            if old[section][key] != new[section].get(key) and key not in MAY_CHANGE_ON_RESUME | {"lr"}:
                raise TrainingError(
                    f"{path}: trained with {section}.{key} = {old[section][key]!r}, now {new[section].get(key)!r}; "
                    "resume with the same configuration"
                )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _averaged(state: State) -> Model:
    model = Model(state.model.config, state.model.data, state.model.info)
    model.network.load_state_dict(state.model.network.state_dict() | state.average)
    return model


def _optimizers(model: Model, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices that a network names, AdamW for everything else."""
    matrices = model.network.muon_parameters()
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adamw = torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(
        matrices, lr=config.lr, weight_decay=config.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adamw]


def _join_processes() -> tuple[int, int]:
    """(rank, world size) as ``torchrun`` set them, else (0, 1)."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()
