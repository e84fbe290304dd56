"""Seeds → raw molecules. Attempt k of seed s is one molecule, whatever is sampled with it.

Its size and all its noise come from a stream keyed by (s, k); batches hold molecules of one exact size, and the
arithmetic on one molecule does not depend on its batch.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Float, Integer

from moldiff.conditions import Conditions, Target, check_targets, draw_values
from moldiff.config import GUIDANCE, QUALITIES, Config
from moldiff.draws import Drawn, SizeDraw
from moldiff.errors import RequestError
from moldiff.guidance import Guide, WithinValences, evaluations
from moldiff.known import Known, blank
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.one_size import BATCH, Tick, filled_rows, inference, sample_filled
from moldiff.overlay import Overlay
from moldiff.relay import Relay
from moldiff.samplers import KeyedRandomness, Sampler, UniPC
from moldiff.schedules import NoiseLevel
from moldiff.screening import Screen

FEW = 12  # network evaluations


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
    overlay: Overlay = field(default_factory=Overlay)  # where molecules lie, and what they are compared with there
    screen: Screen = field(default_factory=Screen)  # which accepted ones are kept, with what scores

    def check(self, model: Model) -> list[str]:
        """Warnings of what may turn out badly. Raises RequestError for what cannot be met."""
        low, high = self.heavy_atoms or (None, None)
        numbers = (("-n", self.n), ("--seed", self.seed), ("--max-attempts", self.max_attempts), ("--n-atoms", low))
        for option, value in (*numbers, ("--n-atoms", high)):
            if not isinstance(value, Integral | None):
                raise RequestError(f"{option} {value}: must be a whole number")
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
        if self.guidance != GUIDANCE and not self.targets:
            raise RequestError(
                f"--guidance {self.guidance:g}: says how strongly targets are followed; give one by --target"
            )
        if isinstance(model, Relay) and not self.is_plain(model.config):
            raise RequestError(
                "these weights were taught --quality fast and nothing else; take the model that they learned from"
            )
        warnings = check_targets(self.targets, model.data.properties)
        if self.sampler.from_template and (self.known is None or self.known.grows):
            raise RequestError("a sampler from a template needs a whole molecule to start from")
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
            *([centre] if (centre := self.overlay.centre) else []),
        ]
        return hashlib.sha256(repr(decisive).encode()).hexdigest()[:8]

    def is_plain(self, config: Config) -> bool:
        """Whether only sizes are asked for, and the evaluations of ``--quality fast`` of weights with this configuration."""
        more = self.targets or self.known or self.guides or self.formula
        return not more and self.sampler == choose_sampler(config, "fast", None)

    @property
    def parent(self) -> str:
        """SMILES of the molecule that others are derived from; empty without one."""
        return "" if self.known is None else self.known.parent

    @property
    def evaluations(self) -> int:
        """Network evaluations per molecule, those of guidance included."""
        return self.sampler.evaluations * evaluations(bool(self.targets), self.guidance)

    @property
    def attempts(self) -> int:
        return self.max_attempts or 10 * self.n + 100


def choose_sampler(config: Config, quality: str | None, steps: int | None) -> Sampler:
    """A named quality of the weights with this configuration, or another number of steps; neither: balanced.

    With fewer than ``FEW`` there is nothing left for churn to mend with (docs/experiments.md).

    Raises RequestError for both at once and for an unknown name.
    """
    if quality is not None and quality not in QUALITIES:
        raise RequestError(f"--quality {quality}: there are {', '.join(QUALITIES)}")
    if quality is not None and steps is not None:
        raise RequestError(f"--quality {quality} --steps {steps}: a quality sets the steps; give one of the two")
    evaluations = getattr(config.quality, quality or "balanced") if steps is None else steps
    if evaluations < FEW:
        return Sampler(
            evaluations, UniPC(churn=0.0), "few", sigma_max=1.5, sigma_min=0.02, self_condition_below=0.03,
            temperature=0.5, clean_tokens=True,
        )  # fmt: skip
    return Sampler(evaluations, grid=config.quality.grid, clean_tokens=config.quality.clean_tokens)


def sample_attempts(
    model: Model, request: Request, indices: Sequence[int], batch_size: int | None = None,
    tick: Tick = lambda work: None,
) -> Molecules:  # fmt: skip
    """The raw molecules of these attempts, in their order, padded to the largest, on the CPU."""
    random = KeyedRandomness(request.seed, indices, model.device)
    values, sizes = draw_request(model.data, request, random)
    return sample_sizes(model, request, random, sizes, values, batch_size, tick)


def sample_sizes(
    model: Model, request: Request, random: KeyedRandomness, sizes: Drawn,
    values: Float[np.ndarray, "b properties"] | None, batch_size: int | None = None, tick: Tick = lambda work: None,
) -> Molecules:  # fmt: skip
    """Raw molecules of these sizes and property values, in their order, on the CPU."""
    batch = batch_size or BATCH[model.device.type]
    parts: dict[int, Molecules] = {}
    with inference():
        for atoms in np.unique(sizes.atoms).tolist():
            positions = np.flatnonzero(sizes.atoms == atoms).tolist()
            asked = None if values is None else values[positions]
            alike = SameSize(model, request, sizes.select(positions), asked, tick)
            sampled = alike.sample(random.select(positions), atoms, batch)
            parts |= dict(zip(positions, sampled.to("cpu").split(), strict=True))
        return Molecules.collate([parts[k] for k in range(len(sizes))])


def draw_request(
    data: DataInfo, request: Request, random: KeyedRandomness
) -> tuple[Float[np.ndarray, "b properties"] | None, Drawn]:
    """Property values in physical units (NaN: not asked for; None: none is) and the size of every attempt."""
    uniform, values = _draw_values(data, request, random)
    return values, request.size_draw(data)(uniform, values)


def _draw_values(
    data: DataInfo, request: Request, random: KeyedRandomness
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, "b properties"] | None]:
    """The number by which each size is drawn, and the values asked for: the first draws of every attempt."""
    uniform = random.numbers(len(request.targets))
    values = draw_values(request.targets, data.properties, uniform) if request.targets else None
    return random.spread(), values


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
    sizes: Drawn
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
        if (centre := r.overlay.centre) and not free.fixed_pos[template.mask].any():
            template = template.centre()
            template = template.replace(pos=template.pos + torch.tensor(centre, device=device))
        conditions = self.conditions(chosen).to(device)
        guides = (*r.guides, WithinValences(self.model.data.vocabulary))
        guidance = 1.0 if self.values is None else r.guidance  # what is only told is not aimed at
        return sample_filled(
            self.model, random, template, free, conditions, r.sampler, guides, guidance, self.tick,
            keep_composition=r.formula is not None,
        )  # fmt: skip

    def conditions(self, rows: Integer[np.ndarray, " b"]) -> Conditions:
        properties = self.model.data.properties
        quality, whole = self.model.config.quality, self.request.known is None and not self.request.guides
        told = np.full((len(rows), len(properties)), np.nan)
        if quality.told_properties and whole and self.sizes.properties is not None:
            told = self.sizes.properties[rows]
        if self.values is not None:
            told = np.where(np.isnan(self.values[rows]), told, self.values[rows])
        values = torch.from_numpy(told).float()
        heavy, composition = (torch.from_numpy(of[rows]) for of in (self.sizes.heavy, self.sizes.composition))
        asked = self.values is not None or self.request.formula is not None
        if not (asked or (quality.told_composition and whole)):  # elements that may change mend the structure
            composition = torch.zeros_like(composition)
        return replace(Conditions.from_physical(values, properties), heavy=heavy, composition=composition)


def _is_out_of_memory(error: Exception) -> bool:
    """torch reports it as a class of its own on a GPU and as a plain RuntimeError on a CPU."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "not enough memory" in str(error) or "can't allocate memory" in str(error)
