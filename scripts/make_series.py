"""Molecules of a prepared set that share a motif, as a library of SMILES to try fine-tuning on.

    python scripts/make_series.py qm9 --smarts C1OC1 -n 300 -o epoxides.smi

Drawn without replacement from one split, by default the test split, which weights trained on the set have not seen.
"""

import argparse
from pathlib import Path

import numpy as np
from rdkit import Chem

from moldiff.datasets.prepared import SPLITS
from moldiff.files import write_atomically


def draw(smiles: list[str], motif: Chem.Mol, count: int, seed: int) -> list[str]:
    """``count`` distinct SMILES with the motif (all of them if there are fewer), in random order."""
    having = [s for s in dict.fromkeys(smiles) if Chem.MolFromSmiles(s).HasSubstructMatch(motif)]
    return [having[k] for k in np.random.default_rng(seed).permutation(len(having))[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a prepared set")
    parser.add_argument("--smarts", required=True, help="the motif")
    parser.add_argument("-n", type=int, default=300, help="molecules [default: 300]")
    parser.add_argument("--split", choices=SPLITS, default="test", help="[default: test]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help=".smi")
    arguments = parser.parse_args()
    motif = Chem.MolFromSmarts(arguments.smarts)
    if motif is None:
        parser.error(f"--smarts {arguments.smarts}: not SMARTS")
    path = arguments.data / f"{arguments.split}.smi"
    if not path.is_file():
        parser.error(f"{path}: no such file; make the set with `moldiff data prepare`")
    found = draw(path.read_text().split(), motif, arguments.n, arguments.seed)
    if not found:
        parser.error(f"{path}: no molecule has {arguments.smarts}")
    with write_atomically(arguments.output) as temporary:
        temporary.write_text("".join(f"{smiles}\n" for smiles in found))
    print(f"{len(found)} molecules with {arguments.smarts} → {arguments.output}")


if __name__ == "__main__":
    main()
