"""Molecules in the files that options name."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rdkit import Chem

from moldiff import chem
from moldiff.datasets.readers import ReadError, read_records
from moldiff.errors import RequestError
from moldiff.known import FRAME

SUFFIXES = (".sdf", ".sd", ".mol")
SMILES_SUFFIXES = (".smi", ".smiles")
SEED = 0  # of the coordinates that are made for a SMILES


def read_given(option: str, path: Path) -> Iterator[Chem.Mol]:
    """The molecules of an SDF, at least one, each as soon as it is asked for; or the one of a file of SMILES, embedded.

    Raises:
        RequestError: the file or one of them cannot be read.
    """
    if not is_smiles(path) and path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"{option} {path}: {_remedy(path)}")
    if not path.is_file():
        raise RequestError(f"{option} {path}: no such file")
    if is_smiles(path):
        yield _read_smiles(option, path)
        return
    number = 0
    for number, mol in enumerate(chem.read_sdf(path), 1):
        if mol is None or not mol.GetNumAtoms():
            raise RequestError(f"{option} {path}: RDKit cannot read molecule {number}; correct it")
        yield mol
    if not number:
        raise RequestError(f"{option} {path}: no molecule in it; give an SDF")


def read_one(option: str, path: Path) -> Chem.Mol:
    """The one molecule of a file. Raises RequestError if there are more, or it cannot be read."""
    mol, *others = islice(read_given(option, path), 2)
    if others:
        raise RequestError(f"{option} {path}: holds several molecules; give a file with one")
    return mol


def is_smiles(path: Path) -> bool:
    return path.suffix.lower() in SMILES_SUFFIXES


def _remedy(path: Path) -> str:
    with chem.quiet():
        literal = not path.exists() and Chem.MolFromSmiles(str(path)) is not None
    if literal:
        return "no file; to give a SMILES, write it into one that ends in .smi, and name that"
    return "give an SDF, with 3D coordinates, or a .smi file of one molecule"


def _read_smiles(option: str, path: Path) -> Chem.Mol:
    """The one molecule of a file of SMILES, with hydrogens, and coordinates that are made, which is told."""
    try:
        records = list(islice(read_records(path), 2))
    except ReadError as error:
        raise RequestError(f"{option} {error}") from error
    if len(records) != 1:
        found = "holds several molecules" if records else "no molecule in it"
        raise RequestError(f"{option} {path}: {found}; give a file with one")
    record = records[0]
    written = Chem.SmilesParserParams()
    written.removeHs = False  # so that atoms are counted as they stand there
    with chem.quiet():
        mol = None if record.reason else Chem.MolFromSmiles(record.text, written)
        if mol is None or not mol.GetNumAtoms():
            reason = record.reason or f"RDKit cannot read {record.text[:60]!r}"
            raise RequestError(f"{option} {path}: {reason}; correct it")
        if len(Chem.GetMolFrags(mol)) > 1:
            raise RequestError(f"{option} {path}: several parts, and a SMILES does not tell how they lie; give an SDF")
        mol, how = _embedded(Chem.AddHs(mol), f"{option} {path}")
    mol.SetProp(FRAME, record.text)
    open_ones = sum(found.specified != Chem.StereoSpecified.Specified for found in Chem.FindPotentialStereo(mol))
    drawn = ", which chose the configuration where the SMILES leaves it open" if open_ones else ""
    print(f"{option} {path}: coordinates made from the SMILES by {how}{drawn}", file=sys.stderr)
    return mol


def _embedded(mol: Chem.Mol, what: str) -> tuple[Chem.Mol, str]:
    """With coordinates, and the methods; a carbon stands in for each dummy, and keeps a place for what is to grow there."""
    from moldiff.datasets.curation import Unusable, embed  # pandas comes with it

    whole = Chem.RWMol(mol)
    for atom in whole.GetAtoms():
        if atom.GetAtomicNum() == 0:
            atom.SetAtomicNum(6)
            atom.SetIsotope(0)
            atom.SetNoImplicit(False)
    try:
        whole.UpdatePropertyCache()
        whole, origin = embed(Chem.AddHs(whole), SEED)
    except (Unusable, Chem.MolSanitizeException) as error:
        raise RequestError(f"{what}: no coordinates can be made ({error}); give an SDF") from error
    methods = {"ETKDG": "ETKDGv3", "MMFF94s": "ETKDGv3 and MMFF94s"}[origin]
    return chem.placed(mol, whole.GetConformer().GetPositions()[: mol.GetNumAtoms()]), methods
