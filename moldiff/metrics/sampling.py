"""The random draw behind metrics that cost too much to compute for every molecule."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rdkit.Chem import Mol


@dataclass(frozen=True)
class Draw:
    """``rows`` of a set, drawn without replacement from the ``population`` molecules that were candidates."""

    rows: tuple[int, ...]
    population: int
    seed: int

    def __str__(self) -> str:
        return f"{len(self.rows)} of {self.population}, drawn at random (seed {self.seed})"


def draw(mols: Sequence[Mol | None], table: pd.DataFrame, candidates: pd.Series, count: int, seed: int) -> Draw:
    """``count`` rows of the ``candidates`` (a mask), all of them if there are no more.

    ``table``: the facts of the same ``mols``. The draw depends on the seed and the molecules, not on their order.
    """
    smiles = table["smiles_stereo"].fillna("")
    rows = table.index[candidates]
    chosen = sorted(rows, key=lambda row: lot(mols[row], smiles[row], seed))[:count]
    return Draw(tuple(chosen), len(rows), seed)


def lot(mol: Mol | None, smiles: str, seed: int) -> bytes:
    """The place of a molecule in the draw: those of the smallest lots are drawn, so a stream needs to keep no others.

    A hash of the seed, the SMILES ("" for none), and the atoms, bonds and coordinates in an order of their own.
    """
    parts: list = [seed, smiles]
    coordinates = np.empty(0)
    if mol is not None:
        parts.append(sorted((a.GetAtomicNum(), a.GetFormalCharge(), a.GetDegree()) for a in mol.GetAtoms()))
        parts.append(sorted(float(b.GetBondTypeAsDouble()) for b in mol.GetBonds()))
        if mol.GetNumConformers():
            coordinates = np.sort(mol.GetConformer().GetPositions(), axis=None)
    return hashlib.sha256(repr(parts).encode() + coordinates.tobytes()).digest()
