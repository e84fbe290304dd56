"""Keep a part of a molecule and make the rest, or stay near a molecule: RDKit molecules and wishes → what is known.

Atoms are indices of RDKit, from 0, in Python; messages and drawings count them from 1, as viewers of SDF do. Atoms of the
fragment come first in every molecule made, in their order, and those of a model with hydrogens include its hydrogens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from rdkit import Chem

from moldiff import chem
from moldiff.alternatives import need_of, remedies
from moldiff.errors import RequestError
from moldiff.known import Known, frame_of
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.samplers import ChurnedEuler, Sampler

STRENGTH = 0.5
# Noise levels where analogues start at strengths 0 and 1: from the first many come back as the seed, from the second none does,
# nor anything like it. Hydrogens hold a graph together; heavy atoms alone forget it earlier.
STARTS = {"explicit": (0.2, 1.2), "implicit": (0.06, 0.8)}
CHURN = 9.0  # of all steps of an analogue together: S_churn of Karras et al. 2022 (arXiv 2206.00364)


@dataclass(frozen=True)
class Wishes:
    """What to keep fixed, as the options of ``moldiff generate`` of the same names; all None: nothing."""

    fix: Chem.Mol | None = None
    attach: tuple[int, ...] | None = None  # atoms of ``fix``, from 0
    replace: str | None = None  # SMARTS
    like: Chem.Mol | None = None
    strength: float | None = None

    def check(self, heavy_atoms: tuple[int, int] | None) -> None:
        """Raises RequestError for wishes that contradict each other."""
        for name in ("attach", "replace"):
            if getattr(self, name) is not None and (self.fix is None or self.like is not None):
                raise RequestError(f"--{name}: goes with --fix, and not with --like")
        if self.attach is not None and self.replace is not None:
            raise RequestError("--attach with --replace: the cut bonds are the attachments; give one of the two")
        if self.strength is not None and self.like is None:
            raise RequestError(f"--strength {self.strength:g}: says how far to go from a molecule; give it by --like")
        if self.strength is not None and not 0 < self.strength < 1:
            raise RequestError(f"--strength {self.strength:g}: must be above 0 and below 1, such as {STRENGTH}")
        if self.like is not None and heavy_atoms is not None:
            raise RequestError(
                "--n-atoms with --like: analogues have as many atoms as the molecule given; leave --n-atoms out"
            )


class Plan(NamedTuple):
    """What decides a :class:`moldiff.requests.Request`, and what to tell the user."""

    known: Known | None
    heavy_atoms: tuple[int, int] | None
    sampler: Sampler
    notes: tuple[str, ...] = ()
    drawing: tuple[Chem.Mol, tuple[int, ...]] | None = None  # the molecule given and its atoms to be marked

    @property
    def fields(self) -> dict[str, Any]:
        """Of a request."""
        known = {} if self.known is None else {"known": self.known}
        return {"heavy_atoms": self.heavy_atoms, "sampler": self.sampler} | known


STRAIGHT = 0.05  # squared sine of the angle between a marked bond and a double one, below which it has no side


class Cut(NamedTuple):
    """A molecule with all its atoms, Kekulé bonds, those that go, and those that added atoms may bond to."""

    mol: Chem.Mol
    removed: set[int]
    open: set[int]


def plan(wishes: Wishes, data: DataInfo, sampler: Sampler, heavy_atoms: tuple[int, int] | None = None) -> Plan:
    """What is known, for a model of this data, and how to go on from there.

    Raises:
        RequestError: it cannot be met, or contradicts itself; the message says why.
    """
    wishes.check(heavy_atoms)
    if wishes.like is not None:
        return _plan_analogues(wishes, data, sampler)
    if wishes.fix is None:
        return Plan(None, heavy_atoms, sampler)
    mol = _complete(wishes.fix, "--fix")
    if wishes.replace is None:
        cut, notes, parent = _cut_fragment(mol, wishes.attach), [], ""
        _check_linkable(cut)
    else:
        cut, notes = _cut_match(mol, wishes.replace)
        parent = _smiles(wishes.fix)
        heavy_atoms = heavy_atoms or _replaced_size(cut, data)
    atoms = sorted(cut.open)
    labels = ", ".join(_label(mol, k) for k in atoms)
    notes.append(f"attachment: atom {labels}; counted from 1")
    return Plan(
        _known(cut, data, parent, frame_of(wishes.fix)), heavy_atoms, sampler, tuple(notes), (wishes.fix, tuple(atoms))
    )


def _complete(mol: Chem.Mol, option: str) -> Chem.Mol:
    """A copy with all hydrogens explicit, behind the atoms given, and Kekulé bonds."""
    if mol.GetNumConformers() == 0 or not mol.GetConformer().Is3D():
        raise RequestError(f"{option}: no 3D coordinates; give an SDF that has them")
    if not np.isfinite(mol.GetConformer().GetPositions()).all():
        raise RequestError(f"{option}: coordinates that are not finite; give an SDF with real ones")
    if labelled := [a.GetIdx() for a in mol.GetAtoms() if a.GetIsotope() and a.GetAtomicNum()]:
        text = f"atom {_label(mol, labelled[0])} is an isotope, which no model knows"
        raise RequestError(f"{option}: {text}; remove the label (atoms counted from 1)")
    _check_apart(mol, option)
    copy = chem.unmapped(mol)
    with chem.quiet():
        copy.UpdatePropertyCache(strict=False)
        copy = Chem.AddHs(copy, addCoords=True)
        Chem.Kekulize(copy, clearAromaticFlags=True)
    return copy


def _check_apart(mol: Chem.Mol, option: str) -> None:
    """Refuse real atoms in one place; dummies of two parts may lie where they like."""
    real = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum()]
    pos = mol.GetConformer().GetPositions()[real]
    distance = np.linalg.norm(pos[:, None] - pos[None], axis=-1) + np.triu(np.full((len(real),) * 2, np.inf)).T
    if (distance < chem.MIN_DISTANCE).any():
        one, other = (_label(mol, real[k]) for k in np.unravel_index(distance.argmin(), distance.shape))
        text = f"atoms {one} and {other} are {distance.min():.2f} Å apart"
        raise RequestError(f"{option}: {text}; give parts that do not lie on each other (atoms counted from 1)")


def _cut_fragment(mol: Chem.Mol, attach: Sequence[int] | None) -> Cut:
    """Off come dummies, or the hydrogens of the attachment atoms: those named, else all that have any."""
    dummies = {a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() == 0}
    if len(dummies) == mol.GetNumAtoms():
        raise RequestError("--fix: holds nothing but dummy atoms (*); give the part that is to be kept")
    if dummies and attach is not None:
        raise RequestError("--attach: the fragment marks its attachments by dummy atoms (*) already; leave one out")
    if attach is not None and not attach:
        raise RequestError("--attach: names no atom; leave it out for all that have hydrogens")
    radicals = {a.GetIdx() for a in mol.GetAtoms() if a.GetNumRadicalElectrons() and a.GetAtomicNum() > 1}
    if dummies:
        return Cut(mol, dummies, radicals | _heavy_neighbours(mol, dummies))
    if attach is None:
        chosen = {a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1 and _hydrogens(a)}
    else:
        chosen = {_attachment(mol, k) for k in attach}
    if not chosen | radicals:
        raise RequestError("--fix: no atom of the fragment has a hydrogen to replace; remove one, or mark it by *")
    return Cut(mol, {h for k in chosen for h in _hydrogens(mol.GetAtomWithIdx(k))}, chosen | radicals)


def _check_linkable(cut: Cut) -> None:
    """Of several parts each must have an attachment, or nothing connected comes of them."""
    for number, part in enumerate(Chem.GetMolFrags(cut.mol), 1):
        if not cut.open & set(part):
            text = f"part {number}, from atom {_label(cut.mol, part[0])} on, has no attachment"
            raise RequestError(f"--fix: {text}; mark one in each part by *, or name one by --attach (counted from 1)")


def _attachment(mol: Chem.Mol, index: int) -> int:
    given = max((a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1), default=-1) + 1
    if not 0 <= index < mol.GetNumAtoms():
        raise RequestError(f"--attach {index + 1}: the heavy atoms of the fragment are within 1 to {given}")
    atom = mol.GetAtomWithIdx(index)
    if atom.GetAtomicNum() == 1:
        raise RequestError(f"--attach {index + 1}: is a hydrogen; name the atom that bears it")
    if not _hydrogens(atom) and not atom.GetNumRadicalElectrons():
        raise RequestError(f"--attach {_label(mol, index)}: has no hydrogen to replace, its valence is full")
    return index


def _cut_match(mol: Chem.Mol, smarts: str) -> tuple[Cut, list[str]]:
    """Off come the first match and its hydrogens; the atoms that were bonded to it are open."""
    with chem.quiet():
        query = Chem.MolFromSmarts(smarts)
        if query is None or not query.GetNumAtoms():
            raise RequestError(f"--replace {smarts}: no SMARTS pattern; write one such as c1ccccc1 or C(=O)O")
        whole = Chem.Mol(mol)
        Chem.SanitizeMol(whole)
        matches = _matches(whole, query)
    if not matches:
        raise RequestError(f"--replace {smarts}: matches nothing in {chem.smiles(whole)}")
    match = set(matches[0])
    removed = match | {h for k in match for h in _hydrogens(mol.GetAtomWithIdx(k))}
    opened = _heavy_neighbours(mol, removed)
    if not opened:
        raise RequestError(f"--replace {smarts}: matches all of {chem.smiles(whole)}; leave a part to keep")
    where = ", ".join(_label(mol, k) for k in sorted(match))
    first = f"the first of {len(matches)} matches is " if len(matches) > 1 else ""
    return Cut(mol, removed, opened), [f"replace: {first}atom {where}; counted from 1"]


def _matches(mol: Chem.Mol, query: Chem.Mol) -> list[tuple[int, ...]]:
    """Of a pattern in the molecule as a SMILES has it, hydrogens no atoms; else, where it names hydrogens, with them."""
    numbered = Chem.Mol(mol)
    for atom in numbered.GetAtoms():
        atom.SetIntProp("given", atom.GetIdx())
    bare = Chem.RemoveHs(numbered)
    given = [atom.GetIntProp("given") for atom in bare.GetAtoms()]
    found = [tuple(given[k] for k in match) for match in bare.GetSubstructMatches(query)]
    return found or list(mol.GetSubstructMatches(query))


def _replaced_size(cut: Cut, data: DataInfo) -> tuple[int, int] | None:
    """About as many heavy atoms as before: one fewer to two more; None where the model has no room for any."""
    heavy = {a.GetIdx() for a in cut.mol.GetAtoms() if a.GetAtomicNum() > 1}
    kept, gone = len(heavy - cut.removed), len(heavy & cut.removed)
    high = min(kept + gone + 2, data.heavy_range[1])
    return (min(kept + max(1, gone - 1), high), high) if high > kept else None


def _known(cut: Cut, data: DataInfo, parent: str, frame: str) -> Known:
    """The atoms that stay, as the model has them: without hydrogens for a model without them, which keeps their numbers then."""
    implicit = data.hydrogens == "implicit"
    kept = [
        a.GetIdx()
        for a in cut.mol.GetAtoms()
        if a.GetIdx() not in cut.removed and not (implicit and a.GetAtomicNum() == 1)
    ]
    molecule = _molecule(cut.mol, kept, data, "--fix")
    known = torch.ones(len(kept), dtype=torch.bool)
    cut_orders, hydrogens = _valences(cut)
    closed = torch.tensor([k not in cut.open for k in kept])
    marks, sides = [_marks(cut, k) for k in kept], np.array([_side(cut, k) for k in kept], dtype=np.float32)
    return Known(
        molecule,
        known,
        known,
        known[:, None] & known[None],
        closed,
        grows=True,
        cut=cut_orders,
        hydrogens=hydrogens,
        parent=parent,
        marks=torch.tensor(marks) if implicit and max(marks) > (-1, -1) else None,
        sides=torch.from_numpy(sides) if implicit and sides.any() else None,
        frame=frame,
    )


def _marks(cut: Cut, index: int) -> tuple[int, int]:
    """Orders together, and number, of the bonds of an atom that were cut or marked; -1 where hydrogens may be replaced, or it is
    closed, and for the number of bonds that unpaired electrons make."""
    atom = cut.mol.GetAtomWithIdx(index)
    if index not in cut.open or cut.removed & set(_hydrogens(atom)):
        return -1, -1
    orders = [
        round(bond.GetBondTypeAsDouble()) for bond in atom.GetBonds() if bond.GetOtherAtomIdx(index) in cut.removed
    ]
    unpaired = atom.GetNumRadicalElectrons()
    return sum(orders) + unpaired, -1 if unpaired else len(orders)


def _side(cut: Cut, index: int) -> np.ndarray:
    """Towards the one cut bond of an atom, away from its hydrogen or lone pair, in whose place nothing new may come.

    Of a double bond, away from its axis; of a centre with a hydrogen, away from that; of a sulfoxide, away from the plane of what
    stays. Zeros where nothing can be inverted: for an amine, which inverts by itself, and where three neighbours stay.
    """
    atom = cut.mol.GetAtomWithIdx(index)
    marks = [n.GetIdx() for n in atom.GetNeighbors() if n.GetIdx() in cut.removed]
    pos = cut.mol.GetConformer().GetPositions()
    pos = pos - pos[index]
    towards = lambda k: pos[k] / max(np.linalg.norm(pos[k]), 1e-6)  # noqa: E731
    if _marks(cut, index)[1] != 1:
        return np.zeros(3)
    mark, kept = towards(marks[0]), [n.GetIdx() for n in atom.GetNeighbors() if n.GetIdx() not in cut.removed]
    double = [k for k in kept if cut.mol.GetBondBetweenAtoms(index, k).GetBondType() == Chem.BondType.DOUBLE]
    hydrogens = _hydrogens(atom)
    if atom.GetAtomicNum() in (6, 7) and len(double) == 1:
        axis = towards(double[0])
        side = mark - (mark @ axis) * axis
        return side if side @ side > STRAIGHT else np.zeros(3)
    if len(hydrogens) == 1 and atom.GetDegree() == 4 and atom.GetAtomicNum() != 7:
        return mark - towards(hydrogens[0])
    if atom.GetAtomicNum() == 16 and len(double) == 1 and len(kept) == 2:
        normal = np.cross(towards(kept[0]), towards(kept[1]))
        return (mark @ normal) * normal
    return np.zeros(3)


def _valences(cut: Cut) -> tuple[int, int]:
    """Of the open atoms: valences for heavy atoms, and hydrogens taken off."""
    bonds = [b for k in cut.open for b in cut.mol.GetAtomWithIdx(k).GetBonds()]
    off = [(b, end) for b in bonds for end in (b.GetBeginAtom(), b.GetEndAtom()) if end.GetIdx() in cut.removed]
    hydrogens = sum(end.GetAtomicNum() == 1 for _, end in off)
    orders = sum(round(bond.GetBondTypeAsDouble()) for bond, end in off if end.GetAtomicNum() != 1)
    return orders + sum(cut.mol.GetAtomWithIdx(k).GetNumRadicalElectrons() for k in cut.open), hydrogens


def _molecule(mol: Chem.Mol, kept: list[int], data: DataInfo, option: str) -> Molecules:
    """These atoms of a Kekulé molecule in the model's vocabulary."""
    vocabulary = set(data.vocabulary)
    part = Chem.RWMol(mol)
    part.BeginBatchEdit()
    for atom in mol.GetAtoms():
        name = chem.token_name(atom.GetSymbol(), atom.GetFormalCharge())
        if atom.GetIdx() not in kept:
            part.RemoveAtom(atom.GetIdx())
        elif name not in vocabulary:
            known = ", ".join(data.vocabulary)
            if atom.GetFormalCharge() and not any(chem.parse_token(token)[1] for token in data.vocabulary):
                known += ", none with a formal charge, as nitro groups and N-oxides have"
            remedy = "neutralise it" if _can_be_neutral(atom) and atom.GetSymbol() in vocabulary else "leave it out"
            text = f"atom {atom.GetIdx() + 1} ({name}), counted from 1: the model knows {known}"
            need = need_of((mol.GetAtomWithIdx(k) for k in kept), grows=option == "--fix")
            raise RequestError(f"{option}: {text}{remedies(remedy, **need)}")
    part.CommitBatchEdit()
    for atom in part.GetAtoms():
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(0)
    try:
        return chem.from_rdkit([part.GetMol()], data.vocabulary)
    except chem.ConversionError as error:
        raise RequestError(f"{option}: {error}") from error


def _can_be_neutral(atom: Chem.Atom) -> bool:
    """Whether a proton more or less takes its charge: not of nitro groups and the like, nor of quaternary nitrogen."""
    charge = atom.GetFormalCharge()
    if charge > 0:
        return atom.GetTotalNumHs(includeNeighbors=True) > 0
    return charge < 0 and all(neighbour.GetFormalCharge() <= 0 for neighbour in atom.GetNeighbors())


def _plan_analogues(wishes: Wishes, data: DataInfo, sampler: Sampler) -> Plan:
    mol = _complete(wishes.like, "--like")
    if len(Chem.GetMolFrags(mol)) > 1:
        raise RequestError("--like: a molecule in several parts; give a connected one")
    implicit = data.hydrogens == "implicit"
    atoms = [a.GetIdx() for a in mol.GetAtoms() if not (implicit and a.GetAtomicNum() == 1)]
    molecule = _molecule(mol, atoms, data, "--like")
    heavy, (least, most) = mol.GetNumHeavyAtoms(), data.heavy_range
    if not least <= heavy <= most:
        text = f"--like: {heavy} heavy atoms; model {data.name} knows {least} to {most}"
        raise RequestError(f"{text}{remedies(**need_of(mol.GetAtoms()))}")
    match, notes = (), ()
    if wishes.fix is not None:
        match = _match(mol, wishes.fix)
        notes = (f"fixed: atom {', '.join(_label(mol, k) for k in match)} of the seed; counted from 1",)
    fixed = torch.tensor([k in match for k in atoms])
    none = torch.zeros_like(fixed)
    known = Known(
        molecule, fixed, fixed, fixed[:, None] & fixed[None], none, grows=False, parent=_smiles(wishes.like),
        frame=frame_of(wishes.like),
    )  # fmt: skip
    started = start_near(sampler, STRENGTH if wishes.strength is None else wishes.strength, data.hydrogens)
    return Plan(known, None, started, notes, (wishes.like, match))


def start_near(sampler: Sampler, strength: float, hydrogens: str) -> Sampler:
    """A walk of as many steps from the noise level of a strength in (0, 1): between ``STARTS``, evenly in log σ.

    Churn leads away from the seed, too. So there is at most ``CHURN`` of it, shared among the steps that are churned, and
    how far an analogue goes hardly depends on how many there are.
    """
    low, high = STARTS[hydrogens]
    started = replace(sampler, sigma_max=low * (high / low) ** float(strength), from_template=True)
    rule = sampler.rule
    if not isinstance(rule, ChurnedEuler):
        return started
    churned = sum(rule.low < sigma <= rule.high for sigma in started.sigmas()[:-1])
    return replace(started, rule=replace(rule, churn=min(rule.churn, CHURN / max(1, churned))))


def _match(mol: Chem.Mol, fragment: Chem.Mol) -> tuple[int, ...]:
    """The heavy atoms of a fragment within a molecule, wherever the fragment itself lies."""
    query = Chem.RWMol(fragment)
    query.BeginBatchEdit()
    for atom in fragment.GetAtoms():
        if atom.GetAtomicNum() <= 1:
            query.RemoveAtom(atom.GetIdx())
    query.CommitBatchEdit()
    with chem.quiet():
        whole = Chem.Mol(mol)
        Chem.SanitizeMol(whole)
        match = whole.GetSubstructMatch(query) if query.GetNumAtoms() else ()
    if not match:
        raise RequestError("--fix: with --like, the fragment must be a part of that molecule; it is none")
    return tuple(sorted(match))


def _smiles(mol: Chem.Mol) -> str:
    """With the stereo of its coordinates, as those of records are."""
    copy = chem.unmapped(mol)
    with chem.quiet():
        chem.assign_stereo(copy)
    return chem.smiles(copy)


def _hydrogens(atom: Chem.Atom) -> list[int]:
    return [n.GetIdx() for n in atom.GetNeighbors() if n.GetAtomicNum() == 1]


def _heavy_neighbours(mol: Chem.Mol, atoms: set[int]) -> set[int]:
    neighbours = {n.GetIdx() for k in atoms for n in mol.GetAtomWithIdx(k).GetNeighbors() if n.GetAtomicNum() > 1}
    return neighbours - atoms


def _label(mol: Chem.Mol, index: int) -> str:
    return f"{index + 1} ({mol.GetAtomWithIdx(index).GetSymbol()})"
