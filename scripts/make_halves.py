"""The two halves of QM9's training split in EDM's protocol for conditional generation (arXiv 2203.17003, appendix).

Writes two prepared sets: ``DIR/predictor`` holds the first half, on which a network learns to predict properties, and
``DIR/generator`` the second, on which a generator is trained. Validation and test molecules are in both. Which molecule
is where is EDM's own choice: numpy's permutation with seed 42 of the 100,000 training molecules in QM9's order.

Example: python scripts/make_halves.py qm9 -o halves
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from moldiff.datasets.prepared import SPLITS, Split, learned_from, read_meta, read_split, write_prepared
from moldiff.datasets.qm9 import STANDARD_SIZE, split_names
from moldiff.errors import RequestError
from moldiff.terminal import one_line_errors

SEED = 42
NAMES = ("predictor", "generator")


def main(
    data: Annotated[Path, typer.Argument(help="QM9, prepared by `moldiff data prepare qm9`.")],
    output: Annotated[Path, typer.Option("-o", help="The folder of the two sets.")],
) -> None:
    with one_line_errors():
        meta = read_meta(data)
        splits = {name: read_split(data, name) for name in SPLITS}
        smiles = {name: (data / f"{name}.smi").read_text().splitlines() for name in SPLITS}
        first = in_first_half(meta, splits)
        for name, chosen in zip(NAMES, (first, ~first), strict=True):
            write_half(output / name, meta, splits, smiles, chosen)
            print(f"{output / name}: {chosen.sum():,} training molecules")


def in_first_half(meta: dict, splits: dict[str, Split]) -> np.ndarray:
    """(training molecules,) bool. Molecules that were dropped keep their place in the count."""
    dropped = [index for rows in meta["counts"]["dropped_rows"].values() for index in rows]
    indices = np.sort(np.concatenate([*(split.source for split in splits.values()), np.array(dropped, np.int64)]))
    if len(indices) != STANDARD_SIZE:
        raise RequestError(f"{len(indices):,} molecules, not the {STANDARD_SIZE:,} of the standard QM9; prepare that")
    train = indices[split_names(STANDARD_SIZE) == SPLITS.index("train")]
    first = np.random.RandomState(SEED).permutation(len(train))[: len(train) // 2]
    return np.isin(splits["train"].source, train[first])


def write_half(
    directory: Path, meta: dict, splits: dict[str, Split], smiles: dict[str, list[str]], chosen: np.ndarray
) -> None:
    half = splits["train"].select(chosen)
    kept = [s for s, keep in zip(smiles["train"], chosen, strict=True) if keep]
    chunks = {**{name: [(splits[name], smiles[name])] for name in SPLITS}, "train": [(half, kept)]}
    learned = learned_from(
        [half], meta["vocabulary"], [(p["name"], p["unit"]) for p in meta["properties"]], meta["hydrogens"]
    )
    write_prepared(directory, chunks, {**meta, "name": f"{meta['name']}-{directory.name}", **learned})


if __name__ == "__main__":
    typer.run(main)
