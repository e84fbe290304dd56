"""Evaluation of a file of molecules: read, judge, and show every number beside the rule it was made under."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from rdkit import Chem
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from moldiff import __version__, chem
from moldiff.errors import MoldiffError
from moldiff.metrics import Evaluation, Metric, Reference, describe, evaluate

CHUNK = 1000  # molecules described at a time, by one process
SAMPLE = 1000  # lines of a reference that are looked at to see whether it is canonical
LISTED = 20  # records or lines that are named on the screen; the JSON names all
COLUMNS = {"metric": 18, "value": 6, "interval": 13, "counts": 13}  # least widths, the same in all sections

# What the screen shows, in its order: heading, then name of a metric -> (label, the rule in a few words). The whole
# rule is the metric's definition. Metrics not listed here come last, under their own names.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "validity: bonds, charges and hydrogens as written": {
        "valid": ("valid", "RDKit sanitises it"),
        "valid_connected": ("valid & connected", "and one fragment"),
        "radical": ("radicals", "of the valid; open valences too"),
        "charged": ("charged", "of the valid; net charge"),
    },
    "stability: strict valences by (element, charge)": {
        "atom_stability": ("stable atoms", "of all atoms"),
        "molecule_stability": ("stable molecules", "all atoms stable"),
        "molecule_stability_connected": ("stable & connected", "and one fragment"),
    },
    "diversity: canonical SMILES of the valid & connected": {
        "unique": ("unique", "distinct, without stereo"),
        "unique_stereo": ("unique with stereo", "distinct, stereo from 3D"),
        "valid_connected_unique": ("unique, of all", "distinct, of all molecules"),
        "novel": ("novel", "of the distinct, not in reference"),
        "novel_stereo": ("novel with stereo", "of the distinct, not in reference"),
        "fcd": ("FCD", "from the reference; 0 is equal"),
    },
    "geometry": {
        "strain": ("strain, median", "kcal/mol, MMFF94s relaxation"),
    },
    "EDM's protocol: bonds from distances (QM9 itself: 99.0, 95.2, 97.7 %)": {
        "edm_atom_stability": ("stable atoms", "EDM's valences"),
        "edm_molecule_stability": ("stable molecules", "all atoms stable"),
        "edm_valid": ("valid", "fragments allowed"),
        "edm_valid_unique": ("valid & unique", "largest fragments, of all"),
        "edm_valid_connected": ("valid & connected", "one fragment"),
    },
    "MiDi's lenient valences: only to compare with publications that use them": {
        "midi_atom_stability": ("stable atoms", "radicals pass"),
        "midi_molecule_stability": ("stable molecules", "radicals pass"),
    },
}


class ReportError(MoldiffError):
    """A file cannot be evaluated; the message names it, what is wrong and the remedy."""


class Records(Sequence):
    """The molecules of an SDF as written, not sanitised; None where RDKit cannot read a record.

    Holds the text and makes a molecule whenever one is asked for, which takes a tenth of the memory.
    """

    def __init__(self, texts: Sequence[str]):
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Chem.Mol | None:
        return chem.parse_sdf_record(self.texts[index], sanitize=False)


@dataclass(frozen=True)
class FileEvaluation:
    """The metrics of a file, and a row for each of its records in ``table``."""

    file: Path
    sha256: str  # of the file
    evaluation: Evaluation
    table: pd.DataFrame  # record (from 1), id (its title), then the facts of :func:`moldiff.metrics.describe`
    reference: Reference | None
    notes: tuple[str, ...]  # what a reader of the numbers has to know

    @property
    def unreadable(self) -> list[int]:
        """The records, counted from 1, that RDKit cannot read."""
        return self.table.loc[~self.table["readable"], "record"].tolist()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the table, as plain values that JSON can hold; what cannot be computed is None."""
        return {
            "file": str(self.file), "sha256": self.sha256, "records": len(self.table),
            "unreadable_records": self.unreadable, "notes": list(self.notes),
            "reference": self.reference and {
                "name": self.reference.name, "sha256": self.reference.sha256,
                "distinct_smiles": len(set(self.reference.smiles)),
            },
            "moldiff": __version__, "rdkit": chem.RDKIT_VERSION,
            "metrics": {m.name: _as_dict(m) for m in self.evaluation.metrics},
        }  # fmt: skip

    def print(self, console: Console | None = None) -> None:
        """Show the metrics in tables, each number with its counts and its rule in a few words."""
        console = console or Console(highlight=False)
        say = partial(console.print, markup=False, highlight=False)
        say(f"{self.file}: {_molecules(len(self.table))}")
        for heading, rows in self._sections():
            table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, expand=False)
            for name, width in COLUMNS.items():
                table.add_column(name, min_width=width, no_wrap=True, justify="left" if name == "metric" else "right")
            table.add_column("rule")
            for row in rows:
                table.add_row(*row)
            say()
            say(heading, style="bold")
            console.print(Padding(table, (0, 0, 0, 2)))
        say()
        say("In %: share, 95 % interval, counts. The whole rule of each number: --json.")
        if self.reference:
            say(f"reference: {self.reference}")
        for note in self.notes:
            say(f"note: {note}")

    def _sections(self) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
        """(heading, rows of the screen) of every section that has metrics."""
        left = {m.name: m for m in self.evaluation.metrics}
        for heading, shown in SECTIONS.items():
            rows = [_row(label, left.pop(name), rule) for name, (label, rule) in shown.items() if name in left]
            if rows:
                yield heading, rows
        if left:
            yield "others", [_row(name, metric, metric.definition) for name, metric in left.items()]


def evaluate_file(
    file: Path, reference: Path | None = None, *, with_fcd: bool = False, strain: int = 0, jobs: int = 1, seed: int = 0
) -> FileEvaluation:
    """Judge the molecules of an SDF as they are written: nothing is sanitised first, repaired or left out.

    ``reference``: a file of SMILES, one a line, for the novelty and, ``with_fcd``, the Fréchet ChemNet distance.
    ``strain``: relax that many molecules, drawn at random by ``seed``. ``jobs``: processes; no result depends on it.
    Raises :class:`ReportError` for a file without a readable record, a reference without readable SMILES, and FCD
    without a reference or without its package.
    """
    if with_fcd and reference is None:
        raise ReportError("--fcd: needs a reference to compare with; give a file of SMILES with --reference")
    texts = _read(file)
    known, notes = _reference(reference) if reference else (None, [])
    facts = pd.concat(_described(texts, jobs), ignore_index=True)
    if not facts["readable"].any():
        raise ReportError(f"{file}: no record of {len(texts)} can be read; is it an SDF?")
    try:
        evaluation = evaluate(Records(texts), known, strain=strain, with_fcd=with_fcd, seed=seed, table=facts)
    except (ImportError, ValueError) as error:  # both say what is missing and the remedy
        raise ReportError(str(error)) from error
    table = evaluation.table
    table.insert(0, "record", range(1, len(table) + 1))
    table.insert(1, "id", [text.partition("\n")[0].strip() for text in texts])
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return FileEvaluation(Path(file), digest, evaluation, table, known, (*_notes(table, texts), *notes))


def _read(file: Path) -> list[str]:
    if Path(file).is_dir():
        raise ReportError(f"{file}: is a directory; give an SDF")
    if not Path(file).is_file():
        raise ReportError(f"{file}: no such file")
    texts = list(chem.sdf_records(file))
    if not texts:
        raise ReportError(f"{file}: is empty; give an SDF with at least one molecule")
    return texts


def _described(texts: Sequence[str], jobs: int) -> list[pd.DataFrame]:
    """Facts by chunks of the same size whatever the number of processes."""
    chunks = [Records(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
    if jobs == 1 or len(chunks) == 1:
        return [describe(chunk) for chunk in chunks]
    with ProcessPoolExecutor(min(jobs, len(chunks)), get_context("spawn")) as pool:
        return list(pool.map(describe, chunks))


def _reference(file: Path) -> tuple[Reference, list[str]]:
    """A file of SMILES, one a line, as a reference: of each line the first word counts, blank lines do not.

    If a sample shows SMILES that this RDKit would write in another way, all are made canonical; those it cannot read
    are left out and named in a note. Raises :class:`ReportError` if they are half of the lines or more.
    """
    if not Path(file).is_file():
        raise ReportError(f"--reference {file}: no such file; give a file of SMILES, one a line")
    lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    numbered = [(number, words[0]) for number, line in enumerate(lines, 1) if (words := line.split())]
    smiles = [word for _, word in numbered]
    wrong: list[int] = []
    with chem.quiet():
        if any(_canonical(s) != s for s in smiles[:: max(1, len(smiles) // SAMPLE)]):
            smiles = [_canonical(s) for s in smiles]
            wrong = [number for (number, _), s in zip(numbered, smiles, strict=True) if s is None]
    readable = [s for s in smiles if s is not None]
    if len(readable) <= len(wrong):
        found = f"RDKit reads {len(readable)} of {len(numbered)} lines as SMILES"
        raise ReportError(f"--reference {file}: {found}; give a file of SMILES, one a line")
    notes = [f"reference: {_listed('line', wrong)}: not readable by RDKit, left out"] if wrong else []
    return Reference(Path(file).name, readable), notes


def _canonical(smiles: str) -> str | None:
    mol = Chem.MolFromSmiles(smiles)
    return None if mol is None else Chem.MolToSmiles(mol)


def _notes(table: pd.DataFrame, texts: Sequence[str]) -> Iterator[str]:
    unreadable = table.loc[~table["readable"], "record"].tolist()
    if unreadable:
        yield f"{_listed('record', unreadable)}: not readable by RDKit; count as failures in every rate over molecules"
    bare, flat = (sum(lacks) for lacks in zip(*map(_lacks, texts), strict=True))
    if flat:
        yield f"{_molecules(flat)} without 3D coordinates: EDM's protocol, stereo and strain mean nothing for them"
    if bare > len(texts) / 2:
        yield f"{_molecules(bare)} without hydrogen atoms: open valences are radicals here; add hydrogens first, in 3D"


def _lacks(text: str) -> tuple[bool, bool]:
    """Whether a readable molecule has no hydrogen atoms, and no 3D coordinates."""
    mol = chem.parse_sdf_record(text, sanitize=False)
    if mol is None or not mol.GetNumAtoms():
        return False, False
    return all(atom.GetAtomicNum() != 1 for atom in mol.GetAtoms()), not mol.GetConformer().Is3D()


def _row(label: str, metric: Metric, rule: str) -> tuple[str, ...]:
    """Label, value, interval, counts and rule as the screen shows them."""
    if metric.numerator is None:
        return label, f"{metric.value:.2f}", "", f"n = {metric.denominator}", rule
    counts = f"{metric.numerator}/{metric.denominator}"
    if not metric.denominator:
        return label, "none", "", counts, rule
    low, high = metric.interval
    return label, f"{100 * metric.value:.2f}", f"{100 * low:.2f}-{100 * high:.2f}", counts, rule


def _as_dict(metric: Metric) -> dict[str, Any]:
    return {
        "value": _finite(metric.value),
        "interval_95": metric.interval and [_finite(bound) for bound in metric.interval],
        "numerator": metric.numerator, "denominator": metric.denominator, "definition": metric.definition,
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _listed(what: str, numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else ""
    return f"{what}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:LISTED]))}{more}"


def _molecules(count: int) -> str:
    return f"{count} molecule{'s' * (count != 1)}"
