"""Where the hydrogens are, as the training data have them: a small diffusion model of their positions, all else known.

A generator without hydrogens leaves them to valence, and a force field places them; its bonds and angles are not those of
the quantum chemistry that the generator learned from.
"""

import zlib
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moldiff.config import Config, ConfigError
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.samplers import KeyedRandomness, Sampler, UniPC, sample
from moldiff.schedules import NoiseLevel

# σ of the noise added to the guessed positions, by attempt; later attempts are for molecules whose earlier ones were unsound
NOISES = (0.5, 0.5, 0.2, 0.05)
SAMPLER = Sampler(6, UniPC(churn=0.0), "log", sigma_min=0.02, from_template=True)
LONGER = 0.05  # Å by which a bond may differ from that of the guess
APART = 1.4  # Å from a hydrogen to any other atom than its own, unless the guess is nearer


class Hydrogens(Model):
    """The diffusion model, trained on one request only: hydrogens that may move among atoms and bonds that are known."""

    TASK = "place-hydrogens"

    def __init__(self, config: Config, data: DataInfo, info: dict[str, Any] | None = None):
        if data.hydrogens == "implicit":
            raise ConfigError(f"{data.name} has no hydrogens to place; prepare it with --hydrogens explicit")
        super().__init__(config, data, info)

    def levels(self, molecules: Molecules, sigma: Float[Tensor, " b"], generator: torch.Generator) -> NoiseLevel:
        return self.free_hydrogens(molecules, sigma)

    def free_hydrogens(self, molecules: Molecules, sigma: Float[Tensor, " b"]) -> NoiseLevel:
        """σ of the positions of hydrogens, 0 of all else."""
        known = NoiseLevel.free(molecules, torch.zeros_like(sigma))
        return NoiseLevel(sigma[:, None] * self.are_hydrogens(molecules), known.atom, known.bond)

    def are_hydrogens(self, molecules: Molecules) -> Bool[Tensor, "b n"]:
        return (self.data.elements_in(molecules.atom) == self.data.elements.index("H")) & molecules.mask

    def place(self, molecules: Molecules, attempt: int = 0) -> tuple[Molecules, Bool[Tensor, " b"]]:
        """Hydrogens drawn about where they are guessed; Å. The other atoms do not move. Which molecules are sound.

        Noise is added to the guess and taken away by the model, in so few steps that now and then a hydrogen ends upon its
        neighbour: such molecules are for the next attempt. Random numbers belong to a molecule's graph and to the attempt, so
        that its neighbours have no part in where its hydrogens are, nor has how a processor rounds the other atoms' places.
        """
        graphs = zip(molecules.atom.short().numpy(), molecules.bond.short().numpy(), strict=True)
        numbers = [zlib.crc32(atom.tobytes() + bond.tobytes()) for atom, bond in graphs]
        random = KeyedRandomness(attempt, numbers).of_size(molecules.mask.shape[1])
        free = self.free_hydrogens(molecules, molecules.pos.new_ones(len(molecules)))
        placed, _ = sample(
            lambda state, level, previous: self.denoise(state, level),
            self.process, molecules, free, replace(SAMPLER, sigma_max=NOISES[attempt]), random,
        )  # fmt: skip
        return placed, self.sound(placed, molecules)

    def sound(self, placed: Molecules, guess: Molecules) -> Bool[Tensor, " b"]:
        """Whether bonds to hydrogens are as long as in the guess, about, and no other atoms are near them."""
        now, then = (torch.cdist(m.pos, m.pos) for m in (placed, guess))
        bonded = guess.bond > 0
        wrong = torch.where(bonded, (now - then).abs() > LONGER, now < then.clamp(max=APART))
        return ~(wrong & self.are_hydrogens(guess)[..., None] & guess.pair_mask).any((1, 2))
