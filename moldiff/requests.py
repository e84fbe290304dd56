"""What to generate: numbers, sizes, targets, and molecules to keep, to stay near, to fill or to match."""

import hashlib
import math
from dataclasses import dataclass, field, replace
from numbers import Integral

from moldiff.alternatives import property_of
from moldiff.conditions import Target, check_targets
from moldiff.config import GUIDANCE, QUALITIES, Config
from moldiff.draws import SizeDraw
from moldiff.errors import RequestError
from moldiff.fragments import Plan, Wishes, plan
from moldiff.guidance import Guide, evaluations
from moldiff.known import Known
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.overlay import Overlay
from moldiff.relay import Relay
from moldiff.samplers import Sampler, UniPC
from moldiff.screening import Screen

FEW = 12  # network evaluations
LAST = 10**8  # attempts of a seed that can be the first; IDs have so many


@dataclass(frozen=True)
class Request:
    """What to generate. Everything that decides molecule k is here; how fast it comes is not."""

    n: int
    seed: int = 0
    sampler: Sampler = field(default_factory=Sampler)
    heavy_atoms: tuple[int, int] | None = None  # inclusive range; None: as in the training data
    formula: str | None = None  # such as C7H8O2; None: as in the training data
    unique: bool = False
    exclude: tuple[str, ...] = ()  # qm9, moses, drugs, or files: molecules that are not wanted
    first: int = 0  # attempt of the seed
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
        numbers = [
            ("-n", self.n),
            ("--seed", self.seed),
            ("--first", self.first),
            *(("--n-atoms", count) for count in self.heavy_atoms or ()),
        ]
        if self.max_attempts is not None:
            numbers.append(("--max-attempts", self.max_attempts))
        for option, value in numbers:
            if not isinstance(value, Integral):
                raise RequestError(f"{option} {value}: must be a whole number")
        if self.n < 1:
            raise RequestError(f"-n {self.n}: ask for at least one molecule")
        if not 0 <= self.seed < 2**63:
            raise RequestError(f"--seed {self.seed}: must be between 0 and 2^63 - 1")
        if not 0 <= self.first < LAST:
            raise RequestError(f"--first {self.first}: must be between 0 and {LAST - 1}")
        if self.sampler.steps < 2:
            raise RequestError(f"--steps {self.sampler.steps}: at least 2 are needed")
        if self.max_attempts is not None and self.max_attempts < self.n:
            raise RequestError(f"--max-attempts {self.max_attempts}: fewer than the {self.n} molecules asked for")
        if self.time_limit is not None and not (math.isfinite(self.time_limit) and self.time_limit > 0):
            raise RequestError(f"--time-limit {self.time_limit}: must be positive and finite (seconds)")
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

    def size_draw(self, data: DataInfo) -> SizeDraw:
        return SizeDraw(data, self.heavy_atoms, self.known, self.formula)

    def key(self, weights: str) -> str:
        """Eight hex digits for all that decides molecule k besides seed and k: weights, sampler, sizes and wishes."""
        decisive = [
            weights,
            self.sampler,
            self.heavy_atoms,
            self.formula,
            self.targets,
            float(self.guidance),
            self.known,
            self.guides,
            *([centre] if (centre := self.overlay.centre) else []),
        ]
        return hashlib.sha256(repr(decisive).encode()).hexdigest()[:8]

    @property
    def is_whole(self) -> bool:
        """Whether a molecule is made as a whole: nothing of it is known, or led anywhere."""
        return self.known is None and not self.guides

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


def choose_sampler(config: Config, quality: str | None, steps: Integral | None) -> Sampler:
    """A named quality of the weights with this configuration, or another number of steps; neither: balanced.

    With fewer than ``FEW`` there is nothing left for churn to mend with (docs/experiments.md).

    Raises RequestError for both at once, for an unknown name, and for steps that are no whole number.
    """
    if quality is not None and quality not in QUALITIES:
        raise RequestError(f"--quality {quality}: there are {', '.join(QUALITIES)}")
    if quality is not None and steps is not None:
        raise RequestError(f"--quality {quality} --steps {steps}: a quality sets the steps; give one of the two")
    if not (steps is None or isinstance(steps, Integral)):
        raise RequestError(f"steps={steps!r}: must be a whole number")
    evaluations = getattr(config.quality, quality or "balanced") if steps is None else int(steps)
    if evaluations < FEW:
        return Sampler(
            evaluations, UniPC(churn=0.0), "few", sigma_max=1.5, sigma_min=0.02, self_condition_below=0.03,
            temperature=0.5, clean_tokens=True,
        )  # fmt: skip
    return Sampler(evaluations, grid=config.quality.grid, clean_tokens=config.quality.clean_tokens)


def with_molecules(draft: Request, data: DataInfo, wishes: Wishes, overlay: Overlay) -> tuple[Request, Plan]:
    """The request to a model of this data, not checked yet, and the plan, which tells what of the molecules is kept.

    Sizes that the draft leaves open are those of the shape to fill; analogues begin at their seed.

    Raises:
        RequestError: the model cannot do this, or the wishes contradict each other.
    """
    sizes = draft.heavy_atoms
    if sizes is None and wishes.like is None and draft.formula is None:
        sizes = overlay.heavy_atoms(data)
    planned = plan(wishes, data, draft.sampler, sizes)
    if draft.formula is not None:  # it gives the size
        planned = planned._replace(heavy_atoms=sizes)
    guides = (*draft.guides, *overlay.guides(data, planned.known))
    targets = tuple(replace(t, name=property_of(t.name, data).name) for t in draft.targets)
    return replace(draft, guides=guides, overlay=overlay, targets=targets, **planned.fields), planned
