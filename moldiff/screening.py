"""What is found out about every accepted molecule, and which of these are kept: scores, a filter, a relaxed conformer."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from rdkit.Chem import Mol

from moldiff import force_field
from moldiff.errors import RequestError
from moldiff.filters import Filter, read_filter

DIGITS = 4  # after the point, in all scores but values asked for; filters see the rounded ones too
RELAXATION_COLUMNS = {
    "energy_before": "float64", "energy_after": "float64", "strain": "float64", "rmsd_relaxed": "float64",
    "relaxed": "object",
}  # fmt: skip
ELEMENTS = ("B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Br", "I")  # whose atoms can be counted
ATOM_COUNTS = dict.fromkeys(("charge", "charged_atoms", *ELEMENTS), "Int64")
_MEANINGS = {
    "heavy_atoms": "atoms other than hydrogen",
    "alert_count": "number of PAINS, Brenk and NIH alerts",
    "charge": "sum of the formal charges",
    "charged_atoms": "atoms with a formal charge",
    **dict.fromkeys(ELEMENTS, "its atoms"),
    "energy_before": "MMFF94s, kcal/mol",
    "energy_after": "the same, relaxed",
    "strain": "kcal/mol released by MMFF94s relaxation",
    "rmsd_relaxed": "Å that the heavy atoms move in it",
}
# of the scores that a request adds: by name, or by how the name begins
_OWN_MEANINGS = {
    "similarity": "Tanimoto similarity to the molecule given",
    "shape_tanimoto": "overlap with the shape, as the molecule lies",
    "features_matched": "share of the pharmacophore's features in place",
    "asked_": "the value asked for",
    "predicted_": "by a network",
}


_MORE = (
    "; similarity comes with --like and --replace, shape_tanimoto with --shape, features_matched with --pharmacophore, "
    "predicted_ values with --target"
)


class Findings(NamedTuple):
    """Of one molecule; ``failed`` is the condition that it does not meet, as it was written."""

    scores: dict[str, float | int | bool | str | None]
    relaxed: Mol | None
    failed: str | None


@dataclass(frozen=True)
class Screen:
    """``drug``: drug-likeness columns; ``relax``: MMFF94s; ``filter``: what a molecule must meet to be kept."""

    drug: bool = False
    filter: Filter | None = None
    relax: bool = False

    @cached_property
    def columns(self) -> dict[str, str]:
        """The scores that records carry, those of the filter included, and their pandas types."""
        found = (_druglike_columns() if self.drug else {}) | (RELAXATION_COLUMNS if self.relax else {})
        if self.filter is None:
            return found
        known = _druglike_columns() | RELAXATION_COLUMNS | ATOM_COUNTS | {"alert_count": "Int64"}
        return found | {name: known[name] for name in self.filter.scores if name in known}

    @property
    def conditions(self) -> tuple[str, ...]:
        return tuple(condition.text for condition in self.filter.conditions) if self.filter else ()

    def __call__(self, mol: Mol, own: "OwnScores | None" = None) -> Findings:
        """``mol``: sanitised, with hydrogens and coordinates; it is not changed. ``own``: of the request; these come first."""
        facts = Facts(mol, own)
        failed = self.filter and self.filter.failed(facts)
        if failed:
            return Findings({}, None, failed.text)
        scores = dict(facts.own) | {name: facts[name] for name in self.columns}
        return Findings(scores, facts.relaxed if self.relax else None, None)


def choose_screen(
    scores: str | None = None, filter: str | None = None, relax: str | None = None, own: Iterable[str] = ()
) -> Screen:
    """A screen from options as they are written: ``drug``; an expression, see :mod:`moldiff.filters`; ``mmff``.

    ``own``: names of the request's own scores, which the expression may name, too.

    Raises:
        RequestError: none of these.
    """
    if scores not in (None, "drug"):
        raise RequestError(f"--scores {scores}: there is only drug")
    if relax not in (None, "mmff"):
        raise RequestError(f"--relax {relax}: there is only mmff")
    if filter is None:
        return Screen(scores is not None, None, relax is not None)
    general = _meanings()
    meanings = {name: _own_meaning(name) for name in own if name not in general} | general
    names = {name.lower(): name for name in meanings} | {"mw": "weight", "alerts": "alert_count"}
    return Screen(scores is not None, read_filter(filter, names, meanings, _MORE), relax is not None)


def known_scores(names: Sequence[str]) -> dict[str, str]:
    """Those of the names that can be computed, with their pandas types."""
    return {name: kind for name, kind in _druglike_columns().items() if name in names}


class Facts(dict[str, Any]):
    """The scores of a molecule, each group computed when one of it is first asked for."""

    def __init__(self, mol: Mol, own: "OwnScores | None" = None):
        super().__init__(heavy_atoms=mol.GetNumHeavyAtoms())
        self.mol = mol
        self._own = own
        self.relaxed: Mol | None = None

    def __missing__(self, name: str) -> Any:
        if name in ATOM_COUNTS:
            found = _atom_counts(self.mol)
        elif name in RELAXATION_COLUMNS:
            found, self.relaxed = _relaxation(self.mol)
        elif name == "alert_count" or name in _druglike_columns():
            found = _druglike(self.mol)
        else:
            return self.own.get(name)
        self.update((key, rounded(value)) for key, value in found.items())
        return self[name]

    @cached_property
    def own(self) -> Mapping[str, Any]:
        return self._own(self) if self._own else {}


OwnScores = Callable[[Facts], Mapping[str, Any]]  # what a request adds to the scores of a molecule


def rounded(value: Any) -> Any:
    """Numbers that are not numbers are unknown: None."""
    if not isinstance(value, float):
        return value
    return round(float(value), DIGITS) if math.isfinite(value) else None


def _druglike(mol: Mol) -> dict[str, Any]:
    from moldiff.metrics.druglike import druglike_facts

    found = druglike_facts(mol)
    return found | {"alert_count": found["pains"] + found["brenk"] + found["nih"]}


def _atom_counts(mol: Mol) -> dict[str, int]:
    atoms = list(mol.GetAtoms())
    symbols = Counter(atom.GetSymbol() for atom in atoms)
    charges = [charge for atom in atoms if (charge := atom.GetFormalCharge())]
    return {"charge": sum(charges), "charged_atoms": len(charges)} | {name: symbols[name] for name in ELEMENTS}


def _relaxation(mol: Mol) -> tuple[dict[str, Any], Mol | None]:
    from moldiff.metrics.strain import relaxation

    found = force_field.relax(mol)
    if found is None:
        return dict.fromkeys(RELAXATION_COLUMNS) | {"relaxed": "no: MMFF94s lacks parameters"}, None
    moved = relaxation(mol, found.mol, found.released)
    if moved.failure:
        return dict.fromkeys(RELAXATION_COLUMNS) | {"relaxed": "no: no minimum within reach of MMFF94s"}, None
    how = "MMFF94s" if found.converged else f"MMFF94s, not converged in {force_field.MAX_RELAXATION_STEPS} steps"
    return {
        "energy_before": found.before, "energy_after": found.before - found.released, "strain": moved.energy,
        "rmsd_relaxed": moved.rmsd_heavy, "relaxed": how,
    }, found.mol  # fmt: skip


def _druglike_columns() -> dict[str, str]:
    from moldiff.metrics.druglike import DRUGLIKE_COLUMNS  # pandas comes with it

    return DRUGLIKE_COLUMNS


def _own_meaning(name: str) -> str:
    return next((meaning for start, meaning in _OWN_MEANINGS.items() if name.startswith(start)), "a property asked for")


def _meanings() -> dict[str, str]:
    from moldiff.metrics.druglike import MEANINGS

    return MEANINGS | _MEANINGS
