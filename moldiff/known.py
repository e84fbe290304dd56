"""What is known of a molecule before it is made: a part of it, its graph, its coordinates, or a molecule to start from."""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from moldiff.molecule import Molecules
from moldiff.schedules import NoiseLevel


@dataclass(frozen=True)
class Known:
    """One molecule, and which of its fields are known; further atoms may be added behind its own.

    Where a field is free its value counts only as the start of a sampler with ``strength`` below 1.
    """

    molecule: Molecules  # of one molecule, without padding
    pos: Bool[Tensor, " n"]  # True where known
    atom: Bool[Tensor, " n"]
    bond: Bool[Tensor, "n n"]
    closed: Bool[Tensor, " n"]  # atoms to which no added atom is bonded
    grows: bool  # whether atoms are added

    def __len__(self) -> int:
        return self.molecule.mask.shape[1]

    def __repr__(self) -> str:
        """Short, and different for all that differs: identifiers of molecules are made from it."""
        m = self.molecule
        digest = hashlib.sha256(repr(self.grows).encode())
        for tensor in (m.pos, m.atom, m.bond, self.pos, self.atom, self.bond, self.closed):
            digest.update(tensor.numpy().tobytes())
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
        return molecules.select(repeat).to(device), free.select(torch.tensor(repeat)).to(device)


def blank(count: int, atoms: int, device: torch.device | str) -> Molecules:
    """Molecules of which nothing is known but the size."""
    zeros = torch.zeros(count, atoms, dtype=torch.long, device=device)
    mask = torch.ones(count, atoms, dtype=torch.bool, device=device)
    pos = torch.zeros(count, atoms, 3, device=device)
    return Molecules(mask, pos, zeros, zeros[:, :, None].expand(-1, -1, atoms).clone())
