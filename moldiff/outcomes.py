"""What becomes of attempts: accepted records, rejects and the reason of each, and the funnel that counts them."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from moldiff.requests import Request

if TYPE_CHECKING:
    from rdkit import Chem


@dataclass(frozen=True)
class Record:
    """One accepted molecule: sanitised, stereo from its coordinates, hydrogens explicit, geometry as generated."""

    id: str
    mol: "Chem.Mol"
    smiles: str
    seed: int
    index: int  # attempt k of the seed
    scores: dict[str, float | int | bool | str | None] = field(default_factory=dict)  # by column, where asked for
    relaxed: "Chem.Mol | None" = None  # the same molecule in another conformer, where asked for
    tries: int = 1  # from noise to a molecule, of which this is the nearest to what was told

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
    tries: int = 1


@dataclass
class Tally:
    """The funnel of the attempts ``sampled`` so far, which follow each other. ``rejected``: those by reason."""

    sampled: int = 0
    kept: int = 0
    rejected: Counter | dict = field(default_factory=Counter)
    tries: int = 0

    def __post_init__(self) -> None:
        self.rejected = Counter(self.rejected)

    def add(self, outcome: Record | Reject) -> None:
        self.sampled += 1
        self.tries += outcome.tries
        if isinstance(outcome, Record):
            self.kept += 1
        else:
            self.rejected[outcome.reason] += 1

    @property
    def acceptance(self) -> float:
        """Share of the attempts that are kept; about 95 % until there is experience."""
        return (self.kept + 19) / (self.sampled + 20)

    def copy(self) -> "Tally":
        return replace(self)

    def funnel(self, request: Request) -> dict[str, int]:
        """Molecules left after each stage, from ``sampled`` to ``kept``; optional stages only where asked for."""
        left = {"sampled": self.sampled}
        stages = {"connected": ("disconnected",), "sanitised": ("valence", "sanitisation", "radical", "coordinates")}
        if request.known is not None and request.known.is_part:
            stages["part kept"] = ("fragment",)
        if request.parent:
            stages["changed"] = ("unchanged",)
        if request.heavy_atoms:
            stages["of asked size"] = ("size",)
        if request.formula:
            stages["of asked formula"] = ("formula",)
        if request.exclude:
            stages["not excluded"] = ("excluded",)
        if request.unique:
            stages["unique"] = ("duplicate",)
        stages |= {condition: (f"not {condition}",) for condition in request.screen.conditions}
        for stage, reasons in stages.items():
            left[stage] = list(left.values())[-1] - sum(self.rejected[reason] for reason in reasons)
        return left | {"kept": self.kept}
