"""Metrics that cost too much for every molecule: relaxation and PoseBusters' checks of some, drawn at random."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from moldiff.crew import Crew
from moldiff.metrics.core import Metric
from moldiff.metrics.plausibility import CHECKS, ENERGY, draw_for_poses, pose_check_metrics
from moldiff.metrics.sampling import Draw
from moldiff.metrics.strain import MMFF94S, Relaxation, draw_for_strain, relaxation_metrics
from moldiff.metrics.xtb import GFN2
from moldiff.report.survey import Report, Survey

SAMPLED = 1000  # molecules by default
SIZES = {"mmff_relaxation": 20, "pose_checks": 20, "xtb_relaxation": 1}  # molecules that a process gets at a time


@dataclass(frozen=True)
class Wanted:
    """How many molecules are to be drawn by ``seed`` for each."""

    strain: int
    posebusters: int
    xtb: int
    seed: int
    energy_ratio: bool  # one more check of PoseBusters


@dataclass(frozen=True)
class Sampled:
    """Metrics, and columns for the table of molecules."""

    metrics: list[Metric] = field(default_factory=list)
    columns: dict[str, pd.Series] = field(default_factory=dict)


def sample(found: Survey, wanted: Wanted, crew: Crew, report: Report) -> Sampled:
    """All that are wanted, over nothing if no molecule has coordinates."""
    metrics = []
    table, mols, seed = found.table, found.mols, wanted.seed
    for name, function, method, count in (
        ("strain", "strain:mmff_relaxation", MMFF94S, wanted.strain),
        ("xtb_strain", "xtb:xtb_relaxation", GFN2, wanted.xtb),
    ):
        if count:
            drawn = draw_for_strain(mols, table, count, seed)
            answers = _apply(function, found, drawn, crew, report)
            rows = [Relaxation(failure=reason) if value is None else Relaxation(*value) for value, reason in answers]
            relaxations = pd.DataFrame(rows, index=list(drawn.rows), columns=list(Relaxation._fields))
            metrics += relaxation_metrics(name, method, relaxations, drawn)
    if wanted.posebusters:
        drawn = draw_for_poses(mols, table, wanted.posebusters, seed)
        names = (*CHECKS, ENERGY) if wanted.energy_ratio else CHECKS
        answers = _apply("plausibility:pose_checks", found, drawn, crew, report, energy_ratio=wanted.energy_ratio)
        rows = [dict.fromkeys(names, False) if value is None else value for value, _ in answers]
        metrics += pose_check_metrics(pd.DataFrame(rows, index=list(drawn.rows), columns=list(names)), drawn)
    columns = {m.name: m.table.reindex(table.index) for m in metrics if m.table is not None and not _is_single_check(m)}
    return Sampled(metrics, columns)


def _is_single_check(metric: Metric) -> bool:
    return metric.name.startswith("posebusters_") or metric.name.endswith("_relaxed")


def _apply(
    function: str, found: Survey, drawn: Draw, crew: Crew, report: Report, **options: Any
) -> list[tuple[Any, str]]:
    """(value, reason) of a function of moldiff.metrics for each molecule drawn, in the order of the draw."""
    records = map(found.mols.record, drawn.rows)
    name = function.partition(":")[2]
    answers = []
    for _, value, reason in crew.map("apply", records, SIZES[name], function=function, **options):
        answers.append((value, reason))
        if len(answers) % SIZES[name] == 0:
            report(name.replace("_", " "), len(answers), len(drawn.rows))
    return answers
