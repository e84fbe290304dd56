"""How time and memory of one network evaluation grow with the atoms of a molecule and with the molecules of a batch.

    python scripts/benchmark_scaling.py qm9

One thread, float32; every row is a process of its own. CPU time is the median over repeats, memory the highest in use less
what the process held before its first evaluation. Other work on the machine disturbs times: compare those of one run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from benchmark import environment, flops, named_model, peak_memory, random_state
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rows import write_json

ATOMS = (9, 18, 29, 60, 120)  # 18: the mean of QM9, 29: its most; 44 is the mean of drugs with hydrogens
BATCHES = (1, 4, 16, 64, 256)
USUAL = (18, 16)  # atoms and molecules of the rows in which only the other number changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a shipped model's name, a weights file, or a preset (at random weights)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)  # atoms and batch
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(evaluation(options.model, *options.one, options.repeats)))
        return
    cases = dict.fromkeys([*((atoms, USUAL[1]) for atoms in ATOMS), *((USUAL[0], batch) for batch in BATCHES)])
    command = [sys.executable, __file__, options.model, "--repeats", str(options.repeats), "--one"]
    rows = [
        json.loads(subprocess.run([*command, *map(str, case)], check=True, stdout=subprocess.PIPE, text=True).stdout)
        for case in track(cases, "measuring", transient=True)
    ]
    show(options.model, rows)
    write_json(options.json, {"environment": environment(), "evaluations": rows})


def evaluation(name: str, atoms: int, batch: int, repeats: int) -> dict[str, float]:
    """In a process of its own: CPU seconds and memory of evaluations that have seen an earlier estimate."""
    model = named_model(name)
    noisy, level = random_state(model, batch, atoms, torch.float32)
    before, took = peak_memory(), []
    with torch.no_grad():
        previous = model.denoise(noisy, level)
        for _ in range(repeats):
            start = time.process_time()
            model.denoise(noisy, level, None, previous)
            took.append(time.process_time() - start)
    memory = peak_memory() - before
    return {"atoms": atoms, "batch": batch, "flops_per_molecule": flops(model, atoms),
            "cpu_s": statistics.median(took), "mib": memory}  # fmt: skip


def show(name: str, rows: list[dict[str, float]]) -> None:
    console, env = Console(highlight=False), environment()
    console.print(f"{env['processor']}, 1 thread, torch {env['torch']}, moldiff {env['moldiff']}")
    table = Table(title=f"One evaluation of {Path(name).stem}")
    for column in ("atoms", "batch", "GFLOP per molecule", "ms per molecule", "GFLOP/s", "MiB"):
        table.add_column(column, justify="right")
    for row in rows:
        each = row["cpu_s"] / row["batch"]
        table.add_row(
            str(row["atoms"]), str(row["batch"]), f"{row['flops_per_molecule'] / 1e9:.3f}", f"{1e3 * each:.2f}",
            f"{row['flops_per_molecule'] / each / 1e9:.0f}", f"{row['mib']:.0f}",
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
