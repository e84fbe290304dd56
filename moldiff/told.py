"""What molecules are told of themselves before they are made, and by how much they are off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer

from moldiff.chem import to_rdkit
from moldiff.conditions import Conditions, find_property
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
        count by their distance, 1 for :data:`NEAR`, infinitely where nothing can be told of a molecule. All that is within a
        range is as asked. The atoms of each element count where a formula is asked for; and where neither such counts are told
        nor values asked for, which elements that may change follow better. Molecules that RDKit does not sanitise have no
        counts, and are not off by them.
        """
        names = [p.name for p in self.model.data.properties]
        counted = np.array([name in GRAPH_COUNTS for name in names], dtype=bool)
        off = ((1 + self.asked) * self._differences(molecules, counted)).sum(1)
        nothing_else = np.isnan(self.values[:, counted]).all(1) & ~self.asked.any(1)
        by_elements = self.composition.any(1) & (nothing_else | (self.request.formula is not None))
        if by_elements.any():
            has = self.model.told_atoms(self.model.nothing_asked(len(molecules)), molecules).composition.numpy()
            off += by_elements * np.abs(has - self.composition).sum(1)
        return off + self._distances(molecules, ~counted).sum(1)

    def _distances(
        self, molecules: Molecules, measured: Bool[np.ndarray, " properties"]
    ) -> Float[np.ndarray, "b properties"]:
        aimed = self.asked & measured
        if self.measure is None or not aimed.any():
            return np.zeros(aimed.shape)
        std = np.array([p.std for p in self.model.data.properties])
        missed = self._missed(self.measure(molecules)) / (NEAR * std)
        return np.where(aimed, np.nan_to_num(missed, nan=np.inf), 0.0)

    def _differences(
        self, molecules: Molecules, counted: Bool[np.ndarray, " properties"]
    ) -> Float[np.ndarray, "b properties"]:
        if np.isnan(self.values[:, counted]).all():
            return np.zeros(self.values.shape)
        data = self.model.data
        names = [p.name for p, has in zip(data.properties, counted, strict=True) if has]
        found = np.full(self.values.shape, np.nan)
        for row, mol in zip(found, to_rdkit(molecules, data.vocabulary), strict=True):
            row[counted] = graph_counts(mol, names, data.hydrogens) or np.nan
        return np.nan_to_num(np.ceil(self._missed(found) - 0.5))  # between two whole numbers both will do

    def _missed(self, found: Float[np.ndarray, "b properties"]) -> Float[np.ndarray, "b properties"]:
        """By how much values are not what was told: of a range that is asked for, how far out they are."""
        low, high, properties = self.values.copy(), self.values.copy(), self.model.data.properties
        for target in self.request.targets:
            column = properties.index(find_property(target.name, properties))
            low[:, column], high[:, column] = target.low, target.high
        return np.maximum(np.maximum(low - found, found - high), 0.0)
