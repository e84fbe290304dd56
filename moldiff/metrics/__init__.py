"""Metrics of sets of molecules: pure functions that never change or repair what they measure.

Input: RDKit molecules with all hydrogens as atoms, Kekulé or aromatic bonds and, for the geometry, a conformer; they
need not be sanitised, and ``None`` stands for a record that could not be read, which counts in every denominator over
molecules.
:func:`describe` gives the facts of each molecule, :func:`evaluate` the metrics of the set.
"""

from collections.abc import Iterable, Sequence

import pandas as pd
from rdkit.Chem import Mol

from moldiff.chem import quiet
from moldiff.metrics.chemnet import fcd
from moldiff.metrics.core import Evaluation, Metric, Reference, wilson_interval
from moldiff.metrics.distributions import distribution_metrics
from moldiff.metrics.edm import edm_facts, edm_metrics
from moldiff.metrics.strain import strain_metrics
from moldiff.metrics.valence import MIDI_VALENCES, STRICT_VALENCES, valence_facts, valence_metrics
from moldiff.metrics.validity import (
    novelty_metrics,
    uniqueness_metrics,
    valid_connected,
    validity_facts,
    validity_metrics,
    without_stereo,
)

__all__ = [
    "MIDI_VALENCES",
    "STRICT_VALENCES",
    "Evaluation",
    "Metric",
    "Reference",
    "describe",
    "distribution_metrics",
    "evaluate",
    "fcd",
    "strain_metrics",
    "wilson_interval",
]


def describe(mols: Iterable[Mol | None]) -> pd.DataFrame:
    """Facts of each molecule, one row each in input order; a row depends on its own molecule only.

    Columns: readable, coordinates (has a conformer), atoms, fragments, stable_atoms (strict table), midi_stable_atoms,
    valid, failure (why not: the sanitising step, "empty" or "unreadable"), radicals (unpaired electrons), charge (e),
    smiles and smiles_stereo (canonical; missing if not valid), and of EDM's protocol edm_stable_atoms, edm_valid,
    edm_connected, edm_smiles.
    """
    blank = _facts(None)
    with quiet():
        rows = [_facts(mol) for mol in mols]
    return pd.DataFrame(rows, columns=list(blank)).astype({k: type(v) for k, v in blank.items() if v is not None})


def evaluate(
    mols: Iterable[Mol | None],
    reference: Reference | None = None,
    *,
    strain: int = 0,
    with_fcd: bool = False,
    seed: int = 0,
    table: pd.DataFrame | None = None,
) -> Evaluation:
    """All metrics of a set of molecules.

    ``reference`` adds novelty and, if it holds molecules, the distributions; ``with_fcd`` the Fréchet ChemNet distance
    from it (of valid & connected molecules, without stereo); ``strain`` the relaxation energies of that many molecules
    drawn at random by ``seed``. ``table``: what :func:`describe` says of these molecules, if that is known already.
    The metrics do not depend on the order of the molecules.
    """
    mols = mols if isinstance(mols, Sequence) else list(mols)
    table = describe(mols) if table is None else table
    metrics = valence_metrics(table) + validity_metrics(table) + uniqueness_metrics(table) + edm_metrics(table)
    if reference is not None:
        metrics += novelty_metrics(table, reference)
        if reference.mols:
            metrics += distribution_metrics(mols, reference.mols, reference.name)
    if with_fcd:
        if reference is None:
            raise ValueError("FCD needs a reference to compare with: evaluate(mols, reference=Reference(...))")
        metrics.append(
            fcd(list(table.loc[valid_connected(table), "smiles"]), [without_stereo(s) for s in reference.smiles])
        )
    if strain:
        with quiet():
            found = strain_metrics(mols, table, strain, seed)
        metrics += found
        table = table.assign(strain=found[0].table)
    return Evaluation(metrics, table)


def _facts(mol: Mol | None) -> dict:
    return validity_facts(mol) | valence_facts(mol) | edm_facts(mol)
