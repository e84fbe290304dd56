"""What the terminal shows of an evaluation: each number with its counts and its rule in a few words."""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from moldiff.metrics import Metric

if TYPE_CHECKING:
    from moldiff.report import FileEvaluation

WIDTH = 120  # characters of a line where there is no terminal
COLUMNS = {"metric": 20, "value": 6, "interval": 13, "counts": 13}  # least widths, the same in all sections

_SIMILARITIES = {  # of each of the test sets of MOSES; other references have but one
    "fcd": ("FCD", "at equal n only"),
    "snn": ("SNN", "similarity to nearest"),
    "frag": ("fragments", "similarity, BRICS"),
    "scaf": ("scaffolds", "similarity, Murcko"),
    "logp_w1": ("logP", "Wasserstein"),
    "sa_w1": ("SA", "Wasserstein"),
    "qed_w1": ("QED", "Wasserstein"),
    "weight_w1": ("weight, g/mol", "Wasserstein"),
}
# What the screen shows, in its order: heading, then name of a metric -> (label, the rule in a few words). The whole
# rule is the metric's definition. Metrics not listed here come last, under their own names.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "validity: bonds and charges as written": {
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
        "unique_stereo": ("unique with stereo", "stereo from 3D, if any"),
        "valid_connected_unique": ("unique, of all", "distinct, of all molecules"),
        "novel": ("novel", "distinct, not in reference"),
        "novel_stereo": ("novel with stereo", "distinct, not in reference"),
        "unseen_ring_system": ("new ring systems", "not in reference"),
        "intdiv": ("IntDiv", "1 - mean similarity"),
        "intdiv2": ("IntDiv2", "the same, squared"),
    },
    "distance from the reference: 0 is equal, for similarities 1": {
        **_SIMILARITIES,
        "bond_length_w1": ("bond lengths, Å", "Wasserstein, by type"),
        "bond_angle_w1": ("bond angles, °", "Wasserstein, by type"),
        "torsion_w1": ("torsions, °", "Wasserstein, by type"),
        "element_tv": ("elements", "total variation"),
        "size_tv": ("sizes", "total variation"),
        "ring_size_tv": ("ring sizes", "total variation"),
        "charge_tv": ("atomic charges", "total variation"),
    },
    "distance from the scaffolds kept apart: 0 is equal, for similarities 1": {
        f"{name}_test_scaffolds": row for name, row in _SIMILARITIES.items()
    },
    "drug-likeness of the valid & connected": {
        "qed": ("QED", "median"),
        "sa": ("SA score", "median; 1 easy, 10 hard"),
        "logp": ("logP", "median; Crippen"),
        "weight": ("weight, g/mol", "median"),
        "lipinski": ("Lipinski", "at most one rule broken"),
        "veber": ("Veber", "bonds and polar surface"),
        "alert_free": ("no alerts", "PAINS, Brenk, NIH"),
    },
    "geometry of molecules drawn at random": {
        "strain": ("strain, kcal/mol", "median, MMFF94s"),
        "strain_rmsd": ("RMSD, Å", "of that relaxation"),
        "strain_rmsd_heavy": ("RMSD, heavy atoms", "of that relaxation"),
        "strain_relaxed": ("could be relaxed", "by MMFF94s"),
        "xtb_strain": ("strain, kcal/mol", "median, GFN2-xTB"),
        "xtb_strain_rmsd": ("RMSD, Å", "of that relaxation"),
        "xtb_strain_rmsd_heavy": ("RMSD, heavy atoms", "of that relaxation"),
        "xtb_strain_relaxed": ("could be relaxed", "by GFN2-xTB"),
        "posebusters": ("PoseBusters", "passes all checks"),
        "posebusters_sanitization": ("  sanitised", ""),
        "posebusters_inchi_convertible": ("  InChI", ""),
        "posebusters_all_atoms_connected": ("  connected", ""),
        "posebusters_no_radicals": ("  no radicals", ""),
        "posebusters_bond_lengths": ("  bond lengths", ""),
        "posebusters_bond_angles": ("  bond angles", ""),
        "posebusters_internal_steric_clash": ("  no clash", ""),
        "posebusters_aromatic_ring_flatness": ("  aromatic rings", "flat"),
        "posebusters_non-aromatic_ring_non-flatness": ("  other rings", "not flat"),
        "posebusters_double_bond_flatness": ("  double bonds", "flat"),
        "posebusters_internal_energy": ("  energy", "against its conformers"),
    },
    "MOSES' protocol: SMILES, RDKit's clean-up included": {
        "moses_valid": ("valid", "RDKit reads it"),
        "moses_unique@1000": ("unique@1000", "of the first 1,000"),
        "moses_unique@10000": ("unique@10000", "of the first 10,000"),
        "moses_novelty": ("novel", "distinct, not in reference"),
        "moses_filters": ("filters", "MCF, PAINS, atoms, rings"),
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


def show(evaluation: "FileEvaluation", console: Console | None = None) -> None:
    """Print the metrics in tables, the references and the notes."""
    console = console or _console()
    say = partial(console.print, markup=False, highlight=False)
    say(f"{evaluation.file}: {molecules(len(evaluation.table))}")
    for heading, rows in sections(evaluation.evaluation.metrics):
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, expand=False)
        for name, width in COLUMNS.items():
            table.add_column(name, min_width=width, no_wrap=True, justify="left" if name == "metric" else "right")
        table.add_column("rule")
        for label, rule, metric in rows:
            table.add_row(label, *_figures(metric), rule)
        say()
        say(heading, style="bold")
        console.print(Padding(table, (0, 0, 0, 2)))
    say()
    say("In %: share, 95 % interval of a proportion, counts. The whole rule of each number: --json.")
    for reference in evaluation.references:
        say(f"reference: {reference}")
    for note in evaluation.notes:
        say(f"note: {note}")


def _console() -> Console:
    """As wide as the terminal; files and pipes get lines that are wide enough to hold a metric each."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def molecules(count: int) -> str:
    return f"{count} molecule{'s' * (count != 1)}"


def sections(metrics: Iterable[Metric]) -> Iterator[tuple[str, list[tuple[str, str, Metric]]]]:
    """(heading, (label, rule in a few words, metric)) of every section that has metrics, in the order of the screen."""
    left = {metric.name: metric for metric in metrics}
    for heading, shown in SECTIONS.items():
        rows = [(label, rule, left.pop(name)) for name, (label, rule) in shown.items() if name in left]
        if rows:
            yield heading, rows
    if left:
        yield "others", [(name, metric.definition, metric) for name, metric in left.items()]


def _figures(metric: Metric) -> tuple[str, str, str]:
    """Value, interval and counts as the screen shows them."""
    if metric.numerator is None:
        return _number(metric.value), "", f"n = {metric.denominator}"
    counts = f"{metric.numerator}/{metric.denominator}"
    if not metric.denominator:
        return "none", "", counts
    interval = "-".join(f"{100 * bound:.2f}" for bound in metric.interval or ())
    return f"{100 * metric.value:.2f}", interval, counts


def _number(value: float) -> str:
    """With four decimals below 1, else with two."""
    if not math.isfinite(value):
        return "none"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
