"""Train on one GPU in pieces of a few minutes, each a command of its own.

    python scripts/train_gpu.py probe DATA --preset qm9-small
    python scripts/train_gpu.py piece DATA RUN --preset qm9-small --minutes 9 --set train.batch=512
    python scripts/train_gpu.py piece DATA RUN --preset qm9-deep --init-from qm9 --minutes 9 --finish

``probe`` measures molecules per second for batch sizes with and without compilation, and which share that is of what the
device does in products of large matrices of the same precision. ``piece`` starts or continues
RUN and stops in time, leaving the averaged weights in one file, and a checkpoint in files under 16 MiB each: carry RUN out, and
in again for the next piece. With ``--finish`` it is the last: the learning rate has fallen to zero when the time is over,
however many steps that are. Needs torch, numpy, safetensors and jaxtyping beside this package; RDKit is not used.
"""

import argparse
import itertools
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.flop_counter import FlopCounterMode

from moldiff.batches import Batches, keyed_generator
from moldiff.checkpoints import latest_checkpoint
from moldiff.conditions import Conditions
from moldiff.config import Config, preset
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.denoisers import compile_layers
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.training import Loop, train
from moldiff.training_state import State
from moldiff.weights import find_weights

START = time.monotonic() - time.process_time()  # of this program: the imports above take their time, too


def probe(data: Path, config: Config, device: str, batches: list[int], seconds: float) -> None:
    """Print the speed of each combination; the first steps, which compile, are timed apart."""
    info = DataInfo.from_meta(read_meta(data))
    resident = Batches(read_split(data, "train"), len(info.properties), torch.device(device))
    print(
        f"{config.preset} on {torch.cuda.get_device_name() if device == 'cuda' else device}, {config.train.precision}"
    )
    peak = _matrix_flops(device, config)
    each = _step_flops(Model(config, info).to(device), resident)
    for compiled, batch in itertools.product((False, True), batches):
        settings = replace(config, train=replace(config.train, batch=batch, compile=compiled))
        torch._dynamo.reset()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        model = Model(settings, info).to(device)
        if compiled:
            compile_layers(model.network)
        with TemporaryDirectory() as folder:
            loop = Loop(State.begin(model), settings.train, resident, Path(folder), 0, 1, None)
            first = _timed(loop, device, steps=3)[1]
            seen, took = _timed(loop, device, seconds=seconds)
        memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else ""
        rate = each * seen / took
        print(
            f"compile {compiled!s:5} batch {batch:5}: {seen / took:8.0f} molecules/s, {rate / 1e9:.0f} GFLOP/s, "
            f"{rate / peak:.0%} of {peak / 1e9:.0f}; first steps {first:.0f} s{memory}"
        )


def _step_flops(model: Model, batches: Batches, count: int = 64, draws: int = 20) -> float:
    """Floating-point operations of a training step for one molecule: of the matrix products, two a multiply-add."""
    seen = 0
    with FlopCounterMode(display=False) as counter:
        for k in range(draws):  # of one size each
            molecules, values = batches.draw(count, keyed_generator(k))
            conditions = Conditions.from_physical(values, model.data.properties)
            model.loss(molecules, conditions, keyed_generator(k, 1, device=molecules.device))["total"].backward()
            seen += len(molecules)
    return counter.get_total_flops() / seen


def _matrix_flops(device: str, config: Config, size: int = 4096, seconds: float = 2.0) -> float:
    """Floating-point operations a second in products of large square matrices."""
    matrix = torch.ones(size, size, device=device, dtype=getattr(torch, config.train.precision))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    _ = matrix @ matrix
    wait()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        _ = matrix @ matrix
        wait()
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - start)


def _timed(loop: Loop, device: str, steps: int = 10**9, seconds: float = 1e9) -> tuple[int, float]:
    """(molecules, seconds) of up to ``steps`` optimiser steps or ``seconds``."""
    before, start = loop.state.samples, time.perf_counter()
    while steps > 0 and time.perf_counter() - start < seconds:
        loop.step()
        loop.recent.clear()
        steps -= 1
        if device == "cuda":
            torch.cuda.synchronize()
    return loop.state.samples - before, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["probe", "piece"])
    parser.add_argument("data", type=Path, help="a prepared set")
    parser.add_argument("run", type=Path, nargs="?", help="directory of the run (piece)")
    parser.add_argument("--preset", default="qm9-small")
    parser.add_argument("--init-from", help="weights to begin with: a file, or the name of shipped ones (piece)")
    parser.add_argument("--finish", action="store_true", help="end the training in this piece's time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=9.0, help="of a piece, start-up included")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement of the probe")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument(
        "--set",
        dest="settings",
        nargs="+",
        action="extend",
        default=[],
        help="e.g. train.steps=60000 train.compile=true",
    )
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    config = preset(arguments.preset).override(["train.precision=bfloat16", *arguments.settings])
    if arguments.action == "probe":
        probe(arguments.data, config, arguments.device, arguments.batches, arguments.seconds)
        return
    if arguments.run is None:
        parser.error("piece needs RUN")
    resume = latest_checkpoint(arguments.run) is not None
    weights = train(
        arguments.data, arguments.run, config, resume=resume, device=arguments.device,
        init_from=None if resume or arguments.init_from is None else find_weights(arguments.init_from),
        max_seconds=60 * arguments.minutes - (time.monotonic() - START), finish=arguments.finish,
        progress=lambda row: print(row, flush=True),
    )  # fmt: skip
    print(f"{latest_checkpoint(arguments.run).name}, {weights}")


if __name__ == "__main__":
    main()
