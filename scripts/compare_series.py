"""How close generated molecules come to a series, from tables that `moldiff evaluate` wrote against its training molecules.

    moldiff evaluate tuned.smi --reference series/train.smi --csv tuned.csv
    python scripts/compare_series.py base.csv tuned.csv --reference series/train.smi --smarts C1OC1

Counted over the valid and connected molecules of each table.
"""

import argparse
from pathlib import Path

import pandas as pd
from rdkit import Chem


def row(path: Path, known: set[str], motif: Chem.Mol) -> str:
    """Similarity to the nearest (mean ± standard error), molecules with the motif, distinct ones, those not in the reference."""
    table = pd.read_csv(path)
    table = table[table["valid"].eq(True) & table["fragments"].eq(1)]
    similarity, smiles = table["nearest_similarity"], table["smiles"]
    having = sum(Chem.MolFromSmiles(s).HasSubstructMatch(motif) for s in smiles)
    mean = f"{similarity.mean():.3f} ± {similarity.sem():.3f}"
    return f"| {path.stem} | {len(table)} | {mean} | {having} | {smiles.nunique()} | {len(set(smiles) - known)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", help="written by `moldiff evaluate --csv`")
    parser.add_argument("--reference", type=Path, required=True, help="SMILES of the training molecules")
    parser.add_argument("--smarts", required=True, help="the motif of the series")
    arguments = parser.parse_args()
    known = set(arguments.reference.read_text().split())
    print("| set | molecules | similarity to the nearest | with the motif | distinct | new |")
    print("|---|---|---|---|---|---|")
    for path in arguments.tables:
        print(row(path, known, Chem.MolFromSmarts(arguments.smarts)))


if __name__ == "__main__":
    main()
