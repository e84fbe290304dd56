"""Guides towards a volume and towards feature points. They move the estimate itself: no gradient goes through the network.

Points are in Å. Where a position is known they are in the sampler's frame, whose origin is the mean of the known atoms; where
none is, molecules may lie anyhow, and the points of the reference are laid on every estimate as well as they fit.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moldiff.molecule import Molecules, Prediction
from moldiff.schedules import NoiseLevel

Point = tuple[float, float, float]
RADIUS = 1.7  # Å, of every heavy atom: carbon's
# α of the Gaussian 2√2·exp(-α r²) with the volume of that sphere (Grant, Gallardo & Pickup 1996)
EXPONENT = math.pi * (3 * 2 * math.sqrt(2) / (4 * math.pi * RADIUS**3)) ** (2 / 3)  # Å⁻²
FIRST, LAST = (
    3.0,
    0.1,
)  # σ between which guides act: before, an estimate has no form; after, geometry is the model's own
LONGEST = 1.0  # Å, that one guide moves an atom in one step
RIGIDITY = 1.5  # Å: atoms within about so much of each other move together, hydrogens with what bears them
REACH = 1.0  # Å from a feature point, up to about which an atom is told what to be


@dataclass(frozen=True)
class ShapeGuide:
    """Pulls to a volume: up the gradient of the log of the shape Tanimoto of heavy atoms, see :func:`log_tanimoto`."""

    points: tuple[Point, ...]  # heavy atoms of the reference
    heavy: tuple[bool, ...]  # of every token, whether it is one
    weight: float = 0.7

    def __call__(self, x0: Prediction, noisy: Molecules, level: NoiseLevel) -> Prediction:
        pos, heavy = x0.pos.double(), _share(x0, noisy, self.heavy)
        points = _laid_on(self.points, self.points, pos, heavy, _anchored(noisy, level))
        _, gradient = log_tanimoto(pos, heavy, points)
        step = gradient * heavy.sum(1)[:, None, None] / EXPONENT  # Å, and the same for small and large molecules
        return _moved(x0, self.weight * step, heavy, noisy, level)


@dataclass(frozen=True)
class Feature:
    """A place for one atom, and what it may be."""

    point: Point
    tokens: tuple[bool, ...]  # of the vocabulary
    bears: tuple[bool, ...] | None = None  # tokens of which one must be bonded to it: the hydrogen of a donor


@dataclass(frozen=True)
class FeatureGuide:
    """Pulls the nearest suitable atom to every feature point, and what is near one to a suitable token."""

    features: tuple[Feature, ...]
    frame: tuple[Point, ...]  # heavy atoms of the reference, by which the features are laid on an estimate
    heavy: tuple[bool, ...]
    weight: float = 0.5  # of the step
    bonus: float = 2.0  # on the log-probability of suitable tokens

    def __call__(self, x0: Prediction, noisy: Molecules, level: NoiseLevel) -> Prediction:
        pos, heavy = x0.pos.double(), _share(x0, noisy, self.heavy)
        places = tuple(feature.point for feature in self.features)
        points = _laid_on(places, self.frame, pos, heavy, _anchored(noisy, level))
        towards = points[:, None] - pos[:, :, None]
        near = -towards.square().sum(-1) / (2 * REACH**2)
        suits = torch.stack([self._suitable(x0, noisy, feature) for feature in self.features], -1)
        fit = (near + (heavy[..., None] * (suits + 0.01)).clamp(min=1e-30).log()).softmax(1)
        serves = fit * near.softmax(2)  # an atom serves one point: that which it is nearest to
        tokens = torch.tensor([f.tokens for f in self.features], dtype=pos.dtype, device=pos.device)
        bonus = self.bonus * ((serves * near.exp())[..., None] * tokens).sum(2) * _acts(level)
        free = (level.atom > 0)[..., None]
        x0 = x0.replace(atom_logits=x0.atom_logits + torch.where(free, bonus, 0.0).to(x0.atom_logits.dtype))
        return _moved(x0, self.weight * (serves[..., None] * towards).sum(2), heavy, noisy, level)

    def _suitable(self, x0: Prediction, noisy: Molecules, feature: Feature) -> Float[Tensor, "b n"]:
        """Probability of every atom to be what the feature asks for."""
        suitable = _share(x0, noisy, feature.tokens)
        if feature.bears is None:
            return suitable
        bonded = 1 - x0.bond_logits.double().softmax(-1)[..., 0]
        return suitable * (bonded * _share(x0, noisy, feature.bears)[:, None]).sum(2).clamp(max=1)


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


def _laid_on(
    points: tuple[Point, ...], frame: tuple[Point, ...], pos: Tensor, heavy: Tensor, anchored: Tensor
) -> Float[Tensor, "b m 3"]:
    """The points where they are, if the molecule is anchored, else where they come with the frame laid on its atoms."""
    there, own = (torch.tensor(x, dtype=pos.dtype, device=pos.device) for x in (points, frame))
    centre = (heavy[..., None] * pos).sum(1, keepdim=True) / heavy.sum(1)[:, None, None].clamp(min=1e-6)
    laid = there @ _best_rotation(own, pos - centre, heavy).mT + centre
    return torch.where(anchored[:, None, None], there, laid)


def _best_rotation(frame: Tensor, pos: Tensor, heavy: Tensor) -> Float[Tensor, "b 3 3"]:
    """Of the four rotations that lay principal axes on principal axes, that of the largest overlap. Both are centred."""
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=pos.dtype, device=pos.device)
    theirs = _principal_axes(frame[None], torch.ones_like(frame[None, :, 0]))
    rotations = (_principal_axes(pos, heavy)[:, None] * signs[:, None]) @ theirs.mT
    apart = (frame @ rotations.mT)[:, :, None] - pos[:, None, :, None]
    overlap = (heavy[:, None, :, None] * torch.exp(-EXPONENT / 2 * apart.square().sum(-1))).sum((2, 3))
    return rotations[torch.arange(len(pos), device=pos.device), overlap.argmax(1)]


def _principal_axes(pos: Tensor, share: Tensor) -> Float[Tensor, "b 3 3"]:
    """Columns, right-handed, of centred positions."""
    weighted = share[..., None] * pos
    axes = torch.linalg.eigh((weighted[..., :, None] * pos[..., None, :]).sum(1)).eigenvectors
    return axes * torch.linalg.det(axes).sign()[:, None, None]


def _anchored(noisy: Molecules, level: NoiseLevel) -> Bool[Tensor, " b"]:
    """Whether any position is known."""
    return ((level.pos == 0) & noisy.mask).any(1)


def _acts(level: NoiseLevel) -> Float[Tensor, "b 1 1"]:
    """1 at levels where guides act, else 0."""
    return ((level.sigma < FIRST) & (level.sigma > LAST)).double()[:, None, None]


def _moved(x0: Prediction, step: Tensor, heavy: Tensor, noisy: Molecules, level: NoiseLevel) -> Prediction:
    """The estimate after a step of its heavy atoms (Å), which is smoothed in space so that bonds keep their lengths."""
    pos = x0.pos.double()
    apart = (pos[:, None] - pos[:, :, None]).square().sum(-1)
    near = heavy[:, None] * torch.exp(-apart / (2 * RIGIDITY**2))
    smooth = (near[..., None] * step[:, None]).sum(2) / near.sum(2, keepdim=True).clamp(min=1e-6) * _acts(level)
    smooth = smooth / (smooth.norm(dim=-1, keepdim=True) / LONGEST).clamp(min=1) * noisy.mask[..., None]
    drift = smooth.sum(1, keepdim=True) / noisy.size[:, None, None] * noisy.mask[..., None]
    free = ~_anchored(noisy, level)  # molecules that stay centred
    return x0.replace(pos=(pos + smooth - drift * free[:, None, None]).to(x0.pos.dtype))
