"""Guides towards a volume and towards feature points. They move the estimate itself: no gradient goes through the network.

Points are in Å, in the sampler's frame, whose origin is the mean of the known atoms or, where none is known, that of all
atoms: so molecules come to lie on their reference. The less is known of where atoms are, the further they are moved.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moldiff.molecule import BOND_CLASSES, Molecules, Prediction
from moldiff.schedules import NoiseLevel

Point = tuple[float, float, float]
RADIUS = 1.7  # Å, of every heavy atom: carbon's
# α of the Gaussian 2√2·exp(-α r²) with the volume of that sphere (Grant, Gallardo & Pickup 1996)
EXPONENT = math.pi * (3 * 2 * math.sqrt(2) / (4 * math.pi * RADIUS**3)) ** (2 / 3)  # Å⁻²
LAST = 0.1  # σ down to which guides act: below, geometry is the model's own
LONGEST = 3.0  # Å, that one guide moves an atom in one step
REACH = 1.0  # Å from a feature point, up to about which an atom serves it


@dataclass(frozen=True)
class ShapeGuide:
    """Pulls to a volume: up the gradient of the log of the shape Tanimoto of heavy atoms, see :func:`log_tanimoto`."""

    points: tuple[Point, ...]  # heavy atoms of the reference
    heavy: tuple[bool, ...]  # of every token, whether it is one
    spread: float  # Å, standard deviation of the data's coordinates
    weight: float = 8.0  # of the log of the Tanimoto, for every atom, in a log-likelihood

    def __call__(self, x0: Prediction, noisy: Molecules, level: NoiseLevel) -> Prediction:
        pos, heavy = x0.pos.double(), _share(x0, noisy, self.heavy)
        points = torch.tensor(self.points, dtype=pos.dtype, device=pos.device).expand(len(pos), -1, -1)
        _, gradient = log_tanimoto(pos, heavy, points)
        likelihood = self.weight * heavy.sum(1)[:, None, None] * gradient
        return _moved(x0, _variance(level, self.spread) * likelihood, noisy, level)


@dataclass(frozen=True)
class Feature:
    """A place for one atom, and what it may be."""

    point: Point
    tokens: tuple[bool, ...]  # of the vocabulary


@dataclass(frozen=True)
class FeatureGuide:
    """Gives every feature point an atom of its own, pulls it there, and tells it to be what is asked for.

    Which atom is the assignment of the least cost: squared distances, and improbability of being what is asked for.
    """

    features: tuple[Feature, ...]
    bonds: tuple[tuple[int, int, int], ...]  # in rings: numbers of two features, and the Kekulé order
    spread: float  # Å, standard deviation of the data's coordinates
    weight: float = 10.0  # of a normal likelihood of width REACH about each point
    bonus: float = 6.0  # on the log-probability of suitable tokens
    bond_bonus: float = 3.0  # on that of the bonds

    def __call__(self, x0: Prediction, noisy: Molecules, level: NoiseLevel) -> Prediction:
        pos, of = x0.pos.double(), {"dtype": torch.double, "device": noisy.device}
        points = torch.tensor([feature.point for feature in self.features], **of)
        tokens = torch.tensor([feature.tokens for feature in self.features], **of)
        towards = points - pos[:, :, None]
        suits = torch.stack([_share(x0, noisy, feature.tokens) for feature in self.features], -1)
        serves = _assigned(towards.square().sum(-1) / (2 * REACH**2) - (suits + 0.01).log(), noisy.mask)
        orders = torch.zeros(len(points), len(points), BOND_CLASSES, **of)
        for one, other, order in self.bonds:
            orders[one, other, order] = orders[other, one, order] = 1
        bonds = torch.einsum("bif,bjg,fgo->bijo", serves, serves, orders)
        x0 = x0.replace(
            atom_logits=_favoured(x0.atom_logits, self.bonus * serves @ tokens * _acts(level), level.atom),
            bond_logits=_favoured(x0.bond_logits, self.bond_bonus * bonds * _acts(level)[..., None], level.bond),
        )
        variance = self.weight * _variance(level, self.spread) / REACH**2
        way = (serves[..., None] * towards).sum(2)
        return _moved(x0, way * variance / (1 + variance), noisy, level)


def log_tanimoto(
    pos: Float[Tensor, "b n 3"], share: Float[Tensor, "b n"], points: Float[Tensor, "b m 3"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b n 3"]]:
    """Log of the shape Tanimoto of atoms, each counted by its share, and points; and its gradient in the atoms (Å⁻¹).

    First-order Gaussian volumes, O_AB / (O_AA + O_BB - O_AB), of one radius: Grant, Gallardo & Pickup 1996,
    J. Comput. Chem. 17, 1653, doi 10.1002/(SICI)1096-987X(19961115)17:14<1653::AID-JCC7>3.0.CO;2-K.
    """
    mutual, mutual_slope = _overlap(pos, share, points, torch.ones_like(points[..., 0]))
    own, own_slope = _overlap(pos, share, pos, share)  # the slope of one of two factors that move alike
    theirs, _ = _overlap(points, torch.ones_like(points[..., 0]), points, torch.ones_like(points[..., 0]))
    mutual = mutual.clamp(min=1e-30)
    union = own + theirs - mutual
    slope = mutual_slope / mutual[:, None, None] - (2 * own_slope - mutual_slope) / union[:, None, None]
    return (mutual / union).log(), slope


def _overlap(pos: Tensor, share: Tensor, others: Tensor, other_share: Tensor) -> tuple[Tensor, Tensor]:
    """Σ w_i v_k exp(-α |x_i - y_k|² / 2), volumes up to a common factor, and its gradient in x with y held."""
    apart = others[:, None] - pos[:, :, None]
    overlap = share[:, :, None] * other_share[:, None] * torch.exp(-EXPONENT / 2 * apart.square().sum(-1))
    return overlap.sum((1, 2)), EXPONENT * (overlap[..., None] * apart).sum(2)


def _share(x0: Prediction, noisy: Molecules, tokens: tuple[bool, ...]) -> Float[Tensor, "b n"]:
    """Probability of every atom to be one of the tokens. Doubles, as all here, so that no batch rounds unlike another."""
    probabilities = x0.atom_logits.double().softmax(-1)
    return probabilities[..., torch.tensor(tokens, device=noisy.device)].sum(-1) * noisy.mask


def _assigned(cost: Float[Tensor, "b n features"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n features"]:
    """1 where an atom serves a feature, one each, as many as there are atoms and features, at the least cost."""
    from scipy.optimize import linear_sum_assignment  # a third of a second, which only such requests pay

    serves = torch.zeros_like(cost)
    for row, size in enumerate(mask.sum(1).tolist()):
        atoms, served = linear_sum_assignment(cost[row, :size].cpu().numpy())
        serves[row, atoms, served] = 1
    return serves


def _variance(level: NoiseLevel, spread: float) -> Float[Tensor, "b 1 1"]:
    """Å²: how far the clean position may be from its estimate, for normal data."""
    square = level.sigma.double().square()
    return (spread**2 * square / (1 + square))[:, None, None]


def _acts(level: NoiseLevel) -> Float[Tensor, "b 1 1"]:
    """1 at levels where guides act, else 0."""
    return (level.sigma > LAST).double()[:, None, None]


def _favoured(logits: Tensor, bonus: Tensor, level: Tensor) -> Tensor:
    """With a bonus where the token is not known."""
    return logits + torch.where(level[..., None] > 0, bonus, 0.0).to(logits.dtype)


def _moved(x0: Prediction, step: Tensor, noisy: Molecules, level: NoiseLevel) -> Prediction:
    """The estimate after a step (Å) of its atoms, which leaves free molecules centred."""
    step = step / (step.norm(dim=-1, keepdim=True) / LONGEST).clamp(min=1) * noisy.mask[..., None] * _acts(level)
    drift = step.sum(1, keepdim=True) / noisy.size[:, None, None] * noisy.mask[..., None]
    free = ~((level.pos == 0) & noisy.mask).any(1)  # no position is known
    return x0.replace(pos=(x0.pos.double() + step - drift * free[:, None, None]).to(x0.pos.dtype))
