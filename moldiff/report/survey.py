"""The first pass over a set of molecules: the facts of each, the statistics of all, and the metrics of these alone."""

import hashlib
import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from rdkit.Chem import Mol

from moldiff.crew import Answer, Crew
from moldiff.datasets.records import Record
from moldiff.metrics.core import Metric, Reference
from moldiff.metrics.distributions import Counts, add_counts
from moldiff.metrics.druglike import DRUGLIKE_COLUMNS
from moldiff.metrics.edm import edm_metrics
from moldiff.metrics.moses import moses_metrics
from moldiff.metrics.profiles import Profile, collect
from moldiff.metrics.rules import rule_metrics
from moldiff.metrics.valence import valence_metrics
from moldiff.metrics.validity import novelty_metrics, uniqueness_metrics, validity_metrics
from moldiff.record_work import row

PROTOCOLS = ("model-bonds", "edm-table", "moses")
SUPPORTED = {"sdf": ("model-bonds", "edm-table"), "xyz": ("edm-table",), "smiles": ("model-bonds", "moses")}
SIZE = 50  # records judged at a time by a process
ROWS = 2000  # records that become a piece of the table and of the profile at a time
Report = Callable[[str, int, int | None], None]  # (stage, molecules done, molecules in all or None)


class Spool(Sequence[Mol | None]):
    """Molecules on disk, each made whenever it is asked for, in any order; where they were read from is not read again."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as this object
        self.places, self.closed = array("Q"), set[int]()

    def add(self, records: Iterable[Record]) -> Iterator[Record]:
        """Keep what passes through."""
        self.file.seek(0, 2)
        for record in records:
            self.places.append(self.file.tell())
            self.file.write(json.dumps(record).encode() + b"\n")
            yield record

    def __len__(self) -> int:
        return len(self.places)

    def record(self, index: int) -> Record:
        self.file.seek(self.places[index])
        return Record(*json.loads(self.file.readline()))

    def __getitem__(self, index: int) -> Mol | None:
        if not -len(self) <= index < len(self):
            raise IndexError(f"molecule {index} of {len(self)}")
        return None if index % len(self) in self.closed else self.record(index).read()[0]


@dataclass(frozen=True)
class Survey:
    """``profile`` and ``distributions``: as far as they were asked for; ``profile`` of ``members``, rows of the table."""

    table: pd.DataFrame
    mols: Spool
    sha256: str  # of the records
    flat: int  # molecules without 3D coordinates
    bare: int  # molecules without hydrogen atoms
    profile: Profile | None
    members: list[int]
    distributions: Counts


def survey(records: Iterable[Record], protocols: Sequence[str], compared: bool, crew: Crew, report: Report) -> Survey:
    """Judge every record; ``compared``: also what comparisons with a reference need."""
    parts = _parts(protocols, compared)
    spool, digest, counts = Spool(), hashlib.sha256(), {"flat": 0, "bare": 0}
    likenesses, profiles, members, distributions = [], [], [], {}
    pieces, rows = [], []
    for done, answer in enumerate(crew.map("facts", spool.add(records), SIZE, parts=parts), 1):
        found = answer.value or {"row": row(None, parts), "reason": answer.reason}
        if answer.reason:
            spool.closed.add(done - 1)
        rows.append(_table_row(answer, found))
        digest.update(answer.record.text.encode())
        for name in counts:
            counts[name] += found.get(name, False)
        if found.get("likeness"):
            likenesses.append(found["likeness"])
            members.append(done - 1)
        add_counts(distributions, found.get("distributions", {}))
        if len(rows) == ROWS:
            pieces.append(_frame(rows, parts))
            profiles.append(collect(likenesses))
            rows, likenesses = [], []
        if done % SIZE == 0:
            report("judging", done, None)
    pieces += [_frame(rows, parts)] if rows or not pieces else []
    table = pd.concat(pieces, ignore_index=True)
    profile = sum(profiles, start=collect([])) + collect(likenesses) if "likeness" in parts else None
    return Survey(table, spool, digest.hexdigest(), *counts.values(), profile, members, distributions)


def _parts(protocols: Sequence[str], compared: bool) -> list[str]:
    parts = []
    if {"model-bonds", "moses"} & set(protocols):
        parts += ["bonds", "druglike"] + ["likeness", "distributions"] * compared
    if "edm-table" in protocols:
        parts.append("edm")
    if "moses" in protocols:
        parts.append("moses")
    return parts


def _table_row(answer: Answer, found: dict[str, Any]) -> dict[str, Any]:
    record, facts = answer.record, found["row"]
    if found["reason"] and "failure" in facts:
        facts["failure"] = found["reason"] if answer.reason else "unreadable"
    return {"record": record.number, "id": record.id, "where": record.where, "reason": found["reason"], **facts}


def _frame(rows: list[dict[str, Any]], parts: Sequence[str]) -> pd.DataFrame:
    """Rows as a table whose types do not depend on them."""
    blank = row(None, parts)
    plain = {name: type(value) if isinstance(value, bool | int) else object for name, value in blank.items()}
    types = {name: DRUGLIKE_COLUMNS.get(name, kind) for name, kind in plain.items()}
    columns = ["record", "id", "where", "reason", *blank]
    return pd.DataFrame(rows, columns=columns).astype({"record": int, **types})


def set_metrics(found: Survey, protocols: Sequence[str], kind: str, known: Reference | None) -> list[Metric]:
    """All metrics that follow from the facts alone; ``known`` adds the novelty."""
    table, metrics = found.table, []
    if "model-bonds" in protocols:
        metrics += valence_metrics(table) if kind != "smiles" else []
        metrics += [_of_smiles(m) if kind == "smiles" else m for m in validity_metrics(table)]
        metrics += uniqueness_metrics(table) + (novelty_metrics(table, known) if known else []) + rule_metrics(table)
    if "edm-table" in protocols:
        metrics += edm_metrics(table)
    if "moses" in protocols:
        metrics += moses_metrics(table, set(known.smiles) if known else None)
    return metrics


def _of_smiles(metric: Metric) -> Metric:
    """A SMILES implies hydrogens, and the definition has to say what became of them."""
    text = metric.definition.replace("no implicit hydrogens", "the hydrogens that the SMILES implies as atoms")
    if text == metric.definition:
        text += "; the hydrogens that the SMILES implies are atoms"
    return replace(metric, definition=text)
