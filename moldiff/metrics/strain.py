"""Strain: what a force field gains by relaxing the generated coordinates."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from rdkit.Chem import Mol

from moldiff import chem
from moldiff.metrics.core import Metric
from moldiff.metrics.validity import sanitised


def strain_metric(mols: Sequence[Mol | None], table: pd.DataFrame, n: int = 1000, seed: int = 0) -> Metric:
    """Median MMFF94s relaxation energy (kcal/mol) over ``n`` random valid & connected molecules with coordinates.

    ``table``: the facts of the same ``mols``. The choice depends on the seed and the molecules, not on their order.
    """
    candidates = table.index[table["valid"] & (table["fragments"] == 1) & table["coordinates"]]
    chosen = sorted(candidates, key=lambda row: _lot(mols[row], table.at[row, "smiles_stereo"], seed))[:n]
    energies = pd.Series({row: relaxation_energy(mols[row]) for row in chosen}, name="strain", dtype=float)
    computed = energies.dropna()
    definition = (
        f"median MMFF94s energy (kcal/mol) released by at most {chem.MAX_RELAXATION_STEPS} steps of relaxation from "
        f"the given coordinates (10.1002/(SICI)1096-987X(199905)20:7<720::AID-JCC7>3.0.CO;2-X), over {len(computed)} "
        f"molecules: of {len(candidates)} valid & connected ones, {len(chosen)} drawn at random (seed {seed}), "
        f"{len(chosen) - len(computed)} of them without parameters or a finite energy"
    )
    value = float(computed.median()) if len(computed) else math.nan
    return Metric("strain", value, None, len(computed), definition, energies)


def relaxation_energy(mol: Mol) -> float:
    """MMFF94s energy that a relaxed copy of ``mol`` loses, kcal/mol; NaN where there is none.

    That is so for molecules without a conformer or that RDKit does not sanitise, atoms without MMFF94s parameters and
    non-finite energies (coinciding or undefined positions).
    """
    copy, _ = sanitised(mol)
    if copy is None or copy.GetNumConformers() == 0:
        return math.nan
    released = chem.strain(copy)
    return released if released is not None and math.isfinite(released) else math.nan


def _lot(mol: Mol, smiles: str, seed: int) -> bytes:
    """The place of a molecule in the random draw: a hash of the seed, its SMILES and its coordinates."""
    coordinates = np.sort(mol.GetConformer().GetPositions(), axis=None)
    return hashlib.sha256(f"{seed} {smiles} ".encode() + coordinates.tobytes()).digest()
