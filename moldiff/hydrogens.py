"""Where the hydrogens are, as the training data have them: a small diffusion model of their positions, all else known.

A generator without hydrogens leaves them to valence, and a force field places them; its bonds and angles are not those of
the quantum chemistry that the generator learned from.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moldiff.config import Config, ConfigError
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.schedules import NoiseLevel

LEVELS = (0.05, 0.02)  # σ at which the hydrogens are estimated, one after the other


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
        element = torch.tensor(self.data.element_of, device=molecules.device)[molecules.atom.long()]
        return (element == self.data.elements.index("H")) & molecules.mask

    def place(self, molecules: Molecules) -> Molecules:
        """Hydrogens that are roughly right, moved to where they are; Å. The other atoms do not move.

        The estimate of their places, taken at falling levels: a guess needs no noise, since it is off by as much.
        """
        for sigma in LEVELS:
            level = self.free_hydrogens(molecules, molecules.pos.new_full((len(molecules),), sigma))
            centred = molecules.centre(level.fixed_pos)
            moved = self.denoise(centred, level).pos - centred.pos
            molecules = molecules.replace(pos=molecules.pos + moved)
        return molecules
