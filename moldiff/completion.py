"""Molecules of which some fields are known, each with its own: the graph for conformers, the coordinates for bonds.

Batches are of one exact size, and every random number is keyed by (seed, molecule, attempt): what becomes of an attempt
does not depend on what else is asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Integer
from torch import Tensor

from moldiff import chem
from moldiff.arguments import check_counts
from moldiff.generation import PER_WORKER, Generator, opened
from moldiff.guidance import AllowedAtoms, Guide, WithinValences
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.one_size import BATCH, Tick, filled_rows, sample_filled, sampled_by_size
from moldiff.requests import Request
from moldiff.samplers import KeyedRandomness, Sampler
from moldiff.schedules import NoiseLevel
from moldiff.workers import Here, Workers, in_order

BATCHES = 8  # worth of attempts that are in work at a time
MAX_ATTEMPTS = 2**24  # of one molecule: both numbers share one key
CONFORMER = frozenset({"pos"})  # the free fields
BONDS = frozenset({"atom", "bond"})

S, T = TypeVar("S"), TypeVar("T")  # what is known of a molecule, and what has become of its attempts
Window = Callable[[Generator, Request, list[S], Tick], list[T]]


def complete(
    model: Model, molecules: Sequence[Molecules], keys: Sequence[tuple[int, int]], free: frozenset[str],
    sampler: Sampler, seed: int, tick: Tick = lambda work: None,
) -> list[Molecules]:  # fmt: skip
    """Single molecules without padding, their ``free`` fields made and the others exactly as given, on the CPU.

    ``keys``: (number of the molecule, number of the attempt). Where atoms are free they keep their element: only the charge
    is made. ``tick`` is told of work done, in molecules.
    """
    random = KeyedRandomness(seed, [key_of(*key) for key in keys], model.device)

    def one(part: KeyedRandomness, rows: list[int]) -> Molecules:
        template = Molecules.collate([molecules[k] for k in rows])
        return _one_size(model, template, free, sampler, part, tick)

    return sampled_by_size([m.mask.shape[1] for m in molecules], random, BATCH[model.device.type], one)


def in_windows(
    window: Window[S, T], generator: Generator, request: Request, sources: Iterable[S], together: int, workers: int | None,
    tick: Tick,
) -> Iterator[T]:  # fmt: skip
    """What ``window`` makes of the sources, in their order, ``together`` of them at a time, in all.

    ``window``: a function of a module, of (generator, request, sources, tick). ``workers``: processes, None for as many as
    are worth their start; each loads the weights of ``generator`` itself.
    """
    check_counts(workers=workers)
    sources = iter(sources)
    if workers is None:
        enough = -(-generator.workers_for(2**30) * PER_WORKER // request.n)
        ahead = list(islice(sources, enough))
        workers, sources = generator.workers_for(len(ahead) * request.n), chain(ahead, sources)
    if workers > 1:
        weights = str(generator.path), generator.device, generator.compiled, generator.called
        crew: Here | Workers = Workers(workers, _prepare_worker, window, request, weights)
        together = -(-together // crew.capacity)  # so that no process is idle for long at the end
    else:
        crew = Here(lambda chosen: (window(generator, request, chosen, tick), 0.0))
    return _in_order(crew, sources, together, tick)


def _in_order(crew: Here | Workers, sources: Iterator[S], together: int, tick: Tick) -> Iterator[T]:
    next_task = lambda: (chosen,) if (chosen := list(islice(sources, together))) else None  # noqa: E731
    with closing(in_order(crew, next_task, lambda: tick(0.0))) as results:
        for _, (made, work) in results:
            tick(work)
            yield from made


def _prepare_worker(
    window: Window[S, T], request: Request, weights: tuple[str, str, bool, str]
) -> Callable[[list[S]], tuple[list[T], float]]:
    """What a worker process does with each window, and the work that it was; runs once in it."""
    chem.send_exactly()
    path, device, compiled, called = weights
    generator = opened(Path(path), device, compiled, called)

    def work(chosen: list[S]) -> tuple[list[T], float]:
        done: list[float] = []
        return window(generator, request, chosen, done.append), sum(done)

    return work


def name_of(number: int, title: str) -> str:
    """What messages call a molecule, by its number in the source and its title there."""
    return f"molecule {number}" + (f" ({title})" if title else "")


def key_of(molecule: int, attempt: int) -> int:
    """One number for both, below 2^63 for fewer than 2^39 molecules."""
    return molecule * MAX_ATTEMPTS + attempt


def free_levels(molecules: Molecules, free: frozenset[str]) -> NoiseLevel:
    """1 in the fields that are free, 0 in the others."""
    every = NoiseLevel.free(molecules, torch.ones(len(molecules), device=molecules.device))
    return NoiseLevel(**{name: getattr(every, name) * (name in free) for name in ("pos", "atom", "bond")})


def same_element(data: DataInfo, atom: Integer[Tensor, "b n"]) -> Bool[Tensor, "b n tokens"]:
    """True for the tokens that are of the element of each atom."""
    return data.elements_in(atom)[..., None] == torch.tensor(data.element_of, device=atom.device)


def element_token(data: DataInfo, symbol: str) -> int | None:
    """Some token of an element; None if the model has none."""
    return data.element_of.index(data.elements.index(symbol)) if symbol in data.elements else None


def _one_size(
    model: Model, template: Molecules, free: frozenset[str], sampler: Sampler, random: KeyedRandomness, tick: Tick
) -> Molecules:
    template = template.select(filled_rows(*template.mask.shape)).to(model.device)
    guides: list[Guide] = [AllowedAtoms(same_element(model.data, template.atom))] if "atom" in free else []
    if "bond" in free:
        guides.append(WithinValences(model.data.vocabulary))
    conditions = model.told_atoms(model.nothing_asked(len(template)), template)
    if "bond" in free and model.data.hydrogens == "implicit":  # then nobody knows how many there are
        conditions = conditions.without_composition(torch.ones(len(template), dtype=torch.bool, device=model.device))
    levels = free_levels(template, free)
    return sample_filled(model, random, template, levels, conditions, sampler, guides, guidance=1.0, tick=tick)
