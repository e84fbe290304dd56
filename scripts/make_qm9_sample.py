"""Make data/qm9_sample: 600 molecules of QM9 as a prepared set, and 20 rows of its table, for tests and examples.

Run as ``python scripts/make_qm9_sample.py qm9pack-1.0.3-py3-none-any.whl``.
"""

import argparse
import re
from pathlib import Path

import numpy as np

from moldiff.datasets import qm9
from moldiff.datasets.prepared import SPLITS

SIZES = {"train": 400, "valid": 100, "test": 100}
# Charged atoms are in 1 molecule of 300: put some of each kind in, so that the sample has the vocabulary of the whole.
CHARGED = (r"\[CH?-\]", r"\[NH?-\]", r"\[NH?\d?\+\]", r"\[O-\]")
CHARGED_COUNT = {"train": 4, "valid": 1, "test": 1}
# The first molecules; those numbered unlike their SMILES; a zwitterion; two that are dropped; the last one.
TABLE_ROWS = (*range(1, 10), 23, 24, 486, 7335, 52466, 59818, 59827, 133487, 133857, 133859, 133885)


def choose(rows: list[qm9.Row], names: np.ndarray) -> np.ndarray:
    """Positions of the sample's rows, ascending: a few of each charged kind, the rest at random with a fixed seed."""
    rng = np.random.default_rng(0)
    chosen: list[int] = []
    for number, name in enumerate(SPLITS):
        members = rng.permutation(np.flatnonzero(names == number)).tolist()
        charged = []
        for pattern in CHARGED:
            charged += [k for k in members if re.search(pattern, rows[k].smiles)][: CHARGED_COUNT[name]]
        chosen += list(dict.fromkeys(charged + members))[: SIZES[name]]
    return np.sort(chosen)


def write_table(archive: Path, path: Path) -> None:
    """The chosen lines of the tables, byte for byte, under one header."""
    lines = []
    for _, data in qm9.csv_files(archive):
        header, *body = data.decode().splitlines(keepends=True)
        lines += [line for line in body if int(line.split(",", 2)[1]) in TABLE_ROWS]
    path.write_text("".join([header, *lines]), newline="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="qm9pack wheel")
    parser.add_argument("-o", "--output", type=Path, default=Path("data/qm9_sample"))
    options = parser.parse_args()
    rows, source = qm9.read_rows(options.archive)
    names = qm9.split_names(len(rows))
    chosen = choose(rows, names)
    sample = [rows[k] for k in chosen]
    source["source"] = f"{len(chosen)} molecules of {source['source']}, of the split of the whole"
    meta = qm9.write_set(options.output, sample, names[chosen], qm9.convert_all(sample), source)
    write_table(options.archive, options.output / "qm9pack_sample.csv")
    print(meta["vocabulary"], meta["molecules"], meta["counts"])


if __name__ == "__main__":
    main()
