"""Atoms drawn together, so that a molecule has the asked-for number of each element."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn.functional import one_hot


class KeptComposition:
    """``counts`` (b, elements): atoms of each element, all 0 for a molecule that may have any; ``element_of`` each token."""

    def __init__(self, counts: Integer[Tensor, "b elements"], element_of: Sequence[int]):
        made = np.unique(element_of)  # hydrogens that are left to valence have no token
        self.counts = counts.cpu().numpy()[:, made]
        self.tokens = [np.flatnonzero(np.array(element_of) == element) for element in made]

    def draw(
        self, probs: Float[Tensor, "b n tokens"], gumbel: Float[Tensor, "b n tokens"]
    ) -> Float[Tensor, "b n tokens"]:
        """A token for every atom, as probabilities of 0 and 1; those of molecules that may have any stay as they are.

        It is the likeliest assignment with these counts after Gumbel noise is added to the log-probabilities (perturb and
        MAP, Papandreou & Yuille 2011, 10.1109/ICCV.2011.6126242), which without counts is an exact draw.
        """
        from scipy.optimize import linear_sum_assignment  # a third of a second, which only such requests pay

        scores = (probs.clamp(min=1e-30).log() + gumbel).cpu().numpy()
        likeliest = np.stack([tokens[scores[..., tokens].argmax(-1)] for tokens in self.tokens], -1)  # of each element
        scores = np.take_along_axis(scores, likeliest, -1)
        drawn = probs.argmax(-1)
        asked = self.counts.any(1)
        for row in np.flatnonzero(asked):
            places = np.repeat(np.arange(len(self.tokens)), self.counts[row])
            atoms, chosen = linear_sum_assignment(scores[row][:, places], maximize=True)
            drawn[row] = torch.from_numpy(likeliest[row, atoms, places[chosen]])
        kept = torch.from_numpy(asked).to(probs.device)[:, None, None]
        return torch.where(kept, one_hot(drawn, probs.shape[-1]).to(probs), probs)
