"""Everything that a step of training changes, and how it goes into a checkpoint and comes back, bit for bit."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moldiff.checkpoints import latest_checkpoint, read_checkpoint, write_checkpoint
from moldiff.config import Config, TrainConfig
from moldiff.errors import MoldiffError
from moldiff.model_file import DataInfo, TrainedNetwork
from moldiff.muon import StackedMuon

COUNTERS = ("step", "samples", "seconds", "cpu_seconds", "started_from")  # of a checkpoint's header
MAY_CHANGE_ON_RESUME = {"steps", "cooldown", "patience", "checkpoint_seconds", "compile", "lr"}


class TrainingError(MoldiffError):
    """Training cannot start or go on; the message says why and what to try."""


class LossNotFinite(TrainingError):
    """Training went wrong on its way."""

    exit_code = 1


@dataclass
class Best:
    """The weight average that did best on the held-out molecules."""

    step: int
    loss: float
    weights: dict[str, Tensor]


@dataclass
class State:
    """Everything that a checkpoint holds besides the configuration."""

    model: TrainedNetwork
    average: dict[str, Tensor]  # of the weights
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    samples: int = 0
    seconds: float = 0.0  # wall-clock time spent training, over all runs
    cpu_seconds: float = 0.0  # CPU time of all processes
    started_from: dict[str, Any] | None = None  # hash and training of the weights that this run began with
    best: Best | None = None  # only where held-out losses are taken

    @classmethod
    def begin(cls, model: TrainedNetwork) -> "State":
        """A model before its first step: its average is itself, its optimisers are fresh."""
        average = {k: p.detach().clone() for k, p in model.network.named_parameters()}
        return cls(model, average, _optimizers(model, model.config.train))

    def begin_step(self, rate: float) -> None:
        """Without gradients, and with this learning rate."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)

    def move_average(self, share: float) -> None:
        """By this share of the way to the weights as they are now."""
        weights = dict(self.model.network.named_parameters())
        torch._foreach_lerp_(list(self.average.values()), [weights[k].detach() for k in self.average], share)

    def shipped(self) -> TrainedNetwork:
        """The model to keep: the best average on held-out molecules, else the last one; with its history."""
        info: dict[str, Any] = {"samples": self.samples, "steps": self.step, "cpu_seconds": round(self.cpu_seconds)}
        if self.started_from:
            info["started_from"] = self.started_from
        if self.best:
            info["held_out"] = {"step": self.best.step, "loss": self.best.loss}
        model = type(self.model)(self.model.config, self.model.data, info)
        weights = self.best.weights if self.best else self.average
        model.network.load_state_dict(self.model.network.state_dict() | weights)
        return model


class Checkpoint(NamedTuple):
    path: Path
    tensors: dict[str, Tensor]
    header: dict[str, Any]


def save_checkpoint(run: Path, state: State) -> None:
    """Weights, averages and optimiser state."""
    tensors = {f"model.{k}": v for k, v in state.model.network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in state.average.items()}
    for i, optimizer in enumerate(state.optimizers):
        for j, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{k}": torch.as_tensor(v) for k, v in values.items()}
    data = state.model.data
    header = {
        "config": state.model.config.to_dict(),
        "data": data.sha256,
        "known": dataclasses.asdict(data),
        **{k: getattr(state, k) for k in COUNTERS},
    }
    if state.best:
        tensors |= {f"best.{k}": v for k, v in state.best.weights.items()}
        header["best"] = {"step": state.best.step, "loss": state.best.loss}
    write_checkpoint(run, state.step, tensors, header)


def find_checkpoint(run: Path, data: DataInfo) -> Checkpoint:
    """The newest checkpoint of a run on this set. Raises :class:`TrainingError` if there is none."""
    path = latest_checkpoint(run)
    if path is None:
        raise TrainingError(f"{run}: nothing to resume; start without --resume")
    found = Checkpoint(path, *read_checkpoint(path))
    there = found.header["data"]
    if there != data.sha256:
        raise TrainingError(f"{path}: was trained on other data (hash {there[:12]}, here {data.sha256[:12]})")
    return found


def load_checkpoint(state: State, config: Config, checkpoint: Checkpoint) -> None:
    """Bring a fresh state to where the checkpoint was taken."""
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
    if "best" in header and config.train.patience:
        weights = {k: v.to(state.average[k].device) for k, v in _under(tensors, "best.").items()}
        state.best = Best(**header["best"], weights=weights)


def _check_same(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    for section in ("network", "process", "train"):
        for key in old[section]:
            if old[section][key] != new[section].get(key) and key not in MAY_CHANGE_ON_RESUME:
                raise TrainingError(
                    f"{path}: trained with {section}.{key} = {old[section][key]!r}, now {new[section].get(key)!r}; "
                    "resume with the same configuration"
                )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _optimizers(model: TrainedNetwork, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices that a network names, AdamW for everything else."""
    matrices = model.network.muon_parameters()
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adamw = torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
    if not matrices:
        return [adamw]
    return [StackedMuon(matrices, lr=config.lr, weight_decay=config.weight_decay), adamw]
