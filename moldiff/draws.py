"""What is drawn of molecules before they are made: how many atoms they have, of which elements, and their properties."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Integer

from moldiff.alternatives import remedies
from moldiff.chem import mean_valence
from moldiff.errors import RequestError
from moldiff.formula import composition_of
from moldiff.known import Known, size_odds
from moldiff.model_file import DataInfo

DRAWN = 128  # sizes that are drawn at a time, for the memory
NEAREST = 5  # training molecules that are near to any target, however far
WIDTH = 0.03  # standard deviations about a target in which training molecules are like each other


@dataclass(frozen=True)
class Drawn:
    """What is drawn: one row for each molecule."""

    atoms: Integer[np.ndarray, " b"]
    heavy: Integer[np.ndarray, " b"]  # 0: unknown
    composition: Integer[np.ndarray, "b elements"]  # all 0: unknown
    properties: Float[np.ndarray, "b properties"] | None = None  # physical, of a training molecule; NaN: unknown

    def __len__(self) -> int:
        return len(self.atoms)

    def select(self, rows: Sequence[int] | Integer[np.ndarray, " rows"]) -> "Drawn":
        properties = None if self.properties is None else self.properties[rows]
        return Drawn(self.atoms[rows], self.heavy[rows], self.composition[rows], properties)


@dataclass(frozen=True)
class Table:
    """Rows to draw from: composition, weight, and the properties of the training molecule."""

    composition: Integer[np.ndarray, "rows elements"]
    counts: Float[np.ndarray, " rows"]
    properties: Float[np.ndarray, "rows properties"]  # physical; NaN: unknown

    def __len__(self) -> int:
        return len(self.counts)

    def keep(self, possible: Bool[np.ndarray, " rows"]) -> "Table":
        return Table(self.composition[possible], self.counts[possible], self.properties[possible])

    def weighted(self, odds: Float[np.ndarray, " rows"]) -> "Table":
        return replace(self, counts=self.counts * odds)


class SizeDraw:
    """Training molecules drawn for their composition and properties, given a range of heavy atoms, what is known, and
    property values; or the composition that is asked for.

    They are the examples that the weights hold, else, where none of these is possible, their table of compositions. Where
    no training molecule holds the elements of what is known, the composition is left open: only a size is drawn.
    """

    def __init__(
        self,
        data: DataInfo,
        heavy: tuple[int, int] | None = None,
        known: Known | None = None,
        formula: str | None = None,
    ):
        self.data, self.known = data, known
        self.is_heavy = np.array([symbol != "H" for symbol in data.elements])
        self.made = np.array(data.made)
        self.std = np.array([p.std for p in data.properties])
        table = np.array(data.compositions)
        compositions, counts = table[:, :-1], table[:, -1].astype(float)
        rows, properties = data.example_table
        unknown = np.full((len(counts), len(data.properties)), np.nan)
        examples, every = (
            Table(compositions[rows], np.ones(len(rows)), properties),
            Table(compositions, counts, unknown),
        )
        try:  # rather what can be told; without such examples, of all compositions
            self.table, self.told = self._possible(examples, heavy, formula)
        except RequestError:
            self.told = False
        if not self.told:
            self.table, self.told = self._possible(every, heavy, formula)

    def _heavy(self, table: Table) -> Integer[np.ndarray, " rows"]:
        return table.composition[:, self.is_heavy].sum(1)

    def _possible(self, table: Table, heavy: tuple[int, int] | None, formula: str | None) -> tuple[Table, bool]:
        """Those rows that fit what is asked for, and whether their compositions do, too. Raises RequestError for none."""
        told = True
        if formula is not None:
            table = self._only(table, formula, heavy)
        if heavy is not None:
            table = self._within(table, *heavy)
        if self.known is not None and self.known.grows:
            elements = np.array(self.data.element_of)[self.known.molecule.atom[0].numpy()]
            part = np.bincount(elements, minlength=len(self.is_heavy))
            table, told = self._make_room(table, part, heavy, formula)
            if self.data.hydrogens == "explicit":
                table = table.weighted(self._odds(table, int(part[self.is_heavy].sum())))
        if not len(table):
            raise RequestError(f"model {self.data.name} knows no such molecule")
        return table, told

    def _only(self, table: Table, formula: str, heavy: tuple[int, int] | None) -> Table:
        if heavy is not None or (self.known is not None and not self.known.grows):
            other = "--n-atoms" if heavy is not None else "--like"
            raise RequestError(f"--formula {formula}: it is {other} that gives the size; take one of the two")
        composition = composition_of(formula, self.data)
        same = table.keep((table.composition == composition).all(1))
        return same if len(same) else Table(composition[None], np.ones(1), np.full((1, len(self.std)), np.nan))

    def _within(self, table: Table, low: int, high: int) -> Table:
        asked = f"--n-atoms {low}-{high}" if low != high else f"--n-atoms {low}"
        if low > high:
            raise RequestError(f"{asked}: the range is reversed; write {high}-{low}")
        atoms = self._heavy(table)
        if not len(atoms) or not atoms.min() <= low <= high <= atoms.max():
            least, most = self.data.heavy_range
            raise RequestError(
                f"{asked}: model {self.data.name} knows molecules of {least} to {most} heavy atoms"
                f"{remedies('stay within', heavy=(low, high))}"
            )
        possible = (atoms >= low) & (atoms <= high)
        if not possible.any():
            raise RequestError(f"{asked}: no training molecule has that many heavy atoms; widen the range")
        return table.keep(possible)

    def _make_room(
        self, table: Table, part: Integer[np.ndarray, " elements"], asked: tuple[int, int] | None, formula: str | None
    ) -> tuple[Table, bool]:
        """The compositions that hold what is known, ``part``, and a heavy atom more; else larger ones, which is told."""
        heavy, atoms = int(part[self.is_heavy].sum()), self._heavy(table)
        if formula is not None and not ((table.composition >= part).all() and atoms[0] > heavy):
            raise RequestError(f"--formula {formula}: no room for the known part and more; take a larger formula")
        larger = (atoms > heavy) & ((table.composition - part)[:, ~self.is_heavy] >= 0).all(1)
        if not larger.any():
            most = self.data.heavy_range[1]
            if asked is not None and heavy < most:
                what, advice = f"the molecules asked for have at most {asked[1]}", "; allow more with --n-atoms"
            else:
                tokens = [self.data.vocabulary[k] for k in self.known.molecule.atom[0].tolist()]
                what = f"molecules of model {self.data.name} have at most {most}"
                advice = remedies("take a smaller part", heavy=(heavy + 1, heavy + 1), tokens=tokens)
            raise RequestError(f"the known part has {heavy} heavy atoms, and {what}: no room for more{advice}")
        holds = larger & (table.composition >= part).all(1)
        told = bool(holds.any())
        return table.keep(holds if told else larger), told

    def _odds(self, table: Table, heavy: int) -> Float[np.ndarray, " rows"]:
        elements = [self.data.elements[k] for k in self.data.element_of]
        sizes = np.stack([self._heavy(table), table.composition[:, ~self.is_heavy].sum(1)], 1)
        valence = mean_valence(elements, self.data.atom_marginal)
        return size_odds(self.known, heavy, sizes, np.array(self.data.size_histogram), valence)

    def __call__(
        self,
        uniform: Float[np.ndarray, " b"],
        values: Float[np.ndarray, "b properties"] | None = None,
        atoms: Integer[np.ndarray, " b"] | None = None,
    ) -> Drawn:
        """For each uniform number; ``values``: NaN where none is asked for; ``atoms``, where given, are not drawn."""
        b, table = len(uniform), self.table
        if self.known is not None and not self.known.grows:  # of a molecule like it any atom may become another
            unknown = np.zeros((b, len(self.is_heavy)), dtype=int)
            return Drawn(np.full(b, len(self.known)), unknown.sum(1), unknown)
        if values is None and atoms is None:  # the same odds for all
            cdf = table.counts.cumsum() / table.counts.sum()
            row = np.searchsorted(cdf, uniform, side="right").clip(max=len(table) - 1)
            composition, properties = table.composition[row], table.properties[row]
            return self._with(composition, properties, composition[:, self.made].sum(1))
        composition = np.empty((b, len(self.is_heavy)), dtype=int)
        properties = np.empty((b, len(self.std)))
        for start in range(0, b, DRAWN):
            few = slice(start, start + DRAWN)
            weights = np.broadcast_to(table.counts, (len(uniform[few]), len(table)))
            if atoms is not None:
                weights = weights * (table.composition[:, self.made].sum(1) == atoms[few, None])
            if values is not None:
                weights = weights * self._nearness(values[few], weights > 0)
            total = weights.sum(1, keepdims=True)  # 0 for a number of atoms that no composition has
            cdf = weights.cumsum(1) / np.where(total > 0, total, 1)
            row = (cdf <= uniform[few, None]).sum(1).clip(max=len(table) - 1)
            composition[few] = table.composition[row] * (total > 0)
            properties[few] = np.where(total > 0, table.properties[row], np.nan)
        return self._with(composition, properties, composition[:, self.made].sum(1) if atoms is None else atoms)

    def _with(
        self, composition: Integer[np.ndarray, "b elements"], properties: Float[np.ndarray, "b properties"],
        atoms: Integer[np.ndarray, " b"],
    ) -> Drawn:  # fmt: skip
        return Drawn(atoms, composition[:, self.is_heavy].sum(1), composition * self.told, properties)

    def _nearness(self, values: np.ndarray, possible: Bool[np.ndarray, "b rows"]) -> Float[np.ndarray, "b rows"]:
        """How much each row counts by its distance from what is asked for, beyond that of the nearest.

        Normal, in standard deviations of the properties, and as wide as some molecules need. So a large polarisability
        gives large molecules. Where nothing is known, all are as near.
        """
        squares = np.where(possible, 0, np.inf)
        for p in np.flatnonzero(~np.isnan(values).all(0)):
            distance = (values[:, p, None] - self.table.properties[:, p]) / self.std[p]
            unknown = np.where(np.isnan(values[:, p, None]), 0, np.inf)
            squares += np.where(np.isnan(distance), unknown, distance**2)
        distance = np.sqrt(squares)
        nearest = np.partition(distance, min(NEAREST, len(self.table)) - 1, axis=1)[:, :NEAREST]
        least = nearest.min(1, keepdims=True)
        known = np.isfinite(least)
        beyond = distance - np.where(known, least, 0)
        width = np.where(np.isfinite(nearest), nearest - np.where(known, least, 0), 0).max(1, keepdims=True)
        return np.where(known, np.exp(-0.5 * (beyond / np.maximum(width, WIDTH)) ** 2), 1.0)
