"""Property targets: physical units outside, standardised numbers and a "given?" mask inside."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


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
class Conditions:
    """Standardised property values per molecule; a value counts only where ``given``."""

    value: Float[Tensor, "b properties"]
    given: Bool[Tensor, "b properties"]

    @classmethod
    def none(cls, b: int, properties: int, device: torch.device | str = "cpu") -> "Conditions":
        value = torch.zeros(b, properties, device=device)
        return cls(value, torch.zeros_like(value, dtype=torch.bool))

    @classmethod
    def from_physical(cls, values: Float[Tensor, "b properties"], properties: tuple[Property, ...]) -> "Conditions":
        """NaN means not given."""
        mean = values.new_tensor([p.mean for p in properties])
        std = values.new_tensor([p.std for p in properties])
        given = ~values.isnan()
        return cls(torch.where(given, (values - mean) / std, 0.0), given)

    def dropped(self, uniform: Float[Tensor, "b columns"], drop_all: float, drop_each: float) -> "Conditions":
        """Training-time dropping for classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

        ``uniform``: (b, properties + 1) numbers in (0, 1).
        """
        keep = (uniform[:, :1] >= drop_all) & (uniform[:, 1:] >= drop_each)
        given = self.given & keep
        return type(self)(torch.where(given, self.value, 0.0), given)

    def select(self, index: Tensor | slice) -> "Conditions":
        return type(self)(self.value[index], self.given[index])

    def to(self, device: torch.device | str) -> "Conditions":
        return type(self)(self.value.to(device), self.given.to(device))
