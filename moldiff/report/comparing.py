"""Comparison of a set of molecules with a reference: distances, similarities, unseen ring systems, nearest molecules."""

import base64
import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moldiff.crew import Crew
from moldiff.datasets.records import Record
from moldiff.metrics.chemnet import Moments
from moldiff.metrics.core import Metric, Reference
from moldiff.metrics.distributions import Counts, add_counts, metrics_of_counts
from moldiff.metrics.druglike import ring_novelty
from moldiff.metrics.fingerprints import nearest, packed
from moldiff.metrics.moses import diversity_metrics, similarity_metrics
from moldiff.metrics.profiles import Profile, collect
from moldiff.metrics.validity import without_stereo
from moldiff.references import Against, Comparison, ReferenceSetError, file_of, named, records_with_bonds
from moldiff.report.survey import Report, Survey

SIZE = 500  # SMILES that a process gets at a time
BATCH = 128  # the same for ChemNet
LARGEST = 20_000  # molecules of a file, drawn by a hash, that distances and similarities are computed from
LISTED = 20  # lines of a reference that are named


@dataclass(frozen=True)
class Compared:
    """Metrics, and columns for the table of molecules."""

    metrics: list[Metric] = field(default_factory=list)
    columns: dict[str, pd.Series] = field(default_factory=dict)


def read_reference(source: Path | str, crew: Crew, with_fcd: bool, flat: bool, report: Report) -> Against:
    """``qm9``, ``moses``, ``drugs`` or a file with bonds; what a file lacks of a comparison is computed here.

    ``flat``: without stereo for the FCD, as the molecules are that are compared.

    Raises :class:`ReferenceSetError` for a file of which half or less can be read as molecules.
    """
    path = file_of(source)
    if path is None:
        return named(str(source))
    records = records_with_bonds(path, source)
    smiles, bad, distributions = [], [], {}
    for done, answer in enumerate(crew.map("known", records, SIZE), 1):
        found = answer.value or {"smiles": None}
        if found["smiles"] is None:
            bad.append(answer.record.where)
        else:
            smiles.append(found["smiles"])
            add_counts(distributions, found.get("distributions", {}))
        if done % SIZE == 0:
            report("reading the reference", done, None)
    if len(smiles) <= len(bad):
        found = f"RDKit reads {len(smiles)} of {len(smiles) + len(bad)} records as molecules with bonds"
        raise ReferenceSetError(f"--reference {source}: {found}; give SMILES, one a line, or an SDF")
    known = Reference(path.name, smiles)
    return Against(known, (_comparison(known, distributions, crew, with_fcd, flat, report),), tuple(_note(bad)))


def _note(bad: Sequence[str]) -> list[str]:
    more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    return [f"reference: {', '.join(bad[:LISTED])}{more}: not readable by RDKit, left out"] if bad else []


def _comparison(
    known: Reference, distributions: Counts, crew: Crew, with_fcd: bool, flat: bool, report: Report
) -> Comparison:  # fmt: skip
    """Of all distinct SMILES of a file, or of those that a hash draws."""
    used = known
    if len(known.distinct) > LARGEST:
        drawn = sorted(known.distinct, key=lambda s: hashlib.sha256(s.encode()).digest())[:LARGEST]
        used = Reference(f"{LARGEST} drawn by a hash from {known.name}", drawn)
    records = list(_records(used.distinct))
    parts = [a.value for a in _with_progress(crew.map("likenesses", records, SIZE), "reference", len(records), report)]
    seen = {without_stereo(s) for s in used.distinct} if with_fcd and flat else used.distinct
    moments = _moments(seen, crew, "reference: ChemNet", report) if with_fcd else None
    profile = replace(collect(part for part in parts if part is not None), chemnet=moments)
    return Comparison(used, profile, distributions, rings_of=used.name, counted_of=known.name)


def compare(found: Survey, against: Against | None, with_fcd: bool, crew: Crew, report: Report) -> Compared:
    """Internal diversity, and with a reference all that compares with its held-out sets."""
    ours = found.profile
    metrics, columns = diversity_metrics(ours), {}
    if against is None:
        return Compared(metrics)
    members = found.table.loc[found.members]
    column = "moses_smiles" if "moses_smiles" in members else "smiles"
    if with_fcd:
        ours = replace(ours, chemnet=_moments(members[column].tolist(), crew, "ChemNet", report))
    for at, comparison in enumerate(against.held_out):
        reference = comparison.reference
        theirs, smiles = _with_fingerprints(comparison, crew, report)
        similarity, index = nearest(ours.fingerprints, theirs.fingerprints)
        more = similarity_metrics(ours, theirs, reference.name, similarity)
        if comparison.distributions:
            more += metrics_of_counts(
                found.distributions, comparison.distributions, comparison.counted_of or reference.name
            )
        if at == 0:
            rows, every = found.table.index[found.members], found.table.index
            columns = {
                "nearest": pd.Series([smiles[k] for k in index.tolist()], rows, dtype=object).reindex(every),
                "nearest_similarity": pd.Series(similarity, rows, dtype=float).reindex(every),
            }
            if theirs.ring_systems:
                known = comparison.rings_of or against.known.name
                ring = ring_novelty(found.table, set(theirs.ring_systems), known)
                metrics, columns = [*metrics, ring], columns | {ring.name: ring.table}
        else:
            suffix = reference.name.rpartition(" ")[2]
            more = [replace(metric, name=f"{metric.name}_{suffix}") for metric in more]
        metrics += more
    return Compared(metrics, columns)


def _with_fingerprints(comparison: Comparison, crew: Crew, report: Report) -> tuple[Profile, list[str]]:
    """The profile of a comparison with its fingerprints, and the SMILES they belong to."""
    smiles = comparison.reference.distinct
    if len(comparison.profile.fingerprints) == len(smiles):
        return comparison.profile, smiles
    records = list(_records(smiles))
    answers = _with_progress(
        crew.map("fingerprints", records, SIZE), "fingerprints of the reference", len(records), report
    )
    good = [(answer.record.text, base64.b64decode(answer.value)) for answer in answers if answer.value]
    return replace(comparison.profile, fingerprints=packed(row for _, row in good)), [text for text, _ in good]


def _moments(smiles: Collection[str], crew: Crew, stage: str, report: Report) -> Moments:
    """Of the activations of ChemNet, whole batches at a time, as the numbers come out of their order."""
    total, batch = Moments.none(), []
    answers = _with_progress(crew.map("activations", _records(sorted(smiles)), BATCH), stage, len(smiles), report)
    for answer in answers:
        if answer.value:
            batch.append(np.frombuffer(base64.b64decode(answer.value), np.float32))
        if len(batch) == SIZE:
            total, batch = total + Moments.of(np.stack(batch).astype(float)), []
    return total + Moments.of(np.stack(batch).astype(float)) if batch else total


def _records(smiles: Iterable[str]) -> Iterable[Record]:
    return (Record(number, "", "", "smiles", text) for number, text in enumerate(smiles, 1))


def _with_progress(answers: Iterable[Any], stage: str, total: int, report: Report) -> Iterable[Any]:
    for done, answer in enumerate(answers, 1):
        if done % BATCH == 0 or done == total:
            report(stage, done, total)
        yield answer
