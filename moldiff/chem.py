"""Molecules ↔ RDKit, and the rule by which a generated molecule is accepted.

Conversion never repairs: what the model said is what RDKit gets, and :func:`check` judges the whole molecule.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer
from rdkit import Chem, rdBase

from moldiff.errors import MoldiffError
from moldiff.molecule import TOKEN_FORM, Molecules, split_token

RDKIT_VERSION = rdBase.rdkitVersion
# The shortest bond there is, in H2, is 0.74 Å; nothing met at room temperature brings two nuclei closer than this.
MIN_DISTANCE = 0.5  # Å
EXACT = Chem.PropertyPickleOptions.CoordsAsDouble  # RDKit rounds coordinates to single precision otherwise

TETRAHEDRAL = {getattr(Chem.ChiralType, f"CHI_{tag}") for tag in ("UNSPECIFIED", "TETRAHEDRAL_CW", "TETRAHEDRAL_CCW")}
_BOND_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
ORDERS = {bond_type: order for order, bond_type in _BOND_TYPES.items()}  # Kekulé
# RDKit's clean-up rewrites groups (pentavalent nitro, hypervalent halogens): a repair, so not in a judgement.
_SANITISE = Chem.SANITIZE_ALL ^ Chem.SANITIZE_CLEANUP ^ Chem.SANITIZE_CLEANUP_ORGANOMETALLICS


class ConversionError(MoldiffError):
    """A molecule cannot be expressed in the vocabulary; the message names the molecule, the atom and the remedy."""


class Verdict(NamedTuple):
    """The outcome of :func:`check`: a sanitised copy, or the reason for rejection."""

    mol: Chem.Mol | None
    reason: str | None  # "disconnected", "valence", "sanitisation", "radical" or "coordinates"


class Graph(NamedTuple):
    """A molecular graph of N heavy atoms and B bonds, hydrogens counted on their atoms."""

    number: np.ndarray  # (N,) atomic numbers, in the order of the SMILES
    charge: np.ndarray  # (N,) formal charges, e
    hydrogens: np.ndarray  # (N,) attached hydrogens
    bond_index: np.ndarray  # (B, 2)
    bond_order: np.ndarray  # (B,) Kekulé orders 1–3
    smiles: str  # canonical, without stereo


@contextmanager
def quiet() -> Iterator[None]:
    """Mute RDKit's log streams; on leaving, those that were on are on again and the others stay off."""
    with rdBase.BlockLogs():
        yield


def send_exactly() -> None:
    """From this process on to others, molecules go with their coordinates to the last bit, and with their properties."""
    Chem.SetDefaultPickleProperties(EXACT | Chem.PropertyPickleOptions.AllProps)


def token_name(symbol: str, charge: int) -> str:
    """The vocabulary name of an element with a formal charge: ``("N", 1)`` → ``"N+"``, ``("O", -2)`` → ``"O2-"``."""
    if charge == 0:
        return symbol
    return f"{symbol}{abs(charge) if abs(charge) > 1 else ''}{'+' if charge > 0 else '-'}"


def parse_token(name: str) -> tuple[str, int]:
    """Inverse of :func:`token_name`. Raises ``ValueError`` for anything that it would not write."""
    symbol, charge = split_token(name)
    if token_name(symbol, charge) == name and is_element(symbol):
        return symbol, charge
    raise ValueError(f"token {name!r}: {TOKEN_FORM}")


@cache
def is_element(symbol: str) -> bool:
    """Whether there is an element with this symbol; says nothing where RDKit would."""
    try:
        with quiet():
            return Chem.GetPeriodicTable().GetAtomicNumber(symbol) > 0
    except RuntimeError:  # how RDKit reports an unknown symbol
        return False


def mean_valence(elements: Sequence[str], shares: Sequence[float]) -> float:
    """Of the usual valences of these elements, weighted, without hydrogen."""
    table = Chem.GetPeriodicTable()
    heavy = [(table.GetDefaultValence(e), w) for e, w in zip(elements, shares, strict=True) if e != "H"]
    return sum(v * w for v, w in heavy) / sum(w for _, w in heavy)


def to_rdkit(molecules: Molecules, vocabulary: Sequence[str]) -> list[Chem.Mol]:
    """Exactly the given atoms, charges, Kekulé bonds and coordinates (Å, one conformer): no sanitising, no repair.

    Atoms carry the no-implicit-hydrogens flag, so that RDKit never completes a valence that the model left open. Those of a
    model without hydrogens get them by :func:`moldiff.force_field.with_hydrogens`.
    """
    atoms = [_atom(*parse_token(name)) for name in vocabulary]
    molecules = molecules.to("cpu")
    fields = (molecules.mask, molecules.pos.double(), molecules.atom, molecules.bond)
    return [_mol(atoms, *arrays) for arrays in zip(*(f.numpy() for f in fields), strict=True)]


def _atom(symbol: str, charge: int) -> Chem.Atom:
    atom = Chem.Atom(symbol)
    atom.SetFormalCharge(charge)
    atom.SetNoImplicit(True)
    return atom


def _mol(atoms: list[Chem.Atom], mask: np.ndarray, pos: np.ndarray, atom: np.ndarray, bond: np.ndarray) -> Chem.Mol:
    mol = Chem.RWMol()
    for token in atom[mask].tolist():
        mol.AddAtom(atoms[token])
    bond = np.triu(bond[mask][:, mask], 1)
    first, second = np.nonzero(bond)
    for i, j, order in zip(first.tolist(), second.tolist(), bond[first, second].tolist(), strict=True):
        mol.AddBond(i, j, _BOND_TYPES[order])
    return placed(mol, pos[mask])


def placed(mol: Chem.Mol, pos: Float[np.ndarray, "n 3"]) -> Chem.Mol:
    """A copy with these coordinates (Å) as its only conformer."""
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    conformer = Chem.Conformer(copy.GetNumAtoms())
    conformer.SetPositions(np.asarray(pos, dtype=np.float64))
    conformer.Set3D(True)
    copy.AddConformer(conformer, assignId=True)
    return copy


def kekule_bonds(mol: Chem.Mol) -> Integer[np.ndarray, "bonds 3"]:
    """The two atoms of every bond and its Kekulé order, 1 to 3. Raises :class:`ConversionError` for bonds of other types."""
    copy = Chem.Mol(mol)
    Chem.Kekulize(copy, clearAromaticFlags=True)
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondType()) for b in copy.GetBonds()]
    for i, j, kind in bonds:
        if kind not in ORDERS:
            raise ConversionError(f"bond {i}-{j}: {kind}; only orders 1 to 3 are known")
    return np.array([(i, j, ORDERS[kind]) for i, j, kind in bonds], dtype=int).reshape(-1, 3)


def from_rdkit(mols: Sequence[Chem.Mol], vocabulary: Sequence[str]) -> Molecules:
    """Molecules with explicit hydrogens and one conformer, as a padded batch on the CPU (float32, Å).

    Aromatic bonds are kekulised on a copy. Raises :class:`ConversionError` naming the molecule (counted from 0) and the
    atom when hydrogens are implicit, coordinates are missing, or an element, charge or bond is not representable.
    """
    index = {parse_token(name): k for k, name in enumerate(vocabulary)}
    singles = [_single(number, mol, index) for number, mol in enumerate(mols)]
    if not singles:
        raise ConversionError("no molecules given; pass at least one")
    return Molecules.collate(singles)


def _single(number: int, mol: Chem.Mol, index: dict[tuple[str, int], int]) -> Molecules:
    mol = Chem.Mol(mol)
    mol.UpdatePropertyCache(strict=False)
    if mol.GetNumConformers() == 0:
        raise ConversionError(f"molecule {number}: no coordinates; embed it first (rdkit.Chem.AllChem.EmbedMolecule)")
    tokens = [_token(f"molecule {number}, atom {atom.GetIdx()}", atom, index) for atom in mol.GetAtoms()]
    n = len(tokens)
    bond = np.zeros((1, n, n), dtype=np.int64)
    try:
        i, j, order = kekule_bonds(mol).T
    except ConversionError as error:
        raise ConversionError(f"molecule {number}, {error}") from error
    bond[0, i, j] = bond[0, j, i] = order
    pos = torch.from_numpy(mol.GetConformer().GetPositions()).float()
    atom = torch.tensor([tokens], dtype=torch.long)
    return Molecules(torch.ones(1, n, dtype=torch.bool), pos[None], atom, torch.from_numpy(bond))


def _token(where: str, atom: Chem.Atom, index: dict[tuple[str, int], int]) -> int:
    key = (atom.GetSymbol(), atom.GetFormalCharge())
    where = f"{where} ({token_name(*key)})"
    if atom.GetTotalNumHs():
        raise ConversionError(f"{where}: implicit hydrogens; add them with Chem.AddHs(mol, addCoords=True)")
    if key not in index:
        known = ", ".join(token_name(*k) for k in index)
        raise ConversionError(f"{where}: not in the vocabulary ({known}); drop it or use a model that knows it")
    return index[key]


def without_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    """The heavy atoms with Kekulé bonds and no mention of hydrogens, as a model without them is trained."""
    bare = Chem.Mol(mol)
    Chem.Kekulize(bare, clearAromaticFlags=True)
    bare = Chem.RemoveAllHs(bare, sanitize=False)
    for atom in bare.GetAtoms():
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(0)
    return bare


def sanitised(mol: Chem.Mol, implied: bool | None = False) -> tuple[Chem.Mol | None, str]:
    """(sanitised copy, "") or (None, "empty" or the name of the step that failed); nothing is repaired.

    ``implied``: whether an open valence becomes hydrogens, and not unpaired electrons; None: as each atom says.
    """
    if mol.GetNumAtoms() == 0:
        return None, "empty"
    copy = Chem.Mol(mol)
    if implied is not None:
        for atom in copy.GetAtoms():
            atom.SetNoImplicit(not implied)
    with quiet():
        failed = Chem.SanitizeMol(copy, _SANITISE, catchErrors=True)
    if failed != Chem.SanitizeFlags.SANITIZE_NONE:
        return None, failed.name.removeprefix("SANITIZE_").lower()
    return copy, ""


def check(mol: Chem.Mol) -> Verdict:
    """Accept or reject a molecule with explicit hydrogens, whole: never its largest fragment, never a repaired copy.

    Reasons, in the order tested: ``disconnected`` (not exactly one fragment), ``valence`` and ``sanitisation`` (RDKit
    refuses it as it is), ``radical`` (an unpaired electron, which is how a missing hydrogen shows), ``coordinates``
    (not finite, or two atoms closer than 0.5 Å). The returned copy is sanitised, its stereo taken from the coordinates.
    """
    if len(Chem.GetMolFrags(mol)) != 1:
        return Verdict(None, "disconnected")
    copy, failed = sanitised(mol, implied=None)
    if copy is None:
        return Verdict(None, "valence" if failed == "properties" else "sanitisation")
    if any(atom.GetNumRadicalElectrons() for atom in copy.GetAtoms()):
        return Verdict(None, "radical")
    if not _has_sound_coordinates(copy):
        return Verdict(None, "coordinates")
    with quiet():
        assign_stereo(copy)
    return Verdict(copy, None)


def assign_stereo(mol: Chem.Mol) -> None:
    """Stereo from the coordinates, in place, of tetrahedral centres and double bonds: RDKit would take a distorted sulfonyl group
    for a trigonal bipyramid, and another molecule."""
    Chem.AssignStereochemistryFrom3D(mol)
    for atom in mol.GetAtoms():
        if atom.GetChiralTag() not in TETRAHEDRAL:
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)


def _has_sound_coordinates(mol: Chem.Mol) -> bool:
    if mol.GetNumConformers() == 0:
        return False
    pos = mol.GetConformer().GetPositions()
    if not np.isfinite(pos).all():
        return False
    i, j = np.triu_indices(len(pos), 1)
    return bool((((pos[i] - pos[j]) ** 2).sum(1) >= MIN_DISTANCE**2).all())


def unmapped(mol: Chem.Mol) -> Chem.Mol:
    """A copy without atom map numbers, which are no part of a molecule."""
    copy = Chem.Mol(mol)
    for atom in copy.GetAtoms():
        atom.SetAtomMapNum(0)
    return copy


def bare(mol: Chem.Mol) -> Chem.Mol:
    """A copy of a sanitised molecule without stereo and without explicit hydrogens."""
    copy = Chem.Mol(mol)
    with quiet():
        Chem.RemoveStereochemistry(copy)  # first: hydrogens that define a double bond's stereo would be kept otherwise
        copy = Chem.RemoveHs(copy, sanitize=False)
    Chem.GetSymmSSSR(copy)  # removing atoms forgets the rings
    return copy


def smiles(mol: Chem.Mol, stereo: bool = True) -> str:
    """Canonical SMILES of a sanitised molecule without explicit hydrogens; the input is not changed.

    With ``stereo``, the one hydrogen that tells the two sides of a double bond apart stays: ``[H]/N=C/C``.
    """
    with quiet():
        return Chem.MolToSmiles(Chem.RemoveHs(mol) if stereo else bare(mol), isomericSmiles=stereo)


def sdf_record(mol: Chem.Mol, name: str, tags: dict[str, object]) -> str:
    """One SDF record with Kekulé bonds, explicit charges and the given data fields; the input is not changed."""
    copy = Chem.Mol(mol)
    copy.UpdatePropertyCache(strict=False)
    for key in copy.GetPropNames():
        copy.ClearProp(key)
    copy.SetProp("_Name", name)
    for key, value in tags.items():
        copy.SetProp(key, str(value))
    stream = StringIO()
    with Chem.SDWriter(stream) as writer, quiet():
        writer.SetKekulize(any(b.GetIsAromatic() for b in copy.GetBonds()))
        writer.write(copy)
    return stream.getvalue()


def read_sdf(path: Path) -> Iterator[Chem.Mol | None]:
    """Molecules of an SDF one by one, sanitised, hydrogens kept; None where RDKit cannot read a record."""
    return (parse_sdf_record(text) for text in sdf_records(path))


def sdf_records(path: Path) -> Iterator[str]:
    """The text of every record of an SDF, up to and with its ``$$$$``; blank text after the last is no record.

    RDKit's own reader resumes after a truncated record inside the next one, and loses that.
    """
    lines: list[str] = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            lines.append(line)
            if line.startswith("$$$$"):
                yield "".join(lines)
                lines.clear()
    if any(line.strip() for line in lines):
        yield "".join(lines)


def parse_sdf_record(text: str, sanitize: bool = True) -> Chem.Mol | None:
    """The molecule of one record with its title and data fields; None where RDKit cannot read it.

    Without ``sanitize`` the molecule is as written, valid or not.
    """
    supplier = Chem.SDMolSupplier()
    with quiet():
        supplier.SetData(text, removeHs=False, sanitize=sanitize)
        return next(iter(supplier), None)


def xyz_block(mol: Chem.Mol, comment: str) -> str:
    """One frame of an XYZ file: atom count, comment, elements and Å."""
    lines = Chem.MolToXYZBlock(mol).splitlines()
    lines[1] = comment
    return "\n".join(lines) + "\n"


def graph_from_smiles(text: str) -> Graph | None:
    """The graph of a SMILES, heavy atoms in its order; None where RDKit cannot read it."""
    with quiet():
        mol = Chem.MolFromSmiles(text)
        if mol is None:
            return None
        canonical = Chem.MolToSmiles(mol, isomericSmiles=False)
        table = kekule_bonds(mol)
    columns = [(a.GetAtomicNum(), a.GetFormalCharge(), a.GetTotalNumHs()) for a in mol.GetAtoms()]
    number, charge, hydrogens = np.array(columns, dtype=int).reshape(-1, 3).T
    return Graph(number, charge, hydrogens, table[:, :2], table[:, 2], canonical)


# Of covalent radii. Among QM9's molecules (3469 of its test split, of all sizes) no bond is longer than 1.18 times the sum
# of two radii, and no two other atoms are closer than 1.17 times.
LONGEST_BOND, CLOSEST_OTHERS = 1.2, 1.0


def has_fitting_distances(mol: Chem.Mol) -> bool:
    """Whether bonded atoms, and only they, are about as close as their covalent radii tell."""
    table = Chem.GetPeriodicTable()
    pos = mol.GetConformer().GetPositions()
    radius = np.array([table.GetRcovalent(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    i, j = np.triu_indices(len(pos), 1)
    ratio = np.linalg.norm(pos[i] - pos[j], axis=1) / (radius[i] + radius[j])
    bonded = Chem.GetAdjacencyMatrix(mol)[i, j] > 0
    return bool((ratio[bonded] <= LONGEST_BOND).all() and (ratio[~bonded] >= CLOSEST_OTHERS).all())
