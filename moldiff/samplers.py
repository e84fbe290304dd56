"""From noise to molecules: one loop, and step rules and time grids that are given to it.

A step rule moves the state from one noise level to the next and may call the denoiser once or more; grids are in
:mod:`moldiff.schedules`. ``scripts/sweep_sampler.py`` measures the quality that a rule × grid × number of steps gives.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from moldiff.composition import KeptComposition
from moldiff.molecule import Molecules, Prediction
from moldiff.processes import Categorical, Gaussian
from moldiff.schedules import GRIDS, NoiseLevel

Denoiser = Callable[[Molecules, NoiseLevel, Prediction | None], Prediction]

GOLDEN = (5**0.5 - 1) / 2
AROUND = 8.0  # σ from which positions are made around known ones
KEPT_FROM = 0.05  # σ down to which an asked-for composition is kept; below, atoms may change where a valence is wrong


@runtime_checkable
class Randomness(Protocol):
    """Where a sampler's random numbers come from."""

    def normal(self) -> Float[Tensor, "b n 3"]: ...

    def uniform(self) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n n"]]:
        """One number per atom and one per pair (mirrored)."""
        ...

    def gumbel(self, classes: int) -> Float[Tensor, "b n {classes}"]: ...


class KeyedRandomness:
    """One counter-based stream per molecule, keyed by (seed, index): a molecule's numbers ignore its neighbours.

    Numbers are drawn on the CPU, so that they are the same on every device (Salmon et al. 2011, the Philox generator).
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu"):
        self.seed, self.indices = seed, indices
        self.streams = [np.random.Generator(np.random.Philox(key=[seed, index])) for index in indices]
        self.device = device
        self.atoms = 0

    def spread(self) -> np.ndarray:
        """(molecules,) numbers in [0, 1), by which sizes are drawn: those of consecutive indices keep their distance.

        Multiples of the golden ratio (the Kronecker sequence of least discrepancy), from the first number of the seed's
        first stream. So many molecules have the sizes of the training data without the scatter of a draw, and are seldom
        told the same.
        """
        start = np.random.Generator(np.random.Philox(key=[self.seed, 0])).random()
        return (start + np.array(self.indices, dtype=float) * GOLDEN) % 1

    def numbers(self, count: int) -> np.ndarray:
        """(molecules, count) uniform numbers: the first of each stream, by which its targets are drawn."""
        return np.array([stream.random(count) for stream in self.streams])

    def of_size(self, atoms: int) -> "KeyedRandomness":
        """Set the atoms per molecule for all later draws."""
        self.atoms = atoms
        self.upper = np.triu_indices(atoms, 1)
        return self

    def select(self, positions: Sequence[int]) -> "KeyedRandomness":
        chosen = copy(self)
        chosen.indices, chosen.streams = ([of[k] for k in positions] for of in (self.indices, self.streams))
        return chosen

    def padded(self, count: int) -> "KeyedRandomness":
        """These streams and ``count`` unrelated ones, for molecules that only fill up a batch."""
        both = KeyedRandomness(0, range(count), self.device)
        both.streams = self.streams + both.streams
        return both

    def normal(self) -> Float[Tensor, "b n 3"]:
        draws = np.stack([s.standard_normal((self.atoms, 3), dtype=np.float32) for s in self.streams])
        return torch.from_numpy(draws).to(self.device)

    def uniform(self) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n n"]]:
        n, (i, j) = self.atoms, self.upper
        draws = np.stack([s.random(n + len(i), dtype=np.float32) for s in self.streams])
        pair = np.zeros((len(draws), n, n), dtype=np.float32)
        pair[:, i, j] = pair[:, j, i] = draws[:, n:]
        return torch.from_numpy(draws[:, :n].copy()).to(self.device), torch.from_numpy(pair).to(self.device)

    def gumbel(self, classes: int) -> Float[Tensor, "b n {classes}"]:
        draws = np.stack([s.gumbel(size=(self.atoms, classes)).astype(np.float32) for s in self.streams])
        return torch.from_numpy(draws).to(self.device)


@dataclass
class Run:
    """One batch on its way: what is fixed, what the denoiser said last, how often it was asked."""

    denoiser: Denoiser
    process: dict[str, Gaussian | Categorical]
    free: NoiseLevel  # 1 where a field is to be generated, 0 where it is known
    random: Randomness
    self_condition_below: float  # σ
    kernel: str = "redraw"  # how tokens move: redraw, step or posterior, see Categorical
    temperature: float | None = None  # of the draws from the estimate, instead of the process's own
    clean_tokens: bool = False  # redrawn from the estimate alone
    composition: KeptComposition | None = None
    previous: Prediction | None = None
    memory: dict[str, Tensor | float] = field(default_factory=dict)  # for multistep rules
    evaluations: int = 0  # per molecule

    def denoise(self, state: Molecules, sigma: float) -> Prediction:
        self.evaluations += 1
        seen = self.previous if sigma < self.self_condition_below else None
        self.previous = self.denoiser(state, self.free.scaled(sigma), seen)
        return self.previous

    def start(self, template: Molecules, sigma: float, from_template: bool) -> Molecules:
        """The prior, or the template with noise."""
        if from_template:
            return self.raise_noise(template, 0.0, sigma)
        level = self.free.scaled(sigma)
        atom, bond = self.random.uniform()
        return template.replace(
            pos=self.process["pos"].prior(template.pos, level, self.random.normal(), template.mask),
            atom=self.process["atom"].prior(template.atom, level.atom, atom),
            bond=self.process["bond"].prior(template.bond, level.bond, bond),
        )

    def raise_noise(self, state: Molecules, sigma: float, sigma_up: float) -> Molecules:
        """Add exactly the noise that separates two levels, to every free field."""
        old, new = self.free.scaled(sigma), self.free.scaled(sigma_up)
        extra = NoiseLevel((new.pos**2 - old.pos**2).clamp(min=0).sqrt(), new.atom, new.bond)
        atom, bond = self.random.uniform()
        return state.replace(
            pos=self.process["pos"].noise(state.pos, extra, self.random.normal(), state.mask),
            atom=self.process["atom"].noise(state.atom, new.atom, atom, old.atom),
            bond=self.process["bond"].noise(state.bond, new.bond, bond, old.bond),
        )

    def move_tokens(
        self, state: Molecules, x0: Prediction, sigma: float, sigma_next: float, kernel: str | None = None
    ) -> Molecules:
        """Move atoms and bonds towards the predicted endpoint, by the run's kernel or another one."""
        kernel = kernel or self.kernel
        clean = self.clean_tokens and kernel == "redraw"
        now, then = self.free.scaled(sigma), self.free.scaled(0.0 if clean else sigma_next)
        atom, bond = self.random.uniform()
        of = {name: getattr(self.process[name], kernel) for name in ("atom", "bond")}
        atoms, bonds = (
            (logits / (self.temperature or self.process[name].temperature)).softmax(-1)
            for name, logits in (("atom", x0.atom_logits), ("bond", x0.bond_logits))
        )
        if self.composition is not None and sigma >= KEPT_FROM:
            atoms = self.composition.draw(atoms, self.random.gumbel(atoms.shape[-1]))
        return state.replace(
            atom=of["atom"](state.atom, atoms, now.atom, then.atom, atom),
            bond=of["bond"](state.bond, bonds, now.bond, then.bond, bond),
        )

    def move_positions(self, state: Molecules, pos: Tensor) -> Molecules:
        """Take new positions where they are free; fixed ones keep their exact values."""
        return state.replace(pos=torch.where(self.free.pos[..., None] > 0, pos, state.pos))


@runtime_checkable
class StepRule(Protocol):
    """Moves the state from ``sigma`` to ``sigma_next``, asking the denoiser ``evaluations`` times."""

    evaluations: ClassVar[int]

    def __call__(self, run: Run, state: Molecules, sigma: float, sigma_next: float) -> Molecules: ...


@dataclass(frozen=True)
class ChurnedEuler:
    """Inside a window of σ raise the noise by a factor 1 + churn; then one Euler step (Karras et al. 2022, algorithm 2).

    With churn 0 this is DDIM. The noise that is added and removed again corrects earlier errors, but makes every step
    in the window a long one however many there are: normal data whose spread lies in it come out contracted, and tokens
    are redrawn many at once, without knowing of each other. So the window ends where shape and graph are being settled.
    """

    evaluations: ClassVar[int] = 1
    churn: float = 1.0
    low: float = 0.03
    high: float = 0.25

    def __call__(self, run: Run, state: Molecules, sigma: float, sigma_next: float) -> Molecules:
        churned = self.churn > 0 and self.low < sigma <= self.high
        sigma_up = sigma * (1 + self.churn) if churned else sigma
        if churned:
            state = run.raise_noise(state, sigma, sigma_up)
        x0 = run.denoise(state, sigma_up)
        move = _advance if churned else self.move
        pos = move(run, state.pos, x0.pos, sigma_up, sigma_next)
        return run.move_positions(run.move_tokens(state, x0, sigma_up, sigma_next), pos)

    def move(self, run: Run, pos: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The step of an unchurned level."""
        return _advance(run, pos, x0, sigma, sigma_next)


@dataclass(frozen=True)
class UniPC(ChurnedEuler):
    """Predictor and corrector of second order on positions (UniPC, Zhao et al. 2023, arXiv 2302.04867), churned in the window.

    The step that led to a level is taken again with the estimate that was made there, before the next one is taken: this
    costs no evaluation. Churned steps stay of first order: the estimate before them belongs to other noise.
    """

    def move(self, run: Run, pos: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
        before, slope = run.memory, 0.0
        if before.get("sigma_next") == sigma:  # else churned steps lie between
            slope = (x0 - before["x0"]) / float(np.log(before["sigma"] / sigma))
            pos = _advance(run, before["pos"], before["x0"], before["sigma"], sigma, slope)
        run.memory = {"x0": x0, "pos": pos, "sigma": sigma, "sigma_next": sigma_next}
        return _advance(run, pos, x0, sigma, sigma_next, slope)


def _advance(run: Run, pos: Tensor, x0: Tensor, sigma: float, sigma_next: float, slope: Tensor | float = 0.0) -> Tensor:
    """Exact for an estimate that changes by ``slope`` per unit of λ = -ln σ, and is ``x0`` at ``sigma``."""
    ratio = sigma_next / sigma
    return run.process["pos"].step(pos, x0, ratio) + (ratio - 1 - float(np.log(ratio))) * slope


@dataclass(frozen=True)
class Heun:
    """Second order by averaging the slopes at both ends; two evaluations a step (Karras et al. 2022, algorithm 1)."""

    evaluations: ClassVar[int] = 2

    def __call__(self, run: Run, state: Molecules, sigma: float, sigma_next: float) -> Molecules:
        x0 = run.denoise(state, sigma)
        slope = (state.pos - x0.pos) / sigma
        moved = run.move_tokens(state, x0, sigma, sigma_next)
        moved = run.move_positions(moved, state.pos + (sigma_next - sigma) * slope)
        slope_next = (moved.pos - run.denoise(moved, sigma_next).pos) / sigma_next
        return run.move_positions(moved, state.pos + (sigma_next - sigma) * (slope + slope_next) / 2)


@dataclass(frozen=True)
class Ancestral:
    """The exact reverse kernel given the endpoint, on every field: DDPM for positions, D3PM for tokens."""

    evaluations: ClassVar[int] = 1

    def __call__(self, run: Run, state: Molecules, sigma: float, sigma_next: float) -> Molecules:
        x0 = run.denoise(state, sigma)
        shrink = (sigma_next / sigma) ** 2
        noise = NoiseLevel(run.free.pos * sigma_next * (1 - shrink) ** 0.5, run.free.atom, run.free.bond)
        pos = run.process["pos"].step(state.pos, x0.pos, shrink)
        pos = run.process["pos"].noise(pos, noise, run.random.normal(), state.mask)
        return run.move_positions(run.move_tokens(state, x0, sigma, sigma_next, kernel="posterior"), pos)


RULES: dict[str, type] = {"unipc": UniPC, "euler": ChurnedEuler, "heun": Heun, "ancestral": Ancestral}


@dataclass(frozen=True)
class Sampler:
    """A step rule on a time grid. ``steps`` levels from ``sigma_max`` to ``sigma_min``.

    A whole molecule may begin at a ``sigma_max`` of 2: above it there is little to be found (docs/experiments.md). Around
    known positions it may lie to one side, so that levels begin at ``AROUND`` at least.

    With ``from_template`` the walk begins at a given molecule that is noised up to ``sigma_max`` (SDEdit, arXiv 2108.01073).

    Self-conditioning (arXiv 2208.04202) starts below a level: above it, an estimate is an average of many molecules,
    and one that sees the last such average shrinks towards it. Tokens of one step do not know of each other; at a
    ``temperature`` below 1 they agree more often, since each is nearer to what is likeliest for it. Without one, it is
    that of the weights. ``clean_tokens`` come from the estimate alone, without the noise of the next level, so that they
    tell the network all that it found out: sounder molecules in few steps, somewhat less like the data in many.
    """

    steps: int = 50
    rule: StepRule = UniPC()
    grid: str = "staged"
    sigma_max: float = 2.0
    sigma_min: float = 0.003
    self_condition_below: float = 1.0
    temperature: float | None = None
    from_template: bool = False
    clean_tokens: bool = False

    def __post_init__(self):
        if self.grid not in GRIDS:
            raise ValueError(f"grid {self.grid!r}: there are {', '.join(GRIDS)}")
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature}: must be positive")

    @property
    def evaluations(self) -> int:
        """Network evaluations per molecule."""
        return (self.steps - 1) * self.rule.evaluations + 1

    def sigmas(self, whole: bool = True) -> list[float]:
        """``whole``: no position is known."""
        first = self.sigma_max if whole else max(self.sigma_max, AROUND)
        return GRIDS[self.grid](self.steps, first, self.sigma_min).tolist()


def sample(
    denoiser: Denoiser,
    process: dict[str, Gaussian | Categorical],
    template: Molecules,
    free: NoiseLevel,
    sampler: Sampler,
    random: Randomness,
    composition: KeptComposition | None = None,
) -> tuple[Molecules, int]:
    """Generate the free fields of ``template``; returns the molecules and the network evaluations per molecule.

    ``free``: 1 where a field is to be generated, 0 where it is known. What is known comes back exactly as it was given,
    coordinates included; where no position is known, the molecule has the centre of the template. ``composition``: to be
    kept as long as shape and graph are open.
    The last evaluation gives positions and the most likely tokens together, so that geometry and graph agree.
    """
    kernel = "step" if sampler.from_template else "redraw"  # a molecule that is given is to be kept in part
    run = Run(
        denoiser, process, free, random, sampler.self_condition_below, kernel, sampler.temperature, sampler.clean_tokens,
        composition,
    )  # fmt: skip
    sigmas = sampler.sigmas(whole=sampler.from_template or not bool(free.fixed_pos[template.mask].any()))
    centre = template.centre(free.fixed_pos)
    state = run.start(centre, sigmas[0], sampler.from_template)
    for sigma, sigma_next in pairwise(sigmas):
        state = sampler.rule(run, state, sigma, sigma_next)
    x0 = run.denoise(state, sigmas[-1])
    last = state.replace(
        pos=_in_frame(x0.pos, template, centre, free),
        atom=torch.where(free.atom > 0, x0.atom_logits.argmax(-1), state.atom),
        bond=torch.where(free.bond > 0, x0.bond_logits.argmax(-1), state.bond),
    )
    return last, run.evaluations


def _in_frame(pos: Tensor, template: Molecules, centre: Molecules, free: NoiseLevel) -> Tensor:
    """Positions in the frame of the template, and known ones exactly as given."""
    shift = (template.pos - centre.pos)[:, :1]  # the same for all atoms of a molecule
    return torch.where(free.pos[..., None] > 0, pos + shift, template.pos)
