"""What networks and their sampling cost, measured in one run: parameters, FLOPs, exactness, CPU time, memory.

    python scripts/benchmark.py qm9@50 qm9-egnn@20x50 --n 128 --json benchmark.json
    python scripts/benchmark.py qm9@50 --memory 1000 10000

``NAME@STEPS``: a shipped model, a weights file, or a preset (at random weights, which cost the same) sampled with that
many steps; ``x50`` after it also prints the measured cost times 50, for a sampler that takes too long to run. CPU times
and memory are those of whole processes on one thread, medians over repeats in turn. Other work on the machine disturbs
them, so compare figures of one run only.
"""

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rows import write_json
from torch.utils.flop_counter import FlopCounterMode

from moldiff import __version__
from moldiff.attempts import sample_attempts
from moldiff.cli import app
from moldiff.config import PRESETS, preset
from moldiff.datasets.prepared import read_meta
from moldiff.generation import load
from moldiff.known import blank
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules, Prediction
from moldiff.requests import Request
from moldiff.samplers import Sampler
from moldiff.schedules import NoiseLevel
from moldiff.weights import shipped_models
from moldiff.windows import MOST

SAMPLE = Path(__file__).parents[1] / "data" / "qm9_sample"
ATOMS = (9, 18, 27, 44)  # 18: the mean of QM9; 44: that of drugs with hydrogens
BATCH = 16  # molecules in one forward pass when FLOPs are counted
STATUS = Path("/proc/self/status")  # on Linux


class Run(NamedTuple):
    name: str
    steps: int
    factor: int  # 1, or what the measured cost is multiplied with

    @classmethod
    def parse(cls, text: str) -> "Run":
        match = re.fullmatch(r"(.+)@(\d+)(?:x(\d+))?", text)
        if not match:
            raise argparse.ArgumentTypeError(f"{text}: expected NAME@STEPS or NAME@STEPSxFACTOR, such as qm9@50")
        return cls(match[1], int(match[2]), int(match[3] or 1))

    def __str__(self) -> str:
        return f"{self.name}, {self.steps} steps"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [Run("qm9", 50, 1), Run("qm9-egnn", 20, 50)]
    parser.add_argument("runs", nargs="*", type=Run.parse, default=default, help="NAME@STEPS[xFACTOR] ...")
    parser.add_argument("--n", type=int, default=128, help="molecules that each process samples [default: 128]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="also generate these numbers, first network")
    parser.add_argument("--memory-steps", type=int, default=10, help="memory does not depend on it [default: 10]")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--child", choices=["sample", "generate"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        task = {"sample": sampled, "generate": generated}[options.child]
        print(json.dumps(task(options.runs[0], options.n) | {"peak_mib": peak_memory()}))
        return
    names = list(dict.fromkeys(run.name for run in options.runs))
    figures = {
        "environment": environment(),
        "networks": {name: network_figures(named_model(name)) for name in names},
        "sampling": sampling_figures(options.runs, options.n, options.repeats),
        "memory": [memory_figures(Run(names[0], options.memory_steps, 1), n) for n in options.memory],
    }
    show(figures)
    write_json(options.json, figures)


def named_model(name: str) -> Model:
    """A shipped model, a weights file, or a preset at random weights on QM9 with all its atoms, as EDM has it."""
    if name in PRESETS and name not in shipped_models():
        data = (
            load("qm9-atoms").model.data if "qm9-atoms" in shipped_models() else DataInfo.from_meta(read_meta(SAMPLE))
        )
        torch.manual_seed(0)
        return Model(preset(name), data, {"random": True}).requires_grad_(False).eval()
    return load(name, "cpu").model


def environment() -> dict[str, Any]:
    return {"moldiff": __version__, "torch": torch.__version__, "python": platform.python_version(),
            "processor": processor(), "threads": 1}  # fmt: skip


def processor() -> str:
    """What the system calls its processor."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor()


def network_figures(model: Model) -> dict[str, Any]:
    return {
        "network": model.config.network.kind,
        "random_weights": model.info.get("random", False),
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": {atoms: flops(model, atoms) for atoms in ATOMS},
        "equivariance_error": equivariance_error(model),
    }


def flops(model: Model, atoms: int) -> float:
    """Floating-point operations of one evaluation for one molecule: of the matrix products, two a multiply-add."""
    noisy, level = random_state(model, BATCH, atoms, torch.float32)
    with torch.no_grad():
        previous = model.denoise(noisy, level)
        with FlopCounterMode(display=False) as counter:
            model.denoise(noisy, level, None, previous)
    return counter.get_total_flops() / BATCH


def random_state(model: Model, count: int, atoms: int, dtype: torch.dtype) -> tuple[Molecules, NoiseLevel]:
    """Pure noise at σ = 1 and its level."""
    generator = torch.Generator().manual_seed(0)
    empty = blank(count, atoms, "cpu")
    level = NoiseLevel.free(empty, torch.ones(count, dtype=dtype))
    bond = torch.randint(0, 4, (count, atoms, atoms), generator=generator).triu(1)
    noisy = empty.replace(
        pos=2 * torch.randn(count, atoms, 3, generator=generator, dtype=dtype),
        atom=torch.randint(0, len(model.data.vocabulary), (count, atoms), generator=generator),
        bond=bond + bond.mT,
    )
    return noisy.centre(), level


def equivariance_error(model: Model) -> dict[str, float]:
    """Largest difference between turning a molecule before and after two evaluations, in float64: Å and log-odds.

    Turning: a rotation with a reflection, and another order of the atoms. Parameters that are zero, as output layers
    are before training, get random values, else they would hide what comes before them.
    """
    model = Model(model.config, model.data).double().requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        if not p.any():
            p.copy_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    noisy, level = random_state(model, 8, 18, torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    turn = turn * -turn.det()
    order = torch.randperm(18, generator=generator)
    turned = Molecules(noisy.mask, noisy.pos[:, order], noisy.atom[:, order], noisy.bond[:, order][:, :, order])
    first = twice(model, noisy, level)
    second = twice(model, turned.rotate(turn), level)
    return {
        "positions_angstrom": float((first.pos[:, order] @ turn.T - second.pos).abs().max()),
        "atom_logits": float((first.atom_logits[:, order] - second.atom_logits).abs().max()),
        "bond_logits": float((first.bond_logits[:, order][:, :, order] - second.bond_logits).abs().max()),
    }


def twice(model: Model, noisy: Molecules, level: NoiseLevel) -> Prediction:
    """The second estimate, which has seen the first."""
    return model.denoise(noisy, level, None, model.denoise(noisy, level))


def sampled(run: Run, n: int) -> dict[str, float]:
    """In a process of its own: sample n molecules; CPU seconds in all of it and in the network."""
    model = named_model(run.name)
    inside = 0.0
    forward = model.network.forward

    def timed(inputs):
        nonlocal inside
        start = time.process_time()
        result = forward(inputs)
        inside += time.process_time() - start
        return result

    model.network.forward = timed
    start = time.process_time()
    for first in range(0, n, MOST["cpu"]):  # in the portions of `moldiff generate`: larger ones are cheaper
        portion = range(first, min(first + MOST["cpu"], n))
        sample_attempts(model, Request(n, sampler=Sampler(steps=run.steps)), portion)
    return {"sampling": time.process_time() - start, "network": inside}


def generated(run: Run, n: int) -> dict[str, int]:
    """In a process of its own: `moldiff generate`, judging and writing included; the molecules that it sampled."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.sdf"
        arguments = ["generate", "--model", run.name, "-n", str(n), "--steps", str(run.steps), "--workers", "1"]
        app([*arguments, "--max-attempts", str(20 * n), "-o", str(output)], standalone_mode=False)
        return {"sampled": json.loads(output.with_name("out.sdf.summary.json").read_text())["funnel"]["sampled"]}


def peak_memory() -> float:
    """The most memory this process has had, MiB. On Linux ``ru_maxrss`` counts the parent's memory for a child."""
    if STATUS.exists():
        return int(re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def sampling_figures(runs: list[Run], n: int, repeats: int) -> list[dict[str, Any]]:
    """Medians over processes that start in turn: run 1, run 2, ..., run 1, run 2, ..."""
    rows: list[list[dict[str, float]]] = [[] for _ in runs]
    for repeat in range(repeats):
        for run, measured in zip(runs, rows, strict=True):
            print(f"repeat {repeat + 1} of {repeats}: {run}", file=sys.stderr)
            start, _ = child("sample", run, 0)
            cpu, inner = child("sample", run, n)
            measured.append({
                "process_cpu_s": cpu, "start_cpu_s": start, "cpu_s_per_molecule": (cpu - start) / n,
                "sampler_overhead": inner["sampling"] / inner["network"] - 1, "peak_mib": inner["peak_mib"],
            })  # fmt: skip
    return [
        {"network": run.name, "steps": run.steps, "factor": run.factor, "molecules": n, "repeats": repeats}
        | {key: statistics.median(row[key] for row in measured) for key in measured[0]}
        for run, measured in zip(runs, rows, strict=True)
    ]


def memory_figures(run: Run, n: int) -> dict[str, Any]:
    print(f"memory: {n} molecules", file=sys.stderr)
    cpu, inner = child("generate", run, n)
    return {"network": run.name, "steps": run.steps, "molecules": n, "cpu_s": cpu, **inner}


def child(task: str, run: Run, n: int) -> tuple[float, dict[str, Any]]:
    """CPU seconds of a process from its start to its end, and what it reports."""
    command = [sys.executable, __file__, f"{run.name}@{run.steps}", "--n", str(n), "--child", task]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as started:
        output = started.stdout.read()
        _, status, used = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return used.ru_utime + used.ru_stime, json.loads(output.splitlines()[-1])


def show(figures: dict[str, Any]) -> None:
    console = Console(highlight=False)
    env = figures["environment"]
    console.print(f"{env['processor']}, 1 thread, torch {env['torch']}, moldiff {env['moldiff']}")
    networks = Table(title="GFLOP of one evaluation, by atoms (matrix products); equivariance error in float64")
    for column in ("network", "parameters", *map(str, ATOMS), "positions", "logits"):
        networks.add_column(column, justify="left" if column == "network" else "right")
    for name, row in figures["networks"].items():
        error = row["equivariance_error"]
        networks.add_row(
            Path(name).stem + ", random" * row["random_weights"], f"{row['parameters'] / 1e6:.2f} M",
            *(f"{value / 1e9:.3f}" for value in row["flops"].values()),
            f"{error['positions_angstrom']:.0e} Å", f"{max(error['atom_logits'], error['bond_logits']):.0e}",
        )  # fmt: skip
    console.print(networks)
    show_sampling(console, figures["sampling"])
    for row in figures["memory"]:
        what = f"{row['molecules']} molecules, {row['sampled']} sampled, {row['steps']} steps"
        console.print(f"moldiff generate ({what}): peak {row['peak_mib']:.0f} MiB, {row['cpu_s']:.0f} CPU-seconds")


def show_sampling(console: Console, rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    table = Table(title=f"{first['molecules']} molecules: CPU-seconds, medians of {first['repeats']}")
    for column in ("network", "steps", "process", "start", "per molecule", "ratio", "overhead", "MiB"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        table.add_row(
            Path(row["network"]).stem, str(row["steps"]), f"{row['process_cpu_s']:.1f}", f"{row['start_cpu_s']:.1f}",
            f"{row['cpu_s_per_molecule']:.3f}", f"{row['cpu_s_per_molecule'] / first['cpu_s_per_molecule']:.1f}",
            f"{100 * row['sampler_overhead']:.0f} %", f"{row['peak_mib']:.0f}",
        )  # fmt: skip
    console.print(table)
    console.print("per molecule: (process - start) / molecules; overhead: sampling / (evaluations x network) - 1")
    for row in rows:
        if row["factor"] > 1:
            steps, each = row["steps"], row["cpu_s_per_molecule"] * row["factor"]
            console.print(
                f"{Path(row['network']).stem} at {steps * row['factor']} steps: {each:.1f} CPU-seconds per molecule, "
                f"{each / first['cpu_s_per_molecule']:.0f} times row 1 (measured at {steps} steps, ×{row['factor']})"
            )


if __name__ == "__main__":
    main()
