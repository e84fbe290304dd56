"""Molecular formulas such as C7H8O2: read, checked against a model, and compared with what was made."""

import re
from collections import Counter

import numpy as np
from jaxtyping import Integer
from rdkit import Chem

from moldiff import chem
from moldiff.alternatives import remedies
from moldiff.errors import RequestError
from moldiff.model_file import DataInfo
from moldiff.valences import STRICT_VALENCES

_ATOMS = re.compile(r"([A-Z][a-z]?)(\d*)")


def read_formula(text: str) -> dict[str, int]:
    """Atoms of each element, hydrogens included. Raises :class:`RequestError` for what is no formula."""
    found = _ATOMS.findall(text)
    counts: Counter[str] = Counter()
    for symbol, count in found:
        counts[symbol] += int(count or 1)
    if not found or "".join(symbol + count for symbol, count in found) != text or 0 in counts.values():
        raise RequestError(f"--formula {text}: write elements and their atoms, e.g. C7H8O2")
    if not all(chem.is_element(symbol) for symbol in counts):
        raise RequestError(f"--formula {text}: an element that does not exist")
    return dict(counts)


def _check_closed_shell(text: str, counts: dict[str, int]) -> None:
    """Refuse what no connected, neutral molecule without unpaired electrons has, as far as the valences are known."""
    if not all((symbol, 0) in STRICT_VALENCES for symbol in counts):
        return
    free = sum((max(STRICT_VALENCES[symbol, 0]) - 2) * count for symbol, count in counts.items())
    if free % 2:
        raise RequestError(f"--formula {text}: an odd number of valences, so only radicals have it; change H by one")
    if free < -2:
        raise RequestError(f"--formula {text}: {-(free + 2)} hydrogens more than one molecule can hold; take them off")


def composition_of(text: str, data: DataInfo) -> Integer[np.ndarray, " elements"]:
    """Atoms of each of the model's elements. Raises :class:`RequestError` where it cannot make such a molecule."""
    counts = read_formula(text)
    heavy = sum(count for symbol, count in counts.items() if symbol != "H")
    need = {"heavy": (heavy, heavy), "tokens": counts}
    if strange := set(counts) - set(data.elements):
        known = f"{', '.join(sorted(strange))}, and model {data.name} knows {' '.join(data.elements)}"
        raise RequestError(f"--formula {text}: {known}{remedies(**need)}")
    _check_closed_shell(text, counts)
    composition = np.array([counts.get(symbol, 0) for symbol in data.elements])
    if problem := data.size_problem(heavy, int(composition[np.array(data.made)].sum())):
        raise RequestError(f"--formula {text}: {problem}{remedies(**need)}")
    return composition


def has_formula(mol: Chem.Mol, text: str) -> bool:
    """``mol``: with all its hydrogens as atoms."""
    return Counter(atom.GetSymbol() for atom in mol.GetAtoms()) == read_formula(text)
