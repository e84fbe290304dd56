"""EDM's network, the baseline: E(3)-equivariant message passing over all pairs of atoms.

EGNN (Satorras et al. 2021, arXiv 2102.09844) with the settings of EDM's released QM9 run (Hoogeboom et al. 2022,
arXiv 2203.17003; its README command and the defaults of ``main_qm9.py``): 9 layers of 256, SiLU, attention, squared
distances now and at the start as edge inputs, coordinate weights 15·tanh(φ) and directions r/(d + 1).
Sums are divided by 100, the default of EDM's classes. Its QM9 command leaves the factor at 1; on this process that
diverged within 25 steps at learning rates 1e-4 and 5e-4, while 100 trains steadily at 5e-4.

Ours: bonds, which EDM does not model, as edge inputs and outputs; σ and properties as in every network here; the
previous estimate as further inputs; last linear maps that start at zero (EDM: coordinate weights at gain 0.001).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch_geometric.utils import dense_to_sparse, scatter

from moldiff.denoisers.layers import (
    BondHead,
    LinearToOne,
    NetworkInput,
    Sizes,
    atom_features,
    denoised,
    pair_features,
    zero_linear,
)

COORDINATE_RANGE = 15.0
SUM_DIVISOR = 100.0


@dataclass(frozen=True)
class EGNNConfig:
    width: int = 256
    layers: int = 9


class EGNN(nn.Module):
    def __init__(self, config: EGNNConfig, sizes: Sizes):
        super().__init__()
        self.config, self.sizes = config, sizes
        width = config.width
        edge_width = 2 * sizes.orders + 3
        self.embed = nn.Linear(2 * sizes.tokens + 2 + sizes.condition, width)
        self.layers = nn.ModuleList(EGNNLayer(width, edge_width) for _ in range(config.layers))
        self.to_atom = zero_linear(width, sizes.tokens)
        self.to_bond = BondHead(width, sizes.orders)

    def muon_parameters(self) -> list[nn.Parameter]:
        """None: the baseline is trained with AdamW alone, as its authors did."""
        return []

    def forward(
        self, inputs: NetworkInput
    ) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n tokens"], Float[Tensor, "b n n orders"]]:
        b, n = inputs.mask.shape
        edges, _ = dense_to_sparse(inputs.pair_mask)  # atom k of molecule m is node m·n + k; padding has no edges
        condition = inputs.condition[:, None].expand(-1, n, -1)
        h = self.embed(torch.cat([atom_features(inputs, self.sizes.tokens), condition], -1)).flatten(0, 1)
        start = inputs.pos.flatten(0, 1)
        known = torch.cat([
            squared_distances(start, edges),
            squared_distances(inputs.previous_pos.flatten(0, 1), edges),
            pair_features(inputs, self.sizes.orders)[inputs.pair_mask],
        ], -1)  # fmt: skip
        x = start
        for layer in self.layers:
            h, x = layer(h, x, edges, known)
        pos = denoised(inputs, (x - start).unflatten(0, (b, n)))
        h = h.unflatten(0, (b, n))
        return pos, self.to_atom(h), self.to_bond(inputs, h, pos)


class EGNNLayer(nn.Module):
    """Equations 3–6 of EGNN with EDM's attention gate; coordinates move after the features, as in EDM's code.

    Sums use :func:`scatter`, not ``MessagePassing``: that class writes a Python file to the temporary directory for
    every process and leaves it there.
    """

    def __init__(self, width: int, edge_width: int):
        super().__init__()
        inputs = 2 * width + 1 + edge_width
        self.message = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.attention = LinearToOne(width)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.shift = nn.Sequential(
            nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), zero_linear(width, 1, bias=False)
        )

    def forward(
        self,
        h: Float[Tensor, "nodes width"],
        x: Float[Tensor, "nodes 3"],
        edges: Integer[Tensor, "2 edges"],
        known: Float[Tensor, "edges features"],
    ) -> tuple[Float[Tensor, "nodes width"], Float[Tensor, "nodes 3"]]:
        i, j = edges
        difference = x[i] - x[j]
        squared = squared_distances(x, edges)
        edge = torch.cat([squared, known], -1)
        message = self.message(torch.cat([h[i], h[j], edge], -1))
        gate = (1 + (self.attention(message) / 2).tanh()) / 2  # the logistic function, which torch rounds by position
        received = scatter(gate * message, i, dim_size=len(h)) / SUM_DIVISOR
        h = h + self.update(torch.cat([h, received], -1))
        direction = difference / ((squared + 1e-8).sqrt() + 1)
        weight = COORDINATE_RANGE * self.shift(torch.cat([h[i], h[j], edge], -1)).tanh()
        return h, x + scatter(weight * direction, i, dim_size=len(h)) / SUM_DIVISOR


def squared_distances(x: Float[Tensor, "nodes 3"], edges: Integer[Tensor, "2 edges"]) -> Float[Tensor, "edges 1"]:
    return (x[edges[0]] - x[edges[1]]).square().sum(-1, keepdim=True)
