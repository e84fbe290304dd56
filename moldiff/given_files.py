"""Molecules in the files that options name."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rdkit import Chem

from moldiff import chem
from moldiff.errors import RequestError

SUFFIXES = (".sdf", ".sd", ".mol")


def read_given(option: str, path: Path) -> Iterator[Chem.Mol]:
    """The molecules of an SDF, at least one, each as soon as it is asked for.

    Raises:
        RequestError: the file or one of them cannot be read.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"{option} {path}: give an SDF, with 3D coordinates")
    if not path.is_file():
        raise RequestError(f"{option} {path}: no such file")
    number = 0
    for number, mol in enumerate(chem.read_sdf(path), 1):
        if mol is None or not mol.GetNumAtoms():
            raise RequestError(f"{option} {path}: RDKit cannot read molecule {number}; correct it")
        yield mol
    if not number:
        raise RequestError(f"{option} {path}: no molecule in it; give an SDF")


def read_one(option: str, path: Path) -> Chem.Mol:
    """The one molecule of an SDF. Raises RequestError if there are more, or it cannot be read."""
    mol, *others = islice(read_given(option, path), 2)
    if others:
        raise RequestError(f"{option} {path}: holds several molecules; give a file with one")
    return mol
