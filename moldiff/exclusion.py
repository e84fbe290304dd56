"""Molecules that are not wanted again: those of a published training set, or of files of one's own."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from moldiff import chem
from moldiff.datasets.readers import ReadError, kind_of, read_records
from moldiff.datasets.records import Record
from moldiff.errors import RequestError
from moldiff.metrics.validity import without_stereo
from moldiff.references import NAMES, training_set

LISTED = 5  # records that are named


class Excluded(NamedTuple):
    """Canonical SMILES without stereo, so that all stereoisomers of a molecule are left out with it."""

    smiles: frozenset[str]
    notes: tuple[str, ...]  # of records that could not be read


def read_excluded(sources: Iterable[str]) -> Excluded:
    """Of ``qm9`` or ``moses``, that is of their training sets, and of files that :func:`read_records` reads.

    Raises:
        RequestError: a file cannot be read, or nothing in it; or MOSES' package is not there.
    """
    found: set[str] = set()
    notes = []
    for source in sources:
        if source in NAMES and not Path(source).is_file():
            found.update(map(without_stereo, training_set(source).smiles))
            continue
        smiles, bad = _of_file(source)
        found |= smiles
        if bad:
            more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
            notes.append(f"--exclude {source}: {', '.join(islice(bad, LISTED))}{more}: not readable, not excluded")
    return Excluded(frozenset(found), tuple(notes))


def _of_file(source: str) -> tuple[set[str], list[str]]:
    """SMILES, and where there are none."""
    path, smiles, bad = Path(source), set(), []
    if not path.is_file():
        raise RequestError(f"--exclude {source}: no such file; give {', '.join(NAMES)} or a file of molecules")
    try:
        if kind_of(path) == "xyz":
            raise RequestError(f"--exclude {source}: has no bonds; give SMILES, one a line, or an SDF")
        for record in read_records(path):
            graph = _graph(record)
            smiles.add(graph) if graph else bad.append(record.where)
    except ReadError as error:
        raise RequestError(f"--exclude {error}") from error
    if not smiles:
        raise RequestError(f"--exclude {source}: RDKit reads no molecule of it; give SMILES, one a line, or an SDF")
    return smiles, bad


def _graph(record: Record) -> str | None:
    mol, _ = record.read()
    whole = None if mol is None else chem.sanitised(mol, implied=None)[0]
    return None if whole is None else chem.smiles(whole, stereo=False)
