"""What every network shares: its input, its preconditioning, and small building blocks."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from moldiff.molecule import Molecules

# features of the condition vector: of σ and sizes, of each property, of each element's count
BEFORE_PROPERTIES, PER_PROPERTY, PER_ELEMENT = 32 + 5 + 5, 9, 4

# of an exponent: what is smaller adds nothing to anything, but numbers near the end of the range of floats cost a CPU ten
# times as long as others
LEAST = -60.0


@dataclass(frozen=True)
class NetworkInput:
    """A noisy batch as a network sees it: dimensionless, centred, preconditioned (Karras et al. 2022, arXiv 2206.00364)."""

    mask: Bool[Tensor, "b n"]
    pos: Float[Tensor, "b n 3"]  # c_in · x_σ
    skip: Float[Tensor, "b n 3"]  # c_skip · x_σ: the best linear guess of x0
    c_out: Float[Tensor, "b n 1"]  # a network's displacement counts this much
    atom: Integer[Tensor, "b n"]
    bond: Integer[Tensor, "b n n"]
    flags: Float[Tensor, "b n 2"]  # 1 where the position / the token is known
    bond_flag: Float[Tensor, "b n n"]  # 1 where the bond is known
    condition: Float[Tensor, "b condition"]  # noise level, size, properties, composition: see `condition_features`
    previous: Float[Tensor, "b 1"]  # 1 where the next three hold the previous estimate, else they are zero
    previous_pos: Float[Tensor, "b n 3"]
    previous_atom: Float[Tensor, "b n tokens"]  # probabilities
    previous_bond: Float[Tensor, "b n n orders"]

    pair_mask = Molecules.pair_mask  # which needs no more than the mask

    @property
    def graph(self) -> Bool[Tensor, "b n n"]:
        """Which atoms are bonded: by the previous estimate where there is one, else by the noisy bonds."""
        estimated = torch.where(self.previous[..., None] > 0, self.previous_bond[..., 0] < 0.5, self.bond > 0)
        return estimated & self.pair_mask


@dataclass(frozen=True)
class Sizes:
    """Widths that the data dictate: classes of each field and features of the condition vector."""

    tokens: int
    orders: int
    condition: int


def condition_width(properties: int, elements: int) -> int:
    return BEFORE_PROPERTIES + PER_PROPERTY * properties + 1 + PER_ELEMENT * elements


def condition_features(
    sigma: Float[Tensor, " b"], size: Integer[Tensor, " b"], value: Float[Tensor, "b p"], given: Bool[Tensor, "b p"],
    heavy: Integer[Tensor, " b"], composition: Integer[Tensor, "b elements"], previous: Float[Tensor, "b 1"],
) -> Float[Tensor, "b condition"]:  # fmt: skip
    """Fourier features of ln σ / 4 (Karras et al.), of the atom count, of the count of atoms that are no hydrogens (0:
    unknown), of each property that is given, and of the atoms of each element (all 0: unknown). These are last, where new
    elements find a place."""
    c_noise = sigma.clamp(min=1e-3).log() / 4
    noise = fourier(c_noise[:, None], 16, 0.25, 8.0)
    counts = count_features(size.to(sigma.dtype)[:, None])
    some = (heavy > 0).to(sigma.dtype)[:, None]
    heavy_counts = torch.cat([count_features(heavy.clamp(min=1).to(sigma.dtype)[:, None]) * some, some], 1)
    on = given.to(sigma.dtype)[..., None]
    properties = torch.cat([fourier(value[..., None], 4, 0.125, 1.0) * on, on], -1).flatten(1)
    known = (composition.sum(1, keepdim=True) > 0).to(sigma.dtype)
    of_each = composition.to(sigma.dtype)[..., None]
    of_each = torch.cat([of_each.log1p(), of_each / 20, fourier(of_each, 1, 0.1, 0.1)], -1).flatten(1) * known
    return torch.cat([noise, counts, previous, heavy_counts, properties, known, of_each], 1)


def count_features(count: Float[Tensor, "b 1"]) -> Float[Tensor, "b 4"]:
    return torch.cat([count.log() - 3, count / 20 - 1, fourier(count / 20 - 1, 1, 2.0, 2.0)], 1)


def fourier(x: Float[Tensor, "... 1"], frequencies: int, low: float, high: float) -> Float[Tensor, "... features"]:
    """cos and sin of 2π·f·x for geometrically spaced f."""
    f = torch.logspace(math.log10(low), math.log10(high), frequencies, device=x.device, dtype=x.dtype)
    return torch.cat([(2 * math.pi * f * x).cos(), (2 * math.pi * f * x).sin()], -1)


class DistanceFeatures(nn.Module):
    """Radial functions of a distance: Gaussians equally spaced in exp(-d) (PhysNet, arXiv 1902.08408), and ln d.

    The exponential spacing puts the resolution where bond orders differ by hundredths of an Å.
    """

    def __init__(self, count: int):
        super().__init__()
        self.width = count + 1
        self.register_buffer("centre", torch.linspace(math.exp(-6.0), 1.0, count), persistent=False)
        self.beta = (0.7 * count) ** 2

    def forward(self, pos: Float[Tensor, "b n 3"]) -> tuple[Float[Tensor, "b n n 3"], Float[Tensor, "b n n r"]]:
        """Directions r/(d + 0.1), zero on the diagonal, and features of all pairs."""
        difference = pos[:, :, None] - pos[:, None]
        distance = (difference.square().sum(-1, keepdim=True) + 1e-8).sqrt()
        exponent = -self.beta * (torch.exp(-distance) - self.centre) ** 2
        features = torch.exp(exponent.clamp(min=LEAST))
        return difference / (distance + 0.1), torch.cat([features, distance.log()], -1)

    def of_input(
        self, x: NetworkInput
    ) -> tuple[Float[Tensor, "b n n 3"], Float[Tensor, "b n n r"], Float[Tensor, "b n n r"]]:
        """Directions and features of the noisy positions, and features of the previous estimate (zero without one)."""
        unit, radial = self(x.pos)
        _, previous = self(x.previous_pos)
        return unit, radial, previous * x.previous[:, None, None]


class VectorNorm(nn.Module):
    """Divide by the root mean square over space and channels; learned scale per channel, no bias (equivariance)."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, v: Float[Tensor, "b n 3 c"]) -> Float[Tensor, "b n 3 c"]:
        return v * (v.square().mean((-2, -1), keepdim=True) + 1e-4).rsqrt() * self.scale


def denoised(x: NetworkInput, displacement: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
    """D = c_skip·x_σ + c_out·F, with F's mean removed wherever nothing is fixed. Fixed atoms (c_out = 0) come back exactly."""
    real = x.mask.to(displacement.dtype)[..., None]
    displacement = displacement * real
    free = (x.flags[..., :1] == 0).to(displacement.dtype) * real
    all_free = free.sum(1, keepdim=True) == real.sum(1, keepdim=True)
    mean = displacement.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
    return x.skip + x.c_out * torch.where(all_free, displacement - mean, displacement) * real


def on_enough_rows(
    module: Callable[[Tensor], Tensor], x: Float[Tensor, "b features"], rows: int = 16
) -> Float[Tensor, "b out"]:
    """Apply a row-wise module to at least ``rows`` rows.

    Matrix libraries use other kernels, with other rounding, for a handful of rows; this way a molecule's numbers do
    not depend on how many others are in its batch.
    """
    missing = max(0, rows - len(x))
    return module(nn.functional.pad(x, (0, 0, 0, missing)))[: len(x)]


def atom_features(x: NetworkInput, tokens: int) -> Float[Tensor, "b n features"]:
    """What a network is told of each atom: token, previous estimate, what is known (2·tokens + 2 numbers)."""
    token = nn.functional.one_hot(x.atom.long(), tokens).to(x.pos.dtype)
    return torch.cat([token, x.previous_atom, x.flags], -1)


def pair_features(x: NetworkInput, orders: int) -> Float[Tensor, "b n n features"]:
    """What a network is told of each bond: order, previous estimate, whether it is known (2·orders + 1 numbers)."""
    order = nn.functional.one_hot(x.bond.long(), orders).to(x.pos.dtype)
    return torch.cat([order, x.previous_bond, x.bond_flag[..., None]], -1)


def walk_features(graph: Bool[Tensor, "b n n"], longest: int) -> Float[Tensor, "b n n longest"]:
    """tanh(p_k / 2) for the numbers p_k(i, j) of walks of k = 1 … ``longest`` bonds from i to j that never turn back at once.

    In a tree they are the distance in bonds, one-hot. A ring of r atoms shows as p_{r-1} of each of its bonds and as p_r
    of each of its atoms with itself. p_{k+1} = p_k A - p_{k-1} (D - 1), with degrees D (Alon et al. 2007, "Non-backtracking
    random walks mix faster", doi:10.1142/S0219199707002551); counts are exact, so in single precision at least.
    """
    with torch.autocast(graph.device.type, enabled=False):
        bonds = graph.float()
        degree = bonds.sum(1, keepdim=True)
        before, last = torch.zeros_like(bonds), torch.eye(bonds.shape[1]).to(bonds).expand_as(bonds)
        counts = []
        for k in range(1, longest + 1):
            before, last = last, last @ bonds - before * (degree if k == 2 else degree - 1)
            counts.append(last)
        return torch.stack(counts, -1).mul(0.5).tanh()


class BondHead(nn.Module):
    """Bond logits from scalars of two atoms and their predicted distance; symmetric because atoms enter as a sum."""

    def __init__(self, width: int, orders: int, hidden: int = 64, radial: int = 16):
        super().__init__()
        self.orders = orders
        self.distances = DistanceFeatures(radial)
        self.from_atom = nn.Linear(width, hidden)
        self.from_pair = nn.Linear(2 * orders + 1 + self.distances.width, hidden)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), zero_linear(hidden, orders))

    def forward(
        self, x: NetworkInput, scalars: Float[Tensor, "b n d"], pos: Float[Tensor, "b n 3"]
    ) -> Float[Tensor, "b n n orders"]:
        atom = self.from_atom(scalars)
        _, radial = self.distances(pos)
        pair = self.from_pair(torch.cat([pair_features(x, self.orders), radial], -1))
        return self.out(atom[:, :, None] + atom[:, None] + pair)


class LinearToOne(nn.Linear):
    """A linear map to one number that rounds a row alike wherever it stands in the batch.

    A matrix library does not: its matrix-vector product treats the last rows unlike the others.
    """

    def __init__(self, width: int, bias: bool = True):
        super().__init__(width, 1, bias=bias)

    def forward(self, x: Float[Tensor, "... features"]) -> Float[Tensor, "... 1"]:
        product = (x * self.weight[0]).sum(-1, keepdim=True)
        return product if self.bias is None else product + self.bias


def zero_linear(width_in: int, width_out: int, bias: bool = True) -> nn.Linear:
    """A linear map that starts at zero, so that a residual branch starts as the identity."""
    layer = LinearToOne(width_in, bias) if width_out == 1 else nn.Linear(width_in, width_out, bias=bias)
    nn.init.zeros_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
