"""Conformers: the graph of a molecule is known, its coordinates are made, its stereo is checked on them.

The network is blind to reflection (it is E(3)-equivariant, and no field of a molecule tells R from S), so that it makes
stereoisomers as they come. Of a conformer with the other hand the mirror image is taken, which the model gives with the
same probability; other stereoisomers than the one asked for are rejected.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from rdkit import Chem
from rdkit.Chem import Mol

from moldiff import chem, force_field, stereo
from moldiff.alternatives import need_of, remedies
from moldiff.completion import BATCHES, CONFORMER, MAX_ATTEMPTS, complete, in_windows, name_of
from moldiff.config import Config
from moldiff.datasets import records
from moldiff.datasets.curation import Curation, Unusable, read_graph
from moldiff.errors import RequestError
from moldiff.generation import Generator
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.one_size import BATCH, Tick
from moldiff.outcomes import Record
from moldiff.requests import Request, choose_sampler

# With the graph known an estimate is no average over many molecules, so that self-conditioning helps at all levels.
SELF_CONDITION_BELOW = math.inf


@dataclass(frozen=True, kw_only=True)
class Conformer(Record):
    """A record of a given molecule: sanitised, atoms in the order of its source, implied hydrogens behind them."""

    title: str  # of the molecule in its source, or ""
    molecule: int  # its number there, from 1
    conformer: int  # from 1
    strain: float | None  # MMFF94s, kcal/mol; None without parameters


@dataclass(frozen=True)
class GivenGraph:
    """What is known of a molecule: as RDKit has it, with stereo and all hydrogens, and as the model sees it."""

    mol: Mol
    template: Molecules
    heavy: Mol | None  # of a model without hydrogens: the atoms that it makes
    order: list[int]  # where each atom of the source, implied hydrogens behind them, is in ``mol``

    @classmethod
    def read(cls, record: records.Record, data: DataInfo) -> "GivenGraph":
        """Raises Unusable if the model cannot make it."""
        if record.kind == "xyz":
            raise Unusable("bonds", "XYZ has none; moldiff bonds makes them")
        mol = read_graph(record, Curation(data.hydrogens, max_heavy=2**31, vocabulary=data.vocabulary))
        mol = Chem.AddHs(mol)
        mol.RemoveAllConformers()
        order, heavy, shown = list(range(mol.GetNumAtoms())), None, Chem.Mol(mol)
        if data.hydrogens == "implicit":
            order = _hydrogens_last(mol)
            mol = Chem.RenumberAtoms(mol, order)
            heavy, shown = Chem.RemoveAllHs(mol), chem.without_hydrogens(mol)
        problem = data.size_problem(mol.GetNumHeavyAtoms(), shown.GetNumAtoms())
        if problem:
            raise Unusable("size", problem)
        return cls(
            mol,
            chem.from_rdkit([chem.placed(shown, np.zeros((shown.GetNumAtoms(), 3)))], data.vocabulary),
            heavy,
            np.argsort(order).tolist(),
        )

    def made(self, pos: np.ndarray) -> Mol:
        """What the model made, the atoms that it makes at these coordinates (Å)."""
        return chem.placed(self.mol if self.heavy is None else self.heavy, pos)

    def judge(self, pos: np.ndarray) -> chem.Verdict:
        """A molecule at these coordinates (Å), hydrogens included, or why it is none: "coordinates", "geometry" or "stereo".

        Its atoms are in the order of the source.
        """
        verdict = chem.check(chem.placed(self.mol, pos))
        if verdict.mol is None:
            return verdict
        if not chem.has_fitting_distances(verdict.mol):
            return chem.Verdict(None, "geometry")
        right = stereo.obey(self.mol, pos)
        if right is None:
            return chem.Verdict(None, "stereo")
        whole = verdict.mol if right is pos else chem.check(chem.placed(self.mol, right)).mol
        return chem.Verdict(Chem.RenumberAtoms(whole, self.order), None)


def _hydrogens_last(mol: Mol) -> list[int]:
    """Its atoms in the order in which RDKit has them once it has put hydrogens on the heavy ones."""
    heavy = [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() != 1]
    hydrogens = [n.GetIdx() for atom in heavy for n in atom.GetNeighbors() if n.GetAtomicNum() == 1]
    return [atom.GetIdx() for atom in heavy] + hydrogens


@dataclass
class Ensemble:
    """The conformers of one molecule, and what became of all attempts."""

    source: records.Record
    refused: str = ""  # why the model cannot make it
    graph: GivenGraph | None = None  # as long as conformers of it are made
    conformers: list[Conformer] = field(default_factory=list)
    rejected: Counter = field(default_factory=Counter)  # attempts by reason

    @property
    def name(self) -> str:
        return name_of(self.source.number, self.source.id)

    @property
    def attempts(self) -> int:
        return len(self.conformers) + self.rejected.total()

    def is_done(self, request: Request) -> bool:
        return self.graph is None or len(self.conformers) == request.n or self.attempts >= request.attempts

    def problem(self, n: int) -> str:
        """Why there are fewer than ``n`` conformers, "" if there are not."""
        if self.refused:
            return f"{self.name}: {self.refused}"
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.rejected.items()))
        found, asked, tried = len(self.conformers), f"{n} conformer{'s' * (n != 1)}", self.attempts
        return (
            f"{self.name}: {found} of {asked} in {tried} attempt{'s' * (tried != 1)} ({reasons})" if found < n else ""
        )

    def next(self, request: Request) -> range:
        """About as many further attempts as are needed for what is missing."""
        acceptance = (len(self.conformers) + 1) / (self.attempts + 1)
        count = math.ceil((request.n - len(self.conformers)) / acceptance)
        return range(self.attempts, min(self.attempts + count, request.attempts))


def ensembles(
    generator: Generator, sources: Iterable[records.Record], request: Request, workers: int | None = 1,
    tick: Tick = lambda work: None,
) -> Iterator[Ensemble]:  # fmt: skip
    """``request.n`` conformers of every molecule, in the order of the source; fewer if its attempts run out.

    Conformer j of molecule k is the same whatever the others are, and however many are asked for. ``workers``: see
    :func:`moldiff.completion.in_windows`.
    """
    request.check(generator.model)
    if request.attempts > MAX_ATTEMPTS:
        raise RequestError(f"-n {request.n}: at most {MAX_ATTEMPTS} attempts for each molecule; ask for fewer")
    together = max(1, BATCHES * BATCH[generator.model.device.type] // request.n)
    return in_windows(_window, generator, request, sources, together, workers, tick)


def _window(generator: Generator, request: Request, sources: list[records.Record], tick: Tick) -> list[Ensemble]:
    data = replace(generator.model.data, name=generator.called)
    window = [_started(source, data) for source in sources]
    while unfinished := [ensemble for ensemble in window if not ensemble.is_done(request)]:
        _advance(generator, unfinished, request, tick)
    return [replace(ensemble, graph=None) for ensemble in window]


def conformers(
    generator: Generator, mols: Iterable[Mol | str], n: int = 10, *, seed: int = 0, quality: str | None = None,
    steps: int | None = None, max_attempts: int | None = None, workers: int = 1,
) -> Iterator[Conformer]:  # fmt: skip
    """See :meth:`moldiff.generation.Generator.conformers`."""
    request = conformers_request(generator.model.config, n, seed, quality, steps, max_attempts)
    return _flat(ensembles(generator, _sources(mols), request, workers), n)


def conformers_request(
    config: Config, n: int, seed: int = 0, quality: str | None = None, steps: int | None = None,
    max_attempts: int | None = None,
) -> Request:  # fmt: skip
    """``n`` conformers of each molecule, by the weights with this configuration."""
    sampler = replace(choose_sampler(config, quality, steps), self_condition_below=SELF_CONDITION_BELOW)
    return Request(n, seed, sampler, max_attempts=max_attempts)


def _flat(found: Iterator[Ensemble], n: int) -> Iterator[Conformer]:
    for ensemble in found:
        if problem := ensemble.problem(n):
            warnings.warn(problem, stacklevel=2)
        yield from ensemble.conformers


def _sources(mols: Iterable[Mol | str]) -> Iterator[records.Record]:
    for number, mol in enumerate(mols, 1):
        if isinstance(mol, str):
            yield records.Record(number, "", f"molecule {number}", "smiles", mol)
        else:
            yield next(records.records_of([mol]))._replace(number=number, where=f"molecule {number}")


def _started(source: records.Record, data: DataInfo) -> Ensemble:
    with chem.quiet():
        try:
            return Ensemble(source, graph=GivenGraph.read(source, data))
        except Unusable as error:
            detail = error.detail.partition("; see --")[0]  # options of data prepare
            advice = _advice(source) if error.reason in ("element", "size") else ""
            return Ensemble(source, refused=f"{error.reason}: {detail}{advice}")


def _advice(source: records.Record) -> str:
    """Which shipped model can make the molecule that another cannot, if there is one."""
    try:
        mol = read_graph(source, Curation(max_heavy=2**31))
    except Unusable:  # whatever the model
        return ""
    return remedies(**need_of(mol.GetAtoms()))


def _advance(generator: Generator, unfinished: list[Ensemble], request: Request, tick: Tick) -> None:
    """One more round of attempts for each; those beyond the last conformer that is needed do not count."""
    work = [(ensemble, attempt) for ensemble in unfinished for attempt in ensemble.next(request)]
    made = complete(
        generator.model, [e.graph.template for e, _ in work], [(e.source.number, k) for e, k in work], CONFORMER,
        request.sampler, request.seed, tick,
    )  # fmt: skip
    whole = generator.with_hydrogens(
        [e.graph.made(molecule.pos[0].double().numpy()) for (e, _), molecule in zip(work, made, strict=True)]
    )
    prefix = generator.id_prefix(request)
    for (ensemble, attempt), mol in zip(work, whole, strict=True):
        if len(ensemble.conformers) == request.n:
            continue
        verdict = ensemble.graph.judge(mol.GetConformer().GetPositions())
        if verdict.mol is None:
            ensemble.rejected[verdict.reason] += 1
            continue
        number, count = ensemble.source.number, len(ensemble.conformers) + 1
        ensemble.conformers.append(Conformer(
            f"{prefix}-m{number}-{attempt}", verdict.mol, chem.smiles(verdict.mol),
            request.seed, attempt, title=ensemble.source.id, molecule=number, conformer=count,
            strain=force_field.strain(verdict.mol),
        ))  # fmt: skip
