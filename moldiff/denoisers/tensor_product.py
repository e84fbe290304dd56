"""A tensor-product network on e3nn: features of degree 0, 1, 2 mixed by Clebsch–Gordan products, after NequIP.

NequIP (Batzner et al. 2022, arXiv 2101.03164) on e3nn (Geiger & Smidt 2022, arXiv 2207.09453). Every feature has the
parity of its spherical harmonic, (-1)^l: scalars 0e, vectors 1o, tensors 2e. There are no pseudoscalars or axial
vectors; reflections are exact and mirror images equally likely, as in the other networks here.
"""

from dataclasses import dataclass

import torch
from e3nn import o3
from e3nn.nn import Gate
from jaxtyping import Float, Integer
from torch import Tensor, nn

from moldiff.denoisers.layers import (
    BondHead,
    DistanceFeatures,
    NetworkInput,
    Sizes,
    atom_features,
    denoised,
    pair_features,
    zero_linear,
)


@dataclass(frozen=True)
class TensorProductConfig:
    """There are ``width`` scalars, half as many vectors, a quarter as many tensors of degree 2."""

    width: int = 32
    layers: int = 3
    lmax: int = 2
    radial: int = 16


class TensorProductNetwork(nn.Module):
    def __init__(self, config: TensorProductConfig, sizes: Sizes):
        super().__init__()
        self.config, self.sizes = config, sizes
        self.harmonics = o3.Irreps.spherical_harmonics(config.lmax)
        self.hidden = o3.Irreps([(max(1, config.width >> ir.l), ir) for _, ir in self.harmonics])
        self.distances = DistanceFeatures(config.radial)
        scalars = 2 * sizes.tokens + 2 + sizes.condition
        edge_width = 2 * self.distances.width + 2 * sizes.orders + 1
        self.embed = o3.Linear(f"{scalars}x0e + 2x1o", self.hidden)
        self.layers = nn.ModuleList(
            Interaction(self.hidden, self.harmonics, edge_width, sizes.condition) for _ in range(config.layers)
        )
        self.to_displacement = o3.Linear(self.hidden, "1x1o")
        nn.init.zeros_(self.to_displacement.weight)
        self.to_atom = zero_linear(config.width, sizes.tokens)
        self.to_bond = BondHead(config.width, sizes.orders)

    def muon_parameters(self) -> list[nn.Parameter]:
        """None: e3nn stores the weights of all paths as one flat vector."""
        return []

    def forward(
        self, inputs: NetworkInput
    ) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n tokens"], Float[Tensor, "b n n orders"]]:
        b, n = inputs.mask.shape
        molecule, i, j = inputs.pair_mask.nonzero(as_tuple=True)
        edges = torch.stack([molecule * n + i, molecule * n + j])
        harmonics, edge = self.edge_features(inputs)
        condition = inputs.condition[:, None].expand(-1, n, -1)
        vectors = torch.cat([inputs.pos, inputs.previous_pos], -1)
        x = self.embed(torch.cat([atom_features(inputs, self.sizes.tokens), condition, vectors], -1)).flatten(0, 1)
        share = inputs.mask.sum(1).clamp(min=1).to(x.dtype).rsqrt().repeat_interleave(n)[:, None]
        condition = condition.flatten(0, 1)
        for layer in self.layers:
            x = layer(x, edges, harmonics, edge, condition, share)
        pos = denoised(inputs, self.to_displacement(x).unflatten(0, (b, n)))
        scalars = x[:, : self.config.width].unflatten(0, (b, n))
        return pos, self.to_atom(scalars), self.to_bond(inputs, scalars, pos)

    def edge_features(self, inputs: NetworkInput) -> tuple[Float[Tensor, "edges sh"], Float[Tensor, "edges features"]]:
        """Spherical harmonics of r/(d + 0.1), which fade smoothly where atoms coincide, and scalars of every edge."""
        unit, radial, radial_previous = self.distances.of_input(inputs)
        scalars = torch.cat([radial, radial_previous, pair_features(inputs, self.sizes.orders)], -1)
        unit = unit[inputs.pair_mask]
        harmonics = o3.spherical_harmonics(self.harmonics, unit, normalize=False, normalization="component")
        return harmonics, scalars[inputs.pair_mask]


class Interaction(nn.Module):
    """NequIP's interaction block with a residual: x_i += gate(L Σ_j (L x_j) ⊗_w Y(r_ij) + L x_i + condition)."""

    def __init__(self, hidden: o3.Irreps, harmonics: o3.Irreps, edge_width: int, condition: int):
        super().__init__()
        scalars, higher = hidden[:1], hidden[1:]
        gates = o3.Irreps([(higher.num_irreps, "0e")])
        self.gate = Gate(scalars, [nn.functional.silu], gates, [torch.sigmoid], higher)
        self.up = o3.Linear(hidden, hidden)
        self.product = depthwise_product(hidden, harmonics)
        self.radial = nn.Sequential(nn.Linear(edge_width, 64), nn.SiLU(), nn.Linear(64, self.product.weight_numel))
        self.down = o3.Linear(self.product.irreps_out.simplify(), self.gate.irreps_in)
        self.same = o3.Linear(hidden, self.gate.irreps_in)
        self.condition = nn.Linear(condition, scalars.num_irreps + gates.num_irreps)

    def forward(
        self,
        x: Float[Tensor, "nodes dim"],
        edges: Integer[Tensor, "2 edges"],
        harmonics: Float[Tensor, "edges sh"],
        edge: Float[Tensor, "edges features"],
        condition: Float[Tensor, "nodes condition"],
        share: Float[Tensor, "nodes 1"],
    ) -> Float[Tensor, "nodes dim"]:
        message = self.product(self.up(x)[edges[1]], harmonics, self.radial(edge))
        received = message.new_zeros(len(x), message.shape[1]).index_add(0, edges[0], message)
        update = self.down(received * share) + self.same(x)
        shift = self.condition(condition)
        update = update + nn.functional.pad(shift, (0, update.shape[1] - shift.shape[1]))
        return x + self.gate(update)


def depthwise_product(hidden: o3.Irreps, harmonics: o3.Irreps) -> o3.TensorProduct:
    """All paths hidden ⊗ Y → an irrep of ``hidden``, channel by channel ("uvu"), one weight per channel and edge."""
    paths = [
        (a, b, mul, ir)
        for a, (mul, ir_a) in enumerate(hidden)
        for b, (_, ir_b) in enumerate(harmonics)
        for ir in ir_a * ir_b
        if ir in [k for _, k in hidden]
    ]
    out, place, _ = o3.Irreps([(mul, ir) for *_, mul, ir in paths]).sort()
    instructions = [(a, b, place[k], "uvu", True) for k, (a, b, *_) in enumerate(paths)]
    return o3.TensorProduct(hidden, harmonics, out, instructions, shared_weights=False, internal_weights=False)
