"""Closures around a denoiser that bend its estimate towards what is asked for; no sampler knows of them.

A guide changes the clean estimate alone, so that any differentiable or exact wish can be stated without training.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from moldiff.conditions import Conditions
from moldiff.molecule import Molecules, Prediction, split_token
from moldiff.samplers import Denoiser
from moldiff.schedules import NoiseLevel
from moldiff.valences import STRICT_VALENCES

LAST = 1e4  # more than any difference of log-probabilities
UNKNOWN = 1000  # valence of tokens that the table lacks: more than any atom has
ConditionalDenoiser = Callable[[Molecules, NoiseLevel, Conditions, Prediction | None], Prediction]


@runtime_checkable
class Guide(Protocol):
    """Changes a clean estimate, given the noisy state that it was made from. Positions in Å, in the sampler's frame.

    Its ``repr`` must tell all that decides what it does: identifiers of molecules are made from it.
    """

    def __call__(self, x0: Prediction, noisy: Molecules, level: NoiseLevel) -> Prediction: ...


def guided(denoiser: Denoiser, guides: Sequence[Guide]) -> Denoiser:
    """The denoiser with every guide applied to its estimate, in order. What is known stays as it is."""
    if not guides:
        return denoiser

    def estimate(noisy: Molecules, level: NoiseLevel, previous: Prediction | None) -> Prediction:
        x0 = denoiser(noisy, level, previous)
        for guide in guides:
            moved = guide(x0, noisy, level)
            x0 = moved.replace(pos=torch.where(level.pos[..., None] > 0, moved.pos, x0.pos))
        return x0

    return estimate


def classifier_free(denoise: ConditionalDenoiser, conditions: Conditions, weight: float) -> Denoiser:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) of positions and of log-probabilities.

    ``weight`` 1 is the model given its conditions; above 1 the estimate is pushed on, away from the one without the
    properties, at the price of a second evaluation (:func:`evaluations`).
    """
    twice = evaluations(bool(conditions.given.any()), weight) == 2

    def estimate(noisy: Molecules, level: NoiseLevel, previous: Prediction | None) -> Prediction:
        given = denoise(noisy, level, conditions, previous)
        if not twice:
            return given
        without = denoise(noisy, level, conditions.without_properties(), previous)
        return Prediction(
            pos=torch.lerp(without.pos, given.pos, weight),
            atom_logits=torch.lerp(without.atom_logits.log_softmax(-1), given.atom_logits.log_softmax(-1), weight),
            bond_logits=torch.lerp(without.bond_logits.log_softmax(-1), given.bond_logits.log_softmax(-1), weight),
        )

    return estimate


def evaluations(conditional: bool, weight: float) -> int:
    """Network evaluations of one call of :func:`classifier_free`."""
    return 2 if conditional and weight != 1 else 1


class AllowedAtoms:
    """Only some tokens may become of each atom: ``allowed`` (b, n, tokens)."""

    def __init__(self, allowed: Bool[Tensor, "b n tokens"]):
        self.allowed = allowed

    def __call__(self, x0: Prediction, noisy: Molecules, level: NoiseLevel) -> Prediction:
        return x0.replace(atom_logits=x0.atom_logits.masked_fill(~self.allowed, -1e9))


class WithinValences:
    """No atom has more bonds than the greatest valence of its token: the bonds that are estimated as likeliest are lowered,
    order by order, where the estimate loses least, until this holds; what is known stays.

    From the noise level ``BELOW`` on, so that later steps and the geometry follow. A bond that is lowered trades the
    probabilities of its two orders; molecules without such an atom keep their estimate to the bit.

    ``full``: of the first atoms, the orders that all bonds have together where it is known; -1: as its valence allows. Of atoms
    where it is known this holds at every noise level.
    """

    BELOW = 0.25  # σ, where shape and graph are settled

    def __init__(self, vocabulary: Sequence[str], full: Integer[Tensor, " n"] | None = None):
        self.full = full
        self.most = torch.tensor([max(STRICT_VALENCES.get(split_token(name), (UNKNOWN,))) for name in vocabulary])

    def __call__(self, x0: Prediction, noisy: Molecules, level: NoiseLevel) -> Prediction:
        low = level.sigma <= self.BELOW
        if self.full is None and not low.any():
            return x0
        likeliest = x0.bond_logits.argmax(-1) * noisy.pair_mask
        most = self.most.to(noisy.device)[x0.atom_logits.argmax(-1)]
        room = most.masked_fill(~low[:, None], UNKNOWN)
        if self.full is not None:
            full, n = self.full.to(noisy.device), len(self.full)
            room[:, :n] = torch.where(full >= 0, full, room[:, :n])
        rows = (likeliest.sum(-1) > room).any(1).nonzero()[:, 0]
        if len(rows) == 0:
            return x0
        logits, old = x0.bond_logits[rows], likeliest[rows]
        new = lowered(old, logits, room[rows], level.bond[rows] > 0)
        here, there = (logits.gather(-1, order[..., None]) for order in (old, new))
        traded = logits.scatter(-1, old[..., None], there).scatter(-1, new[..., None], here)
        return x0.replace(bond_logits=x0.bond_logits.index_copy(0, rows, traded))


class AsMarked:
    """Of the added atoms the likeliest is bonded to an atom with a marked bond, by its order, and no other is.

    ``orders``: of the marked bond of each of the first atoms; 0: of none, or of several.
    """

    def __init__(self, orders: Integer[Tensor, " n"]):
        self.orders = orders

    def __call__(self, x0: Prediction, noisy: Molecules, level: NoiseLevel) -> Prediction:
        n, logits = len(self.orders), x0.bond_logits.clone()
        for k in self.orders.nonzero()[:, 0].tolist():
            bonded = logits[:, k, n:].softmax(-1)[..., 1:].sum(-1) * noisy.mask[:, n:]
            wanted = torch.zeros_like(bonded, dtype=torch.long).scatter(
                1, bonded.argmax(1, keepdim=True), int(self.orders[k])
            )
            sure = LAST * (torch.nn.functional.one_hot(wanted, logits.shape[-1]) - 1)
            logits[:, k, n:] = logits[:, n:, k] = sure.to(logits.dtype)
        return x0.replace(bond_logits=logits)


class OnTheirSide:
    """Added atoms that are estimated as bonded to one of the first atoms lie on its side of ``sides`` (zero: on any).

    One on the other side, or too near to the plane between, is mirrored: what grows from a marked bond takes the place of the
    mark, not of a hydrogen.
    """

    CLEAR = 0.4  # Å from the plane; a bond in the place of its mark is at 1 Å or more

    def __init__(self, sides: Float[Tensor, "n 3"]):
        self.sides = torch.nn.functional.normalize(sides, dim=-1)

    def __call__(self, x0: Prediction, noisy: Molecules, level: NoiseLevel) -> Prediction:
        n, sides = len(self.sides), self.sides.to(noisy.device)
        bonded = x0.bond_logits[:, :n, n:].argmax(-1) > 0
        offset = x0.pos[:, None, n:] - noisy.pos[:, :n, None]
        height = (offset * sides[:, None]).sum(-1)
        led = bonded & sides.any(-1)[:, None]
        beyond = ((height - self.CLEAR).clamp(max=0) * led)[..., None] * sides[:, None]
        pos = x0.pos.clone()
        pos[:, n:] -= 2 * beyond.sum(1)
        return x0.replace(pos=pos)


def lowered(
    order: Integer[Tensor, "b n n"], logits: Float[Tensor, "b n n orders"], room: Integer[Tensor, "b n"],
    free: Bool[Tensor, "b n n"],
) -> Integer[Tensor, "b n n"]:  # fmt: skip
    """Bond orders of which no atom has more than its ``room``, if ``free`` ones can be lowered so far.

    In every molecule the bond goes first whose lower order costs the least log-probability for each crowded end; those
    without which the molecule would fall apart go last.
    """
    order, n = order.clone(), order.shape[1]
    upper = torch.ones_like(free).triu(1)
    while True:
        crowded = order.sum(-1) > room
        ends = crowded[:, :, None].long() + crowded[:, None]
        fewer = (order - 1).clamp(min=0)
        cost = (logits.gather(-1, order[..., None]) - logits.gather(-1, fewer[..., None]))[..., 0]
        cost = torch.where((ends > 0) & (order > 0) & free & upper, cost / ends, torch.inf)
        b, i, j = (cost.isfinite() & (order == 1)).nonzero(as_tuple=True)
        cost[b, i, j] += LAST * parts(order[b], i, j)
        least, place = cost.flatten(1).min(1)
        rows = least.isfinite().nonzero()[:, 0]
        if len(rows) == 0:
            return order
        i, j = place[rows] // n, place[rows] % n
        order[rows, i, j] -= 1
        order[rows, j, i] = order[rows, i, j]


def parts(
    order: Integer[Tensor, "bonds n n"], i: Integer[Tensor, " bonds"], j: Integer[Tensor, " bonds"]
) -> Bool[Tensor, " bonds"]:
    """Whether there is no other way from i to j than their bond, in the molecule of each."""
    each, n = torch.arange(len(order), device=order.device), order.shape[1]
    near = (order > 0).float() + torch.eye(n, device=order.device)
    near[each, i, j] = near[each, j, i] = 0
    for _ in range(n.bit_length()):  # ways of twice as many bonds
        near = (near @ near).clamp(max=1)
    return near[each, i, j] == 0
