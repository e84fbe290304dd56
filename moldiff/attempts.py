"""Seeds → raw molecules. Attempt k of seed s is one molecule, whatever is sampled with it.

Its size and all its noise come from a stream keyed by (s, k); batches hold molecules of one exact size, and the
arithmetic on one molecule does not depend on its batch.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer

from moldiff.chem import mean_valence
from moldiff.conditions import Conditions, Target, check_targets, draw_values
from moldiff.config import GUIDANCE, QUALITIES, Config
from moldiff.errors import RequestError
from moldiff.formula import composition_of
from moldiff.guidance import Guide, evaluations
from moldiff.known import Known, blank, size_odds
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.one_size import BATCH, Tick, filled_rows, one_thread, sample_filled
from moldiff.samplers import KeyedRandomness, Sampler
from moldiff.schedules import NoiseLevel
from moldiff.screening import Screen

DRAWN = 512  # sizes that are drawn at a time, for the memory


@dataclass(frozen=True)
class Request:
    """What to generate. Everything that decides molecule k is here; how fast it comes is not."""

    n: int
    seed: int = 0
    sampler: Sampler = field(default_factory=Sampler)
    heavy_atoms: tuple[int, int] | None = None  # inclusive range; None: as in the training data
    formula: str | None = None  # such as C7H8O2; None: as in the training data
    unique: bool = False
    max_attempts: int | None = None  # default: 10 n + 100
    time_limit: float | None = None  # seconds
    targets: tuple[Target, ...] = ()
    guidance: float = GUIDANCE  # weight of classifier-free guidance, where there are targets
    known: Known | None = None
    guides: tuple[Guide, ...] = ()
    screen: Screen = field(default_factory=Screen)  # which accepted ones are kept, with what scores

    def check(self, model: Model) -> list[str]:
        """Warnings of what may turn out badly. Raises RequestError for what cannot be met."""
        if self.n < 1:
            raise RequestError(f"-n {self.n}: ask for at least one molecule")
        if not 0 <= self.seed < 2**63:
            raise RequestError(f"--seed {self.seed}: must be between 0 and 2^63 - 1")
        if self.sampler.steps < 2:
            raise RequestError(f"--steps {self.sampler.steps}: at least 2 are needed")
        if self.max_attempts is not None and self.max_attempts < self.n:
            raise RequestError(f"--max-attempts {self.max_attempts}: fewer than the {self.n} molecules asked for")
        if self.time_limit is not None and not self.time_limit > 0:
            raise RequestError(f"--time-limit {self.time_limit}: must be positive (seconds)")
        if not (math.isfinite(self.guidance) and 0 < self.guidance <= 20):
            raise RequestError(f"--guidance {self.guidance:g}: must be above 0 and at most 20; 1 is none")
        warnings = check_targets(self.targets, model.data.properties)
        if self.sampler.strength < 1 and (self.known is None or self.known.grows):
            raise RequestError("a sampler's strength below 1 needs a whole molecule to start from")
        self.size_draw(model.data)
        return warnings

    def size_draw(self, data: DataInfo) -> "SizeDraw":
        return SizeDraw(data, self.heavy_atoms, self.known, self.formula)

    def key(self, weights: str) -> str:
        """Eight hex digits for all that decides molecule k besides seed and k: weights, sampler, sizes and wishes."""
        decisive = [
            weights,
            self.sampler,
            self.heavy_atoms,
            self.formula,
            self.targets,
            self.guidance,
            self.known,
            self.guides,
        ]
        return hashlib.sha256(repr(decisive).encode()).hexdigest()[:8]

    @property
    def evaluations(self) -> int:
        """Network evaluations per molecule, those of guidance included."""
        return self.sampler.evaluations * evaluations(bool(self.targets), self.guidance)

    @property
    def attempts(self) -> int:
        return self.max_attempts or 10 * self.n + 100


def choose_sampler(config: Config, quality: str | None, steps: int | None) -> Sampler:
    """A named quality of the weights with this configuration, or another number of steps; neither: balanced.

    Raises RequestError for both at once and for an unknown name.
    """
    if quality is not None and quality not in QUALITIES:
        raise RequestError(f"--quality {quality}: there are {', '.join(QUALITIES)}")
    if quality is not None and steps is not None:
        raise RequestError(f"--quality {quality} --steps {steps}: a quality sets the steps; give one of the two")
    evaluations = getattr(config.quality, quality or "balanced") if steps is None else steps
    return Sampler(evaluations, grid=config.quality.grid)


@dataclass(frozen=True)
class Sizes:
    """What is drawn of molecules before they are made: how many atoms they have, and of which elements."""

    atoms: Integer[np.ndarray, " b"]
    heavy: Integer[np.ndarray, " b"]  # 0: unknown
    composition: Integer[np.ndarray, "b elements"]  # all 0: unknown
    properties: Float[np.ndarray, "b properties"] | None = None  # physical, of a training molecule; NaN: unknown

    def __len__(self) -> int:
        return len(self.atoms)

    def select(self, rows: Sequence[int] | Integer[np.ndarray, " rows"]) -> "Sizes":
        properties = None if self.properties is None else self.properties[rows]
        return Sizes(self.atoms[rows], self.heavy[rows], self.composition[rows], properties)


class SizeDraw:
    """Compositions as in the training data, given a range of heavy atoms, what is known, and property values; or the one
    that is asked for.

    Where no training molecule holds the elements of what is known, the composition is left open: only a size is drawn.
    """

    def __init__(
        self,
        data: DataInfo,
        heavy: tuple[int, int] | None = None,
        known: Known | None = None,
        formula: str | None = None,
    ):
        self.data, self.known = data, known
        self.is_heavy = np.array([symbol != "H" for symbol in data.elements])
        self.made = np.array(data.made)
        table = np.array(data.compositions)
        self.rows = np.arange(len(table))  # of the table, that are possible
        self.composition, self.counts = table[:, :-1], table[:, -1].astype(float)
        if formula is not None:
            self._only(formula, heavy)
        if heavy is not None:
            self._keep(self._within(*heavy))
        self.told = True
        if known is not None and known.grows:
            part = np.bincount(np.array(data.element_of)[known.molecule.atom[0].numpy()], minlength=len(self.is_heavy))
            self._make_room(part, formula)
            if data.hydrogens == "explicit":
                self.counts = self.counts * self._odds(known, int(part[self.is_heavy].sum()))

    @property
    def heavy(self) -> Integer[np.ndarray, " rows"]:
        return self.composition[:, self.is_heavy].sum(1)

    def _keep(self, possible: Bool[np.ndarray, " rows"]) -> None:
        self.rows, self.composition, self.counts = (x[possible] for x in (self.rows, self.composition, self.counts))

    def _only(self, formula: str, heavy: tuple[int, int] | None) -> None:
        if heavy is not None or (self.known is not None and not self.known.grows):
            other = "--n-atoms" if heavy is not None else "--like"
            raise RequestError(f"--formula {formula}: it is {other} that gives the size; take one of the two")
        self.composition = composition_of(formula, self.data)[None]
        self.rows, self.counts = np.zeros(1, dtype=int), np.ones(1)

    def _within(self, low: int, high: int) -> Bool[np.ndarray, " rows"]:
        asked = f"--n-atoms {low}-{high}" if low != high else f"--n-atoms {low}"
        least, most = int(self.heavy.min()), int(self.heavy.max())
        if low > high:
            raise RequestError(f"{asked}: the range is reversed; write {high}-{low}")
        if not least <= low <= high <= most:
            raise RequestError(
                f"{asked}: model {self.data.name} knows molecules of {least} to {most} heavy atoms; stay within"
            )
        possible = (self.heavy >= low) & (self.heavy <= high)
        if not possible.any():
            raise RequestError(f"{asked}: no training molecule has that many heavy atoms; widen the range")
        return possible

    def _make_room(self, part: Integer[np.ndarray, " elements"], formula: str | None) -> None:
        """Keep the compositions that hold what is known, ``part``, and a heavy atom more."""
        heavy = int(part[self.is_heavy].sum())
        if formula is not None and not ((self.composition >= part).all() and self.heavy[0] > heavy):
            raise RequestError(f"--formula {formula}: no room for the known part and more; take a larger formula")
        larger = (self.heavy > heavy) & ((self.composition - part)[:, ~self.is_heavy] >= 0).all(1)
        if not larger.any():
            raise RequestError(
                f"the known part has {heavy} heavy atoms, and the molecules asked for have at most "
                f"{self.heavy.max()}: no room for more; allow more with --n-atoms, take a smaller part or another model"
            )
        holds = larger & (self.composition >= part).all(1)
        self.told = bool(holds.any())
        self._keep(holds if self.told else larger)

    def _odds(self, known: Known, heavy: int) -> Float[np.ndarray, " rows"]:
        elements = [self.data.elements[k] for k in self.data.element_of]
        sizes = np.stack([self.heavy, self.composition[:, ~self.is_heavy].sum(1)], 1)
        valence = mean_valence(elements, self.data.atom_marginal)
        return size_odds(known, heavy, sizes, np.array(self.data.size_histogram), valence)

    def __call__(
        self,
        uniform: Float[np.ndarray, " b"],
        values: Float[np.ndarray, "b properties"] | None = None,
        atoms: Integer[np.ndarray, " b"] | None = None,
    ) -> Sizes:
        """For each uniform number; ``values``: NaN where none is asked for; ``atoms``, where given, are not drawn."""
        if self.known is not None and not self.known.grows:  # of a molecule like it any atom may become another
            unknown = np.zeros((len(uniform), len(self.is_heavy)), dtype=int)
            return Sizes(np.full(len(uniform), len(self.known)), unknown.sum(1), unknown)
        drawn = np.empty((len(uniform), len(self.is_heavy)), dtype=int)
        for start in range(0, len(uniform), DRAWN):
            few = slice(start, start + DRAWN)
            weights = np.broadcast_to(self.counts, (len(uniform[few]), len(self.counts)))
            if atoms is not None:
                weights = weights * (self.composition[:, self.made].sum(1) == atoms[few, None])
            if values is not None and len(self.rows) > 1:
                weights = weights * self._likelihood(values[few], weights > 0)
            total = weights.sum(1, keepdims=True)  # 0 for a number of atoms that no composition has
            cdf = weights.cumsum(1) / np.where(total > 0, total, 1)
            drawn[few] = self.composition[(cdf <= uniform[few, None]).sum(1).clip(max=len(self.rows) - 1)] * (total > 0)
        heavy = drawn[:, self.is_heavy].sum(1)
        return Sizes(drawn[:, self.made].sum(1) if atoms is None else atoms, heavy, drawn * self.told)

    @cached_property
    def _properties(self) -> Float[np.ndarray, "2 rows properties"]:
        """Means and deviations."""
        return np.array([self.data.property_by_composition[k] for k in self.rows]).swapaxes(0, 1)

    def _likelihood(self, values: np.ndarray, possible: np.ndarray) -> Float[np.ndarray, "b rows"]:
        """p(values | composition), up to a factor: normal, by the training data of each composition.

        So a large polarisability gives large molecules.
        """
        mean, std = self._properties
        log = np.zeros((len(values), len(self.rows)))
        for p in np.flatnonzero(~np.isnan(values).all(0)):
            value = values[:, p, None]
            log += np.where(np.isnan(value), 0, -0.5 * ((value - mean[:, p]) / std[:, p]) ** 2 - np.log(std[:, p]))
        log = np.where(possible, log, -np.inf)
        return np.exp(log - log.max(1, keepdims=True))


def sample_attempts(
    model: Model, request: Request, indices: Sequence[int], batch_size: int | None = None,
    tick: Tick = lambda work: None,
) -> Molecules:  # fmt: skip
    """The raw molecules of these attempts, in their order, padded to the largest, on the CPU."""
    random = KeyedRandomness(request.seed, indices, model.device)
    values, sizes = draw_request(model.data, request, random)
    return sample_sizes(model, request, random, sizes, values, batch_size, tick)


def sample_sizes(
    model: Model, request: Request, random: KeyedRandomness, sizes: Sizes,
    values: Float[np.ndarray, "b properties"] | None, batch_size: int | None = None, tick: Tick = lambda work: None,
) -> Molecules:  # fmt: skip
    """Raw molecules of these sizes and property values, in their order, on the CPU."""
    batch = batch_size or BATCH[model.device.type]
    parts: dict[int, Molecules] = {}
    with one_thread(), torch.inference_mode():
        for atoms in np.unique(sizes.atoms).tolist():
            positions = np.flatnonzero(sizes.atoms == atoms).tolist()
            asked = None if values is None else values[positions]
            alike = SameSize(model, request, sizes.select(positions), asked, tick)
            sampled = alike.sample(random.select(positions), atoms, batch)
            parts |= dict(zip(positions, sampled.to("cpu").split(), strict=True))
        return Molecules.collate([parts[k] for k in range(len(sizes))])


def draw_request(
    data: DataInfo, request: Request, random: KeyedRandomness
) -> tuple[Float[np.ndarray, "b properties"] | None, Sizes]:
    """Property values in physical units (NaN: not asked for; None: none is) and the size of every attempt."""
    uniform, values = _draw_values(data, request, random)
    sizes = request.size_draw(data)(uniform[:, 0], values)
    return values, replace(sizes, properties=draw_examples(data, sizes.composition, uniform[:, 1]))


def draw_examples(
    data: DataInfo, composition: Integer[np.ndarray, "b elements"], uniform: Float[np.ndarray, " b"]
) -> Float[np.ndarray, "b properties"]:
    """The properties of a training molecule of each composition, physical; NaN where there is none."""
    drawn = np.full((len(composition), len(data.properties)), np.nan)
    for k, row in enumerate(composition.tolist()):
        examples = data.examples_by_composition.get(tuple(row))
        if examples is not None:
            drawn[k] = examples[int(uniform[k] * len(examples))]
    return drawn


def _draw_values(
    data: DataInfo, request: Request, random: KeyedRandomness
) -> tuple[Float[np.ndarray, "b 2"], Float[np.ndarray, "b properties"] | None]:
    """The numbers by which each size and example are drawn, and the values asked for: the first draws of every attempt."""
    uniform = random.numbers(2 + len(request.targets))
    values = draw_values(request.targets, data.properties, uniform[:, 2:]) if request.targets else None
    return uniform[:, :2], values


def asked_values(data: DataInfo, request: Request, index: int) -> dict[str, float]:
    """What attempt ``index`` aims at, as scores: ``asked_`` and the property's name → its value, in physical units."""
    if not request.targets:
        return {}
    _, values = _draw_values(data, request, KeyedRandomness(request.seed, [index]))
    named = zip(data.properties, values[0].tolist(), strict=True)
    return {f"asked_{p.name}": round(value, 6) for p, value in named if not math.isnan(value)}


@dataclass
class SameSize:
    """Molecules of one size, in batches; a batch that does not fit the memory is halved."""

    model: Model
    request: Request
    sizes: Sizes
    values: Float[np.ndarray, "b properties"] | None  # physical
    tick: Tick

    def sample(self, random: KeyedRandomness, atoms: int, batch: int) -> Molecules:
        done: list[Molecules] = []
        start = 0
        while start < len(random.streams):
            rows = range(start, min(start + batch, len(random.streams)))
            chosen = random.select(rows).of_size(atoms)
            before = [stream.bit_generator.state for stream in chosen.streams]
            try:
                done.append(self.one(chosen, rows))
                start += len(rows)
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                if len(rows) == 1:
                    text = f"not enough memory for one molecule of {atoms} atoms; close other programs"
                    raise RequestError(text) from error
                batch = len(rows) // 2
                for stream, state in zip(chosen.streams, before, strict=True):
                    stream.bit_generator.state = state
        return Molecules.collate(done)

    def one(self, random: KeyedRandomness, rows: range) -> Molecules:
        """One batch: these rows, and more to fill it up."""
        r, device, filled = self.request, self.model.device, filled_rows(len(rows), random.atoms)
        chosen = np.array(rows)[filled]
        if r.known is None:
            template = blank(len(filled), random.atoms, device)
            free = NoiseLevel.free(template, torch.ones(len(filled), device=device))
        else:
            template, free = r.known.template(len(filled), random.atoms, device)
        conditions = self.conditions(chosen).to(device)
        guidance = 1.0 if self.values is None else r.guidance  # what is only told is not aimed at
        return sample_filled(
            self.model, random, template, free, conditions, r.sampler, r.guides, guidance, self.tick,
            keep_composition=r.formula is not None,
        )  # fmt: skip

    def conditions(self, rows: Integer[np.ndarray, " b"]) -> Conditions:
        properties = self.model.data.properties
        quality, whole = self.model.config.quality, self.request.known is None
        values = self.values
        if values is None and quality.told_properties and whole:
            values = self.sizes.properties
        unknown = np.full((len(rows), len(properties)), np.nan)
        values = torch.from_numpy(unknown if values is None else values[rows]).float()
        heavy, composition = (torch.from_numpy(of[rows]) for of in (self.sizes.heavy, self.sizes.composition))
        asked = self.values is not None or self.request.formula is not None
        if not (asked or (quality.told_composition and whole)):  # elements that may change mend the structure
            composition = torch.zeros_like(composition)
        return replace(Conditions.from_physical(values, properties), heavy=heavy, composition=composition)


def _is_out_of_memory(error: Exception) -> bool:
    """torch reports it as a class of its own on a GPU and as a plain RuntimeError on a CPU."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "not enough memory" in str(error) or "can't allocate memory" in str(error)
