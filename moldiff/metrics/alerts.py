"""Structural alerts: RDKit's catalogues of PAINS, Brenk and NIH, and the filters of MOSES."""

import csv
from functools import cache
from importlib.resources import files

from rdkit import Chem
from rdkit.Chem import Mol
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogEntry, FilterCatalogParams, SmartsMatcher

# PAINS 10.1021/jm901137j, Brenk 10.1002/cmdc.200700139, NIH 10.1021/jm901070c; patterns as RDKit has them
CATALOGUES = ("PAINS", "BRENK", "NIH")
MOSES_ELEMENTS = frozenset({"C", "N", "S", "O", "F", "Cl", "Br", "H"})
MOSES_RING_SIZE = 8  # atoms; rings of this size and larger are refused


def alerts(mol: Mol) -> dict[str, tuple[str, ...]]:
    """Names of the alerts of each catalogue that a sanitised molecule without explicit hydrogens matches, sorted."""
    return {name: tuple(sorted({m.GetDescription() for m in _rdkit(name).GetMatches(mol)})) for name in CATALOGUES}


def moses_alert(mol: Mol) -> str | None:
    """The first rule of MOSES' filters (10.3389/fphar.2020.565644) that a molecule breaks, None if it passes.

    ``mol``: as RDKit reads it from SMILES, hydrogens implicit. Rules in order: rings, charges, elements, medicinal
    chemistry filters (MCF), PAINS, a SMILES without stereo that RDKit reads again.
    """
    if any(len(ring) >= MOSES_RING_SIZE for ring in mol.GetRingInfo().AtomRings()):
        return f"ring of {MOSES_RING_SIZE} or more"
    if any(atom.GetFormalCharge() for atom in mol.GetAtoms()):
        return "charged atom"
    if not {atom.GetSymbol() for atom in mol.GetAtoms()} <= MOSES_ELEMENTS:
        return "element"
    match = _moses().GetFirstMatch(Chem.AddHs(mol))
    if match is not None:
        return match.GetDescription()
    smiles = Chem.MolToSmiles(mol, isomericSmiles=False)
    return None if smiles and Chem.MolFromSmiles(smiles) is not None else "SMILES"


@cache
def _rdkit(name: str) -> FilterCatalog:
    return FilterCatalog(FilterCatalogParams(getattr(FilterCatalogParams.FilterCatalogs, name)))


@cache
def _moses() -> FilterCatalog:
    catalogue = FilterCatalog()
    for file in ("mcf.csv", "wehi_pains.csv"):
        with files("moldiff.metrics").joinpath("data", file).open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                pattern = Chem.MolFromSmarts(row["smarts"])
                catalogue.AddEntry(FilterCatalogEntry(row["name"], SmartsMatcher(row["name"], pattern, 1)))
    return catalogue
