"""Where the hydrogens are, as the training data have them: a small diffusion model of their positions, all else known.

A generator without hydrogens leaves them to valence, and a force field places them; its bonds and angles are not those of
the quantum chemistry that the generator learned from.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moldiff.model import Model
from moldiff.molecule import Molecules
from moldiff.schedules import NoiseLevel

LEVELS = (0.05, 0.02)  # σ at which the hydrogens are estimated, one after the other


class Hydrogens(Model):
    """The diffusion model, trained on one request only: hydrogens that may move among atoms and bonds that are known."""

    TASK = "place-hydrogens"

    def levels(self, molecules: Molecules, sigma: Float[Tensor, " b"], generator: torch.Generator) -> NoiseLevel:
        fixed = NoiseLevel.free(molecules, torch.zeros_like(sigma))
        return NoiseLevel(sigma[:, None] * self.are_hydrogens(molecules), fixed.atom, fixed.bond)

    def are_hydrogens(self, molecules: Molecules) -> Bool[Tensor, "b n"]:
        symbols = [self.data.elements[of] for of in self.data.element_of]
        token = torch.tensor([symbol == "H" for symbol in symbols], device=molecules.device)
        return token[molecules.atom.long()] & molecules.mask

    def place(self, molecules: Molecules) -> Molecules:
        """Hydrogens that are roughly right, moved to where they are; Å. The other atoms do not move.

        The estimate of their places, taken at falling levels: a guess needs no noise, since it is off by as much.
        """
        generator = torch.Generator()
        for sigma in LEVELS:
            level = self.levels(molecules, torch.full((len(molecules),), sigma, device=molecules.device), generator)
            known = level.fixed_pos * molecules.mask
            centre = (molecules.pos * known[..., None]).sum(1, keepdim=True) / known.sum(1)[:, None, None]
            estimate = self.denoise(molecules.replace(pos=molecules.pos - centre), level).pos + centre
            moved = torch.where(self.are_hydrogens(molecules)[..., None], estimate, molecules.pos)
            molecules = molecules.replace(pos=moved)
        return molecules
