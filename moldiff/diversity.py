"""A diverse choice among molecules."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rdkit.SimDivFilters.rdSimDivPickers import MaxMinPicker

from moldiff.errors import RequestError

SEED = 0  # of the first molecule picked


R = TypeVar("R")  # whatever has ``smiles``, as records do


def diverse(records: Iterable[R], n: int) -> list[R]:
    """``n`` of the records that are as unlike each other as possible, in their order; all if there are no more.

    MaxMin: after a first one drawn with a fixed seed, always the molecule whose nearest picked one is farthest, by the
    Tanimoto similarity of Morgan fingerprints of radius 2 and 2048 bits, without stereo
    (10.1002/qsar.200290002). The same records give the same choice.

    Raises:
        RequestError: fewer than one asked for.
    """
    records = list(records)
    return [records[k] for k in pick_diverse((record.smiles for record in records), n)]


def pick_diverse(smiles: Iterable[str], n: int) -> Sequence[int]:
    """The same, for SMILES: the positions picked, ascending. Memory: a fingerprint of 256 bytes a molecule."""
    from moldiff.metrics.fingerprints import long_fingerprint
    from moldiff.metrics.profiles import read_graph

    if n < 1:
        raise RequestError(f"--diverse {n}: pick at least one molecule")
    vectors = [long_fingerprint(read_graph(text)) for text in smiles]
    if len(vectors) <= n:
        return range(len(vectors))
    return sorted(MaxMinPicker().LazyBitVectorPick(vectors, len(vectors), n, seed=SEED))
