"""Seeds → raw molecules. Attempt k of seed s is one molecule, whatever is sampled with it.

Its noise comes from a stream keyed by (s, k), its size from place k of a low-discrepancy sequence of s; batches hold molecules
of one exact size, and the arithmetic on one molecule does not depend on its batch. Where the weights are used to it
(``quality.tries``), an attempt that is not as it was told is made again, with the next noise of its stream.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer

from moldiff.conditions import draw_values
from moldiff.draws import Drawn
from moldiff.errors import RequestError
from moldiff.guidance import AsMarked, Guide, OnTheirSide, WithinValences
from moldiff.known import blank
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.one_size import BATCH, Tick, filled_rows, inference, sample_filled
from moldiff.requests import Request
from moldiff.samplers import KeyedRandomness
from moldiff.schedules import NoiseLevel
from moldiff.told import AS_TOLD, Measure, Told


def sample_attempts(
    model: Model, request: Request, indices: Sequence[int], batch_size: int | None = None,
    tick: Tick = lambda work: None, measure: Measure | None = None,
) -> tuple[Molecules, Integer[np.ndarray, " b"]]:  # fmt: skip
    """The raw molecules of these attempts, in their order, padded to the largest, on the CPU; and how often each was tried.

    ``measure``: of raw molecules, the properties that they are judged by where values are asked for that cannot be counted.
    """
    random = KeyedRandomness(request.seed, indices, model.device)
    values, sizes = draw_request(model.data, request, random)
    return sample_sizes(model, request, random, sizes, values, batch_size, tick, measure)


def sample_sizes(
    model: Model, request: Request, random: KeyedRandomness, sizes: Drawn,
    values: Float[np.ndarray, "b properties"] | None, batch_size: int | None = None, tick: Tick = lambda work: None,
    measure: Measure | None = None,
) -> tuple[Molecules, Integer[np.ndarray, " b"]]:  # fmt: skip
    """Raw molecules of these sizes and property values, in their order, on the CPU; and how often each was tried.

    Of the tries, the first of those that are nearest to what was told.
    """
    told = Told.of(model, request, sizes, values, measure)
    found = _once(told, random, batch_size, tick)
    tries, rows = np.ones(len(told), dtype=int), np.arange(len(told))
    if model.config.quality.tries == 1:
        return found, tries
    made, off = found.split(), told.off_by(found)
    for _ in range(1, model.config.quality.tries):
        rows = rows[off[rows] > AS_TOLD]
        if not len(rows):
            break
        again = told.select(rows)
        found = _once(again, random.select(rows.tolist()), batch_size, lambda work: tick(0.0))
        tries[rows] += 1
        now = again.off_by(found)
        for row, molecule, distance in zip(rows.tolist(), found.split(), now.tolist(), strict=True):
            if distance < off[row]:
                made[row], off[row] = molecule, distance
    return Molecules.collate(made), tries


def _once(told: Told, random: KeyedRandomness, batch_size: int | None, tick: Tick) -> Molecules:
    """From noise to molecules, once."""
    batch = batch_size or BATCH[told.model.device.type]
    parts: dict[int, Molecules] = {}
    with inference():
        for atoms in np.unique(told.atoms).tolist():
            positions = np.flatnonzero(told.atoms == atoms).tolist()
            sampled = SameSize(told.select(positions), tick).sample(random.select(positions), atoms, batch)
            parts |= dict(zip(positions, sampled.to("cpu").split(), strict=True))
        return Molecules.collate([parts[k] for k in range(len(told))])


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

    told: Told
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
        model, r = self.told.model, self.told.request
        device, filled = model.device, filled_rows(len(rows), random.atoms)
        told = self.told.select(np.array(rows)[filled])
        if r.known is None:
            template = blank(len(filled), random.atoms, device)
            free = NoiseLevel.free(template, torch.ones(len(filled), device=device))
        else:
            template, free = r.known.template(len(filled), random.atoms, device)
        if (centre := r.overlay.centre) and not free.fixed_pos[template.mask].any():
            template = template.centre()
            template = template.replace(pos=template.pos + torch.tensor(centre, device=device))
        guides: tuple[Guide, ...] = (*r.guides, WithinValences(model.data.vocabulary, r.known and r.known.full))
        if r.known and r.known.single_marks is not None:
            guides = (AsMarked(r.known.single_marks), *guides)
        if r.known and r.known.sides is not None:
            guides = (*guides, OnTheirSide(r.known.sides))
        guidance = r.guidance if told.asked.any() else 1.0  # what is only told is not aimed at
        return sample_filled(
            model, random, template, free, told.conditions().to(device), r.sampler, guides, guidance, self.tick,
            keep_composition=r.formula is not None,
        )  # fmt: skip


def _is_out_of_memory(error: Exception) -> bool:
    """torch reports it as a class of its own on a GPU and as a plain RuntimeError on a CPU."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "not enough memory" in str(error) or "can't allocate memory" in str(error)
