"""Which of the curated molecules are in the set, in which split, and with which vocabulary."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from rdkit.Chem import GetPeriodicTable

from moldiff.chem import parse_token, token_name
from moldiff.datasets.library import Library
from moldiff.datasets.prepared import SPLITS, Chunk, PreparedDataError, sort_kinds
from moldiff.datasets.shards import Dropped, Shard, Shards
from moldiff.datasets.splits import random_split, scaffold_split

MAX_TOKENS = 256


class Selection(NamedTuple):
    """What becomes of the N molecules in the shards."""

    name: np.ndarray  # (N,) int8, index into SPLITS; -1: not in the set
    first: np.ndarray  # (N,) for a duplicate the one it repeats, else itself
    source: np.ndarray  # (N,) running number of the record
    vocabulary: list[str]
    rare: list[str]  # tokens in fewer than min_count molecules


def select(library: Library, shards: Shards) -> Selection:
    """Drop duplicates and molecules with rare tokens, take the vocabulary of the rest, and split them.

    Raises :class:`PreparedDataError` if too little is left.
    """
    columns: tuple[list[np.ndarray], ...] = ([], [], [])
    patterns = Patterns()
    for shard in shards:
        arrays = (np.array(shard.identity, "S32"), np.array(shard.scaffold, "S32"), shard.split.source)
        for column, array in zip(columns, arrays, strict=True):
            column.append(array)
        patterns.add(shard)
    identity, scaffold, source = (np.concatenate(column) for column in columns)
    _, first, place = np.unique(identity, return_index=True, return_inverse=True)
    first = first[place]
    kept = first == np.arange(len(first))
    rare = [token for token, count in patterns.counts(kept).items() if count < library.min_count]
    kept &= ~patterns.having(rare)
    _check_enough(shards, int(kept.sum()))
    name = np.full(len(kept), -1, np.int8)
    if library.split == "scaffold":
        name[kept] = scaffold_split(scaffold[kept], library.valid, library.test)
    else:
        name[kept] = random_split(int(kept.sum()), library.valid, library.test, library.curation.seed)
    vocabulary = library.curation.vocabulary or sort_tokens(patterns.counts(kept))
    if len(vocabulary) > MAX_TOKENS:
        raise PreparedDataError(f"{len(vocabulary)} elements and charges, {MAX_TOKENS} at most; raise --min-count")
    return Selection(name, first, source, list(vocabulary), sorted(rare))


def _check_enough(shards: Shards, kept: int) -> None:
    if kept >= len(SPLITS):
        return
    rows = [row for shard in shards for row in shard.dropped]
    text = f"{kept} different usable molecules; at least {len(SPLITS)} are needed"
    if rows:
        reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(row.reason for row in rows).most_common())
        text += f" (dropped: {reasons}; the first, {rows[0].file} {rows[0].where}: {rows[0].detail})"
    raise PreparedDataError(f"{text}; check the files")


def sort_tokens(names: Sequence[str] | dict[str, int]) -> list[str]:
    """In the order of a vocabulary."""
    table = GetPeriodicTable()
    kinds = [(table.GetAtomicNumber(symbol), charge) for symbol, charge in map(parse_token, names)]
    return [token_name(table.GetElementSymbol(number), charge) for number, charge in sort_kinds(kinds)]


class Patterns:
    """Which tokens each molecule holds: many molecules, few different sets."""

    def __init__(self) -> None:
        self.number: dict[frozenset[str], int] = {}
        self.of_molecule: list[np.ndarray] = [np.zeros(0, np.int32)]

    def add(self, shard: Shard) -> None:
        pieces = np.split(shard.split.atom, np.cumsum(shard.split.n_atoms))[:-1]
        sets = [frozenset(shard.vocabulary[k] for k in set(piece.tolist())) for piece in pieces]
        found = [self.number.setdefault(tokens, len(self.number)) for tokens in sets]
        self.of_molecule.append(np.array(found, np.int32))

    def counts(self, kept: np.ndarray) -> dict[str, int]:
        """Molecules, of those ``kept``, that hold each token."""
        numbers = np.bincount(np.concatenate(self.of_molecule)[kept], minlength=len(self.number)).tolist()
        counts: Counter[str] = Counter()
        for tokens, number in self.number.items():
            counts.update(dict.fromkeys(tokens, numbers[number]))
        return {token: count for token, count in counts.items() if count}

    def having(self, tokens: Sequence[str]) -> np.ndarray:
        """(N,) bool: which molecules hold any of the tokens."""
        hit = np.array([not there.isdisjoint(tokens) for there in self.number], dtype=bool)
        return hit[np.concatenate(self.of_molecule)]


class Members:
    """The molecules of one split as chunks, one for each shard, as often as they are asked for."""

    def __init__(self, shards: Shards, selection: Selection, number: int):
        self.shards, self.selection, self.number = shards, selection, number

    def __iter__(self) -> Iterator[Chunk]:
        start = 0
        for shard in self.shards:
            chosen = self.selection.name[start : start + len(shard.split)] == self.number
            start += len(shard.split)
            split = shard.split.select(chosen).with_vocabulary(shard.vocabulary, self.selection.vocabulary)
            yield split, [s for s, c in zip(shard.smiles, chosen.tolist(), strict=True) if c]


def dropped_rows(
    library: Library, shards: Shards, selection: Selection, records: Sequence[int], reasons: Counter[str]
) -> Iterator[Dropped]:
    """All records that are not in the set, in their order; counted in ``reasons`` on the way.

    ``records``: how many each file has.
    """
    starts = [0, *accumulate(records)]

    def place(source: int) -> tuple[str, int]:
        file = bisect_right(starts, source - 1) - 1
        return library.labels[file], source - starts[file]

    start = 0
    for shard in shards:
        rows = list(shard.dropped)
        for k in np.flatnonzero(selection.name[start : start + len(shard.split)] < 0).tolist():
            source, first = int(selection.source[start + k]), int(selection.first[start + k])
            if first < start + k:
                reason, detail = "duplicate", "of {} row {}".format(*place(int(selection.source[first])))
            else:
                rare = [t for i, t in enumerate(shard.vocabulary) if t in selection.rare and shard.split.having([i])[k]]
                reason, detail = "rare element", f"{' '.join(rare)} in fewer than {library.min_count} molecules"
            rows.append(Dropped(source, *place(source), shard.where[k], shard.id[k], reason, detail))
        start += len(shard.split)
        reasons.update(row.reason for row in rows)
        yield from sorted(rows)
