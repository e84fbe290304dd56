"""Which molecules pass which test, by the protocol that an evaluation followed."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from moldiff.metrics import Metric
from moldiff.metrics.validity import valid_connected

Stage = tuple[str, int, str]  # name, molecules that are left, what it means


@dataclass(frozen=True)
class Passed:
    """Masks over the table, and the SMILES by which a molecule counts (missing where there is none)."""

    valid: pd.Series
    whole: pd.Series  # valid and one fragment
    smiles: pd.Series
    rule: str  # of validity


def passed(table: pd.DataFrame) -> Passed:
    """By the columns that are there: bonds as written, else EDM's bonds from distances, else MOSES' SMILES."""
    if {"valid", "fragments", "smiles"} <= set(table):
        return Passed(
            table["valid"], valid_connected(table), table["smiles"], "RDKit sanitises it as written, nothing repaired"
        )
    if {"edm_valid", "edm_connected", "edm_smiles"} <= set(table):
        whole = table["edm_valid"] & table["edm_connected"]
        return Passed(table["edm_valid"], whole, table["edm_smiles"], "RDKit sanitises it, bonds from distances")
    if "moses_smiles" in table:
        read = table["moses_smiles"].notna()
        return Passed(read, read, table["moses_smiles"], "RDKit reads the SMILES")
    none = pd.Series(False, index=table.index)
    return Passed(none, none, pd.Series(None, index=table.index, dtype=object), "not judged")


def funnel(table: pd.DataFrame, metrics: Iterable[Metric]) -> list[Stage]:
    """From all records to the novel molecules, as far as the evaluation went."""
    found = passed(table)
    stages = [("all", len(table), "records of the file")]
    if "readable" in table:
        stages.append(("readable", int(table["readable"].sum()), "RDKit reads the record"))
    stages.append(("valid", int(found.valid.sum()), found.rule))
    stages.append(("connected", int(found.whole.sum()), "one fragment as a whole"))
    stages.append(("unique", int(found.smiles[found.whole].nunique()), "distinct, stereo apart"))
    novel = next((metric.numerator for metric in metrics if metric.name == "novel"), None)
    return stages if novel is None else [*stages, ("novel", novel, "not in the reference")]
