"""What Python callers pass is of the right kind, or refused in one line, before any work."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from moldiff.chem import Chem
from moldiff.errors import RequestError

KINDS = {  # of what generate is given, beside None
    "formula": (str, "a text"), "replace": (str, "a text"), "filter": (str, "a text"),
    "strength": (Real, "a number"), "guidance": (Real, "a number"), "time_limit": (Real, "a number"),
    **dict.fromkeys(("fix", "like", "shape"), (Chem.Mol, "an RDKit molecule with coordinates")),
    "pharmacophore": (Chem.Mol | list | tuple, "an RDKit molecule with coordinates, or a list of them"),
    "targets": (Mapping, "a dict"), "attach": (Sequence | np.ndarray, "a list of atoms"),
}  # fmt: skip
MEMBERS = {  # of those that hold several
    "targets": (str, "the name of a property"), "attach": (Integral, "a whole number, RDKit's index of an atom"),
    "pharmacophore": (Chem.Mol, "an RDKit molecule with coordinates"),
}  # fmt: skip


def check_kinds(**values: Any) -> None:
    """Raises RequestError for what is neither None nor of the kind that :data:`KINDS` tells of its name."""
    for name, value in values.items():
        kind, words = KINDS[name]
        if not (value is None or isinstance(value, kind)):
            raise RequestError(f"{name}={value!r}: must be {words}")
        if value is None or name not in MEMBERS or isinstance(value, Chem.Mol):
            continue
        kind, words = MEMBERS[name]
        for member in value:
            if not isinstance(member, kind):
                raise RequestError(f"{name}: {member!r}: must be {words}")


def check_counts(**counts: int | None) -> None:
    """Raises RequestError for what is neither None nor a whole number above 0."""
    for option, count in counts.items():
        if count is not None and not (isinstance(count, Integral) and count > 0):
            raise RequestError(f"{option} {count}: must be a whole number above 0")


def as_range(value: Any, named: str) -> tuple[Any, Any]:
    """A value as a range, or a range of two; whole numbers of any type as Python's, by whose text requests are told apart."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    ends = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(ends) != 2:
        raise RequestError(f"{named} = {value}: give a number, or the two ends of a range")
    low, high = (int(end) if isinstance(end, Integral) else end for end in ends)
    return low, high
