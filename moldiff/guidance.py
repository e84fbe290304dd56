"""Closures around a denoiser that bend its estimate towards what is asked for; no sampler knows of them.

A guide changes the clean estimate alone, so that any differentiable or exact wish can be stated without training.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from moldiff.conditions import Conditions
from moldiff.molecule import Molecules, Prediction
from moldiff.samplers import Denoiser
from moldiff.schedules import NoiseLevel

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
