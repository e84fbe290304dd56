"""Teach a network for `--quality fast`: to get with eight evaluations where its teacher does with four times as many.

    python scripts/distill.py qm9 -o run --walks 30000
    moldiff generate --model run/weights.safetensors -n 100 -o molecules.sdf
    python scripts/ship_weights.py run/weights.safetensors qm9-fast --fast

It needs no data: the pupil (at first the teacher itself) walks from noise towards molecules, told what training molecules are,
and learns from where the teacher would have gone (`moldiff/distillation.py`). Walks are made in a process of their own while
another one trains on those before, so that two cores are busy. What is learned is saved every minute as `weights.safetensors`,
averaged; after an interruption, or to go on, `--init-from run/weights.safetensors`.
"""

import argparse
import dataclasses
import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from moldiff import distillation, relay
from moldiff.batches import keyed_generator
from moldiff.denoisers import check_compiler, compile_layers
from moldiff.distillation import CERTAIN, Lessons, lessons, loss
from moldiff.model import Model
from moldiff.model_file import HISTORY
from moldiff.requests import FEW, choose_sampler
from moldiff.training_state import State
from moldiff.weights import shipped_models
from moldiff.workers import Workers, in_order

BLOCK = 512  # walks at a time
KEPT = 40  # blocks that are learned from
WARMUP = 30  # steps
COOLDOWN = 0.4  # last share of the walks, lr falls linearly to zero
AVERAGED = 100  # steps that the averaged weights look back
SEED = 1_000_003  # of the walks: none that anybody would ask for

Weights = dict[str, np.ndarray]


def prepare(path: str) -> Callable[[Weights, range], list[list[np.ndarray]]]:
    """What the process does that makes walks: lessons for a pupil of these weights."""
    torch.set_num_threads(1)
    teacher, pupil = (Model.load(Path(path)) for _ in range(2))
    for model in (teacher, pupil):
        compile_layers(model.network)
    sampler = dataclasses.replace(choose_sampler(teacher.config, "fast", None), temperature=CERTAIN)

    def walks(weights: Weights, indices: range) -> list[list[np.ndarray]]:
        pupil.network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
        taught = lessons(pupil, teacher, sampler, SEED, indices)
        return [[x.numpy() for x in part.tensors()] for part in taught]  # by value, see moldiff.generation

    return walks


class Course:
    """The pupil's training: each block of walks brings samples of those that there are, ``passes`` times its own number."""

    def __init__(self, pupil: Model, options: argparse.Namespace):
        pupil.config = dataclasses.replace(
            pupil.config, train=dataclasses.replace(pupil.config.train, lr=options.lr, batch=options.batch)
        )
        self.state, self.options = State.begin(pupil.requires_grad_(True).train()), options
        self.blocks: deque[list[Lessons]] = deque(maxlen=KEPT)
        compile_layers(pupil.network)

    def learn(self, block: list[list[np.ndarray]], left: float, after: float) -> dict[str, float]:
        """Mean losses of one block's steps; ``left``, ``after``: share of the walks that are to come before and after it."""
        self.blocks.append([Lessons.of(map(torch.from_numpy, part)) for part in block])
        by_size: dict[int, list[Lessons]] = {}
        for part in (part for block in self.blocks for part in block):
            by_size.setdefault(part.noisy.mask.shape[1], []).append(part)
        sizes = [Lessons.join(parts) for parts in by_size.values()]
        shares = torch.tensor([float(len(of)) for of in sizes])
        steps = max(1, self.options.passes * sum(len(part) for part in self.blocks[-1]) // self.options.batch)
        seen = []
        for k in range(steps):
            rate = min(1.0, (self.state.step + 1) / WARMUP, (left + (after - left) * k / steps) / COOLDOWN)
            random = keyed_generator(SEED, self.state.step)
            of = sizes[int(torch.multinomial(shares, 1, generator=random))]
            rows = torch.randperm(len(of), generator=random)[: self.options.batch]
            seen.append(self.step(of.select(rows), rate))
        means = torch.stack(seen).mean(0).tolist()
        return dict(zip(("pos", "atom", "bond", "total"), means, strict=True))

    def weights(self) -> Weights:
        """Averaged, as they are now."""
        state = self.state
        return {k: v.numpy().copy() for k, v in (state.model.network.state_dict() | state.average).items()}

    def step(self, taught: Lessons, rate: float) -> torch.Tensor:
        state = self.state
        state.begin_step(rate * self.options.lr)
        losses = loss(state.model, taught)
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_([p for p in state.model.parameters() if p.grad is not None], 1.0)
        for optimizer in state.optimizers:
            optimizer.step()
        state.step, state.samples = state.step + 1, state.samples + len(taught)
        state.move_average(max(1 / AVERAGED, min(1.0, 10 / state.step)))
        return torch.stack([losses[k].detach() for k in ("pos", "atom", "bond", "total")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", help="the teacher: a shipped model whose fast quality has fewer than twelve evaluations"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="directory for weights.safetensors and log.jsonl"
    )
    parser.add_argument("--init-from", type=Path, help="weights of a pupil to go on from, instead of the teacher's")
    parser.add_argument("--walks", type=int, default=30_000)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first walk: others than those of a run before"
    )
    parser.add_argument("--passes", type=int, default=2, help="how often a lesson is learned from, in the mean")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=7e-4)
    options = parser.parse_args()
    check_compiler()
    torch.set_num_threads(1)
    path = shipped_models().get(options.model)
    if path is None:
        parser.error(f"{options.model}: not a shipped model; there are {', '.join(shipped_models())}")
    teacher = Model.load(path)
    if teacher.config.quality.fast >= FEW:
        parser.error(f"{options.model}: its fast quality takes {teacher.config.quality.fast} evaluations, with churn")
    pupil = Model.load(options.init_from) if options.init_from else Model.load(path)
    options.output.mkdir(parents=True, exist_ok=True)
    end = options.first + options.walks
    starts = range(options.first, end, BLOCK)
    course, saved, began = Course(pupil, options), time.monotonic(), time.monotonic()
    course.state.started_from = {"sha256": teacher.sha256, **{k: teacher.info[k] for k in HISTORY if k in teacher.info}}
    tasks = ((course.weights(), range(first, min(first + BLOCK, end))) for first in starts)
    walks = in_order(Workers(1, prepare, str(path)), lambda: next(tasks, None), lambda: None)
    with closing(walks), Progress() as progress:
        task = progress.add_task("walks", total=options.walks)
        for done, (_, block) in enumerate(walks, 1):
            left, after = (1 - blocks / len(starts) for blocks in (done - 1, done))
            losses = course.learn(block, left, after)
            row = {
                "walks": min(done * BLOCK, options.walks),
                "step": course.state.step,
                "seconds": round(time.monotonic() - began),
            }
            with open(options.output / "log.jsonl", "a") as file:
                file.write(json.dumps(row | {k: round(v, 5) for k, v in losses.items()}) + "\n")
            progress.update(task, completed=min(done * BLOCK, options.walks), description=f"loss {losses['total']:.4f}")
            if time.monotonic() - saved > 60 or done == len(starts):
                shipped(course).save(options.output / "weights.safetensors")
                saved = time.monotonic()


def shipped(course: Course) -> Model:
    """The pupil as it goes into a file: it has one quality, and tells where its teacher goes on."""
    pupil = course.state.shipped()
    pupil.info |= {relay.UNTIL_KEY: distillation.UNTIL}
    few = pupil.config.quality.fast
    quality = dataclasses.replace(pupil.config.quality, balanced=few, best=few)
    pupil.config = dataclasses.replace(pupil.config, quality=quality)
    return pupil


if __name__ == "__main__":
    main()
