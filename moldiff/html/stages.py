"""Which molecules pass which test, by the protocol that an evaluation followed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from moldiff.metrics import Metric
from moldiff.metrics.validity import valid_connected

Stage = tuple[str, int, str]  # name, molecules that are left, what it means


@dataclass(frozen=True)
class Passed:
    """Masks over the table, and the SMILES by which a molecule counts (missing where there is none)."""

    valid: pd.Series
    whole: pd.Series  # valid and one fragment; for MOSES all that are valid
    smiles: pd.Series
    rule: str  # of validity
    moses: bool = False

    @property
    def population(self) -> str:
        """What ``whole`` asks for."""
        return "valid" if self.moses else "valid and connected"


def passed(table: pd.DataFrame, protocols: Sequence[str]) -> Passed:
    """By bonds as written if they were judged, else by EDM's bonds from distances or MOSES' SMILES."""
    if "model-bonds" in protocols:
        return Passed(
            table["valid"], valid_connected(table), table["smiles"], "RDKit sanitises it as written, nothing repaired"
        )
    if "moses" in protocols:
        read = table["moses_smiles"].notna()
        return Passed(read, read, table["moses_smiles"], "RDKit reads the SMILES, clean-up included", moses=True)
    whole = table["edm_valid"] & table["edm_connected"]
    return Passed(table["edm_valid"], whole, table["edm_smiles"], "RDKit sanitises it, bonds from distances")


def funnel(table: pd.DataFrame, metrics: Iterable[Metric], protocols: Sequence[str]) -> list[Stage]:
    """From all records to the novel molecules, as far as the evaluation went."""
    found = passed(table, protocols)
    stages = [("all", len(table), "records of the file")]
    stages.append(("readable", int(table["readable"].sum()), "RDKit reads the record"))
    stages.append(("valid", int(found.valid.sum()), found.rule))
    if not found.moses:
        stages.append(("connected", int(found.whole.sum()), "one fragment as a whole"))
    distinct = "distinct" if found.moses else "distinct, stereo apart"
    stages.append(("unique", int(found.smiles[found.whole].nunique()), distinct))
    name = "moses_novelty" if found.moses else "novel"
    novel = next((metric.numerator for metric in metrics if metric.name == name), None)
    return stages if novel is None else [*stages, ("novel", novel, "not in the reference")]
