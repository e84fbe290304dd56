"""Seeds → raw molecules. Attempt k of seed s is one molecule, whatever is sampled with it.

Its size and all its noise come from a stream keyed by (s, k); batches hold molecules of one exact size, and the
arithmetic on one molecule does not depend on its batch.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from moldiff.errors import RequestError
from moldiff.model import DataInfo, Model
from moldiff.molecule import Molecules, Prediction
from moldiff.samplers import QUALITIES, KeyedRandomness, Sampler, sample
from moldiff.schedules import NoiseLevel

# Molecules in one batch, by kind of device. A CPU is at its best from 8 molecules of a size; a GPU wants many.
BATCH = {"cpu": 64, "cuda": 512, "mps": 256}
Tick = Callable[[float], None]  # told of work done, in molecules, since it was last called


@dataclass(frozen=True)
class Request:
    """What to generate. Everything that decides molecule k is here; how fast it comes is not."""

    n: int
    seed: int = 0
    sampler: Sampler = field(default_factory=Sampler)
    heavy_atoms: tuple[int, int] | None = None  # inclusive range; None: as in the training data
    unique: bool = False
    max_attempts: int | None = None  # default: 10 n + 100
    time_limit: float | None = None  # seconds

    def check(self, model: Model) -> None:
        """Raises RequestError for what cannot be met."""
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
        SizeDraw(model.data, self.heavy_atoms)

    def key(self, weights: str) -> str:
        """Eight hex digits for all that decides molecule k besides seed and k: weights, sampler and sizes."""
        return hashlib.sha256(repr((weights, self.sampler, self.heavy_atoms)).encode()).hexdigest()[:8]

    @property
    def attempts(self) -> int:
        return self.max_attempts or 10 * self.n + 100


def choose_sampler(quality: str | None, steps: int | None) -> Sampler:
    """A named quality, or the default sampler with another number of steps; neither: the default.

    Raises RequestError for both at once and for an unknown name.
    """
    if quality is None:
        return Sampler() if steps is None else Sampler(steps)
    if quality not in QUALITIES:
        raise RequestError(f"--quality {quality}: there are {', '.join(QUALITIES)}")
    if steps is not None:
        raise RequestError(f"--quality {quality} --steps {steps}: a quality sets the steps; give one of the two")
    return QUALITIES[quality]


class SizeDraw:
    """Atom counts from the training histogram, given a range of heavy atoms."""

    def __init__(self, data: DataInfo, heavy: tuple[int, int] | None):
        histogram = np.array(data.size_histogram)
        least, most = int(histogram[:, 0].min()), int(histogram[:, 0].max())
        if heavy is not None:
            low, high = heavy
            asked = f"--n-atoms {low}-{high}" if low != high else f"--n-atoms {low}"
            if low > high:
                raise RequestError(f"{asked}: the range is reversed; write {high}-{low}")
            if not least <= low <= high <= most:
                raise RequestError(
                    f"{asked}: model {data.name} knows molecules of {least} to {most} heavy atoms; stay within"
                )
            histogram = histogram[(histogram[:, 0] >= low) & (histogram[:, 0] <= high)]
            if not len(histogram):
                raise RequestError(f"{asked}: no training molecule has that many heavy atoms; widen the range")
        self.atoms = histogram[:, 1]
        self.cdf = histogram[:, 2].cumsum() / histogram[:, 2].sum()

    def __call__(self, uniform: np.ndarray) -> np.ndarray:
        return self.atoms[np.searchsorted(self.cdf, uniform, side="right").clip(max=len(self.atoms) - 1)]


def sample_attempts(
    model: Model, request: Request, indices: Sequence[int], batch_size: int | None = None,
    tick: Tick = lambda work: None,
) -> Molecules:  # fmt: skip
    """The raw molecules of these attempts, in their order, padded to the largest, on the CPU."""
    random = KeyedRandomness(request.seed, indices, model.device)
    sizes = SizeDraw(model.data, request.heavy_atoms)(random.first())
    batch = batch_size or BATCH[model.device.type]
    parts: dict[int, Molecules] = {}
    with _one_thread(), torch.inference_mode():
        for atoms in np.unique(sizes).tolist():
            positions = np.flatnonzero(sizes == atoms).tolist()
            sampled = _sample_size(model, request.sampler, random.select(positions), atoms, batch, tick)
            parts |= dict(zip(positions, sampled.to("cpu").split(), strict=True))
        return Molecules.collate([parts[k] for k in range(len(indices))])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads cut tensors into pieces, at whose ends torch rounds some functions (SiLU) otherwise; see workers instead."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sample_size(
    model: Model, sampler: Sampler, random: KeyedRandomness, atoms: int, batch: int, tick: Tick
) -> Molecules:
    """Molecules of one size, in batches; a batch that does not fit the memory is halved."""
    done: list[Molecules] = []
    start = 0
    while start < len(random.streams):
        chosen = random.select(range(start, min(start + batch, len(random.streams)))).of_size(atoms)
        before = [stream.bit_generator.state for stream in chosen.streams]
        try:
            done.append(_sample_batch(model, sampler, chosen, tick))
            start += len(chosen.streams)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(chosen.streams) == 1:
                text = f"not enough memory for one molecule of {atoms} atoms; close other programs"
                raise RequestError(text) from error
            batch = len(chosen.streams) // 2
            for stream, state in zip(chosen.streams, before, strict=True):
                stream.bit_generator.state = state
    return Molecules.collate(done)


def _is_out_of_memory(error: Exception) -> bool:
    """torch reports it as a class of its own on a GPU and as a plain RuntimeError on a CPU."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "not enough memory" in str(error) or "can't allocate memory" in str(error)


def _sample_batch(model: Model, sampler: Sampler, random: KeyedRandomness, tick: Tick) -> Molecules:
    count, atoms = len(random.streams), random.atoms
    padding = max(0, -(-32 // atoms) - count)  # very small matrices round differently: see `on_enough_rows`
    template = blank(count + padding, atoms, model.device)
    free = NoiseLevel.free(template, torch.ones(count + padding, device=model.device))

    def denoise(state: Molecules, level: NoiseLevel, previous: Prediction | None) -> Prediction:
        tick(count / sampler.evaluations)
        return model.denoise(state, level, None, previous)

    padded = random.padded(padding).of_size(atoms)
    molecules, _ = sample(denoise, model.process, template, free, sampler, padded)
    return molecules.select(slice(count))


def blank(count: int, atoms: int, device: torch.device | str) -> Molecules:
    """A template in which nothing is known but the size."""
    zeros = torch.zeros(count, atoms, dtype=torch.long, device=device)
    mask = torch.ones(count, atoms, dtype=torch.bool, device=device)
    pos = torch.zeros(count, atoms, 3, device=device)
    return Molecules(mask, pos, zeros, zeros[:, :, None].expand(-1, -1, atoms).clone())
