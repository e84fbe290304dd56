"""What every metric returns: a number with the counts it came from and the rule it was made under."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import SupportsInt

import pandas as pd
from rdkit.Chem import Mol

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the standard normal distribution


@dataclass(frozen=True)
class Metric:
    """One number about a set of molecules.

    ``value`` is ``numerator / denominator`` for a rate. Other quantities (a median, a distance) have the numerator
    ``None`` and the number of molecules, or other things, they were computed from as denominator.
    ``proportion``: molecules, or other things, that have a property each for itself, which makes an interval; how many of
    them are distinct is a rate, too, but none of these.
    ``definition`` says what is counted over what, in which unit, after which source: numbers made under different
    definitions must not be compared. ``table``: the metric per molecule, indexed like the input, where that exists.
    """

    name: str
    value: float
    numerator: int | None
    denominator: int
    definition: str
    table: pd.Series | None = field(default=None, compare=False, repr=False)
    proportion: bool = True

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % Wilson interval of a proportion; None for any other quantity. Atoms of one molecule count as independent."""
        if self.numerator is None or not self.proportion:
            return None
        return wilson_interval(self.numerator, self.denominator)


def rate(
    name: str, numerator: SupportsInt, denominator: SupportsInt, definition: str, table: pd.Series | None = None
) -> Metric:
    """A proportion; NaN, not zero, when there is nothing to count over."""
    numerator, denominator = int(numerator), int(denominator)
    value = numerator / denominator if denominator else math.nan
    return Metric(name, value, numerator, denominator, definition, table)


def distinct_share(name: str, numerator: SupportsInt, denominator: SupportsInt, definition: str) -> Metric:
    """A :func:`rate` of distinct things, which falls with the number that are drawn, and so has no interval."""
    return replace(rate(name, numerator, denominator, definition), proportion=False)


def wilson_interval(numerator: int, denominator: int) -> tuple[float, float]:
    """Score interval of a proportion, (low, high); NaN for a denominator of 0.

    Source: Wilson, J. Am. Stat. Assoc. 1927, 22, 209, 10.1080/01621459.1927.10502953. Raises :class:`ValueError` for
    counts that are no proportion.
    """
    if not 0 <= numerator <= denominator:
        raise ValueError(f"a proportion needs 0 <= numerator <= denominator, got {numerator} of {denominator}")
    if denominator == 0:
        return math.nan, math.nan
    p, correction = numerator / denominator, Z_95**2 / denominator
    centre = (p + correction / 2) / (1 + correction)
    half = Z_95 / (1 + correction) * math.sqrt(p * (1 - p) / denominator + correction / denominator / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a set of molecules, and the per-molecule ``table`` (one row a molecule, input order) behind them."""

    metrics: list[Metric]
    table: pd.DataFrame

    def __getitem__(self, name: str) -> Metric:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"no metric {name!r} here; there are {', '.join(m.name for m in self.metrics)}")

    def to_frame(self) -> pd.DataFrame:
        """One row a metric: name (the index), value, 95 % interval (low, high), numerator, denominator, definition."""
        rows = []
        for metric in self.metrics:
            low, high = metric.interval or (math.nan, math.nan)
            rows.append((metric.name, metric.value, low, high, metric.numerator, metric.denominator, metric.definition))
        columns = ["name", "value", "low", "high", "numerator", "denominator", "definition"]
        return pd.DataFrame(rows, columns=columns).set_index("name")


@dataclass(frozen=True)
class Reference:
    """A named collection to compare with.

    ``smiles``: canonical SMILES, with or without stereo marks (RDKit ``MolToSmiles`` without explicit hydrogens).
    ``mols``: optionally molecules with coordinates from the same source, for the distributions of geometry.
    """

    name: str
    smiles: Sequence[str]
    mols: Sequence[Mol] = ()

    @cached_property
    def distinct(self) -> list[str]:
        """The distinct SMILES, sorted."""
        return sorted(set(self.smiles))

    @cached_property
    def sha256(self) -> str:
        """Hash of the distinct SMILES, sorted, a newline after each: the same for any order of the collection."""
        return hashlib.sha256("".join(f"{s}\n" for s in self.distinct).encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.name} ({len(self.distinct)} distinct SMILES, sha256 {self.sha256})"
