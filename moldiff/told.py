"""What molecules are told of themselves before they are made, and by how much they are off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer

from moldiff.chem import to_rdkit
from moldiff.conditions import Conditions
from moldiff.draws import Drawn
from moldiff.graph_counts import GRAPH_COUNTS, graph_counts
from moldiff.model import Model
from moldiff.molecule import Molecules
from moldiff.requests import Request

NEAR = 0.1  # standard deviations of a property by which a value that is found may miss the one asked for, as one count
AS_TOLD = 1  # counts by which a molecule may be off, in all, without a further try

Measure = Callable[[Molecules], Float[np.ndarray, "b properties"]]  # physical; NaN: unknown


@dataclass(frozen=True)
class Told:
    """One row for each molecule."""

    model: Model
    request: Request
    atoms: Integer[np.ndarray, " b"]
    heavy: Integer[np.ndarray, " b"]  # of them, 0: unknown
    values: Float[np.ndarray, "b properties"]  # physical; NaN: not told
    asked: Bool[np.ndarray, "b properties"]  # which of them are aimed at
    composition: Integer[np.ndarray, "b elements"]  # all 0: not told
    measure: Measure | None = None  # by which values that are asked for are judged

    @classmethod
    def of(
        cls, model: Model, request: Request, sizes: Drawn, aims: Float[np.ndarray, "b properties"] | None,
        measure: Measure | None = None,
    ) -> "Told":  # fmt: skip
        """What is asked for (``aims``, NaN: not asked); where the weights are used to it and nothing else is known, the rest as
        the training molecule has it that was drawn."""
        values = np.full((len(sizes), len(model.data.properties)), np.nan)
        if model.config.quality.told_properties and request.is_whole and sizes.properties is not None:
            values = sizes.properties
        asked = np.zeros(values.shape, dtype=bool) if aims is None else ~np.isnan(aims)
        values = values if aims is None else np.where(asked, aims, values)
        of_training = model.config.quality.told_composition and request.is_whole
        needed = aims is not None or request.formula is not None or of_training
        # else it is left open: elements that may change mend the structure
        composition = sizes.composition if needed else np.zeros_like(sizes.composition)
        return cls(model, request, sizes.atoms, sizes.heavy, values, asked, composition, measure)

    def __len__(self) -> int:
        return len(self.atoms)

    def select(self, rows: Sequence[int] | Integer[np.ndarray, " rows"]) -> "Told":
        columns = ("atoms", "heavy", "values", "asked", "composition")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def conditions(self) -> Conditions:
        """As the network takes them."""
        physical = Conditions.from_physical(torch.from_numpy(self.values).float(), self.model.data.properties)
        heavy, composition = torch.from_numpy(self.heavy), torch.from_numpy(self.composition)
        return physical.replace(heavy=heavy, composition=composition)

    def off_by(self, molecules: Molecules) -> Float[np.ndarray, " b"]:
        """By how much each molecule, on the CPU, differs from what it was told, in all.

        Counted are :data:`GRAPH_COUNTS`, those that are asked for twice; other values that are asked for are measured, and
        count by their distance, 1 for :data:`NEAR`, infinitely where nothing can be told of a molecule. The atoms of each
        element count where a formula is asked for; and where neither such counts are told nor values asked for, which elements
        that may change follow better. Molecules that RDKit does not sanitise have no counts, and are not off by them.
        """
        columns = {p.name: k for k, p in enumerate(self.model.data.properties) if p.name in GRAPH_COUNTS}
        expected, weight = (of[:, list(columns.values())] for of in (self.values, 1 + self.asked))
        off = (weight * self._differences(molecules, list(columns), expected)).sum(1)
        nothing_else = np.isnan(expected).all(1) & ~self.asked.any(1)
        by_elements = self.composition.any(1) & (nothing_else | (self.request.formula is not None))
        if by_elements.any():
            has = self.model.told_atoms(self.model.nothing_asked(len(molecules)), molecules).composition.numpy()
            off += by_elements * np.abs(has - self.composition).sum(1)
        return off + self._distances(molecules).sum(1)

    def _distances(self, molecules: Molecules) -> Float[np.ndarray, "b properties"]:
        uncounted = [p.name not in GRAPH_COUNTS for p in self.model.data.properties]
        aimed = self.asked & uncounted
        if self.measure is None or not aimed.any():
            return np.zeros(aimed.shape)
        std = np.array([p.std for p in self.model.data.properties])
        missed = np.abs(self.measure(molecules) - self.values) / (NEAR * std)
        return np.where(aimed, np.nan_to_num(missed, nan=np.inf), 0.0)

    def _differences(
        self, molecules: Molecules, names: Sequence[str], expected: Float[np.ndarray, "b counts"]
    ) -> Float[np.ndarray, "b counts"]:
        if np.isnan(expected).all():
            return np.zeros(expected.shape)
        data = self.model.data
        found = [graph_counts(mol, names, data.hydrogens) for mol in to_rdkit(molecules, data.vocabulary)]
        counted = np.array([[np.nan] * len(names) if counts is None else counts for counts in found], dtype=float)
        return np.nan_to_num(np.ceil(np.abs(counted - expected) - 0.5))  # between two whole numbers both will do
