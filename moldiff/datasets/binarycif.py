"""Columns of a BinaryCIF file (Sehnal et al. 2020, 10.1371/journal.pcbi.1008247): tables of the PDB, in msgpack.

Written out here, for a page of numpy takes the place of a library of 126 MB.
"""

from collections.abc import Callable, Sequence
from io import BufferedIOBase
from itertools import pairwise
from typing import Any

import numpy as np

from moldiff.datasets.readers import ReadError

TYPES = {1: "<i1", 2: "<i2", 3: "<i4", 4: "<u1", 5: "<u2", 6: "<u4", 32: "<f4", 33: "<f8"}


def read_columns(
    file: BufferedIOBase, name: str, wanted: dict[str, Sequence[str]]
) -> dict[str, dict[str, np.ma.MaskedArray]]:
    """The ``wanted`` columns of each category in the first block, masked where the file has no value.

    Raises :class:`ReadError`, which calls the file ``name``, if msgpack is not installed or the file is another.
    """
    try:
        import msgpack
    except ImportError as error:
        raise ReadError(f"{name}: BinaryCIF needs msgpack; pip install 'moldiff[pdb-ligands]'") from error
    try:
        block = msgpack.unpackb(file.read(), strict_map_key=False)["dataBlocks"][0]
        return {category: _columns(block, category, names) for category, names in wanted.items()}
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ReadError(f"{name}: not the BinaryCIF file expected, or damaged ({text}); fetch it again") from error


def _columns(block: dict[str, Any], category: str, names: Sequence[str]) -> dict[str, np.ma.MaskedArray]:
    found = next(c for c in [*block["categories"], {"name": category, "columns": []}] if c["name"] == category)
    columns = {column["name"]: column for column in found["columns"]}
    return {name: _column(columns[name]) for name in names}


def _column(column: dict[str, Any]) -> np.ma.MaskedArray:
    values = decode(column["data"])
    missing = False if column["mask"] is None else decode(column["mask"]) != 0
    return np.ma.MaskedArray(values, missing)


def decode(encoded: dict[str, Any]) -> np.ndarray:
    """The array in ``{"data": bytes, "encoding": [first applied, ...]}``."""
    data: Any = encoded["data"]
    for step in reversed(encoded["encoding"]):
        data = DECODERS[step["kind"]](data, step)
    return data


def _byte_array(data: bytes, step: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(data, TYPES[step["type"]])


def _integer_packing(data: np.ndarray, step: dict[str, Any]) -> np.ndarray:
    """Large integers are sums of small ones: all that follow a number at the limit of its type, and the next."""
    limits = np.iinfo(data.dtype)
    at_limit = data == limits.max
    if not step["isUnsigned"]:
        at_limit |= data == limits.min
    starts = np.flatnonzero(~np.concatenate([[False], at_limit[:-1]]))
    return np.add.reduceat(data.astype(np.int32), starts) if len(data) else data.astype(np.int32)


def _delta(data: np.ndarray, step: dict[str, Any]) -> np.ndarray:
    return np.cumsum(data, dtype=np.int32) + np.int32(step["origin"])


def _run_length(data: np.ndarray, step: dict[str, Any]) -> np.ndarray:
    values, times = data.reshape(-1, 2).T
    return np.repeat(values, times)


def _fixed_point(data: np.ndarray, step: dict[str, Any]) -> np.ndarray:
    return data / step["factor"]


def _string_array(data: bytes, step: dict[str, Any]) -> np.ndarray:
    """Text of all different strings one after the other, where each begins, and which one each row has."""
    text = step["stringData"]
    ends = decode({"data": step["offsets"], "encoding": step["offsetEncoding"]}).tolist()
    strings = np.array([text[a:b] for a, b in pairwise(ends)] or [""])
    return strings[decode({"data": data, "encoding": step["dataEncoding"]})]


DECODERS: dict[str, Callable[[Any, dict[str, Any]], np.ndarray]] = {
    "ByteArray": _byte_array, "IntegerPacking": _integer_packing, "Delta": _delta, "RunLength": _run_length,
    "FixedPoint": _fixed_point, "StringArray": _string_array,
}  # fmt: skip
