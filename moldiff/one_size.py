"""Molecules of one exact size, sampled together: batches are filled up, and their arithmetic ignores what else is in them.

So a batch that does not fit the memory can be halved.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Integer

from moldiff.composition import KeptComposition
from moldiff.conditions import Conditions
from moldiff.errors import RequestError
from moldiff.guidance import Guide, classifier_free, evaluations, guided
from moldiff.model import Model
from moldiff.molecule import Molecules
from moldiff.samplers import KeyedRandomness, Sampler, sample
from moldiff.schedules import NoiseLevel

# Molecules in one batch, by kind of device. A CPU is at its best from 8 molecules of a size; a GPU wants many.
BATCH = {"cpu": 64, "cuda": 512, "mps": 256}
Tick = Callable[[float], None]  # told of work done, in molecules, since it was last called


def same_size_batches(sizes: Sequence[int] | Integer[np.ndarray, " b"], most: int) -> Iterator[list[int]]:
    """Yield lists of positions in ``sizes``: at most ``most`` molecules of one atom count each, the smallest first."""
    for atoms in np.unique(np.asarray(sizes, dtype=int)):
        rows = np.flatnonzero(np.equal(sizes, atoms)).tolist()
        for start in range(0, len(rows), most):
            yield rows[start : start + most]


def sampled_by_size(
    sizes: Sequence[int] | Integer[np.ndarray, " b"], random: KeyedRandomness, most: int,
    one: Callable[[KeyedRandomness, list[int]], Molecules],
) -> list[Molecules]:  # fmt: skip
    """Single molecules without padding, of so many atoms, on the CPU, in their order; ``random`` has a stream for each.

    ``one`` makes a batch of one size, given its streams and its positions in ``sizes``; of ``most`` molecules, or fewer where
    these do not fit the memory. Raises :class:`RequestError` if one alone does not.
    """
    made: dict[int, Molecules] = {}
    with inference():
        for rows in same_size_batches(sizes, most):
            while rows:
                chosen, atoms = rows[:most], int(sizes[rows[0]])
                part = random.select(chosen).of_size(atoms)
                before = [stream.bit_generator.state for stream in part.streams]
                try:
                    made |= dict(zip(chosen, one(part, chosen).to("cpu").split(), strict=True))
                    rows = rows[most:]
                except (MemoryError, RuntimeError) as error:
                    if not _is_out_of_memory(error):
                        raise
                    if len(chosen) == 1:
                        text = f"not enough memory for one molecule of {atoms} atoms; close other programs"
                        raise RequestError(text) from error
                    most = len(chosen) // 2  # from here on: those that follow are no smaller
                    for stream, state in zip(part.streams, before, strict=True):
                        stream.bit_generator.state = state
    return [made[k] for k in range(len(sizes))]


def _is_out_of_memory(error: Exception) -> bool:
    """torch reports it as a class of its own on a GPU and as a plain RuntimeError on a CPU."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "not enough memory" in str(error) or "can't allocate memory" in str(error)


def filled_rows(count: int, atoms: int) -> list[int]:
    """The rows of a batch, and the first of them again until there are enough.

    Very small matrices round differently, see :func:`moldiff.denoisers.layers.on_enough_rows`.
    """
    return [*range(count), *[0] * max(0, -(-32 // atoms) - count)]


def sample_filled(
    model: Model, random: KeyedRandomness, template: Molecules, free: NoiseLevel, conditions: Conditions,
    sampler: Sampler, guides: Sequence[Guide], guidance: float, tick: Tick, keep_composition: bool = False,
) -> Molecules:  # fmt: skip
    """The free fields of a batch on the device, made; what is beyond the streams of ``random`` only fills it up.

    ``template``, ``free`` (1 where a field is made), ``conditions`` and ``guides`` have the rows of :func:`filled_rows`.
    ``guidance``: weight of classifier-free guidance; ``keep_composition``: atoms are drawn to have that of ``conditions``.
    Returns as many molecules as ``random`` has streams.
    """
    count, (total, atoms) = len(random.streams), template.mask.shape
    each = count / (sampler.evaluations * evaluations(bool(conditions.given.any()), guidance))

    def denoise(state, level, given, previous):
        tick(each)
        return model.denoise(state, level, given, previous)

    denoiser = guided(classifier_free(denoise, conditions, guidance), guides)
    composition = KeptComposition(conditions.composition, model.data.element_of) if keep_composition else None
    streams = random.padded(total - count).of_size(atoms)
    made, _ = sample(denoiser, model.process, template, free, sampler, streams, composition)
    return made.select(slice(count))


@contextmanager
def inference() -> Iterator[None]:
    """Without gradients, on one thread, and with numbers below the least normal one as zero.

    Threads cut tensors into pieces, at whose ends torch rounds some functions (SiLU) otherwise; see workers instead. A CPU
    is slow with numbers so small (probabilities far from the likeliest), and no result hangs on them.
    """
    threads, flushed = torch.get_num_threads(), flushes_denormals()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)


def flushes_denormals() -> bool:
    """Whether this thread's arithmetic has zero for what is below the least normal number; torch has no word for it."""
    return bool(torch.full((1,), 1e-38, dtype=torch.float32) / 10 == 0)
