"""Attempts → accepted records, in order: who samples them, and which are kept and why."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from moldiff import chem, force_field, fragment_checks, fragments
from moldiff.acceptance import Acceptance
from moldiff.arguments import as_range, check_counts, check_kinds
from moldiff.attempts import sample_attempts
from moldiff.conditions import asked_values, find_property, target_of
from moldiff.config import QUALITIES
from moldiff.denoisers import check_compiler, compile_layers
from moldiff.errors import RequestError
from moldiff.exclusion import read_excluded
from moldiff.graph_counts import GRAPH_COUNTS
from moldiff.hydrogens import Hydrogens
from moldiff.model import Model, choose_device
from moldiff.model_file import HISTORY, read_header
from moldiff.molecule import Molecules
from moldiff.one_size import Tick
from moldiff.outcomes import Record, Reject, Tally
from moldiff.overlay import overlay_of
from moldiff.predictions import placer_of, predictable, predicted, predictor_of, with_placed_hydrogens
from moldiff.predictor import Predictor
from moldiff.relay import Relay, open_model, teacher_of
from moldiff.requests import Request, choose_sampler, with_molecules
from moldiff.screening import Facts, choose_screen, known_scores, rounded
from moldiff.told import AS_TOLD, NEAR, Measure
from moldiff.weights import find_weights, measured, shipped_helpers
from moldiff.windows import MOST, Windows
from moldiff.workers import Here, Workers, in_order

if TYPE_CHECKING:
    from rdkit import Chem

    from moldiff.conformers import Conformer
    from moldiff.perception import Perceived

PER_WORKER = 128  # molecules asked for that make a further process worth its start


class Generator:
    """A loaded model that makes molecules; what :func:`moldiff.load` returns. ``called``: its name in messages, if another."""

    def __init__(
        self, model: Model, name: str, path: Path, device: str = "cpu", compiled: bool = False, called: str = ""
    ):
        self.model, self.name, self.path, self.device = model, name, Path(path), device
        self.hash, self.compiled, self.called = model.sha256, compiled, called or name

    def generate(
        self,
        n: int,
        *,
        seed: int = 0,
        quality: str | None = None,
        steps: int | None = None,
        heavy_atoms: int | tuple[int, int] | None = None,
        formula: str | None = None,
        targets: Mapping[str, float | int | tuple[float | int, float | int]] | None = None,
        fix: "Chem.Mol | None" = None,
        attach: Sequence[int] | None = None,
        replace: str | None = None,
        like: "Chem.Mol | None" = None,
        strength: float | None = None,
        shape: "Chem.Mol | None" = None,
        pharmacophore: "Chem.Mol | Sequence[Chem.Mol] | None" = None,
        scores: str | None = None,
        filter: str | None = None,
        relax: str | None = None,
        exclude: str | Path | Sequence[str | Path] | None = None,
        rejects: bool = False,
        workers: int = 1,
        batch_size: int | None = None,
        **options: Any,
    ) -> Iterator[Record | Reject]:
        """Yield ``n`` accepted molecules in the order of their attempts, fewer if attempts or time run out.

        ``quality``: fast, balanced (the default) or best, or else ``steps``, network evaluations per try;
        ``heavy_atoms``: a number or an inclusive range, or else a ``formula`` such as C7H8O2; ``targets``: properties asked
        for, each a value or a range in its unit (see :meth:`facts`), followed with the weight ``guidance``; ``fix``: a
        molecule with coordinates that every other is built on, at the atoms ``attach`` (RDKit's indices, from 0), at its
        dummy atoms or wherever it has hydrogens, or whose part that matches the SMARTS ``replace`` is made anew; ``like``:
        one to derive others from, the further from it the higher ``strength``, between 0 and 1 (see :mod:`moldiff.fragments`);
        ``shape``: a molecule whose volume to fill, ``pharmacophore``: one, or several, whose donors, acceptors and aromatic
        rings to match (see :mod:`moldiff.overlay`); ``scores="drug"`` fills each record's ``scores`` with drug-likeness;
        ``exclude``: "qm9", "moses" (their training sets), "drugs" or files, whose molecules are not wanted, in any stereoisomer;
        ``filter``: conditions on scores, those of the request included, such as ``"QED>0.6 and similarity>0.3"``;
        ``relax="mmff"`` gives each record a ``relaxed`` conformer beside its ``mol``; ``rejects``: yield the rejected ones
        too. Further options are fields of :class:`Request`: ``sampler``, ``first`` (attempt of the seed), ``unique``,
        ``guidance``, ``max_attempts``, ``time_limit`` (s). Neither ``workers`` (processes; a script that asks for some must
        keep its own work under ``if __name__ == "__main__"``) nor ``batch_size`` changes the molecules.

        Example: ``[record.smiles for record in moldiff.load("qm9").generate(10, seed=1)]``

        Raises:
            RequestError: at once, if the model cannot do this.
        """
        check_kinds(
            formula=formula, replace=replace, filter=filter, strength=strength, targets=targets, attach=attach, fix=fix,
            like=like, shape=shape, pharmacophore=pharmacophore,
            **{name: options[name] for name in ("guidance", "time_limit") if name in options},
        )  # fmt: skip
        if unknown := set(options) - set(FURTHER):
            raise RequestError(
                f"{', '.join(sorted(unknown))}: no option of generate; help(generator.generate) tells all"
            )
        options = {name: value for name, value in options.items() if value is not None}
        if "sampler" in options and (quality is not None or steps is not None):
            raise RequestError("sampler: says how many steps there are; give it, or quality, or steps")
        options.setdefault("sampler", choose_sampler(self.model.config, quality, steps))
        check_counts(workers=workers, batch_size=batch_size)
        sizes = heavy_atoms if heavy_atoms is None else as_range(heavy_atoms, "heavy_atoms")
        ranges = {name: as_range(value, f"targets[{name!r}]") for name, value in (targets or {}).items()}
        options["targets"] = tuple(target_of(name, *ends) for name, ends in ranges.items())
        sources = [exclude] if isinstance(exclude, str | Path) else exclude or ()
        draft = Request(n, seed, heavy_atoms=sizes, formula=formula, exclude=tuple(map(str, sources)), **options)
        wishes = fragments.Wishes(fix, None if attach is None else tuple(map(int, attach)), replace, like, strength)
        request, _ = with_molecules(draft, self.model.data, wishes, overlay_of(shape, pharmacophore))
        request = self.screened(request, scores, filter, relax)
        for text in request.check(self.model):
            warnings.warn(text, stacklevel=2)
        excluded = read_excluded(request.exclude)
        for text in excluded.notes:
            warnings.warn(text, stacklevel=2)
        outcomes = self.maker(request).outcomes(
            request, workers=workers, batch_size=batch_size, excluded=excluded.smiles
        )
        return (o for o in outcomes if rejects or isinstance(o, Record))

    def screened(self, request: Request, scores: str | None, filter: str | None, relax: str | None) -> Request:
        """The request with options as :func:`moldiff.screening.choose_screen` reads them."""
        return replace(request, screen=choose_screen(scores, filter, relax, self.own_columns(request)))

    def outcomes(
        self,
        request: Request,
        *,
        workers: int = 1,
        batch_size: int | None = None,
        tally: Tally | None = None,
        seen: set[str] | None = None,
        excluded: Set[str] = frozenset(),
        tick: Tick = lambda work: None,
    ) -> Iterator[Record | Reject]:
        """Every attempt in order, accepted or not, until ``request.n`` are accepted.

        ``tally`` and ``seen`` (SMILES, for ``unique``) continue an earlier run; ``tally`` is not changed. ``excluded``: SMILES
        without stereo of molecules that are not accepted, those that ``request.exclude`` names. While
        molecules are sampled, ``tick`` is called now and then with the work done since the last call, in molecules.
        """
        request.check(self.model)
        tally, prefix = (tally or Tally()).copy(), self.id_prefix(request)
        if tally.kept >= request.n:
            return
        accept = Acceptance(
            request, self.model.data.vocabulary, partial(self.own_scores, request), set() if seen is None else seen, excluded
        )  # fmt: skip
        with closing(self._raw(request, tally, workers, batch_size, tick)) as raw:
            for index, mol, tries in raw:
                outcome = accept(f"{prefix}-{index:08d}", index, mol, tries)
                tally.add(outcome)
                yield outcome
                if tally.kept >= request.n:
                    return

    def maker(self, request: Request) -> "Generator":
        """Who makes what is asked for: its pupil, if it has one, where only the sizes are and ``fast`` evaluations are enough."""
        return (request.is_plain(self.model.config) and self.pupil) or self

    @cached_property
    def pupil(self) -> "Generator | None":
        """Shipped weights that learned from these to do with few evaluations (:mod:`moldiff.distillation`), if there are any."""
        for path in shipped_helpers("fast"):
            if teacher_of(read_header(path)["info"]) == self.hash:
                pupil = Model.load(path, self.device)
                if self.compiled:  # the teacher is
                    compile_layers(pupil.network)
                return Generator(Relay(pupil, self.model), path.stem, path, self.device, self.compiled)
        return None

    def id_prefix(self, request: Request) -> str:
        """What the IDs of all molecules of a request begin with."""
        return f"{self.name}-{self.key(request)}-s{request.seed}"

    def key(self, request: Request) -> str:
        """Of IDs: all that decides a molecule besides seed and number. A compiled network rounds otherwise."""
        compiled, placer = ["compiled"] * self.compiled, [self.placer.sha256] if self.placer else []
        exact, made = self._judged(request)
        judge = [str(NEAR), self.predictor.sha256 if made else ""] if exact or made else []
        return request.key(" ".join([self.hash, self.settings, *compiled, *placer, *judge]))

    @cached_property
    def settings(self) -> str:
        """Eight hex digits for what decides molecules besides the tensors of the weights: what is drawn, and how it is told."""
        config, data = self.model.config, self.model.data
        told = config.quality.told_composition, config.quality.told_properties
        if config.quality.tries > 1:  # else IDs are those of before there were any
            told = (*told, config.quality.tries, AS_TOLD, *GRAPH_COUNTS)
        decisive = (
            config.process,
            told,
            data.vocabulary,
            data.properties,
            data.coordinate_std,
            data.compositions,
            data.examples,
        )
        return hashlib.sha256(repr(decisive).encode()).hexdigest()[:8]

    def conformers(self, mols: "Iterable[Chem.Mol | str]", n: int = 10, **options: Any) -> "Iterator[Conformer]":
        """Yield ``n`` conformers of each molecule (RDKit's or SMILES), stereo as the molecule tells it, the rest free.

        Options: ``seed``; ``quality`` or ``steps``; ``max_attempts`` for each molecule; ``workers``. A molecule that the model
        cannot make, or not often enough, is warned of by its number, and the others go on. Atoms are in the order of the
        molecule, its implied hydrogens behind them.

        Example: ``[record.mol for record in moldiff.load("qm9").conformers(["CCO"], n=5)]``
        """
        from moldiff.conformers import conformers

        if isinstance(mols, str):
            raise RequestError(f"conformers({mols!r}): give a list of molecules, such as [{mols!r}]")
        return conformers(self, mols, n, **options)

    def bonds(self, given: Iterable[Any], **options: Any) -> "Iterator[Perceived | Reject]":
        """Yield molecules with the bonds and charges made for given atoms: coordinates and order stay.

        ``given``: RDKit molecules with coordinates and all hydrogens, whose bonds and charges are ignored, or pairs
        of element symbols and positions (Å). Options: ``seed``, ``steps``, ``max_attempts``, ``workers``, and ``rejects`` to
        yield also those of which no attempt was valid; else they are warned of.
        """
        from moldiff.perception import bonds

        return bonds(self, given, **options)

    def own_columns(self, request: Request) -> dict[str, str]:
        """The scores that the request itself adds to every record, and their pandas types.

        Of targets: what is asked for and what came out, exact where RDKit computes it from the graph, else ``predicted_`` by
        a network of its own, for properties that one was trained on. Of a seed, a shape or features: how near a molecule is.
        """
        asked = self._asked(request)
        exact, made = self._found(asked)
        near = ["similarity"] if request.parent else []
        others = [*(f"predicted_{name}" for name in made), *near, *request.overlay.columns]
        ends = asked_values(request.targets, self.model.data.properties)
        return dict.fromkeys(ends, "float64") | exact | dict.fromkeys(others, "float64")

    def _asked(self, request: Request) -> list[str]:
        return [find_property(target.name, self.model.data.properties).name for target in request.targets]

    def _found(self, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Of these properties, those that RDKit computes, with their pandas types, and those of the others that are predicted."""
        exact = known_scores(names) if names else {}
        others = [find_property(name, self.model.data.properties) for name in names if name not in exact]
        return exact, predictable(self.predictor, others) if others else []

    def _judged(self, request: Request) -> tuple[dict[str, str], list[str]]:
        """What is asked for and cannot be counted, as :meth:`_found`, where it decides whether an attempt is made again."""
        uncounted = [name for name in self._asked(request) if name not in GRAPH_COUNTS]
        return self._found(uncounted if self.model.config.quality.tries > 1 else [])

    def measure(self, request: Request) -> Measure | None:
        """By what attempts are judged whose values asked for cannot be counted: what records tell of these, exact or predicted.

        None where nothing is to be judged so. NaN for properties of which records tell nothing, and for molecules that would be
        rejected; predicted ones, which coordinates decide, for those with a bond that is none by its length, too.
        """
        exact, made = self._judged(request)
        if not (exact or made):
            return None

        def values(mol: "Chem.Mol") -> Mapping[str, Any]:
            whole = chem.check(mol).mol
            if whole is None or (made and not chem.has_fitting_distances(whole)):
                return {}
            facts = Facts(whole)
            return {name: facts[name] for name in exact} | (predicted(self.predictor, whole) if made else {})

        def measured(molecules: Molecules) -> Float[np.ndarray, "b properties"]:
            found = [values(mol) for mol in self.to_rdkit(molecules)]
            return np.array([[of.get(p.name) for p in self.model.data.properties] for of in found], dtype=float)

        return measured

    @cached_property
    def predictor(self) -> Predictor | None:
        """A shipped network that predicts properties of this model's from elements and coordinates, if there is one."""
        return predictor_of(self.model.data.properties)

    @cached_property
    def placer(self) -> Hydrogens | None:
        """A shipped network that places the hydrogens that this model leaves to valence, if there is one for its data."""
        return placer_of(self.model.data)

    def to_rdkit(self, molecules: Molecules) -> "list[Chem.Mol]":
        """Molecules as generated (:func:`moldiff.chem.to_rdkit`), with the hydrogens that the model leaves to valence."""
        return self.with_hydrogens(chem.to_rdkit(molecules, self.model.data.vocabulary))

    def with_hydrogens(self, mols: "list[Chem.Mol]") -> "list[Chem.Mol]":
        """Copies with the hydrogens that the model leaves to valence, placed as its data have them if that was learned."""
        if self.model.data.hydrogens == "explicit":
            return mols
        mols = [force_field.with_hydrogens(mol) for mol in mols]
        return with_placed_hydrogens(self.placer, mols) if self.placer else mols

    def own_scores(self, request: Request, facts: Facts) -> dict[str, Any]:
        """Those of :meth:`own_columns`, of one molecule."""
        columns = self.own_columns(request)
        found = asked_values(request.targets, self.model.data.properties) | request.overlay.scores(facts.mol)
        if any(name.startswith("predicted_") for name in columns):
            values = predicted(self.predictor, facts.mol)
            found |= {f"predicted_{name}": rounded(value) for name, value in values.items()}
        if request.parent:
            found["similarity"] = fragment_checks.similarity(facts.mol, request.parent)
        return {name: found[name] if name in found else facts[name] for name in columns}

    def workers_for(self, n: int) -> int:
        """Processes that are worth their start for ``n`` molecules: one core each, on a CPU."""
        if self.model.device.type != "cpu":
            return 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(cores, n // PER_WORKER))

    def facts(self) -> dict[str, Any]:
        """What ``moldiff info`` prints: plain values, units included."""
        data, config = self.model.data, self.model.config
        told = [what for what in ("composition", "properties") if getattr(config.quality, f"told_{what}")]
        return {
            "model": self.name,
            "file": str(self.path),
            "weights sha256": self.hash,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "vocabulary": list(data.vocabulary),
            "hydrogens": data.hydrogens,
            **({"hydrogens by": f"{self.placer.config.preset} ({self.placer.sha256[:16]})"} if self.placer else {}),
            "evaluations": {name: getattr(config.quality, name) for name in QUALITIES},
            **({"tries": f"{tries} at most, until it is as told"} if (tries := config.quality.tries) > 1 else {}),
            **({"fast by": f"{self.pupil.name} ({self.pupil.hash[:16]}), one try"} if self.pupil else {}),
            "told": f"{' and '.join(told)} of a training molecule" if told else "nothing",
            "heavy atoms": "{}-{}".format(*data.heavy_range),
            **({"atoms": "{}-{}".format(*data.atom_range)} if data.hydrogens == "explicit" else {}),
            "properties": [
                {p.name: f"{p.min:.4g} to {p.max:.4g}{p.unit and f' {p.unit}'}, mean {p.mean:.4g}"}
                for p in data.properties
            ],
            "training data": data.name,
            "data source": data.source,
            "data sha256": data.sha256,
            "coordinate std": f"{data.coordinate_std:.4f} Å",
            "network": {config.network.kind: config.network.options},
            "training": {k: self.model.info[k] for k in HISTORY if self.model.info.get(k)},
            "measured": self._measured(),
        }

    def _measured(self) -> list[dict[str, Any]]:
        """Figures of the weights; the pupil's take the place of its teacher's."""
        fast = measured(self.pupil.hash) if self.pupil else []
        taken = {row["evaluations"] for row in fast}
        return [*fast, *(row for row in measured(self.hash) if row["evaluations"] not in taken)]

    def _raw(
        self, request: Request, tally: Tally, workers: int, batch_size: int | None, tick: Tick
    ) -> Iterator[tuple[int, "Chem.Mol", int]]:
        """Unjudged molecules in the order of their index, and how often each was tried. ``tally`` is kept up to date by the
        caller."""
        if workers > 1:
            crew = Workers(workers, _prepare_worker, str(self.path), self.device, self.compiled, batch_size)
        else:
            crew = Here(partial(_work, self, batch_size, tick))
        windows = Windows(request, tally, workers, MOST[self.model.device.type])
        next_task = lambda: (request, window) if (window := windows.next()) else None  # noqa: E731
        with closing(in_order(crew, next_task, lambda: tick(0.0))) as results:
            for (_, window), made in results:
                for index, (binary, tries) in zip(window, made, strict=True):
                    yield index, chem.Chem.Mol(binary), tries


# fields of Request, taken as they are
FURTHER = ("sampler", "first", "unique", "guidance", "max_attempts", "time_limit")


def load(model: str | Path = "qm9", device: str = "auto", compile: bool = False) -> Generator:
    """A generator from the name of shipped weights or from a file.

    ``compile``: by torch.compile, once in every process (10 to 60 s), so that thousands of molecules take a quarter less time.
    Coordinates differ from those without by rounding, which now and then may decide a bond, and so do the IDs.

    Raises:
        RequestError: no such model, no such device, or no compiler.
        ModelFileError: the file cannot be used.
    """
    path = find_weights(model)
    device = choose_device(device)
    if compile:
        check_compiler()
    return opened(path, device, compile, str(model))


def opened(path: Path, device: str, compiled: bool, called: str = "") -> Generator:
    """A generator from weights and a device that are known to be there."""
    model = open_model(path, device)
    if compiled:
        compile_layers(model)
    return Generator(model, path.stem, path, device, compiled, called)


def _prepare_worker(
    path: str, device: str, compiled: bool, batch_size: int | None
) -> Callable[..., list[tuple[bytes, int]]]:
    """What a worker process does with each window; runs once in it."""
    return partial(_work, opened(Path(path), device, compiled), batch_size, lambda work: None)


def _work(
    generator: Generator, batch_size: int | None, tick: Tick, request: Request, indices: range
) -> list[tuple[bytes, int]]:
    """The molecules as RDKit has them, hydrogens placed, to the last bit; and how often each was tried."""
    judge = generator.measure(request)
    molecules, tries = sample_attempts(generator.model, request, indices, batch_size, tick, judge)
    mols = generator.to_rdkit(molecules)
    return [(mol.ToBinary(chem.EXACT), count) for mol, count in zip(mols, tries.tolist(), strict=True)]
