"""The checks of PoseBusters (Buttenschoen et al., Chem. Sci. 2024, 15, 3130, 10.1039/D3SC04185A) on molecules alone.

The library ``posebusters`` computes them: pip install 'moldiff[eval]'.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pandas as pd
from rdkit.Chem import Mol

from moldiff.chem import quiet
from moldiff.metrics.core import Metric, rate
from moldiff.metrics.sampling import Draw, draw
from moldiff.metrics.strain import ready

GEOMETRY = ("bond_lengths", "bond_angles", "internal_steric_clash", "aromatic_ring_flatness",
            "non-aromatic_ring_non-flatness", "double_bond_flatness")  # fmt: skip
CHECKS = ("sanitization", "inchi_convertible", "all_atoms_connected", "no_radicals", *GEOMETRY)
ENERGY = "internal_energy"  # on request: 50 conformers for every molecule


def pose_checks(mol: Mol | None, energy_ratio: bool = False) -> dict[str, bool | None]:
    """Whether one molecule passes each of ``CHECKS``; none passes that is not valid or has no coordinates.

    ``energy_ratio`` adds ``internal_energy``: the energy is at most 100 times the mean of an ensemble of 50
    conformers; None where PoseBusters cannot make the ensemble. Time: 30 ms, with ``energy_ratio`` seconds.
    Raises :class:`ImportError` without ``posebusters``.
    """
    busters = _busters("mol" if energy_ratio else "mol_fast")
    names = (*CHECKS, ENERGY) if energy_ratio else CHECKS
    copy, _ = ready(mol)
    if copy is None:
        return dict.fromkeys(names, False)
    with quiet():
        row = busters.bust([copy]).iloc[0]
    return {name: None if pd.isna(row[name]) else bool(row[name]) for name in names}


def draw_for_poses(mols: Sequence[Mol | None], table: pd.DataFrame, count: int, seed: int) -> Draw:
    """``count`` of all molecules, valid or not; of none if there are no coordinates at all to judge."""
    candidates = pd.Series(bool(table["coordinates"].any()), index=table.index)
    return draw(mols, table, candidates, count, seed)


def pose_check_metrics(checks: pd.DataFrame, drawn: Draw) -> list[Metric]:
    """The rate of molecules that pass every check, then one for each.

    ``checks``: one row of :func:`pose_checks` for each molecule drawn, indexed like the input.
    """
    checks = checks.astype("boolean")
    rule = (
        f"molecules drawn ({drawn}; those not readable, not sanitised as given or without coordinates pass nothing) "
        f"that pass PoseBusters' {{}} (10.1039/D3SC04185A), of those it can decide"
    )
    names = ", ".join(checks.columns)
    everything = checks.all(axis=1).astype(bool)  # the undecided do not count against a molecule
    metrics = [rate("posebusters", everything.sum(), len(checks), rule.format(f"checks {names}"), everything)]
    for name in checks:
        decided = checks[name].dropna()
        metrics.append(
            rate(f"posebusters_{name}", decided.sum(), len(decided), rule.format(f"check {name}"), checks[name])
        )
    return metrics


@cache
def _busters(config: str) -> Any:
    try:
        from posebusters import PoseBusters
    except ImportError as error:
        raise ImportError("PoseBusters' checks need posebusters; pip install 'moldiff[eval]'") from error
    return PoseBusters(config=config)
