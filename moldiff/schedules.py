"""Noise levels and time grids. Levels σ are in units of the data's coordinate standard deviation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from moldiff.molecule import Batch, Molecules


@dataclass(frozen=True)
class NoiseLevel(Batch):
    """σ of every field of every atom or pair; 0 means known and fixed.

    Unconditional generation, inpainting, conformers, bond perception and analogues differ in this object only.
    """

    pos: Float[Tensor, "b n"]
    atom: Float[Tensor, "b n"]
    bond: Float[Tensor, "b n n"]

    @classmethod
    def free(cls, molecules: Molecules, sigma: Float[Tensor, " b"]) -> "NoiseLevel":
        """One σ per molecule, nothing fixed; zero on padding and on the diagonal of the bonds."""
        atom = sigma[:, None] * molecules.mask
        return cls(atom, atom, sigma[:, None, None] * molecules.pair_mask)

    @property
    def sigma(self) -> Float[Tensor, " b"]:
        """The level of what is not fixed, one number per molecule."""
        return torch.maximum(torch.maximum(self.pos, self.atom).amax(1), self.bond.amax((1, 2)))

    @property
    def fixed_pos(self) -> Float[Tensor, "b n"]:
        """1 where the position is known (and on padding, which :func:`moldiff.molecule.centred` ignores)."""
        return (self.pos == 0).to(self.pos.dtype)

    def scaled(self, factor: float | Float[Tensor, " b"]) -> "NoiseLevel":
        """All levels times ``factor``: fixed stays fixed."""
        factor = torch.as_tensor(factor, dtype=self.pos.dtype, device=self.pos.device).reshape(-1, 1)
        return type(self)(self.pos * factor, self.atom * factor, self.bond * factor[..., None])


def training_sigmas(
    uniform: Float[Tensor, " b"], mean: float = -1.2, std: float = 1.4, tail: float = 0.1,
    tail_range: tuple[float, float] = (0.002, 20.0),
) -> Float[Tensor, " b"]:  # fmt: skip
    """Stratified draw from (1 - tail)·LogNormal(mean, std) + tail·LogUniform(tail_range).

    ``uniform``: numbers in (0, 1); they are stratified here over the batch so that every batch covers all levels.
    The log-normal is Karras et al. 2022 (arXiv 2206.00364, table 1); the tail keeps both ends of the sampler's
    grid trained.
    """
    b = len(uniform)
    u = (torch.arange(b, device=uniform.device) + uniform) / b
    low, high = math.log(tail_range[0]), math.log(tail_range[1])
    in_tail = u < tail
    log_uniform = low + (high - low) * (u / tail).clamp(0, 1)
    body = ((u - tail) / (1 - tail)).clamp(1e-4, 1 - 1e-4)
    log_normal = mean + std * math.sqrt(2) * torch.erfinv(2 * body - 1)
    return torch.where(in_tail, log_uniform, log_normal.clamp(low, high)).exp()


def arcsin_grid(steps: int, sigma_max: float, sigma_min: float, rho: float = 2.0) -> Float[Tensor, " steps"]:
    """Decreasing levels, spaced in log σ by w(u) = (1 - ρ)u + ρ·(2/π)·arcsin(√u), as in VEDA (AAAI 2026).

    Both ends are thinned and the middle, where bonds form, is dense for ρ > 1.
    """
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    w = (1 - rho) * u + rho * (2 / math.pi) * torch.asin(u.sqrt())
    return _between(w, sigma_max, sigma_min)


# Share of the steps by which σ has fallen to a level, in units of the data's spread. From 2 to 0.25 shape and graph are
# found, from 0.25 to 0.03 the churn mends them: it doubles σ before each step, and what it mends pays for fewer steps before.
STAGES = ((0.067, 2.0), (0.2, 0.25), (0.94, 0.03))
# Where little is left to be mended, as in models that leave hydrogens to valence: molecules come nearer to the data.
EARLY_STAGES = ((0.125, 2.0), (0.5, 0.25), (0.94, 0.03))

# For a handful of steps without churn: more than half of them where tokens and coordinates settle each other.
FEW_STAGES = ((1 / 7, 0.75), (5 / 7, 0.15))


def early_grid(steps: int, sigma_max: float, sigma_min: float) -> Float[Tensor, " steps"]:
    """As :func:`staged_grid`, half of the steps before the churn."""
    return staged_grid(steps, sigma_max, sigma_min, EARLY_STAGES)


def few_grid(steps: int, sigma_max: float, sigma_min: float) -> Float[Tensor, " steps"]:
    """As :func:`staged_grid`, for few steps."""
    return staged_grid(steps, sigma_max, sigma_min, FEW_STAGES)


def staged_grid(
    steps: int, sigma_max: float, sigma_min: float, stages: Sequence[tuple[float, float]] = STAGES
) -> Float[Tensor, " steps"]:
    """Levels equally spaced in log σ between those of ``stages``: most steps go to where they were found to matter."""
    within = [(share, sigma) for share, sigma in stages if sigma_min < sigma < sigma_max]
    shares, sigmas = zip((0.0, sigma_max), *within, (1.0, sigma_min), strict=True)
    return torch.from_numpy(np.exp(np.interp(np.linspace(0, 1, steps), shares, np.log(sigmas))))


def log_grid(steps: int, sigma_max: float, sigma_min: float) -> Float[Tensor, " steps"]:
    """Levels equally spaced in log σ."""
    return _between(torch.linspace(0, 1, steps, dtype=torch.float64), sigma_max, sigma_min)


def karras_grid(steps: int, sigma_max: float, sigma_min: float, rho: float = 7.0) -> Float[Tensor, " steps"]:
    """Levels equally spaced in σ^(1/ρ): Karras et al. 2022, equation 5 (arXiv 2206.00364)."""
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    return (sigma_max ** (1 / rho) + u * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho


def _between(w: Tensor, sigma_max: float, sigma_min: float) -> Tensor:
    return torch.exp(math.log(sigma_max) + w * (math.log(sigma_min) - math.log(sigma_max)))


GRIDS = {
    "staged": staged_grid,
    "early": early_grid,
    "few": few_grid,
    "arcsin": arcsin_grid,
    "log": log_grid,
    "karras": karras_grid,
}
