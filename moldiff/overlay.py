"""Reference molecules → guides that lay new molecules over them: over their volume, or over their features."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from rdkit import Chem, RDConfig
from rdkit.Chem import ChemicalFeatures

from moldiff import chem
from moldiff.errors import RequestError
from moldiff.given_files import read_given
from moldiff.guidance import Guide
from moldiff.guides import Feature, FeatureGuide, ShapeGuide
from moldiff.known import Known
from moldiff.model_file import DataInfo

ELEMENTS = {"donor": "NO", "acceptor": "NO", "aromatic": "CNOS"}  # what an atom at a feature point may be
MARGIN = 1  # heavy atoms by which molecules may be smaller or larger than the shape that they are to fill


@dataclass(frozen=True)
class Overlay:
    """Molecules with coordinates: the shape to fill, and the features to match."""

    shape: Chem.Mol | None = None
    pharmacophore: tuple[Chem.Mol, ...] = ()

    def heavy_atoms(self, data: DataInfo) -> tuple[int, int] | None:
        """Inclusive range of sizes that fit the shape; None without one.

        Raises:
            RequestError: the model knows no molecules of such a size.
        """
        if self.shape is None:
            return None
        size = len(_heavy_positions(self.shape))
        known = [row[0] for row in data.size_histogram if abs(row[0] - size) <= MARGIN]
        if not known:
            sizes = [row[0] for row in data.size_histogram]
            raise RequestError(
                f"--shape: {size} heavy atoms, and model {data.name} knows molecules of {min(sizes)} to {max(sizes)}; "
                "take another model, or give --n-atoms"
            )
        return min(known), max(known)

    def guides(self, data: DataInfo, known: Known | None = None) -> tuple[Guide, ...]:
        """The guides for a model of this data. With a part whose place is known, the file's coordinates are its own.

        Raises:
            RequestError: there are no coordinates, or no features.
        """
        first = self.shape or next(iter(self.pharmacophore), None)
        if first is None:
            return ()
        heavy = _tokens(data, lambda symbol, charge: symbol != "H")
        fixed = None if known is None or not known.pos.any() else known.molecule.pos[0][known.pos].mean(0).numpy()
        frame = _heavy_positions(first)
        centre = frame.mean(0) if fixed is None else fixed
        found: list[Guide] = []
        if self.shape is not None:
            found.append(ShapeGuide(_points(_heavy_positions(self.shape) - centre), heavy))
        places = [place for mol in self.pharmacophore for place in features(mol)]
        if places:
            points = _points(np.array([point for _, point in places]) - centre)
            kinds = [_feature(kind, data) for kind, _ in places]
            wanted = [Feature(p, tokens, bears) for p, (tokens, bears) in zip(points, kinds, strict=True)]
            found.append(FeatureGuide(tuple(wanted), _points(frame - centre), heavy))
        elif self.pharmacophore:
            raise RequestError("--pharmacophore: no donor, acceptor or aromatic ring in it")
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
    """From SDF files: the first molecule of ``shape``, all of ``pharmacophore``.

    Raises:
        RequestError: a file is missing or cannot be read.
    """
    return Overlay(
        None if shape is None else next(read_given("--shape", shape)),
        () if pharmacophore is None else tuple(read_given("--pharmacophore", pharmacophore)),
    )


def overlay_of(shape: Chem.Mol | None, pharmacophore: Chem.Mol | Sequence[Chem.Mol] | None) -> Overlay:
    """From molecules; None: nothing asked for."""
    single = isinstance(pharmacophore, Chem.Mol)
    return Overlay(shape, (pharmacophore,) if single else tuple(pharmacophore or ()))


def _positions(mol: Chem.Mol, option: str) -> np.ndarray:
    if not mol.GetNumConformers() or not mol.GetConformer().Is3D():
        raise RequestError(f"{option}: no 3D coordinates; embed the molecule first (rdkit.Chem.AllChem.EmbedMolecule)")
    return mol.GetConformer().GetPositions()


def _heavy_positions(mol: Chem.Mol) -> np.ndarray:
    """Dummy atoms count, so that any points can be a shape."""
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() != 1]
    return _positions(mol, "--shape")[heavy]


def _points(array: np.ndarray) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(x), float(y), float(z)) for x, y, z in array)


def _tokens(data: DataInfo, condition) -> tuple[bool, ...]:
    return tuple(condition(*chem.parse_token(name)) for name in data.vocabulary)


def _feature(kind: str, data: DataInfo) -> tuple[tuple[bool, ...], tuple[bool, ...] | None]:
    """What may be there, and what it must bear; hydrogens that a model leaves out are not asked for."""
    sign = {"donor": 1, "acceptor": -1, "aromatic": 0}[kind]  # of the charge that it may have
    tokens = _tokens(data, lambda symbol, charge: symbol in ELEMENTS[kind] and charge in (0, sign))
    hydrogen = _tokens(data, lambda symbol, charge: symbol == "H")
    return tokens, hydrogen if kind == "donor" and any(hydrogen) else None


@cache
def _factory() -> ChemicalFeatures.MolChemicalFeatureFactory:
    return ChemicalFeatures.BuildFeatureFactory(os.path.join(RDConfig.RDDataDir, "BaseFeatures.fdef"))
