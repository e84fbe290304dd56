"""Property targets: physical units outside, standardised numbers and a "given?" mask inside."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from moldiff.errors import RequestError
from moldiff.molecule import Batch

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
    return target_of(name.strip(), low, high if colon else low, text)


def target_of(name: str, low: Real | str, high: Real | str, text: str = "") -> Target:
    """Of numbers, or of texts that stand for them; ``text``: how it was written. Raises :class:`RequestError`."""
    text = text or f"{name}={low}" + (f":{high}" if high != low else "")
    try:
        target = Target(name, float(low), float(high))
    except (TypeError, ValueError):
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


def find_property(name: str, properties: Sequence["Property"]) -> "Property":
    """By name, in upper or lower case. Raises :class:`RequestError` naming those that there are."""
    for p in properties:
        if p.name.lower() == name.lower():
            return p
    known = ", ".join(f"{p.name} ({p.unit})" if p.unit else p.name for p in properties) or "none"
    raise RequestError(f"--target {name}: the model was not trained with it; it knows {known}")


def asked_values(targets: Sequence[Target], properties: Sequence["Property"]) -> dict[str, float]:
    """What is asked for, as scores: ``asked_`` and the property's name; of a range its ends, ``_low`` and ``_high``."""
    found = {}
    for target in targets:
        name = f"asked_{find_property(target.name, properties).name}"
        is_range = target.low != target.high
        found |= {f"{name}_low": target.low, f"{name}_high": target.high} if is_range else {name: target.low}
    return found


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
class Conditions(Batch):
    """What a network is told of each molecule: standardised property values, which count only where ``given``, how many
    atoms are no hydrogens (0: unknown), and how many there are of each element (all 0: unknown). Atoms are made one by one
    and would not agree on these otherwise."""

    value: Float[Tensor, "b properties"]
    given: Bool[Tensor, "b properties"]
    heavy: Integer[Tensor, " b"]
    composition: Integer[Tensor, "b elements"]

    @classmethod
    def none(cls, b: int, properties: int, elements: int, device: torch.device | str = "cpu") -> "Conditions":
        value = torch.zeros(b, properties, device=device)
        zeros = lambda *shape: torch.zeros(*shape, dtype=torch.long, device=device)  # noqa: E731
        return cls(value, torch.zeros_like(value, dtype=torch.bool), zeros(b), zeros(b, elements))

    @classmethod
    def from_physical(cls, values: Float[Tensor, "b properties"], properties: tuple[Property, ...]) -> "Conditions":
        """NaN means not given. Of atoms nothing is told, and there are no columns for elements."""
        mean = values.new_tensor([p.mean for p in properties])
        std = values.new_tensor([p.std for p in properties])
        given = ~values.isnan()
        nothing = cls.none(len(values), 0, 0, values.device)
        return nothing.replace(value=torch.where(given, (values - mean) / std, 0.0), given=given)

    def without_properties(self) -> "Conditions":
        return self.replace(value=torch.zeros_like(self.value), given=torch.zeros_like(self.given))

    def without_composition(self, where: Bool[Tensor, " b"]) -> "Conditions":
        return self.replace(composition=self.composition.masked_fill(where[:, None], 0))

    def dropped(
        self,
        uniform: Float[Tensor, "b columns"],
        drop_all: float,
        drop_heavy: float,
        drop_composition: float,
        keep_all: float = 0.0,
    ) -> "Conditions":
        """Training-time dropping for classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

        A molecule keeps none of its properties, all of them, or each with a chance of its own between 0 and 1: so one
        alone, which is what is mostly asked for, is seen as often as any other number of them. The composition goes in a share of
        ``drop_composition``, in ``drop_heavy`` of all the number of heavy atoms, too. ``uniform``: (b, properties + 2)
        numbers in (0, 1).
        """
        rest = max(1 - drop_all - keep_all, 1e-6)
        chance = (uniform[:, :1] - drop_all) / rest  # below 0 for those that keep none, above 1 for those that keep all
        given = self.given & (uniform[:, 2:] < chance)
        heavy = torch.where(uniform[:, 1] >= drop_heavy, self.heavy, 0)
        kept = self.replace(value=torch.where(given, self.value, 0.0), given=given, heavy=heavy)
        return kept.without_composition(uniform[:, 1] < max(drop_heavy, drop_composition))
