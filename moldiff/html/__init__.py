"""The report for human review: one HTML file that opens without a network and asks for nothing outside itself."""

import base64
import hashlib
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from moldiff import __version__, chem
from moldiff.files import write_atomically
from moldiff.html.columns import KNOWN
from moldiff.html.composition import LEVEL, Composition, Share, composition_of, sample, shares
from moldiff.html.drawing import HEIGHT, LINE_WIDTH, WIDTH, draw_smiles
from moldiff.html.maker import Maker, maker_of
from moldiff.html.molecules import MAX_MOLECULES, packed, review
from moldiff.html.plots import Histogram, histogram
from moldiff.html.sources import sources_of
from moldiff.html.stages import funnel, passed
from moldiff.metrics import Metric
from moldiff.report import FileEvaluation, sections

LISTED = 10  # features over-represented, and as many under-represented
HEADLINE = (
    "molecule_stability_connected", "novel", "fcd", "unseen_ring_system", "alert_free", "posebusters", "strain",
)  # fmt: skip


def write_html(evaluation: FileEvaluation, path: Path) -> None:
    """Write the report of an evaluation; equal evaluations by equal versions give equal bytes.

    Up to ``MAX_MOLECULES`` molecules are listed with drawings and coordinates, which the page then says; every number
    is over all of them. Size: about 0.6 MB, and 1 kB for a molecule of QM9's size.
    """
    with write_atomically(path) as temporary:
        temporary.write_text(render_html(evaluation), encoding="utf-8")


def render_html(evaluation: FileEvaluation) -> str:
    """The page as text. What comes from the file is escaped, and the page's policy lets only its own scripts run."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    reviewed = review(evaluation.table, evaluation.mols, evaluation.protocols)
    environment.filters |= {"percent": _percent, "count": "{:,}".format, "figure": _figure, "picture": _picture}
    scripts = [_asset(name) for name in ("3Dmol-min.js", "tools.js", "report.js")]
    return environment.from_string(_asset("report.html.j2")).render(
        facts(evaluation, maker_of(reviewed.named)),
        style=Markup(_asset("report.css")),
        licence=_asset("3Dmol-LICENSE.txt"),
        scripts=[Markup(script) for script in scripts],
        policy=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        packed=packed(reviewed.content),
        view_box=f"0 0 {WIDTH} {HEIGHT}",
        line_width=LINE_WIDTH,
    )


def facts(evaluation: FileEvaluation, made_by: Maker) -> dict[str, Any]:
    """Everything that the template shows, but for the molecules themselves."""
    table, metrics, reference = evaluation.table, evaluation.evaluation.metrics, evaluation.reference
    counted = passed(table, evaluation.protocols)
    here = composition_of(counted.smiles[counted.whole].dropna())
    there = composition_of(sample(reference.smiles)) if reference else None
    rows = shares(here, there)
    texts = [m.definition for m in metrics] + [KNOWN[key].source for key in table if key in KNOWN] + made_by.sources
    return {
        "file": evaluation.file.name, "sha256": evaluation.sha256, "n": len(table), "notes": evaluation.notes,
        "listed": min(len(table), MAX_MOLECULES), "moldiff": __version__, "rdkit": chem.RDKIT_VERSION,
        "reference": reference, "references": [(r.name, len(r.distinct), r.sha256) for r in evaluation.references],
        "funnel": funnel(table, metrics, evaluation.protocols), "population": counted.population,
        "headline": _headline(metrics), "sections": list(sections(metrics)),
        "histograms": _histograms(table, here, there), "here": here, "there": there, "level": LEVEL,
        "elements": [row for row in rows if row.kind == "element"],
        "over": _extreme(rows, 1), "under": _extreme(rows, -1), "tested": len(rows),
        "larger": sum(size > made_by.data.heavy_range[1] for size in here.quantities["Heavy atoms"]) if made_by.data else 0,
        "maker": made_by, "sources": sources_of((m.name for m in metrics), texts),
    }  # fmt: skip


def _headline(metrics: list[Metric]) -> list[tuple[str, Metric]]:
    found = {metric.name: (label, metric) for _, rows in sections(metrics) for label, _, metric in rows}
    return [found[name] for name in HEADLINE if name in found]


def _histograms(table: pd.DataFrame, here: Composition, there: Composition | None) -> list[Histogram]:
    plots = [
        histogram(name, values, there.quantities[name] if there else ()) for name, values in here.quantities.items()
    ]
    for key in ("qed", "sa", "nearest_similarity", "strain"):
        if key in table:
            title = f"{KNOWN[key].label}{' (kcal/mol)' if key == 'strain' else ''}"
            plots.append(histogram(title, table[key].dropna().astype(float).tolist()))
    return [plot for plot in plots if plot]


def _extreme(rows: list[Share], sign: int) -> list[Share]:
    """The largest differences of one sign that chance does not explain, elements apart."""
    differing = [row for row in rows if row.differs and row.kind != "element" and sign * (row.here - row.there) > 0]
    return sorted(differing, key=lambda row: -abs(row.here - row.there))[:LISTED]


def _percent(share: float, digits: int = 1) -> str:
    """In %, small shares with one digit more; "none" for a share of nothing."""
    if not math.isfinite(share):
        return "none"
    text = f"{100 * share:.{digits + (share < 0.001)}f}"
    return f"{text} %" if 0 < share < 1 and float(text) else f"{100 * share:.0f} %"


def _figure(metric: Metric) -> str:
    """The value of a metric: a share in %, anything else as it is."""
    if metric.numerator is not None:
        return _percent(metric.value, 2)
    return f"{metric.value:.3g}" if math.isfinite(metric.value) else "none"


def _picture(smiles: str) -> Markup:
    """The drawing of a SMILES as the body of an SVG; the drawing holds nothing but RDKit's own letters and lines."""
    return Markup(draw_smiles(smiles))


def _asset(name: str) -> str:
    return files("moldiff.html").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
