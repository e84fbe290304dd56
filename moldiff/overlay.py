"""Reference molecules → guides that lay new molecules over them: over their volume, or over their features."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem, RDConfig
from rdkit.Chem import ChemicalFeatures

from moldiff import chem
from moldiff.alternatives import remedies
from moldiff.errors import RequestError
from moldiff.given_files import read_given, read_one
from moldiff.guidance import Guide
from moldiff.known import Known, frame_of
from moldiff.model_file import DataInfo
from moldiff.overlay_guides import Feature, FeatureGuide, Point, ShapeGuide, log_tanimoto

ELEMENTS = {"donor": "NO", "acceptor": "NO", "aromatic": "CNOS"}  # what an atom at a feature point may be
CHARGES = {"donor": 1, "acceptor": -1, "aromatic": 0}  # that it may have, besides none
NEAR = 1.5  # Å, within which a feature is matched
MARGIN = 1  # heavy atoms by which molecules may be smaller or larger than the shape that they are to fill


@dataclass(frozen=True)
class Overlay:
    """Molecules with coordinates: the shape to fill, and the features to match."""

    shape: Chem.Mol | None = None
    pharmacophore: tuple[Chem.Mol, ...] = ()

    def heavy_atoms(self, data: DataInfo) -> tuple[int, int] | None:
        """Inclusive range of sizes that fit the shape, or have an atom for each feature; None where nothing is asked for.

        Raises:
            RequestError: the model knows no molecules of such a size.
        """
        known = {row[0] for row in data.size_histogram}
        if self.shape is not None:
            size = len(_heavy_positions(self.shape))
            what, fits = f"--shape: {size} heavy atoms", [n for n in known if abs(n - size) <= MARGIN]
        elif self.pharmacophore:
            size = len(self._places)
            what, fits = f"--pharmacophore: {size} atoms with a feature", [n for n in known if n >= size]
        else:
            return None
        if not fits:
            least, most = data.heavy_range
            raise RequestError(
                f"{what}, and model {data.name} knows molecules of {least} to {most} heavy atoms"
                f"{remedies('give --n-atoms', heavy=(size, size))}"
            )
        return min(fits), max(fits)

    @property
    def centre(self) -> Point | None:
        """Mean (Å) of the heavy atoms and dummies of the shape, else of all of the pharmacophore; None without."""
        shape = self.shape is not None
        mols, option = ([self.shape], "--shape") if shape else (self.pharmacophore, "--pharmacophore")
        positions = [_heavy_positions(mol, option) for mol in mols]
        return _points([np.concatenate(positions).mean(0)])[0] if positions else None

    def guides(self, data: DataInfo, known: Known | None = None) -> tuple[Guide, ...]:
        """The guides for a model of this data. With a part whose place is known, the file's coordinates are its own.

        Raises:
            RequestError: there are no coordinates, in one frame, or no features.
        """
        mols = (self.shape, *self.pharmacophore) if self.shape is not None else self.pharmacophore
        frames = {frame_of(mol) for mol in mols} | ({known.frame} if mols and known is not None else set())
        if len(frames) > 1:
            raise RequestError(
                "--fix, --like, --shape, --pharmacophore: coordinates made from a SMILES lie in a frame of their own; "
                "give SDFs laid over each other, or the same SMILES for all"
            )
        fixed = known is not None and bool(known.pos.any())
        centre = known.molecule.pos[0][known.pos].mean(0).numpy() if fixed else self.centre
        found: list[Guide] = []
        if self.shape is not None:
            heavy = _tokens(data, lambda symbol, charge: symbol != "H")
            found.append(ShapeGuide(_points(_heavy_positions(self.shape) - centre), heavy, data.coordinate_std))
        if self.pharmacophore:
            points = _points(np.array([*self._places]) - centre)
            wanted = [
                Feature(p, _suitable(kinds, data)) for p, kinds in zip(points, self._places.values(), strict=True)
            ]
            found.append(FeatureGuide(tuple(wanted), self._ring_bonds, data.coordinate_std))
        return tuple(found)

    @property
    def columns(self) -> dict[str, str]:
        """The scores that records carry, and their pandas types."""
        asked = {"shape_tanimoto": self.shape is not None, "features_matched": bool(self.pharmacophore)}
        return {name: "float64" for name, is_asked in asked.items() if is_asked}

    def scores(self, mol: Chem.Mol) -> dict[str, float]:
        """How well a molecule lies over them, as it lies. ``shape_tanimoto``: of the volumes of heavy atoms;
        ``features_matched``: share of the features with one of the same kind within ``NEAR``.
        """
        found: dict[str, float] = {}
        if self.shape is not None:
            own, theirs = (torch.from_numpy(_heavy_positions(m))[None] for m in (mol, self.shape))
            found["shape_tanimoto"] = float(log_tanimoto(own, torch.ones_like(own[..., 0]), theirs)[0].exp())
        if self.pharmacophore:
            wanted, there = [f for m in self.pharmacophore for f in features(m)], features(mol)
            near = [any(k == kind and np.linalg.norm(p - point) < NEAR for k, p in there) for kind, point in wanted]
            found["features_matched"] = float(np.mean(near))
        return {name: round(value, 4) for name, value in found.items()}

    @property
    def _places(self) -> dict[Point, set[str]]:
        """What an atom at each point must be, all at once: a hydroxyl is a donor and an acceptor."""
        places: dict[Point, set[str]] = {}
        for mol in self.pharmacophore:
            for kind, point in features(mol):
                places.setdefault(_points([point])[0], set()).add(kind)
        if self.pharmacophore and not places:
            raise RequestError("--pharmacophore: no donor, acceptor or aromatic ring in it")
        return places

    @property
    def _ring_bonds(self) -> tuple[tuple[int, int, int], ...]:
        """Places that are bonded in an aromatic ring of the pharmacophore, and the Kekulé order."""
        number = {place: k for k, place in enumerate(self._places)}
        found = []
        for mol in self.pharmacophore:
            at, kekulised = _points(_positions(mol, "--pharmacophore")), Chem.Mol(mol)
            Chem.Kekulize(kekulised)
            for bond in mol.GetBonds():
                one, other = (number.get(at[k]) for k in (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
                if bond.GetIsAromatic() and one is not None and other is not None:
                    found.append((one, other, int(kekulised.GetBondWithIdx(bond.GetIdx()).GetBondTypeAsDouble())))
        return tuple(found)


def features(mol: Chem.Mol) -> list[tuple[str, np.ndarray]]:
    """Kind and place (Å) of every feature: donors and acceptors, and every atom of an aromatic ring.

    Features are those of RDKit's BaseFeatures.fdef. A molecule of dummy atoms alone (``*``) is a set of points of the kind
    that is its title: donor, acceptor or aromatic.

    Raises:
        RequestError: the molecule has no coordinates, or dummy atoms without a kind.
    """
    pos = _positions(mol, "--pharmacophore")
    if all(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        kind = mol.GetProp("_Name").strip().lower() if mol.HasProp("_Name") else ""
        if kind not in ELEMENTS:
            raise RequestError(f"--pharmacophore: dummy atoms titled {kind!r}; the title must be {', '.join(ELEMENTS)}")
        return [(kind, point) for point in pos]
    found = {
        (feature.GetFamily().lower(), atom): pos[atom]
        for family in ("Donor", "Acceptor", "Aromatic")
        for feature in _factory().GetFeaturesForMol(mol, includeOnly=family)
        for atom in feature.GetAtomIds()
    }
    return [(kind, point) for (kind, _), point in sorted(found.items(), key=lambda item: item[0])]


def read_overlay(shape: Path | None, pharmacophore: Path | None) -> Overlay:
    """From files: the molecule of ``shape``, all of ``pharmacophore``.

    Raises:
        RequestError: a file is missing or cannot be read.
    """
    return Overlay(
        None if shape is None else read_one("--shape", shape),
        () if pharmacophore is None else tuple(read_given("--pharmacophore", pharmacophore)),
    )


def overlay_of(shape: Chem.Mol | None, pharmacophore: Chem.Mol | Sequence[Chem.Mol] | None) -> Overlay:
    """From molecules; None: nothing asked for."""
    if pharmacophore is None:
        return Overlay(shape)
    several = (pharmacophore,) if isinstance(pharmacophore, Chem.Mol) else tuple(pharmacophore)
    if not several:
        raise RequestError("--pharmacophore: no molecule is given")
    return Overlay(shape, several)


def _positions(mol: Chem.Mol, option: str) -> np.ndarray:
    if not mol.GetNumConformers() or not mol.GetConformer().Is3D():
        raise RequestError(f"{option}: no 3D coordinates; embed the molecule first (rdkit.Chem.AllChem.EmbedMolecule)")
    return mol.GetConformer().GetPositions()


def _heavy_positions(mol: Chem.Mol, option: str = "--shape") -> np.ndarray:
    """Dummy atoms count, so that any points can be a shape."""
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() != 1]
    if not heavy:
        raise RequestError(f"{option}: has no heavy atoms")
    return _positions(mol, option)[heavy]


def _points(array: Iterable[np.ndarray]) -> tuple[Point, ...]:
    return tuple((float(x), float(y), float(z)) for x, y, z in array)


def _tokens(data: DataInfo, condition: Callable[[str, int], bool]) -> tuple[bool, ...]:
    return tuple(condition(*chem.parse_token(name)) for name in data.vocabulary)


def _suitable(kinds: set[str], data: DataInfo) -> tuple[bool, ...]:
    """Which tokens an atom may have that is all of these kinds."""
    suits = [
        _tokens(data, lambda symbol, charge, kind=kind: symbol in ELEMENTS[kind] and charge in (0, CHARGES[kind]))
        for kind in kinds
    ]
    return tuple(map(all, zip(*suits, strict=True)))


@cache
def _factory() -> ChemicalFeatures.MolChemicalFeatureFactory:
    return ChemicalFeatures.BuildFeatureFactory(os.path.join(RDConfig.RDDataDir, "BaseFeatures.fdef"))
