"""Seeds → size buckets → molecules → accepted records.

Attempt k of seed s is one molecule, the same whatever the batch size, the number of workers or a restart in between: its
size and all its noise come from a stream keyed by (s, k), and batches hold molecules of one exact size.
"""

import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from moldiff import __version__, chem
from moldiff.model import Model
from moldiff.molecule import Molecules
from moldiff.samplers import KeyedRandomness, Sampler, sample
from moldiff.schedules import NoiseLevel

if TYPE_CHECKING:
    from rdkit import Chem

REASONS = ("disconnected", "valence", "sanitisation", "radical", "coordinates", "size", "duplicate")
WINDOW = 256  # attempts handed to a worker at a time
WORKERS_FROM = 256  # molecules from which starting worker processes pays


class RequestError(ValueError):
    """A request that cannot be met; the message names the option, the value and the remedy."""


@dataclass(frozen=True)
class Request:
    """What to generate. Everything that decides molecule k is here; how fast it comes is not."""

    n: int
    seed: int = 0
    sampler: Sampler = Sampler()
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
        if self.time_limit is not None and self.time_limit <= 0:
            raise RequestError(f"--time-limit {self.time_limit}: must be positive (seconds)")
        SizeDraw(model, self.heavy_atoms)

    @property
    def attempts(self) -> int:
        return self.max_attempts or 10 * self.n + 100


@dataclass(frozen=True)
class Record:
    """One accepted molecule: sanitised, stereo from its coordinates, hydrogens explicit, geometry as generated."""

    id: str
    mol: "Chem.Mol"
    smiles: str
    seed: int
    index: int  # attempt k of the seed; with model and seed it identifies the molecule

    @property
    def heavy_atoms(self) -> int:
        return self.mol.GetNumHeavyAtoms()


@dataclass(frozen=True)
class Reject:
    """One molecule that was not accepted, exactly as generated, and why."""

    id: str
    mol: "Chem.Mol"
    reason: str
    seed: int
    index: int


@dataclass
class Tally:
    """The funnel, up to and including attempt ``next_index - 1``."""

    next_index: int = 0
    kept: int = 0
    rejected: Counter = field(default_factory=Counter)

    def add(self, outcome: Record | Reject) -> None:
        self.next_index = outcome.index + 1
        if isinstance(outcome, Record):
            self.kept += 1
        else:
            self.rejected[outcome.reason] += 1

    def funnel(self) -> dict[str, int]:
        """sampled → connected → sanitised → in size range → unique → kept; stages that removed nothing optional stay."""
        connected = self.next_index - self.rejected["disconnected"]
        sanitised = connected - sum(self.rejected[r] for r in ("valence", "sanitisation", "radical", "coordinates"))
        of_size = sanitised - self.rejected["size"]
        return {
            "sampled": self.next_index, "connected": connected, "sanitised": sanitised,
            "of asked size": of_size, "not seen before": of_size - self.rejected["duplicate"], "kept": self.kept,
        }  # fmt: skip


class SizeDraw:
    """Atom counts from the training histogram, given a range of heavy atoms."""

    def __init__(self, model: Model, heavy: tuple[int, int] | None):
        histogram = np.array(model.data.size_histogram)
        least, most = int(histogram[:, 0].min()), int(histogram[:, 0].max())
        if heavy is not None:
            low, high = heavy
            if not least <= low <= high <= most:
                raise RequestError(
                    f"--n-atoms {low}-{high}: model {model.data.name} knows molecules of {least} to {most} heavy atoms"
                )
            histogram = histogram[(histogram[:, 0] >= low) & (histogram[:, 0] <= high)]
            if not len(histogram):
                raise RequestError(f"--n-atoms {low}-{high}: no training molecule has that size")
        self.atoms = histogram[:, 1]
        self.cdf = histogram[:, 2].cumsum() / histogram[:, 2].sum()

    def __call__(self, uniform: np.ndarray) -> np.ndarray:
        return self.atoms[np.searchsorted(self.cdf, uniform, side="right").clip(max=len(self.atoms) - 1)]


class Generator:
    """A loaded model that makes molecules; what :func:`moldiff.load` returns."""

    def __init__(self, model: Model, name: str, path: Path, device: str = "cpu"):
        self.model, self.name, self.path, self.device = model, name, Path(path), device
        self.hash = model.sha256

    def generate(self, n: int, *, seed: int = 0, rejects: bool = False, **options: Any) -> Iterator[Record]:
        """Yield ``n`` accepted molecules in the order of their attempts, fewer if attempts or time run out.

        Options: ``heavy_atoms=(5, 9)``, ``steps=50``, ``sampler=Sampler(...)``, ``unique``, ``max_attempts``,
        ``time_limit`` (s), ``workers``, ``batch_size``. With ``rejects=True`` the rejected ones are yielded too.

        Example: ``[record.smiles for record in moldiff.load("qm9").generate(10, seed=1)]``
        """
        workers, batch_size = options.pop("workers", None), options.pop("batch_size", None)
        steps = options.pop("steps", None)
        if steps is not None:
            options["sampler"] = Sampler(steps=steps)
        request = Request(n=n, seed=seed, **options)
        outcomes = self.outcomes(request, workers=workers, batch_size=batch_size)
        return (o for o in outcomes if rejects or isinstance(o, Record))

    def outcomes(
        self,
        request: Request,
        *,
        workers: int | None = None,
        batch_size: int | None = None,
        tally: Tally | None = None,
        seen: set[str] | None = None,
    ) -> Iterator[Record | Reject]:
        """Every attempt in order, accepted or not, until ``request.n`` are accepted. Give ``tally`` to continue one."""
        request.check(self.model)
        tally, seen = tally or Tally(), set() if seen is None else seen
        deadline = time.monotonic() + request.time_limit if request.time_limit else None
        for index, mol in self._raw(request, tally, workers, batch_size):
            outcome = self._judge(request, index, mol, seen)
            tally.add(outcome)
            yield outcome
            if tally.kept >= request.n or (deadline and time.monotonic() > deadline):
                return

    def facts(self) -> dict[str, Any]:
        """What ``moldiff info`` prints: plain values, units included."""
        data, config = self.model.data, self.model.config
        sizes = np.array(data.size_histogram)
        return {
            "model": self.name,
            "file": str(self.path),
            "weights sha256": self.hash,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "vocabulary": list(data.vocabulary),
            "hydrogens": data.hydrogens,
            "heavy atoms": f"{sizes[:, 0].min()}-{sizes[:, 0].max()}",
            "atoms": f"{sizes[:, 1].min()}-{sizes[:, 1].max()}",
            "properties": [
                {p.name: f"{p.min:.4g} to {p.max:.4g} {p.unit}, mean {p.mean:.4g}"} for p in data.properties
            ],
            "training data": data.name,
            "data source": data.source,
            "data sha256": data.sha256,
            "coordinate std": f"{data.coordinate_std:.4f} Å",
            "network": {config.network.kind: config.network.options},
            "training": self.model.info,
        }

    def _judge(self, request: Request, index: int, mol: "Chem.Mol", seen: set[str]) -> Record | Reject:
        identity = f"{self.name}-{self.hash[:8]}-s{request.seed}-{index:08d}"
        accepted, reason = chem.check(mol)
        if accepted is not None and request.heavy_atoms:
            low, high = request.heavy_atoms
            if not low <= accepted.GetNumHeavyAtoms() <= high:
                reason = "size"
        if reason is None:
            text = chem.smiles(accepted)
            if request.unique and text in seen:
                reason = "duplicate"
            elif request.unique:
                seen.add(text)
        if reason is not None:
            return Reject(identity, mol, reason, request.seed, index)
        return Record(identity, accepted, text, request.seed, index)

    def _raw(
        self, request: Request, tally: Tally, workers: int | None, batch_size: int | None
    ) -> Iterator[tuple[int, "Chem.Mol"]]:
        """Unjudged molecules in the order of their index."""
        if workers is None:
            workers = (os.cpu_count() or 1) if self.device == "cpu" and request.n >= WORKERS_FROM else 1
        vocabulary = self.model.data.vocabulary
        windows = _windows(request, tally, workers)
        if workers == 1:
            for window in windows:
                sampled = sample_attempts(self.model, request, window, batch_size)
                yield from zip(window, chem.to_rdkit(sampled, vocabulary), strict=True)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _start_worker, (str(self.path), batch_size)) as pool:
            pending: deque = deque()
            try:
                for window in windows:
                    pending.append((window, pool.submit(_work, request, window)))
                    if len(pending) > workers:
                        done, future = pending.popleft()
                        yield from zip(done, chem.to_rdkit(Molecules(*future.result()), vocabulary), strict=True)
                while pending:
                    done, future = pending.popleft()
                    yield from zip(done, chem.to_rdkit(Molecules(*future.result()), vocabulary), strict=True)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _windows(request: Request, tally: Tally, workers: int) -> Iterator[range]:
    """Ranges of attempts: about what is still missing, shared among the workers, in pieces of at most ``WINDOW``."""
    start = tally.next_index
    while start < request.attempts:
        missing = max(request.n - tally.kept, 1)
        size = min(WINDOW, max(8, -(-missing * 21 // 20) // workers + 1), request.attempts - start)
        yield range(start, start + size)
        start += size


def sample_attempts(model: Model, request: Request, indices: Sequence[int], batch_size: int | None = None) -> Molecules:
    """The raw molecules of these attempts, in their order, padded to the largest, on the CPU."""
    device = model.device
    random = KeyedRandomness(request.seed, indices, device)
    sizes = SizeDraw(model, request.heavy_atoms)(random.first())
    parts: dict[int, Molecules] = {}
    for atoms in np.unique(sizes).tolist():
        positions = np.flatnonzero(sizes == atoms).tolist()
        sampled = _sample_size(model, request.sampler, random.select(positions), atoms, batch_size or 128)
        parts |= dict(zip(positions, sampled.to("cpu").split(), strict=True))
    return Molecules.collate([parts[k] for k in range(len(indices))])


def _sample_size(model: Model, sampler: Sampler, random: KeyedRandomness, atoms: int, batch: int) -> Molecules:
    """Molecules of one size, in batches; a batch that does not fit the memory is halved."""
    done: list[Molecules] = []
    count = len(random.streams)
    start = 0
    while start < count:
        chosen = random.select(range(start, min(start + batch, count))).of_size(atoms)
        before = [stream.bit_generator.state for stream in chosen.streams]
        try:
            done.append(_sample_batch(model, sampler, chosen, atoms))
            start += len(chosen.streams)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if batch == 1:
                raise RequestError(f"not enough memory for one molecule of {atoms} atoms; use a machine with more") from error
            batch = max(1, batch // 2)
            for stream, state in zip(chosen.streams, before, strict=True):
                stream.bit_generator.state = state
    return Molecules.collate(done)


def _is_out_of_memory(error: Exception) -> bool:
    """torch reports it as a class of its own on a GPU and as a plain RuntimeError on a CPU."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "not enough memory" in str(error) or "can't allocate memory" in str(error)


def _sample_batch(model: Model, sampler: Sampler, random: KeyedRandomness, atoms: int) -> Molecules:
    count = len(random.streams)
    padding = max(0, -(-32 // atoms) - count)  # very small matrices round differently: see `on_enough_rows`
    padded = random.padded(padding).of_size(atoms)
    template = blank(count + padding, atoms, model.device)
    free = NoiseLevel.free(template, torch.ones(count + padding, device=model.device))
    with torch.inference_mode():
        molecules, _ = sample(
            lambda state, level, previous: model.denoise(state, level, None, previous),
            model.process, template, free, sampler, padded,
        )  # fmt: skip
    return molecules.select(slice(count))


def blank(count: int, atoms: int, device: torch.device | str) -> Molecules:
    """A template in which nothing is known but the size."""
    zeros = torch.zeros(count, atoms, dtype=torch.long, device=device)
    mask = torch.ones(count, atoms, dtype=torch.bool, device=device)
    pos = torch.zeros(count, atoms, 3, device=device)
    return Molecules(mask, pos, zeros, zeros[:, :, None].expand(-1, -1, atoms).clone())


ALIASES = {"qm9": "qm9-tiny"}  # the best set shipped for each kind of data


def shipped_models() -> dict[str, Path]:
    """Names of the weights inside the package, aliases included."""
    folder = Path(__file__).parent / "weights"
    found = {p.stem: p for p in sorted(folder.glob("*.safetensors"))}
    return found | {alias: found[name] for alias, name in ALIASES.items() if name in found}


def load(model: str | Path = "qm9", device: str = "auto") -> Generator:
    """A generator from the name of shipped weights or from a file.

    Raises:
        RequestError: no such model, or no such device.
        ModelFileError: the file cannot be used.
    """
    shipped = shipped_models()
    name = str(model)
    path = shipped.get(name, Path(model))
    if name not in shipped and not path.is_file():
        raise RequestError(f"--model {name}: neither a file nor a shipped model; shipped are {', '.join(shipped)}")
    device = choose_device(device)
    return Generator(Model.load(path, device), path.stem, path, device)


def choose_device(device: str) -> str:
    """Resolve ``auto`` and refuse a device that is not there: never a silent fall-back to the CPU."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(d for d in ("cuda", "mps", "cpu") if there[d])
    kind = device.partition(":")[0]
    if kind not in there:
        raise RequestError(f"--device {device}: choose auto, cpu, cuda or mps")
    if not there[kind]:
        raise RequestError(f"--device {device}: this machine has no such device (or torch is built without it); use cpu")
    return device


GOLDEN = {"n": 4, "seed": 2026, "steps": 10}  # remade by `moldiff doctor`, stored in the weights when they are shipped


def golden_sample(generator: Generator) -> list[str]:
    """A few raw samples as text: SMILES where accepted, else the reason."""
    request = Request(GOLDEN["n"], GOLDEN["seed"], Sampler(steps=GOLDEN["steps"]), max_attempts=GOLDEN["n"])
    outcomes = generator.outcomes(request, workers=1)
    return [o.smiles if isinstance(o, Record) else o.reason for o in outcomes]


def diagnose(device: str = "auto") -> Iterator[tuple[str, bool, str]]:
    """Checks of an installation, one by one: (what, sound?, finding)."""
    yield "versions", True, f"moldiff {__version__}, torch {torch.__version__}, rdkit {chem.RDKIT_VERSION}"
    device = choose_device(device)
    yield "device", True, device + (f", {torch.get_num_threads()} threads" if device == "cpu" else "")
    for name, path in shipped_models().items():
        if name in ALIASES:
            continue
        generator = load(path, device)
        yield f"weights {name}", True, f"hash matches, {path.stat().st_size / 2**20:.1f} MiB"
        expected = generator.model.info.get("golden")
        if expected is None:
            continue
        start = time.perf_counter()
        found = golden_sample(generator)
        took = f"{time.perf_counter() - start:.1f} s"
        same = found == expected
        other = f"{sum(a == b for a, b in zip(found, expected, strict=True))} of {len(expected)} as recorded"
        yield f"golden sample {name}", same, f"as recorded ({took})" if same else (
            f"{other}; other processors round differently, but if all differ, torch or the weights do not work here"
        )


_worker: dict[str, Any] = {}  # the model of a worker process, set once when it starts


def _start_worker(path: str, batch_size: int | None) -> None:
    torch.set_num_threads(1)
    _worker.update(model=Model.load(Path(path)), batch_size=batch_size)


def _work(request: Request, indices: range) -> tuple[Tensor, ...]:
    m = sample_attempts(_worker["model"], request, indices, _worker["batch_size"])
    return m.mask, m.pos, m.atom, m.bond
