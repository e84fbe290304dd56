"""What is known of a molecule before it is made: a part of it, its graph, its coordinates, or a molecule to start from."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from moldiff.molecule import Molecules
from moldiff.schedules import NoiseLevel

if TYPE_CHECKING:
    from rdkit import Chem

FRAME = "_Frame"  # property of an RDKit molecule whose coordinates were made: the SMILES that they are of


def frame_of(mol: "Chem.Mol") -> str:
    """Which coordinates lie in one frame: "" for given ones, for those that were made the SMILES that they are of."""
    return mol.GetProp(FRAME) if mol.HasProp(FRAME) else ""


@dataclass(frozen=True)
class Known:
    """One molecule, and which of its fields are known; further atoms may be added behind its own.

    Where a field is free its value counts only as the start of a sampler with ``from_template``.
    """

    molecule: Molecules  # of one molecule, without padding
    pos: Bool[Tensor, " n"]  # True where known
    atom: Bool[Tensor, " n"]
    bond: Bool[Tensor, "n n"]
    closed: Bool[Tensor, " n"]  # atoms to which no added atom is bonded
    grows: bool  # whether atoms are added
    cut: int = 0  # valences of open atoms that lead to added heavy atoms, orders counted
    hydrogens: int = 0  # hydrogens taken off the open atoms, of which added heavy atoms may replace some
    parent: str = ""  # SMILES of the molecule that others are derived from; equal ones are none
    marks: Integer[Tensor, "n 2"] | None = None  # of bonds to added atoms the orders together, and the number; -1: any
    sides: Float[Tensor, "n 3"] | None = None  # where added atoms lie, and the hydrogen does not; 0: anywhere
    frame: str = ""  # of its coordinates, where they were made: the SMILES that they are of

    @property
    def is_part(self) -> bool:
        """Whether anything is known for certain."""
        return bool(self.pos.any() or self.atom.any() or self.bond.any())

    @property
    def full(self) -> Integer[Tensor, " n"] | None:
        """Orders of all bonds of an atom whose marked bonds are to grow, -1 for others; None if there are no marks."""
        if self.marks is None:
            return None
        order = self.marks[:, 0]
        return torch.where(order >= 0, self.molecule.bond[0].sum(-1) + order, -1)

    @property
    def single_marks(self) -> Integer[Tensor, " n"] | None:
        """The order of the marked bond of each atom that has one such bond, 0 for others; None if there are no marks."""
        return None if self.marks is None else torch.where(self.marks[:, 1] == 1, self.marks[:, 0], 0)

    def __len__(self) -> int:
        return self.molecule.mask.shape[1]

    def __repr__(self) -> str:
        """Short, and different for all that differs: identifiers of molecules are made from it."""
        m = self.molecule
        digest = hashlib.sha256(repr((self.grows, self.cut, self.hydrogens, self.parent)).encode())
        for tensor in (m.pos, m.atom, m.bond, self.pos, self.atom, self.bond, self.closed):
            digest.update(tensor.numpy().tobytes())
        for tensor in (self.marks, self.sides):
            digest.update(b"" if tensor is None else tensor.numpy().tobytes())
        return f"Known({digest.hexdigest()})"

    def template(self, count: int, atoms: int, device: torch.device | str) -> tuple[Molecules, NoiseLevel]:
        """``count`` equal molecules of so many atoms, and 1 where a field of them is free, 0 where it is known."""
        n, added = len(self), atoms - len(self)
        molecules = Molecules.collate([self.molecule], atoms)  # pads with zeros
        molecules = molecules.replace(mask=torch.ones(1, atoms, dtype=torch.bool))
        known_bond = torch.zeros(atoms, atoms, dtype=torch.bool)
        known_bond[:n, :n] = self.bond
        known_bond[:n, n:] = self.closed[:, None]
        known_bond[n:, :n] = self.closed[None]
        free = NoiseLevel.free(molecules, torch.ones(1))
        free = NoiseLevel(
            pos=free.pos.masked_fill(torch.nn.functional.pad(self.pos, (0, added))[None], 0),
            atom=free.atom.masked_fill(torch.nn.functional.pad(self.atom, (0, added))[None], 0),
            bond=free.bond.masked_fill(known_bond[None], 0),
        )
        repeat = [0] * count
        return molecules.select(repeat).to(device), free.select(repeat).to(device)


def size_odds(
    known: Known, heavy: int, sizes: Integer[np.ndarray, "rows 2"], histogram: Integer[np.ndarray, "sizes 3"],
    valence: float,
) -> Float[np.ndarray, " rows"]:  # fmt: skip
    """How much likelier a known part makes each of ``sizes`` (heavy atoms, hydrogens) than it is in the training data.

    ``heavy``: heavy atoms of the part; ``histogram``: (heavy atoms, atoms, molecules) of the training data; ``valence``:
    the mean of its heavy atoms. A saturated part brings more hydrogens than an aromatic one, and every bond to an added
    atom takes one, so that a size drawn regardless of the part often leaves radicals or hydrogens without a place.
    Hydrogens are taken as normal: those of the part, and what the valences of the added atoms leave, with as many bonds
    among these as usual.
    """
    log = np.empty(len(sizes))
    for n in np.unique(sizes[:, 0]):
        rows, of_size = sizes[:, 0] == n, histogram[histogram[:, 0] == n]
        mean = np.average(of_size[:, 1] - n, weights=of_size[:, 2])
        variance = np.average((of_size[:, 1] - n - mean) ** 2, weights=of_size[:, 2]) + 0.5
        added = n - heavy
        order = (valence * n - mean) / 2 / (n - 1)  # bond orders for each bond of a tree: rings and multiple bonds
        replaced = min(known.hydrogens, 1 + known.hydrogens / 8)  # as for rings and amides within QM9
        own = len(known) - heavy + known.hydrogens - replaced
        expected = own + max(0.0, valence * added - known.cut - replaced - 2 * order * (added - 1))
        count = sizes[rows, 1]
        log[rows] = ((count - mean) ** 2 - (count - expected) ** 2 * n / added) / (2 * variance)
    return np.exp(log - log.max())


def blank(count: int, atoms: int, device: torch.device | str) -> Molecules:
    """Molecules of which nothing is known but the size."""
    zeros = torch.zeros(count, atoms, dtype=torch.long, device=device)
    mask = torch.ones(count, atoms, dtype=torch.bool, device=device)
    pos = torch.zeros(count, atoms, 3, device=device)
    return Molecules(mask, pos, zeros, zeros[:, :, None].expand(-1, -1, atoms).clone())
