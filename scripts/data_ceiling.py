"""What a prepared set itself scores: the ceiling of every metric, under the same rules as generated molecules.

python scripts/data_ceiling.py qm9 --split test --strain 1000
"""

import argparse
from pathlib import Path

import pandas as pd

from moldiff.chem import to_rdkit
from moldiff.datasets.prepared import SPLITS, read_meta, read_split
from moldiff.metrics import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a prepared set")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--strain", type=int, default=1000, help="molecules relaxed [default: 1000]")
    arguments = parser.parse_args()
    vocabulary = read_meta(arguments.data)["vocabulary"]
    buckets = read_split(arguments.data, arguments.split).buckets().values()
    mols = [mol for molecules, _ in buckets for mol in to_rdkit(molecules, vocabulary)]
    table = evaluate(mols, strain=arguments.strain).to_frame().drop(columns="definition")
    with pd.option_context("display.width", 120, "display.max_rows", None):
        print(f"{arguments.data} {arguments.split}: {len(mols)} molecules\n{table.round(4)}")


if __name__ == "__main__":
    main()
