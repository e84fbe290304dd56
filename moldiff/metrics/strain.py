"""Strain: how much energy a molecule loses, and how far its atoms move, when its coordinates are relaxed."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from rdkit.Chem import Mol, rdMolAlign

from moldiff import force_field
from moldiff.chem import quiet, sanitised
from moldiff.metrics.core import Metric, rate
from moldiff.metrics.sampling import Draw, draw
from moldiff.metrics.validity import valid_connected

MMFF94S = (
    f"at most {force_field.MAX_RELAXATION_STEPS} steps of MMFF94s relaxation from the given coordinates "
    "(10.1002/(SICI)1096-987X(199905)20:7<720::AID-JCC7>3.0.CO;2-X)"
)


class Relaxation(NamedTuple):
    """Of one molecule. Energies and distances are NaN, and ``failure`` says why, where there is no relaxed structure."""

    energy: float = math.nan  # released, kcal/mol
    rmsd: float = math.nan  # of all atoms from where they were, structures superposed, Å
    rmsd_heavy: float = math.nan  # the same, superposing and measuring only atoms other than hydrogen, Å
    failure: str = ""


def mmff_relaxation(mol: Mol | None) -> Relaxation:
    """MMFF94s relaxation of a copy of ``mol``; the failures are "not valid", "no coordinates", "parameters", "energy"."""
    copy, failure = ready(mol)
    if copy is None:
        return Relaxation(failure=failure)
    found = force_field.relax(copy)
    if found is None:
        return Relaxation(failure="parameters")  # MMFF94s knows no such atoms
    return relaxation(copy, found[1], found[0])


def relaxation(before: Mol, after: Mol, energy: float) -> Relaxation:
    """The relaxation from one conformer to another that released ``energy`` (kcal/mol)."""
    if not math.isfinite(energy):
        return Relaxation(failure="energy")  # of atoms that coincide or are nowhere
    heavy = [atom.GetIdx() for atom in before.GetAtoms() if atom.GetAtomicNum() != 1]
    return Relaxation(energy, _rmsd(before, after, range(before.GetNumAtoms())), _rmsd(before, after, heavy))


def ready(mol: Mol | None) -> tuple[Mol | None, str]:
    """(sanitised copy with coordinates, "") or (None, why not)."""
    with quiet():
        copy = None if mol is None else sanitised(mol)[0]
    if copy is None:
        return None, "not valid"
    return (copy, "") if copy.GetNumConformers() else (None, "no coordinates")


def strain_metrics(mols: Sequence[Mol | None], table: pd.DataFrame, count: int = 1000, seed: int = 0) -> list[Metric]:
    """The MMFF94s strain of ``count`` random molecules; ``table``: the facts of the same ``mols``."""
    drawn = draw_for_strain(mols, table, count, seed)
    return relaxation_metrics("strain", MMFF94S, relax_all(mmff_relaxation, mols, drawn), drawn)


def draw_for_strain(mols: Sequence[Mol | None], table: pd.DataFrame, count: int, seed: int) -> Draw:
    """``count`` of the valid & connected molecules with coordinates."""
    return draw(mols, table, valid_connected(table) & table["coordinates"], count, seed)


def relax_all(relax: Callable[[Mol | None], Relaxation], mols: Sequence[Mol | None], drawn: Draw) -> pd.DataFrame:
    """A :class:`Relaxation` a row, indexed like the input, of the molecules drawn."""
    found = [relax(mols[row]) for row in drawn.rows]
    return pd.DataFrame(found, index=list(drawn.rows), columns=list(Relaxation._fields))


def relaxation_metrics(name: str, method: str, relaxations: pd.DataFrame, drawn: Draw) -> list[Metric]:
    """Medians of the energies and distances, and the share of molecules that could be relaxed at all.

    ``name``: of the energy metric and before the names of the others; ``method``: as the definitions put it;
    ``relaxations``: from :func:`relax_all`, or its parts put together.
    """
    relaxed = relaxations["failure"] == ""
    failures = relaxations.loc[~relaxed, "failure"].value_counts().sort_index()
    named = ", ".join(f"{number} {why}" for why, number in failures.items()) or "none"
    sample = f"valid & connected molecules with coordinates ({drawn})"
    texts = {"energy": "energy (kcal/mol) released by", "rmsd": "RMSD (Å) of all atoms, superposed, after",
             "rmsd_heavy": "RMSD (Å) of the heavy atoms, superposed, after"}  # fmt: skip
    metrics = []
    for column, text in texts.items():
        label = name if column == "energy" else f"{name}_{column}"
        values = relaxations[column].dropna()
        value = float(values.median()) if len(values) else math.nan
        definition = f"median {text} {method}, of {len(values)} {sample}; failures: {named}"
        metrics.append(Metric(label, value, None, len(values), definition, relaxations[column].rename(label)))
    definition = f"{sample} that {method} brings to an end; failures: {named}"
    return [*metrics, rate(f"{name}_relaxed", relaxed.sum(), len(relaxations), definition, relaxed)]


def _rmsd(before: Mol, after: Mol, atoms: Sequence[int]) -> float:
    """After the best superposition, each atom compared with itself; NaN for no atoms."""
    if not len(atoms):
        return math.nan
    return rdMolAlign.GetAlignmentTransform(after, before, atomMap=[(i, i) for i in atoms])[0]
