"""Validity, connectedness, radicals, charge; uniqueness and novelty of what is valid and connected."""

import re

import pandas as pd
from rdkit import Chem
from rdkit.Chem import Mol

from moldiff.chem import assign_stereo, quiet, sanitised, smiles
from moldiff.errors import MoldiffError
from moldiff.metrics.core import Metric, Reference, distinct_share, rate

POPULATION = "valid & connected molecules"


def validity_facts(mol: Mol | None) -> dict[str, bool | int | str | None]:
    """Whether RDKit sanitises one molecule as given, and why not; unpaired electrons, net charge, canonical SMILES."""
    facts = {"readable": mol is not None, "coordinates": False, "valid": False, "failure": "unreadable", "radicals": 0,
             "charge": 0, "smiles": None, "smiles_stereo": None}  # fmt: skip
    if mol is None:
        return facts
    copy, failure = sanitised(mol)
    facts |= {"coordinates": mol.GetNumConformers() > 0, "failure": failure, "charge": Chem.GetFormalCharge(mol)}
    if copy is not None:
        facts |= {"valid": True, "radicals": sum(atom.GetNumRadicalElectrons() for atom in copy.GetAtoms()),
                  "smiles": smiles(copy, stereo=False), "smiles_stereo": _stereo_smiles(copy)}  # fmt: skip
    return facts


def validity_metrics(table: pd.DataFrame) -> list[Metric]:
    """Validity, valid & connected, radicals and charge from the columns of :func:`validity_facts`."""
    valid, connected = table["valid"], valid_connected(table)
    radical, charged = valid & (table["radicals"] > 0), valid & (table["charge"] != 0)
    return [
        rate("valid", valid.sum(), len(table),
             "molecules that RDKit sanitises as given (no clean-up step, no implicit hydrogens, fragments and radicals "
             "allowed), of all", valid),
        rate("valid_connected", connected.sum(), len(table),
             "valid molecules that are one fragment as a whole, of all", connected),
        rate("radical", radical.sum(), valid.sum(),
             "valid molecules with an unpaired electron or an open valence, of the valid", radical),
        rate("charged", charged.sum(), valid.sum(), "valid molecules of non-zero net charge, of the valid", charged),
    ]  # fmt: skip


def uniqueness_metrics(table: pd.DataFrame) -> list[Metric]:
    """Distinct canonical SMILES among the valid & connected molecules."""
    population = table[valid_connected(table)]
    flat, stereo = population["smiles"].nunique(), population["smiles_stereo"].nunique()
    return [
        distinct_share("unique", flat, len(population), f"distinct canonical SMILES without stereo, of {POPULATION}"),
        distinct_share(
            "unique_stereo", stereo, len(population),
            f"distinct canonical SMILES with stereo (from the coordinates where there are any), of {POPULATION}",
        ),
        distinct_share("valid_connected_unique", flat, len(table),
                       f"distinct canonical SMILES without stereo of {POPULATION}, over all molecules"),
    ]  # fmt: skip


def novelty_metrics(table: pd.DataFrame, reference: Reference) -> list[Metric]:
    """Distinct valid & connected molecules that ``reference`` does not hold; with stereo only if the reference has it.

    Raises :class:`MoldiffError` if the reference's SMILES are not canonical, since every molecule would then look novel.
    """
    _check_canonical(reference)
    population = table[valid_connected(table)]
    known = set(reference.smiles)
    flat = {without_stereo(s) for s in known}
    metrics = [_novelty("novel", population["smiles"], flat, "without stereo", reference)]
    if any(_has_stereo(s) for s in known):
        metrics.append(_novelty("novel_stereo", population["smiles_stereo"], known, "with stereo", reference))
    return metrics


def _stereo_smiles(mol: Mol) -> str:
    copy = Chem.Mol(mol)
    if copy.GetNumConformers() and copy.GetConformer().Is3D():
        assign_stereo(copy)
    return Chem.MolToSmiles(Chem.RemoveHs(copy, sanitize=False))


def valid_connected(table: pd.DataFrame) -> pd.Series:
    """Which rows, by the columns of :func:`moldiff.metrics.describe`, are valid molecules of one fragment."""
    return table["valid"] & (table["fragments"] == 1)


def _novelty(name: str, smiles: pd.Series, known: set[str], kind: str, reference: Reference) -> Metric:
    distinct = set(smiles)
    definition = f"distinct canonical SMILES {kind} of {POPULATION} that are not in the reference {reference}"
    novel = (~smiles.isin(known)).rename(name)
    return rate(name, len(distinct - known), len(distinct), definition, novel)


def _has_stereo(smiles: str) -> bool:
    return any(mark in smiles for mark in "@/\\")


def without_stereo(text: str) -> str:
    """A canonical SMILES as it is without stereo. Raises :class:`MoldiffError` if RDKit does not read it."""
    if not (_has_stereo(text) or re.search(r"\[\d", text)):  # nor isotopes
        return text
    mol = Chem.MolFromSmiles(text)
    if mol is None:
        raise MoldiffError(f"reference SMILES {text!r} cannot be read by RDKit; remove it")
    return smiles(mol, stereo=False)


def _check_canonical(reference: Reference, sample: int = 100) -> None:
    """Refuse a collection of which more than a tenth of a sample changes; single SMILES do not always round-trip."""
    looked_at = reference.smiles[:: max(1, len(reference.smiles) // sample)]
    with quiet():
        wrong = [s for s in looked_at if (mol := Chem.MolFromSmiles(s)) is None or Chem.MolToSmiles(mol) != s]
    if len(wrong) > len(looked_at) / 10:
        raise MoldiffError(
            f"reference {reference.name!r}: {len(wrong)} of {len(looked_at)} SMILES looked at, such as {wrong[0]!r}, "
            "are not canonical for this RDKit version; use Chem.MolToSmiles(Chem.MolFromSmiles(smiles)) for each"
        )
