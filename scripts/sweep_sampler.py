"""How good a model's molecules are, by sampler settings: every combination of the lists given, one row each.

    python scripts/sweep_sampler.py qm9 -o sweep.csv --steps 30 50 100 --churn 0 0.5 --reference qm9/test.smi --markdown

All sampled molecules count, accepted or not. The Fréchet ChemNet distance (FCD) of n molecules is biased upwards: compare rows
of the same n. Rows are added to the CSV as they are done, and combinations that are there already are skipped, so that a
sweep can be stopped, continued and widened.
"""

import argparse
import csv
import itertools
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from operator import itemgetter
from pathlib import Path

import pandas as pd
import torch
from rich.progress import track
from rows import write_json

from moldiff import chem
from moldiff.attempts import sample_attempts
from moldiff.generation import Generator, load
from moldiff.metrics import evaluate
from moldiff.metrics.chemnet import Moments, activation_moments, fcd_of_moments
from moldiff.metrics.validity import valid_connected
from moldiff.requests import Request
from moldiff.samplers import RULES, Sampler
from moldiff.schedules import GRIDS

METRICS = {  # column -> name of the metric, whose definition says what is counted over what
    "valid_connected": "valid_connected", "molecule_stability": "molecule_stability",
    "edm_molecule_stability": "edm_molecule_stability", "unique": "valid_connected_unique", "strain_kcal_mol": "strain",
}  # fmt: skip
CHURN = ("churn", "low", "high")
SETTINGS = (
    "model_sha256",
    "rule",
    "grid",
    "steps",
    *CHURN,
    "sigma_max",
    "sigma_min",
    "self_condition_below",
    "temperature",
    "tokens",
    "seed",
    "n",
    "relaxed",
    "reference",
)
TOKENS = ("noisy", "clean")  # drawn with the noise of the next level, or without
RESULTS = ("evaluations", "accepted", *METRICS, "fcd", "cpu_s_per_molecule")
Row = dict[str, int | float | str]
key = itemgetter(*SETTINGS)


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    generator = load(options.model, options.device)
    options.temperature = options.temperature or [generator.model.config.process.temperature]
    options.grid = options.grid or [generator.model.config.quality.grid]
    options.tokens = options.tokens or [TOKENS[generator.model.config.quality.clean_tokens]]
    reference = activation_moments(options.reference.read_text().split()) if options.reference else None
    rows = read(options.output) if options.output.exists() else []
    missing = [settings for settings in combinations(generator, options) if key(settings) not in map(key, rows)]
    with open(options.output, "a", newline="") as file:
        writer = csv.DictWriter(file, SETTINGS + RESULTS)
        if not rows:
            writer.writeheader()
        for settings in track(missing, f"{len(missing)} combinations"):
            rows.append(settings | measure(generator, settings, reference))
            writer.writerow(rows[-1])
            file.flush()
    write_json(options.json, rows)
    if options.markdown:
        columns = (SETTINGS + RESULTS)[1:]
        for cells in (columns, ["---"] * len(columns), *([str(row[c]) for c in columns] for row in rows)):
            print(f"| {' | '.join(cells)} |")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a shipped model's name or a weights file")
    parser.add_argument("-o", "--output", type=Path, default=Path("sweep.csv"))
    parser.add_argument("-n", type=int, default=500, help="molecules sampled for each row [default: 500]")
    parser.add_argument("--strain", type=int, default=100, help="molecules relaxed for each row [default: 100]")
    standard, rule = Sampler(), Sampler().rule
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 12, 20, 30, 50, 100])
    for name in CHURN:
        default = getattr(rule, name)
        parser.add_argument(f"--{name}", type=float, nargs="+", default=[default], help="of the rules unipc and euler")
    parser.add_argument("--self-condition-below", type=float, nargs="+", default=[standard.self_condition_below])
    parser.add_argument(
        "--temperature", type=float, nargs="+", default=[], help="of token draws [default: the weights' own]"
    )
    parser.add_argument("--tokens", nargs="+", choices=TOKENS, default=[], help="[default: the weights' own]")
    parser.add_argument("--reference", type=Path, help="SMILES, one a line, for the FCD; needs moldiff[eval]")
    parser.add_argument("--sigma-max", type=float, nargs="+", default=[standard.sigma_max])
    parser.add_argument("--sigma-min", type=float, nargs="+", default=[standard.sigma_min])
    parser.add_argument("--grid", nargs="+", choices=GRIDS, default=[], help="[default: the weights' own]")
    parser.add_argument("--rule", nargs="+", choices=RULES, default=["unipc"])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write all rows of the CSV here")
    parser.add_argument("--markdown", action="store_true", help="print all rows of the CSV")
    return parser.parse_args()


def combinations(generator: Generator, options: argparse.Namespace) -> Iterator[Row]:
    """The settings of each row; those of the churn are empty where there is none, and then occur once."""
    seen, others = [], (options.n, options.strain, str(options.reference or ""))
    for values in itertools.product(*(getattr(options, name) for name in SETTINGS[1:-3])):
        settings = dict(zip(SETTINGS, (generator.hash[:16], *values, *others), strict=True))
        if not {f.name for f in fields(RULES[settings["rule"]])} >= set(CHURN) or not settings["churn"]:
            settings |= dict.fromkeys(CHURN, "")
        if key(settings) not in seen:
            seen.append(key(settings))
            yield settings


def measure(generator: Generator, settings: Row, reference: Moments | None) -> Row:
    kind, n = RULES[settings["rule"]], settings["n"]
    rule = kind(**{f.name: settings[f.name] or 0.0 for f in fields(kind)})
    sampler = Sampler(
        settings["steps"], rule, settings["grid"], settings["sigma_max"], settings["sigma_min"],
        self_condition_below=settings["self_condition_below"], temperature=settings["temperature"],
        clean_tokens=settings["tokens"] == "clean",
    )  # fmt: skip
    start = time.process_time()
    molecules, _ = sample_attempts(generator.model, Request(n, settings["seed"], sampler), range(n))
    cost = time.process_time() - start
    mols = generator.to_rdkit(molecules)
    evaluation = evaluate(mols, strain=settings["relaxed"])
    values = {metric.name: metric.value for metric in evaluation.metrics if metric.denominator}
    return {
        "evaluations": sampler.evaluations,
        "accepted": round(sum(chem.check(mol).reason is None for mol in mols) / n, 4),
        **{column: round(values[name], 4) if name in values else "" for column, name in METRICS.items()},
        "fcd": "" if reference is None else round(_fcd(evaluation.table, reference), 4),
        "cpu_s_per_molecule": round(cost / n, 4),
    }


def _fcd(table: pd.DataFrame, reference: Moments) -> float:
    """Of the valid & connected molecules."""
    smiles = table.loc[valid_connected(table), "smiles"]
    return fcd_of_moments(activation_moments(list(smiles)), reference, "the reference").value


def read(path: Path) -> list[Row]:
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if rows and tuple(reader.fieldnames) != SETTINGS + RESULTS:
        raise SystemExit(f"{path}: its columns are those of another version; write to another file by -o")
    return [{k: v if k == "model_sha256" else number(v) for k, v in row.items()} for row in rows]


def number(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


if __name__ == "__main__":
    main()
