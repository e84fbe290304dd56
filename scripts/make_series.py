"""Molecules that share a motif, as a library of SMILES to try fine-tuning on.

    python scripts/make_series.py qm9 --smarts C1OC1 -n 300 -o epoxides.smi

Drawn without replacement from the test set of QM9 or MOSES, which none of the shipped weights have seen.
"""

import argparse
from pathlib import Path

import numpy as np
from rdkit import Chem

from moldiff.files import write_atomically
from moldiff.references import SPLIT, ReferenceSetError, named


def draw(smiles: tuple[str, ...], motif: Chem.Mol, count: int, seed: int) -> list[str]:
    """``count`` distinct SMILES with the motif (all of them if there are fewer), in random order."""
    distinct = list(dict.fromkeys(smiles))
    found = []
    for k in np.random.default_rng(seed).permutation(len(distinct)):
        if len(found) == count:
            break
        if Chem.MolFromSmiles(distinct[k]).HasSubstructMatch(motif):
            found.append(distinct[k])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=SPLIT, help="moses needs pip install --no-deps molsets")
    parser.add_argument("--smarts", required=True, help="the motif")
    parser.add_argument("-n", type=int, default=300, help="molecules [default: 300]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help=".smi")
    arguments = parser.parse_args()
    motif = Chem.MolFromSmarts(arguments.smarts)
    if motif is None:
        parser.error(f"--smarts {arguments.smarts}: not SMARTS")
    try:
        test = named(arguments.data).held_out[0].reference.smiles
    except ReferenceSetError as error:
        parser.error(str(error))
    found = draw(test, motif, arguments.n, arguments.seed)
    if not found:
        parser.error(f"--smarts {arguments.smarts}: no molecule of the test set has it")
    with write_atomically(arguments.output) as temporary:
        temporary.write_text("".join(f"{smiles}\n" for smiles in found))
    print(f"{len(found)} molecules with {arguments.smarts} → {arguments.output}")


if __name__ == "__main__":
    main()
