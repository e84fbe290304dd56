"""One record of a chemist's own library as a training molecule, or the reason why it is none.

Nothing is corrected unless asked for, except what every reading with RDKit does: pentavalent nitro groups and the like
become their charged forms, and hydrogens that the valence implies are made. Runs in a process of its own, for
``python -m moldiff.datasets.curation SECONDS``; see :mod:`moldiff.crew`.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import Mol, rdDetermineBonds, rdDistGeom
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.Scaffolds import MurckoScaffold

from moldiff import force_field, record_work
from moldiff.chem import ConversionError, assign_stereo, check, kekule_bonds, smiles, token_name
from moldiff.datasets.computed import compute
from moldiff.datasets.prepared import Structure
from moldiff.datasets.records import Record
from moldiff.errors import MoldiffError


class Unusable(MoldiffError):
    """A record that gives no training molecule: the reason, one of the words of :func:`curate`, and what was found."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, " ".join(detail.split())


@dataclass(frozen=True)
class Curation:
    """What is asked of every molecule."""

    hydrogens: str = "explicit"  # or implicit: heavy atoms only
    max_heavy: int = 50
    largest_fragment: bool = False
    neutralise: bool = False
    charge: int = 0  # e, of the molecules of XYZ files
    vocabulary: Sequence[str] | None = None  # tokens that may occur; None: all
    seed: int = 0  # of conformers


class Curated(NamedTuple):
    """A molecule and what is said of it."""

    structure: Structure
    identity: str  # canonical SMILES with stereo, as the source tells it
    scaffold: str  # Bemis–Murcko, SMILES; "" for an acyclic molecule
    origin: str  # of the coordinates: "source", "MMFF94s" or "ETKDG" (no parameters for an atom)
    fields: list[str | None]  # of the SDF record, those asked for
    computed: dict[str, float]  # properties, those asked for


def curate(record: Record, options: Curation, fields: Sequence[str] = (), computed: Sequence[str] = ()) -> Curated:
    """``fields``: data fields of an SDF record, in whatever case; ``computed``: of :data:`moldiff.datasets.computed.UNITS`.

    Raises :class:`Unusable` with one of these reasons, in the order tested.

    ``unreadable``, ``bonds`` (none found that fit the distances and the charge of an XYZ frame, or of an order other than 1
    to 3), ``valence``, ``sanitisation``, ``salt`` (several fragments, one of them organic, or charged ones), ``mixture``
    (several organic fragments), ``isotope``, ``radical``, ``element`` (a query atom or one not in the vocabulary),
    ``too small`` (fewer than two atoms), ``too large``, ``coordinates`` (two atoms closer than 0.5 Å), ``no conformer``
    (ETKDG finds none), ``hydrogens`` (left out, the valence would not imply them).
    """
    mol = _read(record, options)
    texts = [_field(mol, name) for name in fields]
    mol = _standard(mol, options)
    identity = smiles(mol)
    mol, origin = _with_coordinates(mol, options.seed)
    structure = _structure(mol)
    if options.hydrogens == "implicit":
        _check_implied(mol)
        structure = structure.without_hydrogens()
    scaffold = MurckoScaffold.MurckoScaffoldSmiles(mol=Chem.RemoveHs(mol))
    return Curated(structure, identity, scaffold, origin, texts, compute(mol, computed))


def _field(mol: Mol, name: str) -> str | None:
    """The text of a data field, whose name may differ in case."""
    if mol.HasProp(name):
        return mol.GetProp(name)
    others = (other for other in mol.GetPropNames() if other.lower() == name.lower())
    return next((mol.GetProp(other) for other in others), None)


def read_graph(record: Record, options: Curation) -> Mol:
    """The molecule of a record that :func:`curate` begins with: sanitised, with its stereo and the hydrogens it implies.

    Raises :class:`Unusable` with one of the reasons down to ``too large``.
    """
    return _standard(_read(record, options), options)


def _standard(mol: Mol, options: Curation) -> Mol:
    """One fragment, of atoms that may occur."""
    mol = _one_fragment(mol, options.largest_fragment)
    if options.neutralise:
        mol = _neutral(mol)
    _check_atoms(mol, options)
    return mol


def _read(record: Record, options: Curation) -> Mol:
    """Sanitised, with the stereo that the source tells."""
    mol, reason = record.read()
    if mol is None:
        raise Unusable("unreadable", reason)
    if mol.GetNumAtoms() == 0:
        raise Unusable("unreadable", "no atoms")
    if record.kind == "xyz":
        mol = _bonded(mol, options.charge)
    else:
        _sanitise(mol)
        if mol.GetNumConformers():
            Chem.DetectBondStereochemistry(mol)
    if _is_3d(mol):
        assign_stereo(mol)
    else:
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol


def _bonded(mol: Mol, charge: int) -> Mol:
    """Bonds by distances and valences (Kim & Kim 2015, 10.1002/bkcs.10334, in RDKit)."""
    mol = Chem.Mol(mol)
    try:
        rdDetermineBonds.DetermineBonds(mol, charge=charge)
    except (ValueError, RuntimeError) as error:
        raise Unusable("bonds", f"none fit a charge of {charge} ({str(error).splitlines()[0]})") from error
    return mol


def _sanitise(mol: Mol) -> None:
    try:
        Chem.SanitizeMol(mol)
    except Chem.AtomValenceException as error:
        raise Unusable("valence", str(error)) from error
    except (Chem.MolSanitizeException, ValueError) as error:
        raise Unusable("sanitisation", str(error)) from error


def _one_fragment(mol: Mol, largest: bool) -> Mol:
    fragments = Chem.GetMolFrags(mol, asMols=True)
    if len(fragments) == 1:
        return mol
    if largest:
        return rdMolStandardize.LargestFragmentChooser(preferOrganic=True).choose(mol)
    organic = [f for f in fragments if any(a.GetAtomicNum() == 6 for a in f.GetAtoms())]
    charged = any(Chem.GetFormalCharge(f) for f in fragments)
    text = ".".join(sorted(smiles(f) for f in fragments))
    raise Unusable("salt" if charged or len(organic) <= 1 else "mixture", f"{text}; see --largest-fragment")


def _neutral(mol: Mol) -> Mol:
    """Protons added or removed until nothing, or only what cannot be otherwise, is charged; heavy atoms stay in place."""
    if not any(a.GetFormalCharge() for a in mol.GetAtoms()):
        return mol
    neutral = rdMolStandardize.Uncharger().uncharge(Chem.RemoveHs(mol))
    _sanitise(neutral)
    return Chem.AddHs(neutral, addCoords=True)


def _check_atoms(mol: Mol, options: Curation) -> None:
    implicit = options.hydrogens == "implicit"
    for atom in mol.GetAtoms():
        where = f"atom {atom.GetIdx() + 1}, {atom.GetSymbol()}"
        if atom.GetIsotope():
            raise Unusable("isotope", f"{where} of mass {atom.GetIsotope()}")
        if atom.GetNumRadicalElectrons():
            raise Unusable("radical", f"{where} with {atom.GetNumRadicalElectrons()} unpaired electrons")
        if atom.GetAtomicNum() == 0 or atom.HasQuery():
            raise Unusable("element", f"{where} stands for any of several")
        name = token_name(atom.GetSymbol(), atom.GetFormalCharge())
        if implicit and name == "H":
            continue
        if options.vocabulary is not None and name not in options.vocabulary:
            raise Unusable("element", f"atom {atom.GetIdx() + 1} is {name}, known are {' '.join(options.vocabulary)}")
    heavy = mol.GetNumHeavyAtoms()
    atoms = heavy if implicit else mol.GetNumAtoms() + sum(a.GetTotalNumHs() for a in mol.GetAtoms())
    if heavy == 0 or atoms < 2:
        raise Unusable("too small", f"{heavy} heavy atom{'s' * (heavy != 1)}")
    if heavy > options.max_heavy:
        raise Unusable("too large", f"{heavy} heavy atoms, --max-heavy {options.max_heavy}")


def _is_3d(mol: Mol) -> bool:
    return mol.GetNumConformers() > 0 and mol.GetConformer().Is3D()


def _with_coordinates(mol: Mol, seed: int) -> tuple[Mol, str]:
    """All hydrogens, coordinates, and where these are from; judged as a generated molecule is."""
    origin = "source"
    if _is_3d(mol):
        mol = Chem.AddHs(mol, addCoords=True)
    else:
        mol, origin = embed(Chem.AddHs(mol), seed)
    verdict = check(mol)
    if verdict.mol is None:
        raise Unusable(verdict.reason, "two atoms closer than 0.5 Å" if verdict.reason == "coordinates" else "")
    return verdict.mol, origin


def embed(mol: Mol, seed: int) -> tuple[Mol, str]:
    """ETKDGv3 (Wang et al. 2020, 10.1021/acs.jcim.0c00025), relaxed by MMFF94s (Halgren 1999) where it knows all atoms."""
    mol = Chem.Mol(mol)
    mol.RemoveAllConformers()
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    if rdDistGeom.EmbedMolecule(mol, parameters) < 0:
        parameters.useRandomCoords = True
        if rdDistGeom.EmbedMolecule(mol, parameters) < 0:
            raise Unusable("no conformer", f"ETKDGv3 finds none for {smiles(mol)}")
    relaxed = force_field.relax(mol)
    return (mol, "ETKDG") if relaxed is None or math.isnan(relaxed.released) else (relaxed.mol, "MMFF94s")


def _structure(mol: Mol) -> Structure:
    text = smiles(mol, stereo=False)
    try:
        bonds = kekule_bonds(mol).tolist()
    except ConversionError as error:
        raise Unusable("bonds", str(error)) from error
    table = np.array(sorted((*sorted(ends), order) for *ends, order in bonds), dtype=int).reshape(-1, 3)
    return Structure(
        number=np.array([a.GetAtomicNum() for a in mol.GetAtoms()], dtype=np.uint8),
        charge=np.array([a.GetFormalCharge() for a in mol.GetAtoms()], dtype=np.int8),
        pos=mol.GetConformer().GetPositions().astype(np.float32),
        bond_index=table[:, :2].astype(np.int16),
        bond_order=table[:, 2].astype(np.uint8),
        smiles=text,
    )


def _check_implied(mol: Mol) -> None:
    """Whether RDKit, given the heavy atoms, charges and Kekulé bonds alone, puts every hydrogen back where it was."""
    copy = Chem.Mol(mol)
    Chem.Kekulize(copy, clearAromaticFlags=True)
    bare = Chem.RemoveAllHs(copy, sanitize=False)
    there = [a.GetTotalNumHs(includeNeighbors=True) for a in copy.GetAtoms() if a.GetAtomicNum() > 1]
    for atom in bare.GetAtoms():
        atom.SetNoImplicit(False)
        atom.SetNumExplicitHs(0)
    bare.UpdatePropertyCache(strict=False)
    implied = [a.GetTotalNumHs() for a in bare.GetAtoms()]
    if there != implied:
        k = next(k for k, counts in enumerate(zip(there, implied, strict=True)) if counts[0] != counts[1])
        text = f"atom {k + 1}, {bare.GetAtomWithIdx(k).GetSymbol()}, has {there[k]}, its valence implies {implied[k]}"
        raise Unusable("hydrogens", text)


def to_json(found: Curated) -> dict[str, Any]:
    """What a process answers; arrays in base 64."""
    s = found.structure
    arrays = [base64.b64encode(array.tobytes()).decode() for array in s[:-1]]
    return {**found._asdict(), "structure": [*arrays, s.smiles]}


def from_json(answer: dict[str, Any]) -> Curated:
    """Inverse of :func:`to_json`."""
    *arrays, text = answer["structure"]
    types = (np.uint8, np.int8, np.float32, np.int16, np.uint8)
    number, charge, pos, index, order = (
        np.frombuffer(base64.b64decode(a), t) for a, t in zip(arrays, types, strict=True)
    )
    structure = Structure(number, charge, pos.reshape(-1, 3), index.reshape(-1, 2), order, text)
    return Curated(**{**answer, "structure": structure})


def curations(
    records: Sequence[Record], fields: Sequence[str], computed: Sequence[str], **options: Any
) -> list[dict[str, Any]]:
    """For each record :func:`to_json` of what :func:`curate` gives, or ``{"reason", "detail"}``."""
    return [_answer(record, Curation(**options), fields, computed) for record in records]


def _answer(record: Record, options: Curation, fields: Sequence[str], computed: Sequence[str]) -> dict[str, Any]:
    try:
        return to_json(curate(record, options, fields, computed))
    except Unusable as error:
        return {"reason": error.reason, "detail": error.detail}


def main() -> None:
    record_work.TASKS["curations"] = curations
    record_work.main()


if __name__ == "__main__":
    main()
