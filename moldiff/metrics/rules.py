"""Drug-likeness of a set: medians of properties, and shares that keep the rules of thumb and raise no alert."""

import math

import pandas as pd

from moldiff.metrics.core import Metric, rate
from moldiff.metrics.validity import POPULATION, valid_connected

MEDIANS = {
    "qed": "quantitative estimate of drug-likeness, 0 to 1 (10.1038/nchem.1243)",
    "sa": "synthetic accessibility, 1 easy to 10 hard (10.1186/1758-2946-1-8)",
    "logp": "Crippen's logP (10.1021/ci990307l)",
    "weight": "molecular weight (g/mol)",
}


def rule_metrics(table: pd.DataFrame) -> list[Metric]:
    """From the columns of :func:`moldiff.metrics.druglike.druglike_facts`."""
    table = table[valid_connected(table)]
    lipinski, veber = table["lipinski_violations"] <= 1, table["veber"].astype(bool)
    clean = table["alerts"] == ""
    return [_median(table[column], text) for column, text in MEDIANS.items()] + [
        rate("lipinski", lipinski.sum(), len(table),
             f"{POPULATION} that break at most one of Lipinski's four rules (10.1016/S0169-409X(00)00129-0), of these"),
        rate("veber", veber.sum(), len(table),
             f"{POPULATION} of at most 10 rotatable bonds and 140 Å² of polar surface (10.1021/jm020017n), of these"),
        rate("alert_free", clean.sum(), len(table),
             f"{POPULATION} that match no pattern of PAINS, Brenk or NIH, of these"),
    ]  # fmt: skip


def _median(values: pd.Series, text: str) -> Metric:
    known = values.dropna()
    value = float(known.median()) if len(known) else math.nan
    return Metric(str(values.name), value, None, len(known), f"median {text}, of {POPULATION}")
