"""Which attempts are accepted, and why the others are not."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moldiff import chem, fragment_checks
from moldiff.formula import has_formula
from moldiff.outcomes import Record, Reject
from moldiff.requests import Request
from moldiff.screening import OwnScores

if TYPE_CHECKING:
    from rdkit import Chem


@dataclass(frozen=True)
class Acceptance:
    """What molecules of a request are held to.

    ``own_scores``: what the request adds to the scores of a molecule; ``seen``: SMILES that are there, which grow, for
    ``unique``; ``excluded``: of molecules that are not wanted, without stereo (:mod:`moldiff.exclusion`).
    """

    request: Request
    vocabulary: Sequence[str]
    own_scores: OwnScores
    seen: set[str]
    excluded: Set[str] = frozenset()

    def __call__(self, identity: str, index: int, mol: "Chem.Mol", tries: int) -> Record | Reject:
        """The record of a molecule as generated, or what is wrong with it."""
        seed = self.request.seed
        accepted, reason = chem.check(mol)
        reason = reason or self._objection(mol, accepted)
        if reason is not None:
            return Reject(identity, mol, reason, seed, index, tries)
        text = chem.smiles(accepted)
        if self.request.unique and text in self.seen:
            return Reject(identity, mol, "duplicate", seed, index, tries)
        scores, relaxed, failed = self.request.screen(accepted, self.own_scores)
        if failed is not None:
            return Reject(identity, mol, f"not {failed}", seed, index, tries)
        if self.request.unique:
            self.seen.add(text)
        return Record(identity, accepted, text, seed, index, scores, relaxed, tries)

    def _objection(self, mol: "Chem.Mol", accepted: "Chem.Mol") -> str | None:
        """By what was asked for."""
        known, heavy, formula = self.request.known, self.request.heavy_atoms, self.request.formula
        if known is not None and (reason := fragment_checks.objection(known, mol, accepted, self.vocabulary)):
            return reason
        if heavy and not heavy[0] <= accepted.GetNumHeavyAtoms() <= heavy[1]:
            return "size"
        if formula and not has_formula(accepted, formula):
            return "formula"
        if self.excluded and chem.smiles(accepted, stereo=False) in self.excluded:
            return "excluded"
        return None
