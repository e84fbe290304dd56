"""Circular fingerprints, eight bits to a byte, and what is counted from their Tanimoto similarities.

Morgan fingerprints of radius 2 and 1024 bits without chirality (10.1021/ci100050t), those of MOSES; the same serve the
nearest molecule of a reference.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from rdkit.Chem import DataStructs, Mol
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

RADIUS, BITS = 2, 1024
BYTES = BITS // 8


def fingerprint(mol: Mol) -> bytes:
    """The bytes of a sanitised molecule without explicit hydrogens."""
    return DataStructs.BitVectToBinaryText(_vector(mol, BITS))


def long_fingerprint(mol: Mol) -> DataStructs.ExplicitBitVect:
    """Of 2048 bits, for RDKit: by it a diverse choice is made, and analogues are compared with what they come from."""
    return _vector(mol, 2 * BITS)


def _vector(mol: Mol, bits: int) -> DataStructs.ExplicitBitVect:
    return GetMorganGenerator(radius=RADIUS, fpSize=bits).GetFingerprint(mol)


def packed(fingerprints: Iterable[bytes]) -> UInt8[np.ndarray, "n bytes"]:
    """Fingerprints as rows of one array."""
    return np.frombuffer(b"".join(fingerprints), np.uint8).reshape(-1, BYTES)


def nearest(
    queries: UInt8[np.ndarray, "n bytes"], reference: UInt8[np.ndarray, "m bytes"]
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """For each query the highest Tanimoto similarity in the reference, and the first row that has it.

    Raises :class:`ValueError` for an empty reference. Time: 11 ns a pair.
    """
    if not len(reference):
        raise ValueError("nearest molecules: the reference is empty; give at least one molecule")
    similarity, index = np.empty(len(queries)), np.empty(len(queries), int)
    for row, values in enumerate(_similarities(queries, reference)):
        index[row] = values.argmax()
        similarity[row] = values[index[row]]
    return similarity, index


def internal_diversity(fingerprints: UInt8[np.ndarray, "n bytes"], powers: Sequence[int] = (1, 2)) -> list[float]:
    """1 - ⟨(mean over b of T(a, b)^p)^(1/p)⟩ over a for each power p, each molecule paired with itself too; NaN for none.

    Source: arXiv:1708.08227; powers 1 and 2 are MOSES' IntDiv and IntDiv2.
    """
    if not len(fingerprints):
        return [math.nan] * len(powers)
    rows = _similarities(fingerprints, fingerprints)
    means = [[np.mean(values**p) ** (1 / p) for p in powers] for values in rows]
    return [1 - float(mean) for mean in np.mean(means, axis=0)]


def _similarities(queries: np.ndarray, reference: np.ndarray) -> Iterator[np.ndarray]:
    """Tanimoto similarities of each query to all of the reference; those of two empty fingerprints are 1.

    Word by word over the whole reference, which keeps one column in the cache and skips the empty words of a query.
    """
    columns = np.ascontiguousarray(np.ascontiguousarray(reference).view(np.uint64).T)
    sizes = np.bitwise_count(columns).sum(0, dtype=np.int32)
    for words in np.ascontiguousarray(queries).view(np.uint64):
        common = np.zeros(len(reference), np.uint16)
        for column in np.flatnonzero(words):
            common += np.bitwise_count(columns[column] & words[column])
        union = sizes + np.bitwise_count(words).sum(dtype=np.int32) - common
        yield np.where(union == 0, 1.0, common / np.maximum(union, 1))
