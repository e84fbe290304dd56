"""The corruption of each field and its reversal: ``prior``, ``noise``, ``loss``, ``step``.

Positions follow a variance-exploding Gaussian, x_σ = x0 + σ ε (Karras et al. 2022, arXiv 2206.00364) in the space without
centre of mass; atoms and bonds follow q(c | c0, σ) = (1 - κ) δ(c0) + κ π with κ = σ / (σ + σ_c), so that one σ describes
the whole molecule. The joint process is the dict ``{"pos": Gaussian, "atom": Categorical, "bond": Categorical}``.

Random numbers are arguments, never drawn here: normals for positions, one uniform per categorical site.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from moldiff.molecule import centred
from moldiff.schedules import NoiseLevel


@dataclass(frozen=True)
class Gaussian:
    """Positions. ``scale``: Å per unit, the data's coordinate standard deviation; σ is in those units."""

    scale: float

    def project(self, x: Float[Tensor, "b n 3"], level: NoiseLevel, mask: Bool[Tensor, "b n"]) -> Tensor:
        """Keep noise off fixed atoms; where nothing is fixed, remove its centre of mass."""
        free = (level.pos > 0).to(x.dtype)
        all_free = (free.sum(1) == mask.sum(1))[:, None, None]
        return torch.where(all_free, centred(x, mask), x * free[..., None])

    def noise(self, pos: Tensor, level: NoiseLevel, normal: Tensor, mask: Tensor) -> Float[Tensor, "b n 3"]:
        """x_σ in Å. Fixed atoms keep their coordinates exactly."""
        return pos + self.scale * level.pos[..., None] * self.project(normal, level, mask)

    def prior(self, pos: Tensor, level: NoiseLevel, normal: Tensor, mask: Tensor) -> Float[Tensor, "b n 3"]:
        """Start of generation: data of unit variance plus noise is normal with variance 1 + σ². Fixed atoms stay."""
        free = (level.pos > 0).to(pos.dtype)[..., None]
        std = (level.pos**2 + 1).sqrt()[..., None]
        return torch.where(free > 0, self.scale * std * self.project(normal, level, mask), pos)

    def loss(self, predicted: Tensor, clean: Tensor, level: NoiseLevel) -> Float[Tensor, " b"]:
        """Mean over the coordinates of free atoms of (D - x0)² / c_out²: targets of unit variance at every σ (Karras et al.,
        table 1)."""
        weight = torch.where(level.pos > 0, 1 + level.pos.clamp(min=1e-6) ** -2, 0.0)
        error = ((predicted - clean) / self.scale).square().mean(-1)
        return (weight * error).sum(1) / (level.pos > 0).sum(1).clamp(min=1)

    def step(self, x: Tensor, x0: Tensor, ratio: Tensor | float) -> Float[Tensor, "b n 3"]:
        """Move along the probability-flow line from σ to ratio·σ: x0 + ratio·(x - x0)."""
        return x0 + ratio * (x - x0)


@dataclass(frozen=True)
class Categorical:
    """Atoms or bonds. ``prior_probs``: π; ``sigma_c``: the σ at which half of the sites are redrawn; ``temperature``: at
    which samplers draw from an estimate."""

    prior_probs: Float[Tensor, " classes"]
    sigma_c: float = 1.0
    temperature: float = 1.0

    def kappa(self, sigma: Tensor) -> Tensor:
        """Probability that a site has been redrawn from π at level σ."""
        return sigma / (sigma + self.sigma_c)

    def prior(self, clean: Tensor, sigma: Tensor, uniform: Tensor) -> Tensor:
        """Draw every free site (σ > 0) from π; fixed sites keep ``clean``."""
        drawn = draw_class(self.prior_probs.to(uniform.device).expand(*uniform.shape, -1), uniform)
        return torch.where(sigma > 0, drawn, clean)

    def noise(self, token: Tensor, sigma: Tensor, uniform: Tensor, start: Tensor | float = 0.0) -> Tensor:
        """Bring tokens from level ``start`` (default: clean) up to level ``sigma``; exact for any pair of levels."""
        k0, k1 = self.kappa(torch.as_tensor(start, dtype=sigma.dtype, device=sigma.device)), self.kappa(sigma)
        redraw = ((k1 - k0) / (1 - k0)).clamp(0, 1)
        probs = self.prior_probs.to(uniform.device).expand(*uniform.shape, -1)
        return keep_or_draw(token, 1 - redraw, probs, uniform)

    def loss(self, logits: Tensor, clean: Integer[Tensor, "..."], sigma: Tensor) -> Float[Tensor, " b"]:
        """Cross-entropy of the clean class, weight clip(1/κ, 1, 10), mean over the molecule's free sites."""
        free = sigma > 0
        weight = torch.where(free, (1 / self.kappa(sigma.clamp(min=1e-6))).clamp(1, 10), 0.0)
        log_probs = logits.log_softmax(-1)
        entropy = -log_probs.gather(-1, clean[..., None].long())[..., 0]
        return (weight * entropy).flatten(1).sum(1) / free.flatten(1).sum(1).clamp(min=1)

    def step(self, token: Tensor, probs: Tensor, sigma: Tensor, sigma_next: Tensor, uniform: Tensor) -> Tensor:
        """Keep a token with probability κ(σ') / κ(σ), else draw it from the predicted endpoint.

        With a perfect denoiser this preserves each site's marginal exactly for any π and any step size.
        """
        keep = self.kappa(sigma_next) / self.kappa(sigma).clamp(min=1e-12)
        keep = torch.where(sigma > 0, keep, 1.0)
        return keep_or_draw(token, keep, probs, uniform)

    def redraw(self, token: Tensor, probs: Tensor, sigma: Tensor, sigma_next: Tensor, uniform: Tensor) -> Tensor:
        """Draw every free site anew: from the predicted endpoint, or with probability κ(σ') from π.

        It preserves marginals as :meth:`step` does, but nothing of the old tokens: what was drawn wrong at a high level is
        not passed on to the geometry (docs/experiments.md).
        """
        redraw = self.kappa(sigma_next)[..., None]
        drawn = draw_class(torch.lerp(probs, self.prior_probs.to(probs).expand_as(probs), redraw), uniform)
        return torch.where(sigma > 0, drawn.to(token.dtype), token)

    def posterior(self, token: Tensor, probs: Tensor, sigma: Tensor, sigma_next: Tensor, uniform: Tensor) -> Tensor:
        """Draw from q(c' | c, x0-prediction), the exact D3PM reverse kernel (Austin et al. 2021, arXiv 2107.03006)."""
        kt, ks = self.kappa(sigma)[..., None], self.kappa(sigma_next)[..., None]
        alpha = (1 - kt) / (1 - ks)
        pi = self.prior_probs.to(probs)
        onehot = torch.nn.functional.one_hot(token.long(), len(pi)).to(probs)
        share = pi[token.long()][..., None]
        likelihood = alpha * onehot + (1 - alpha) * share
        evidence = (1 - kt) * onehot + kt * share
        weight = probs / evidence.clamp(min=1e-12)
        mixed = (1 - ks) * weight + ks * pi * weight.sum(-1, keepdim=True)
        drawn = draw_class(likelihood * mixed, uniform)
        return torch.where(sigma > 0, drawn, token)


def draw_class(probs: Float[Tensor, "*sites classes"], uniform: Float[Tensor, "*sites"]) -> Integer[Tensor, "*sites"]:
    """Inverse-CDF draw, one uniform per site; ``probs`` need not be normalised."""
    cdf = probs.cumsum(-1)
    return (uniform[..., None] * cdf[..., -1:] >= cdf[..., :-1]).sum(-1)


def keep_or_draw(token: Tensor, keep: Tensor, probs: Tensor, uniform: Tensor) -> Tensor:
    """Keep with probability ``keep``, else draw from ``probs``; the same uniform serves both decisions."""
    rest = ((uniform - keep) / (1 - keep).clamp(min=1e-12)).clamp(0, 1)
    return torch.where(uniform < keep, token, draw_class(probs, rest).to(token.dtype))
