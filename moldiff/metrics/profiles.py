"""What a set of molecules looks like as a whole, computed once, in parts, and kept in a file."""

import json
import math
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from rdkit import Chem
from rdkit.Chem import Mol
from rdkit.Chem.Scaffolds import MurckoScaffold
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from moldiff.chem import quiet
from moldiff.errors import MoldiffError
from moldiff.files import write_atomically
from moldiff.metrics.chemnet import Moments, activation_moments
from moldiff.metrics.druglike import properties
from moldiff.metrics.fingerprints import fingerprint, packed
from moldiff.metrics.rings import ring_systems

PROPERTIES = ("logp", "sa", "qed", "weight")
MIN_SCAFFOLD_RINGS = 2  # MOSES counts scaffolds from two rings on


class ProfileError(MoldiffError):
    """A profile cannot be made or read; the message names the molecule or the file, and the remedy."""


@dataclass(frozen=True)
class Profile:
    """A set of n molecules without stereo, repeated ones repeated: all that metrics between two sets compare.

    Profiles of the parts of a set add up to that of the set, in any order but for the order of the rows.
    """

    values: Float[np.ndarray, "n 4"]  # PROPERTIES
    fingerprints: UInt8[np.ndarray, "m bytes"]  # of moldiff.metrics.fingerprints; of n, or none where left out
    fragments: dict[str, int] = field(default_factory=dict)  # BRICS fragments (10.1002/cmdc.200800178), occurrences
    scaffolds: dict[str, int] = field(default_factory=dict)  # Murcko scaffolds (10.1021/jm9602928) of ≥ 2 rings
    ring_systems: dict[str, int] = field(default_factory=dict)
    chemnet: Moments | None = None  # of the ChemNet activations, for the Fréchet distance

    def __len__(self) -> int:
        return len(self.values)

    def __add__(self, other: "Profile") -> "Profile":
        if (self.chemnet is None) != (other.chemnet is None):
            raise ProfileError("profiles with and without ChemNet activations do not add up; make both alike")
        return Profile(
            np.concatenate([self.values, other.values]),
            np.concatenate([self.fingerprints, other.fingerprints]),
            *(dict(Counter(getattr(self, name)) + Counter(getattr(other, name))) for name in COUNTS),
            None if self.chemnet is None or other.chemnet is None else self.chemnet + other.chemnet,
        )

    def save(self, path: Path) -> None:
        """Write a safetensors file: arrays, and the counts as JSON."""
        counts = json.dumps({name: getattr(self, name) for name in COUNTS}, sort_keys=True)
        arrays = {"values": self.values, "fingerprints": self.fingerprints}
        arrays["counts"] = np.frombuffer(counts.encode(), np.uint8)
        if self.chemnet is not None:
            arrays |= {"chemnet_count": np.array([self.chemnet.count]), "chemnet_mean": self.chemnet.mean,
                       "chemnet_scatter": self.chemnet.scatter}  # fmt: skip
        with write_atomically(Path(path)) as temporary:
            save_file(arrays, temporary)

    @classmethod
    def load(cls, path: Path) -> "Profile":
        """Read what :meth:`save` wrote. Raises :class:`ProfileError` for any other file."""
        try:
            arrays = load_file(path)
            counts = json.loads(arrays["counts"].tobytes())
            moments = None
            if "chemnet_count" in arrays:
                count, mean, scatter = (arrays[f"chemnet_{name}"] for name in Moments._fields)
                moments = Moments(int(count[0]), mean, scatter)
            return cls(arrays["values"], arrays["fingerprints"], *(counts[name] for name in COUNTS), moments)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ProfileError(f"{path}: is not a profile of molecules ({error}); make it anew") from error


COUNTS = ("fragments", "scaffolds", "ring_systems")


def profile(smiles: Sequence[str], chemnet: bool = False) -> Profile:
    """The profile of ``smiles``, which RDKit reads; ``chemnet`` adds what the Fréchet ChemNet distance needs.

    Raises :class:`ProfileError` for a SMILES that RDKit does not read, :class:`ImportError` for ``chemnet`` without
    ``fcd_torch``. Time for a drug-like molecule: about 3 ms, ``chemnet`` 4 ms more.
    """
    return collect(map(likeness, smiles), activation_moments(smiles) if chemnet else None)


def likeness(smiles: str) -> dict[str, Any]:
    """What one molecule adds to a profile, as plain data: keys like the fields of :class:`Profile`, in the singular.

    Raises :class:`ProfileError` for a SMILES that RDKit does not read.
    """
    with quiet():
        mol = read_graph(smiles)
        found = properties(mol)
        return {
            "values": [found[name] for name in PROPERTIES], "fingerprint": b64encode(fingerprint(mol)).decode(),
            "fragments": fragments(mol), "scaffold": scaffold(mol), "ring_systems": list(ring_systems(mol)),
        }  # fmt: skip


def collect(parts: Iterable[dict[str, Any]], chemnet: Moments | None = None) -> Profile:
    """The profile of the molecules whose :func:`likeness` is given."""
    values, fingerprints, counts = [], [], {name: Counter() for name in COUNTS}
    for part in parts:
        values.append(part["values"])
        fingerprints.append(b64decode(part["fingerprint"]))
        counts["fragments"].update(part["fragments"])
        counts["scaffolds"].update([] if part["scaffold"] is None else [part["scaffold"]])
        counts["ring_systems"].update(part["ring_systems"])
    rows = np.array(values, dtype=float).reshape(-1, len(PROPERTIES))
    return Profile(rows, packed(fingerprints), *(dict(counts[name]) for name in COUNTS), chemnet)


def read_graph(smiles: str) -> Mol:
    """The molecule of a SMILES without stereo, and the hydrogens that told it.

    Raises :class:`ProfileError` if RDKit does not read it.
    """
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise ProfileError(f"RDKit does not read the SMILES {smiles!r}; remove it")
    Chem.RemoveStereochemistry(mol)
    return Chem.RemoveHs(mol)


def fragments(mol: Mol) -> list[str]:
    """SMILES of the pieces that remain when all BRICS bonds of a molecule are cut."""
    return Chem.MolToSmiles(Chem.FragmentOnBRICSBonds(mol)).split(".")


def scaffold(mol: Mol) -> str | None:
    """SMILES of the Murcko scaffold: rings and what links them; None for fewer than two rings."""
    try:
        found = MurckoScaffold.GetScaffoldForMol(mol)
    except (ValueError, RuntimeError):  # RDKit cannot sanitise some scaffolds of charged aromatic atoms
        return None
    return Chem.MolToSmiles(found) if found.GetRingInfo().NumRings() >= MIN_SCAFFOLD_RINGS else None


def cosine_similarity(a: dict[str, int], b: dict[str, int]) -> float:
    """⟨a, b⟩ / |a| |b| of two tables of counts; NaN if one is empty."""
    norms = [math.sqrt(sum(count**2 for count in side.values())) for side in (a, b)]
    return sum(count * b.get(key, 0) for key, count in a.items()) / math.prod(norms) if all(norms) else math.nan
