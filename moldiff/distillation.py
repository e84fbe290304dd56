"""What a network for a handful of evaluations is taught: to land with one long step where its teacher's short ones lead.

The pupil walks as it will when it is used, but for colder draws of tokens, from noise down to σ ``UNTIL`` with its own few
steps, and from every state on its way the teacher goes on to the next level in several. Where tokens are the likeliest ones
and no noise is added, that is no matter of chance (progressive distillation, Salimans & Ho 2022, arXiv 2202.00512, on the
pupil's own states as in Ross et al. 2011, https://proceedings.mlr.press/v15/ross11a.html). Of the pupil's second-order step
only the rest is to be learned: it begins as its teacher, whose few steps are good already. Below ``UNTIL`` the teacher goes
on itself (:class:`moldiff.relay.Relay`).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice, pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from moldiff.attempts import draw_request
from moldiff.conditions import Conditions
from moldiff.guidance import WithinValences, guided
from moldiff.known import blank
from moldiff.model import Model
from moldiff.molecule import Molecules, Prediction
from moldiff.one_size import inference, same_size_batches
from moldiff.requests import Request
from moldiff.samplers import KeyedRandomness, Run, Sampler
from moldiff.schedules import NoiseLevel
from moldiff.told import Told

UNTIL = 0.2  # σ
SHORT = 4  # steps of the teacher in one of the pupil's
CERTAIN = 0.02  # temperature of the teacher's tokens: nearly always the likeliest
TOGETHER = 64  # molecules of a size that are walked at once
BOND_WEIGHT = 3.0  # of the loss of a pair


@dataclass(frozen=True)
class Lessons:
    """Noisy molecules of one size, and what the pupil should say of them."""

    noisy: Molecules
    sigma: Float[Tensor, " b"]
    conditions: Conditions
    answer: Prediction  # positions in Å; log-probabilities

    def __len__(self) -> int:
        return len(self.noisy)

    def select(self, rows: Tensor) -> "Lessons":
        return Lessons(
            self.noisy.select(rows), self.sigma[rows], self.conditions.select(rows), self.answer.select(rows)
        )

    def tensors(self) -> list[Tensor]:
        """All of them, one after the other."""
        of = lambda part: [getattr(part, f.name) for f in fields(part)]  # noqa: E731
        return [*of(self.noisy), self.sigma, *of(self.conditions), *of(self.answer)]

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> "Lessons":
        """Inverse of :meth:`tensors`."""
        left = iter(tensors)
        taken = lambda kind: kind(*islice(left, len(fields(kind))))  # noqa: E731
        return cls(taken(Molecules), next(left), taken(Conditions), taken(Prediction))

    @classmethod
    def join(cls, parts: Iterable["Lessons"]) -> "Lessons":
        """Those of several walks of one size."""
        return cls.of(map(torch.cat, zip(*(part.tensors() for part in parts), strict=True)))


def landing(sigmas: Sequence[float], k: int) -> float:
    """By how much the state at level k + 1 moves when the estimate at level k does, in a second-order step (UniPC).

    The corrector, which takes the step to level k again, is part of it; the first step is of first order.
    """
    ratio = sigmas[k + 1] / sigmas[k]
    if k == 0:
        return 1 - ratio
    before = sigmas[k] / sigmas[k - 1]
    slope = -1 / math.log(before)
    return 1 - ratio + (ratio * _curve(before) + _curve(ratio)) * slope


def _curve(ratio: float) -> float:
    return ratio - 1 - math.log(ratio)


def lessons(pupil: Model, teacher: Model, sampler: Sampler, seed: int, indices: Sequence[int]) -> Iterator[Lessons]:
    """Of the pupil's walks of these attempts, a batch of walks at a time; ``sampler``: of the rule UniPC, without churn.

    Both are told what a model is told where nothing is asked for.
    """
    request, random = Request(len(indices), seed, sampler), KeyedRandomness(seed, indices)
    _, sizes = draw_request(pupil.data, request, random)
    for rows in same_size_batches(sizes.atoms, TOGETHER):
        told, atoms = Told.of(pupil, request, sizes.select(rows), None).conditions(), int(sizes.atoms[rows[0]])
        yield Walk(pupil, teacher, sampler, told, random.select(rows).of_size(atoms)).lessons()


@dataclass
class Walk:
    """One batch of the pupil's walks, and the teacher's short steps beside them."""

    pupil: Model
    teacher: Model
    sampler: Sampler
    conditions: Conditions
    random: KeyedRandomness
    taught: list[Lessons] = field(default_factory=list)

    def lessons(self) -> Lessons:
        template = blank(len(self.conditions.heavy), self.random.atoms, self.pupil.device)
        self.free = NoiseLevel.free(template, torch.ones(len(template)))
        sigmas, rule = self.sampler.sigmas(), self.sampler.rule
        run = self.run(self.pupil, self.sampler.self_condition_below, self.sampler.temperature)
        with inference():
            state = run.start(template.centre(self.free.fixed_pos), sigmas[0], from_template=False)
            for k, (sigma, following) in enumerate(pairwise(sigmas)):
                if sigma < UNTIL:
                    break
                landed, there = rule(run, state, sigma, following), state
                shown = self.run(self.teacher, Sampler.self_condition_below, CERTAIN)
                for short in pairwise(np.geomspace(sigma, following, SHORT + 1).tolist()):
                    there = rule(shown, there, *short)
                missed = (there.pos - landed.pos) / landing(sigmas, k)
                self.teach(state, sigma, shown.previous.replace(pos=run.previous.pos + missed))
                state = landed
        return Lessons.join(self.taught)

    def run(self, model: Model, self_condition_below: float, temperature: float) -> Run:
        def denoise(state: Molecules, level: NoiseLevel, previous: Prediction | None) -> Prediction:
            return model.denoise(state, level, self.conditions, previous)

        denoiser = guided(denoise, [WithinValences(model.data.vocabulary)])
        return Run(
            denoiser,
            model.process,
            self.free,
            self.random,
            self_condition_below,
            temperature=temperature,
            clean_tokens=True,
        )

    def teach(self, state: Molecules, sigma: float, answer: Prediction) -> None:
        said = answer.replace(
            atom_logits=answer.atom_logits.log_softmax(-1), bond_logits=answer.bond_logits.log_softmax(-1)
        )
        self.taught.append(Lessons(state, torch.full((len(state),), sigma), self.conditions, said))


def loss(pupil: Model, taught: Lessons) -> dict[str, Float[Tensor, ""]]:
    """How far the pupil is from the answers: of positions as in training, of tokens the Kullback–Leibler divergence, a site."""
    level = NoiseLevel.free(taught.noisy, taught.sigma)
    said, right = pupil.denoise(taught.noisy, level, taught.conditions), taught.answer
    atom, bond = (
        F.kl_div(of.log_softmax(-1), wanted, log_target=True, reduction="none").sum(-1)
        for of, wanted in ((said.atom_logits, right.atom_logits), (said.bond_logits, right.bond_logits))
    )
    pairs = taught.noisy.pair_mask
    losses = {
        "pos": pupil.process["pos"].loss(said.pos, right.pos, level).mean(),
        "atom": atom.mean(),
        "bond": (bond * pairs).sum() / pairs.sum().clamp(min=1),
    }
    losses["total"] = losses["pos"] + losses["atom"] + BOND_WEIGHT * losses["bond"]
    return losses
