"""Seeds → raw molecules. Attempt k of seed s is one molecule, whatever is sampled with it.

Its noise comes from a stream keyed by (s, k), its size from place k of a low-discrepancy sequence of s; batches hold molecules
of one exact size, and the arithmetic on one molecule does not depend on its batch. Where the weights are used to it
(``quality.tries``), an attempt that is not as it was told is made again, with the next noise of its stream.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Integer

from moldiff.conditions import draw_values
from moldiff.draws import Drawn
from moldiff.guidance import AsMarked, Guide, OnTheirSide, WithinValences
from moldiff.known import blank
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.one_size import BATCH, Tick, filled_rows, sample_filled, sampled_by_size
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
    most = batch_size or BATCH[told.model.device.type]
    made = sampled_by_size(told.atoms, random, most, lambda part, rows: _one_size(told.select(rows), part, tick))
    return Molecules.collate(made)


def _one_size(told: Told, random: KeyedRandomness, tick: Tick) -> Molecules:
    """One batch, and more to fill it up."""
    model, r = told.model, told.request
    device, filled = model.device, filled_rows(len(told), random.atoms)
    told = told.select(filled)
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
        model, random, template, free, told.conditions().to(device), r.sampler, guides, guidance, tick,
        keep_composition=r.formula is not None,
    )  # fmt: skip


def draw_request(
    data: DataInfo, request: Request, random: KeyedRandomness
) -> tuple[Float[np.ndarray, "b properties"] | None, Drawn]:
    """Property values in physical units (NaN: not asked for; None: none is) and the size of every attempt."""
    uniform = random.numbers(len(request.targets))  # the first draws of every attempt
    values = draw_values(request.targets, data.properties, uniform) if request.targets else None
    return values, request.size_draw(data)(random.spread(), values)
