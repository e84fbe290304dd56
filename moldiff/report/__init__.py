"""Evaluation of molecules of any origin: read as a stream, judged in processes, every number beside its rule."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
from rdkit.Chem import Mol
from rich.console import Console

from moldiff import __version__, chem
from moldiff.crew import Crew
from moldiff.datasets.readers import kind_of, read_records
from moldiff.datasets.records import Record, records_of
from moldiff.errors import MoldiffError
from moldiff.metrics import Evaluation, Metric, Reference
from moldiff.references import NAMES
from moldiff.report.comparing import Compared, compare, read_reference
from moldiff.report.sampled import SAMPLED, Wanted, sample
from moldiff.report.screen import molecules, sections, show
from moldiff.report.survey import PROTOCOLS, SUPPORTED, Survey, set_metrics, survey

__all__ = ["FileEvaluation", "ReportError", "evaluate", "evaluate_file", "sections"]

LISTED = 20  # records that are named on the screen; the JSON names all
MEMORY = Path("molecules in memory")  # in place of a file


class ReportError(MoldiffError):
    """A set cannot be evaluated; the message names it, what is wrong and the remedy."""


@dataclass(frozen=True)
class FileEvaluation:
    """The metrics of a set of molecules, with what they were computed from and against."""

    file: Path
    sha256: str  # of the file; of the records if they were in memory
    evaluation: Evaluation
    references: tuple[Reference, ...]  # the first is that of the novelty
    notes: tuple[str, ...]  # what a reader of the numbers has to know
    protocols: tuple[str, ...]
    mols: Sequence[Mol | None]  # as written, made whenever one is asked for; None where there is none

    @property
    def table(self) -> pd.DataFrame:
        """A row for each record: its number (from 1), id, where, reason (why it is not readable), then the facts."""
        return self.evaluation.table

    @property
    def reference(self) -> Reference | None:
        return self.references[0] if self.references else None

    @property
    def unreadable(self) -> list[int]:
        """The records, counted from 1, that could not be read or judged."""
        return self.table.loc[~self.table["readable"], "record"].tolist()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the table, as plain values that JSON can hold; what cannot be computed is None."""
        bad = self.table.loc[~self.table["readable"], ["record", "id", "where", "reason"]]
        return {
            "file": str(self.file), "sha256": self.sha256, "records": len(self.table),
            "unreadable_records": self.unreadable, "unreadable": bad.to_dict("records"),
            "protocols": list(self.protocols), "notes": list(self.notes),
            "reference": self.reference and _reference_dict(self.reference),
            "references": [_reference_dict(reference) for reference in self.references],
            "moldiff": __version__, "rdkit": chem.RDKIT_VERSION,
            "metrics": {m.name: _as_dict(m) for m in self.evaluation.metrics},
        }  # fmt: skip

    def print(self, console: Console | None = None) -> None:
        """Show the metrics in tables, each number with its counts and its rule in a few words."""
        show(self, console)


def evaluate_file(file: Path, reference: Path | str | None = None, **options: Any) -> FileEvaluation:
    """:func:`evaluate` of one file."""
    return evaluate(Path(file), reference, **options)


def evaluate(
    source: Path | str | Iterable[Mol | None],
    reference: Path | str | None = None,
    *,
    protocol: str | None = None,
    column: str | None = None,
    fcd: bool | None = None,
    strain: int = 1000,
    posebusters: int | None = None,
    energy_ratio: bool = False,
    xtb: int = 0,
    jobs: int = 1,
    timeout: float = 30.0,
    seed: int = 0,
    progress: Any = None,
) -> FileEvaluation:
    """Judge molecules as they are written: nothing is sanitised first, repaired or left out.

    ``source``: a file (SDF, XYZ, SMILES, CSV, TSV, Parquet; ``column`` names the one with SMILES) or RDKit molecules
    or records of :meth:`moldiff.generation.Generator.generate`; those without coordinates stand for graphs,
    whose implied hydrogens are made atoms.
    ``reference``: "qm9", "moses", "drugs" or a file, for novelty, distances and similarities. ``protocol``: "model-bonds",
    "edm-table" or "moses"; all that the source supports if None.
    ``strain``, ``posebusters``, ``xtb``: how many molecules, drawn at random by ``seed``, are relaxed by MMFF94s, checked
    by PoseBusters (1000 if None and it is installed; ``energy_ratio`` adds its check against a conformer ensemble,
    which takes seconds a molecule) and relaxed by GFN2-xTB. ``fcd``: Fréchet ChemNet distance, by
    default if there is a reference and its package. ``jobs``: processes; no result depends on it.
    ``timeout``: seconds for a molecule; one that takes longer counts as a failure with the reason "timeout".
    ``progress``: is called with (stage, molecules done, molecules in all or None).
    Raises :class:`MoldiffError` for a source without a readable record and for anything asked for that is not possible.
    """
    file, records, kind = _open(source, column)
    protocols = _protocols(file, kind, protocol)
    notes, fcd, posebusters = _defaults(protocols, kind, reference, fcd, posebusters, strain, xtb, timeout, jobs)
    if energy_ratio and not posebusters:
        raise ReportError("--energy-ratio: is a check of PoseBusters, of which there are none here; see --posebusters")
    report = progress or (lambda *_: None)
    with Crew(jobs, timeout) as crew:
        against = (
            read_reference(reference, crew, fcd, "moses" not in protocols, report) if reference is not None else None
        )
        found = survey(records, protocols, against is not None or "moses" in protocols, crew, report)
        if not found.table["readable"].any():
            raise ReportError(_nothing(file, found))
        metrics, columns = set_metrics(found, protocols, kind, against.known if against else None), {}
        compared = compare(found, against, fcd, crew, report) if found.profile is not None else Compared()
        if "model-bonds" in protocols and kind != "smiles":
            wanted = Wanted(strain, posebusters, xtb, seed, energy_ratio)
            sampled = sample(found, wanted, crew, report)
            metrics += sampled.metrics
            columns |= sampled.columns
    table = found.table.assign(**compared.columns, **columns)
    all_notes = (*_notes(found, kind), *notes, *(against.notes if against else ()))
    return FileEvaluation(
        file=file, sha256=found.sha256 if file == MEMORY else _sha256(file),
        evaluation=Evaluation(metrics + compared.metrics, table), references=against.references if against else (),
        notes=all_notes, protocols=protocols, mols=found.mols,
    )  # fmt: skip


def _open(source: Path | str | Iterable[Mol | None], column: str | None) -> tuple[Path, Iterator[Record], str]:
    """(file, records, kind)."""
    if isinstance(source, str | Path):
        return Path(source), read_records(Path(source), column), kind_of(Path(source))
    mols = [getattr(mol, "mol", mol) for mol in source]  # of records
    for number, mol in enumerate(mols, 1):
        if not (mol is None or isinstance(mol, Mol)):
            raise ReportError(f"molecule {number} is {mol!r}; give RDKit molecules, records, or a file")
    if not mols:
        raise ReportError("no molecules given; pass at least one")
    spatial = any(mol is not None and mol.GetNumConformers() for mol in mols)
    return MEMORY, records_of(mols), "sdf" if spatial else "smiles"


def _protocols(file: Path, kind: str, wanted: str | None) -> tuple[str, ...]:
    possible = SUPPORTED[kind]
    if wanted is None:
        return possible
    if wanted not in PROTOCOLS:
        raise ReportError(f"--protocol {wanted}: there are {', '.join(PROTOCOLS)}")
    if wanted not in (*possible, *(("moses",) if kind == "sdf" else ())):
        lacks = {"xyz": "has no bonds", "smiles": "has no coordinates"}[kind]
        raise ReportError(f"--protocol {wanted}: {file} {lacks}; use {' or '.join(possible)}")
    return (wanted,)


def _defaults(
    protocols: tuple[str, ...], kind: str, reference: Path | str | None, fcd: bool | None, posebusters: int | None,
    strain: int, xtb: int, timeout: float, jobs: int,
) -> tuple[list[str], bool, int]:  # fmt: skip
    """(notes, whether to compute FCD, molecules for PoseBusters); what is missing is a note, or an error if asked for."""
    if not timeout > 0 or jobs < 1 or min(strain, xtb, posebusters or 0) < 0:
        raise ReportError("--timeout and --jobs must be positive, --strain, --posebusters and --xtb not negative")
    notes = []
    bonds = set(protocols) & {"model-bonds", "moses"}
    if fcd and (reference is None or not bonds):
        raise ReportError("--fcd: needs bonds, and a reference to compare with; give one with --reference")
    if fcd is None:
        fcd = reference is not None and bool(bonds)
        if fcd and not _installed("fcd_torch"):
            notes.append("no FCD: it needs ChemNet from fcd_torch; pip install 'moldiff[eval]'")
            fcd = False
    elif fcd and not _installed("fcd_torch"):
        raise ReportError("--fcd: needs ChemNet from the package fcd_torch; pip install 'moldiff[eval]'")
    spatial = "model-bonds" in protocols and kind == "sdf"
    if posebusters is None:
        posebusters = SAMPLED if spatial else 0
        if posebusters and not _installed("posebusters"):
            notes.append("no PoseBusters checks: they need posebusters; pip install 'moldiff[eval]'")
            posebusters = 0
    elif posebusters and not _installed("posebusters"):
        raise ReportError("--posebusters: needs the package posebusters; pip install 'moldiff[eval]'")
    for option, asked in (("--posebusters", posebusters), ("--xtb", xtb)):
        if asked and not spatial:
            raise ReportError(
                f"{option}: needs bonds and coordinates, judged by the protocol model-bonds; leave it out"
            )
    if xtb and not (_installed("tblite") and _installed("ase")):
        raise ReportError("--xtb: needs tblite and ase; pip install 'moldiff[xtb]'")
    if reference is not None and not bonds:
        raise ReportError(
            f"--reference {reference}: comparing needs bonds, and the protocol edm-table has none to compare"
        )
    if reference is None and bonds:
        notes.append(f"no reference: novelty, FCD and similarities need --reference {', '.join(NAMES)} or a file")
    return notes, fcd, posebusters


def _installed(package: str) -> bool:
    return find_spec(package) is not None


def _nothing(file: Path, found: Survey) -> str:
    if not len(found.table):
        return f"{file}: holds no record; give a file with at least one molecule"
    first = found.table.iloc[0]
    return f"{file}: no record of {len(found.table)} can be read ({first['where']}: {first['reason']}); is its suffix right?"


def _notes(found: Survey, kind: str) -> Iterator[str]:
    bad = found.table[~found.table["readable"]]
    if len(bad):
        yield f"{molecules(len(bad))} not readable or not judged; they count as failures in every rate over molecules:"
        for _, row in bad.head(LISTED).iterrows():
            yield f"record {row['record']} ({row['where']}): {row['reason']}"
        if len(bad) > LISTED:
            yield f"and {len(bad) - LISTED} more: --json and --csv name all"
    if kind == "smiles":
        yield "hydrogens that the SMILES imply were made atoms, so that they do not count as radicals"
    if kind != "smiles" and found.flat:
        yield f"{molecules(found.flat)} without 3D coordinates: EDM's protocol, stereo and strain mean nothing for them"
    if kind != "smiles" and found.bare > len(found.table) / 2:
        yield f"{molecules(found.bare)} without hydrogen atoms: open valences are radicals here; add hydrogens first, in 3D"


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _reference_dict(reference: Reference) -> dict[str, Any]:
    return {"name": reference.name, "sha256": reference.sha256, "distinct_smiles": len(reference.distinct)}


def _as_dict(metric: Metric) -> dict[str, Any]:
    return {
        "value": _finite(metric.value),
        "interval_95": metric.interval and [_finite(bound) for bound in metric.interval],
        "numerator": metric.numerator, "denominator": metric.denominator, "definition": metric.definition,
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
