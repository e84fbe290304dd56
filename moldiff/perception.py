"""Bond perception: elements and coordinates are known, bonds and formal charges are made."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from rdkit.Chem import Mol

from moldiff import chem
from moldiff.completion import BATCHES, BONDS, complete, element_token, in_windows, name_of
from moldiff.config import BONDS_ATTEMPTS, BONDS_EVALUATIONS
from moldiff.datasets import records
from moldiff.generation import Generator
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.one_size import BATCH, Tick
from moldiff.outcomes import Record, Reject
from moldiff.requests import Request
from moldiff.samplers import Sampler


class Frame(NamedTuple):
    """Atoms at places: a molecule without bonds, charges and implied hydrogens."""

    number: int  # in its source, from 1
    title: str
    symbols: Sequence[str] = ()  # of its elements
    pos: np.ndarray | None = None  # (atoms, 3), Å
    problem: str = ""  # why there are none


@dataclass(frozen=True, kw_only=True)
class Perceived(Record):
    """A record of given atoms, which are as they were given, in their order, with the bonds and charges made for them."""

    title: str  # in its source, or ""
    molecule: int  # its number there, from 1


@dataclass
class Perception:
    """What came out for one frame: a record, or a reject with its first attempt, or a refusal."""

    frame: Frame
    template: Molecules | None = None
    refused: str = ""  # why the model cannot do it
    outcomes: list[Perceived | Reject] = field(default_factory=list)  # of the attempts; only the last may be a record

    @property
    def name(self) -> str:
        return name_of(self.frame.number, self.frame.title)

    @property
    def record(self) -> Perceived | None:
        return next((o for o in self.outcomes if isinstance(o, Perceived)), None)

    @property
    def reject(self) -> Reject | None:
        """The first attempt, if none gave a valid molecule."""
        return None if self.record is not None or not self.outcomes else self.outcomes[0]

    @property
    def rejected(self) -> Counter[str]:
        """Attempts by reason."""
        return Counter(o.reason for o in self.outcomes if isinstance(o, Reject))

    @property
    def problem(self) -> str:
        """Why there is no record, "" if there is one."""
        if self.record is not None:
            return ""
        count = len(self.outcomes)
        failed = f"not valid in {count} attempt{'s' * (count != 1)}"
        return f"{self.name}: {self.refused or f'{failed}: {self.reject.reason}'}"

    def is_done(self, request: Request) -> bool:
        return self.template is None or self.record is not None or len(self.outcomes) >= request.attempts


def frames_of_file(sources: Iterable[records.Record]) -> Iterator[Frame]:
    """Of the records of an XYZ file."""
    for source in sources:
        mol, problem = source.read()
        yield (
            Frame(source.number, source.id, problem=problem) if mol is None else _of_mol(source.number, mol, source.id)
        )


def _of_mol(number: int, mol: Mol, title: str) -> Frame:
    return _frame(number, [atom.GetSymbol() for atom in mol.GetAtoms()], mol.GetConformer().GetPositions(), title)


def frames_of(given: Iterable[Mol | tuple[Sequence[str], np.ndarray]]) -> Iterator[Frame]:
    """Of molecules with coordinates, whose bonds and charges are ignored, or of (element symbols, positions in Å)."""
    for number, one in enumerate(given, 1):
        if not isinstance(one, Mol):
            yield _frame(number, *one)
        elif one.GetNumConformers():
            yield _of_mol(number, one, one.GetProp("_Name") if one.HasProp("_Name") else "")
        else:
            yield Frame(number, "", problem="no coordinates")


def perceptions(
    generator: Generator, frames: Iterable[Frame], request: Request, workers: int | None = 1,
    tick: Tick = lambda work: None,
) -> Iterator[Perception]:  # fmt: skip
    """Bonds and charges for every frame, in order: of the first attempt that gives a valid molecule.

    ``request.attempts`` bounds them. Coordinates come back exactly as given; a model without hydrogens adds them behind.
    ``workers``: see :func:`moldiff.completion.in_windows`.
    """
    request.check(generator.model)
    together = BATCHES * BATCH[generator.model.device.type]
    return in_windows(_window, generator, request, frames, together, workers, tick)


def _window(generator: Generator, request: Request, frames: list[Frame], tick: Tick) -> list[Perception]:
    data = replace(generator.model.data, name=generator.called)
    window = [_started(frame, data) for frame in frames]
    while unfinished := [perception for perception in window if not perception.is_done(request)]:
        _advance(generator, unfinished, request, tick)
    return [replace(perception, template=None) for perception in window]


def bonds(
    generator: Generator, given: Iterable[Mol | tuple[Sequence[str], np.ndarray]], *, seed: int = 0,
    steps: int | None = BONDS_EVALUATIONS, max_attempts: int | None = BONDS_ATTEMPTS, rejects: bool = False,
    workers: int = 1,
) -> Iterator[Perceived | Reject]:  # fmt: skip
    """See :meth:`moldiff.generation.Generator.bonds`."""
    request = bonds_request(seed, steps, max_attempts)
    return _flat(perceptions(generator, frames_of(given), request, workers), rejects)


def bonds_request(
    seed: int = 0, steps: int | None = BONDS_EVALUATIONS, max_attempts: int | None = BONDS_ATTEMPTS
) -> Request:
    """One record for each molecule; None: as many as by default."""
    sampler = Sampler(BONDS_EVALUATIONS if steps is None else steps)
    return Request(1, seed, sampler, max_attempts=BONDS_ATTEMPTS if max_attempts is None else max_attempts)


def _flat(found: Iterator[Perception], rejects: bool) -> Iterator[Perceived | Reject]:
    for perception in found:
        if perception.record is not None:
            yield perception.record
        elif rejects and perception.reject is not None:
            yield perception.reject
        else:
            warnings.warn(perception.problem, stacklevel=2)


def _started(frame: Frame, data: DataInfo) -> Perception:
    if frame.pos is None:
        return Perception(frame, refused=frame.problem)
    symbols = frame.symbols
    if data.hydrogens == "implicit" and "H" in symbols:
        text = f"has hydrogens, which model {data.name} leaves to valence; take one that makes them, such as qm9-atoms"
        return Perception(frame, refused=text)
    tokens = [element_token(data, symbol) for symbol in symbols]
    if None in tokens:
        known = " ".join(dict.fromkeys(chem.parse_token(name)[0] for name in data.vocabulary))
        return Perception(frame, refused=f"element {symbols[tokens.index(None)]}, model {data.name} knows {known}")
    problem = data.size_problem(sum(symbol != "H" for symbol in symbols), len(symbols))
    if problem:
        return Perception(frame, refused=problem)
    n = len(symbols)
    pos = torch.from_numpy(frame.pos).float()
    bond = torch.zeros(1, n, n, dtype=torch.long)
    return Perception(frame, Molecules(torch.ones(1, n, dtype=torch.bool), pos[None], torch.tensor([tokens]), bond))


def _advance(generator: Generator, unfinished: list[Perception], request: Request, tick: Tick) -> None:
    """One more attempt for each."""
    data = generator.model.data
    keys = [(p.frame.number, len(p.outcomes)) for p in unfinished]
    made = complete(generator.model, [p.template for p in unfinished], keys, BONDS, request.sampler, request.seed, tick)
    mols = chem.to_rdkit(Molecules.collate(made), data.vocabulary)
    # in full precision
    mols = [chem.placed(mol, p.frame.pos) for mol, p in zip(mols, unfinished, strict=True)]
    whole, prefix = generator.with_hydrogens(mols), generator.id_prefix(request)
    for p, mol, judged, (number, attempt) in zip(unfinished, mols, whole, keys, strict=True):
        identity = f"{prefix}-m{number}-{attempt}"
        verdict = chem.check(judged)
        if verdict.mol is None:
            p.outcomes.append(Reject(identity, mol, verdict.reason, request.seed, attempt))
        else:
            p.outcomes.append(Perceived(
                identity, verdict.mol, chem.smiles(verdict.mol), request.seed, attempt, title=p.frame.title, molecule=number
            ))  # fmt: skip


def _frame(number: int, symbols: Sequence[str], pos: np.ndarray, title: str = "") -> Frame:
    try:
        pos = np.asarray(pos, dtype=np.float64)
    except (TypeError, ValueError) as error:
        return Frame(number, title, problem=f"positions are no array of numbers ({error})")
    if pos.shape != (len(symbols), 3) or not np.isfinite(pos).all():
        return Frame(number, title, problem=f"positions of shape {pos.shape} for {len(symbols)} atoms, or not finite")
    for symbol in symbols:
        if not chem.is_element(symbol):
            return Frame(number, title, problem=f"unknown element {symbol!r}")
    return Frame(number, title, list(symbols), pos)
