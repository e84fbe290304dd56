"""Property targets: physical units outside, standardised numbers and a "given?" mask inside."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from moldiff.errors import RequestError

ENOUGH = 20  # molecules of a size, for statistics of their properties
TOLERANCE = 0.1  # of the training range: so far beyond it a target is only warned of


@dataclass(frozen=True)
class Property:
    """One property a model was trained with, in the unit its users speak."""

    name: str
    unit: str
    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class Target:
    """A property asked for, in its physical unit: one value, or a range in which every molecule draws its own."""

    name: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name}={self.low:g}" + (f":{self.high:g}" if self.high != self.low else "")


def read_target(text: str) -> Target:
    """``NAME=VALUE`` or ``NAME=LOW:HIGH``. Raises :class:`RequestError`."""
    name, _, value = text.partition("=")
    low, colon, high = value.partition(":")
    try:
        target = Target(name.strip(), float(low), float(high if colon else low))
    except ValueError:
        target = Target("", 0.0, 0.0)
    if not (target.name and math.isfinite(target.low) and math.isfinite(target.high)):
        raise RequestError(f"--target {text}: write NAME=VALUE or NAME=LOW:HIGH with numbers, e.g. gap=6.5")
    if target.low > target.high:
        raise RequestError(f"--target {text}: the range is reversed; write {target.name}={high}:{low}")
    return target


def check_targets(targets: Sequence[Target], properties: Sequence["Property"]) -> list[str]:
    """A warning for every target somewhat outside the training range.

    Raises :class:`RequestError` for a property that the model was not trained with, one given twice, or a value further
    out than a tenth of the range.
    """
    warnings = []
    for target in targets:
        p = find_property(target.name, properties)
        if sum(find_property(other.name, properties) is p for other in targets) > 1:
            raise RequestError(f"--target {target}: {p.name} is asked for twice; give it once")
        there = f"the training data have {p.min:.4g} to {p.max:.4g} {p.unit}".rstrip()
        beyond = max(p.min - target.low, target.high - p.max) / (p.max - p.min)
        if beyond > TOLERANCE:
            raise RequestError(f"--target {target}: {there}; stay within it, or at most a tenth of it outside")
        if beyond > 0:
            warnings.append(f"--target {target}: {there}; outside them the model guesses")
    return warnings


def properties_by_size(
    values: Float[np.ndarray, "molecules properties"], sizes: Integer[np.ndarray, "molecules 2"]
) -> list[tuple[int, int, list[float], list[float]]]:
    """Mean and standard deviation of each property for every size that has enough known values of all of them.

    A size is (heavy atoms, atoms); a row is (heavy atoms, atoms, means, deviations).
    Deviations are no smaller than a tenth of those of all molecules.
    """
    rows = []
    floor = 0.1 * np.nanstd(values, 0) if values.size else np.zeros(values.shape[1])
    for heavy, atoms in np.unique(sizes, axis=0).tolist():
        of_size = values[(sizes == [heavy, atoms]).all(1)].astype(float)
        if values.shape[1] and (~np.isnan(of_size)).sum(0).min() >= ENOUGH:
            std = np.maximum(np.nanstd(of_size, 0), floor)
            rows.append((heavy, atoms, np.nanmean(of_size, 0).tolist(), std.tolist()))
    return rows


def find_property(name: str, properties: Sequence["Property"]) -> "Property":
    """By name, in upper or lower case. Raises :class:`RequestError` naming those that there are."""
    for p in properties:
        if p.name.lower() == name.lower():
            return p
    known = ", ".join(f"{p.name} ({p.unit})" if p.unit else p.name for p in properties) or "none"
    raise RequestError(f"--target {name}: the model was not trained with it; it knows {known}")


def draw_values(
    targets: Sequence[Target], properties: Sequence["Property"], uniform: Float[np.ndarray, "b targets"]
) -> Float[np.ndarray, "b properties"]:
    """The value of each property for each molecule, in physical units; NaN where none is asked for."""
    values = np.full((len(uniform), len(properties)), np.nan)
    for target, u in zip(targets, uniform.T, strict=True):
        values[:, properties.index(find_property(target.name, properties))] = target.low + u * (
            target.high - target.low
        )
    return values


@dataclass(frozen=True)
class Conditions:
    """What a network is told of each molecule: standardised property values, which count only where ``given``, and how
    many atoms are no hydrogens (0: unknown), without which it may make too many or too few of them."""

    value: Float[Tensor, "b properties"]
    given: Bool[Tensor, "b properties"]
    heavy: Integer[Tensor, " b"]

    @classmethod
    def none(cls, b: int, properties: int, device: torch.device | str = "cpu") -> "Conditions":
        value = torch.zeros(b, properties, device=device)
        return cls(value, torch.zeros_like(value, dtype=torch.bool), torch.zeros(b, dtype=torch.long, device=device))

    @classmethod
    def from_physical(
        cls, values: Float[Tensor, "b properties"], properties: tuple[Property, ...],
        heavy: Integer[Tensor, " b"] | None = None,
    ) -> "Conditions":  # fmt: skip
        """NaN means not given."""
        mean = values.new_tensor([p.mean for p in properties])
        std = values.new_tensor([p.std for p in properties])
        given = ~values.isnan()
        if heavy is None:
            heavy = torch.zeros(len(values), dtype=torch.long, device=values.device)
        return cls(torch.where(given, (values - mean) / std, 0.0), given, heavy)

    def without_properties(self) -> "Conditions":
        return replace(self, value=torch.zeros_like(self.value), given=torch.zeros_like(self.given))

    def dropped(self, uniform: Float[Tensor, "b columns"], drop_all: float, drop_heavy: float) -> "Conditions":
        """Training-time dropping for classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

        A molecule keeps none of its properties, or each with a chance of its own between 0 and 1: so one alone, which
        is what is mostly asked for, is seen as often as any other number of them. ``uniform``: (b, properties + 2)
        numbers in (0, 1).
        """
        chance = (uniform[:, :1] - drop_all) / max(1 - drop_all, 1e-6)  # below 0 for those that keep none
        given = self.given & (uniform[:, 2:] < chance)
        heavy = torch.where(uniform[:, 1] >= drop_heavy, self.heavy, 0)
        return type(self)(torch.where(given, self.value, 0.0), given, heavy)

    def select(self, index: Tensor | slice) -> "Conditions":
        return type(self)(self.value[index], self.given[index], self.heavy[index])

    def to(self, device: torch.device | str) -> "Conditions":
        return type(self)(self.value.to(device), self.given.to(device), self.heavy.to(device))
