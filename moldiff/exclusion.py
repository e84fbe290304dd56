"""Molecules that are not wanted again: those of a published training set, or of files of one's own."""

import hashlib
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from moldiff import chem
from moldiff.datasets.readers import ReadError
from moldiff.datasets.records import Record
from moldiff.errors import RequestError

LISTED = 5  # records that are named


class Excluded(NamedTuple):
    """Canonical SMILES without stereo and isotopes, so that all stereoisomers of a molecule are left out with it; of a salt
    its parts."""

    smiles: frozenset[str]
    notes: tuple[str, ...]  # of records that could not be read

    @property
    def sha256(self) -> str:
        """By which runs with other files are told apart."""
        return hashlib.sha256("\n".join(sorted(self.smiles)).encode()).hexdigest()


def read_excluded(sources: Iterable[str]) -> Excluded:
    """Of ``qm9`` or ``moses``, that is of their training sets, of ``drugs``, and of files that :func:`read_records` reads.

    Raises:
        RequestError: a file cannot be read, or nothing in it; or the package of a named one is not there.
    """
    found: set[str] = set()
    notes = []
    for source in sources:
        smiles, bad = _read(source)
        found |= smiles
        if bad:
            more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
            notes.append(f"--exclude {source}: {', '.join(islice(bad, LISTED))}{more}: not readable, not excluded")
    return Excluded(frozenset(found), tuple(notes))


def _read(source: str) -> tuple[set[str], list[str]]:
    """SMILES, and where there are none."""
    from moldiff.metrics.validity import without_stereo  # pandas comes with them, and most runs exclude nothing
    from moldiff.references import ReferenceSetError, file_of, records_with_bonds, training_set

    smiles, bad = set(), []
    try:
        path = file_of(source, "--exclude")
        if path is None:
            return set(map(without_stereo, training_set(source).smiles)), []
        for record in records_with_bonds(path, source, "--exclude"):
            parts = _graphs(record)
            smiles.update(parts)
            if not parts:
                bad.append(record.where)
    except ReferenceSetError as error:
        raise RequestError(f"--exclude {source}: {error}") from error
    except ReadError as error:
        raise RequestError(f"--exclude {error}") from error
    if not smiles:
        raise RequestError(f"--exclude {source}: RDKit reads no molecule of it; give SMILES, one a line, or an SDF")
    return smiles, bad


def _graphs(record: Record) -> list[str]:
    """Of each part; none where RDKit cannot read it."""
    mol, _ = record.read()
    if mol is None:
        return []
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
    whole, _ = chem.sanitised(mol, implied=None)
    return [] if whole is None else chem.smiles(whole, stereo=False).split(".")
