"""The default network: a pair-biased transformer on scalars and vectors, equivariant under O(3) and permutations.

State: per atom scalars x (D) and vectors v (3, C), per pair z (P). Scalars meet vectors only through inner products and
vectors meet scalars only through gates, so reflections are exact too: there is no cross product anywhere.
Ideas: gated vector channels of PaiNN (arXiv 2102.03150) and GVP (arXiv 2009.01411), adaptive layer norm of DiT
(arXiv 2212.09748), its single-table form of PixArt-α (arXiv 2310.00426), self-conditioning (arXiv 2208.04202).
"""

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from moldiff.denoisers.layers import (
    DistanceFeatures,
    NetworkInput,
    Sizes,
    VectorNorm,
    atom_features,
    denoised,
    on_enough_rows,
    pair_features,
    walk_features,
    zero_linear,
)


@dataclass(frozen=True)
class TransformerConfig:
    width: int = 128  # D
    layers: int = 6
    vectors: int = 16  # C
    pair_width: int = 32  # P
    heads: int = 8
    radial: int = 16
    pair_every: int = 1  # the pair stream is updated in every k-th layer
    walks: int = 0  # bonds of the longest walks through the graph that atoms and pairs are told of

    def __post_init__(self):
        """Raises ValueError for sizes that make no network."""
        for name, value in asdict(self).items():
            if name != "walks" and value < 1:
                raise ValueError(f"{name} = {value}: at least 1")
        for name in ("width", "vectors"):
            if getattr(self, name) % self.heads:
                raise ValueError(f"{name} = {getattr(self, name)}: must be a multiple of heads = {self.heads}")


class Trunk(nn.Module):
    """Atoms, vectors and pairs of a :class:`NetworkInput`, mixed by the layers."""

    def __init__(self, config: TransformerConfig, sizes: Sizes):
        super().__init__()
        self.config = c = config
        self.sizes = sizes
        self.distances = DistanceFeatures(c.radial)
        r = self.distances.width
        self.embed_condition = nn.Sequential(nn.Linear(sizes.condition, c.width), nn.SiLU())
        self.modulation = nn.Sequential(nn.Linear(c.width, c.width), nn.SiLU(), nn.Linear(c.width, 6 * c.width))
        self.embed_atom = nn.Linear(2 * sizes.tokens + 2 + c.walks, c.width)
        self.embed_pair = nn.Linear(2 * sizes.orders + 1 + 2 * r + c.walks, c.pair_width)
        self.embed_vector = nn.Linear(2, c.vectors, bias=False)
        self.blocks = nn.ModuleList(
            Block(c, r, update_pair=i % c.pair_every == c.pair_every - 1) for i in range(c.layers)
        )
        self.norm = nn.LayerNorm(c.width)
        self.norm_vector = VectorNorm(c.vectors)

    def muon_parameters(self) -> list[nn.Parameter]:
        """The matrices inside the layers: those that orthogonalised updates suit."""
        return [p for name, p in self.blocks.named_parameters() if p.ndim == 2 and "table" not in name]

    def begin_as_identity(self, first: int) -> None:
        """Let the layers from ``first`` on pass everything unchanged, as far as they are freshly made."""
        for block in self.blocks[first:]:
            block.begin_as_identity()

    def features(
        self, inputs: NetworkInput
    ) -> tuple[Float[Tensor, "b n width"], Float[Tensor, "b n 3 vectors"], Float[Tensor, "b n n pair"]]:
        """Scalars and vectors of every atom, normalised, and the pairs as the last layer leaves them."""
        x, v, z, unit, radial = self.embed(inputs)
        modulation = on_enough_rows(lambda c: self.modulation(self.embed_condition(c)), inputs.condition)
        modulation = modulation.unflatten(-1, (6, -1))[:, None]
        pair_mask = inputs.pair_mask[..., None].to(x.dtype)
        unit = unit * (pair_mask * inputs.mask.sum(1)[:, None, None, None].clamp(min=1).rsqrt())
        bias = torch.where(inputs.mask, 0.0, -1e9)[:, None, None, :].to(x.dtype)
        for block in self.blocks:
            x, v, z = block(x, v, z, modulation, unit, radial, bias)
        return self.norm(x), self.norm_vector(v), z

    def embed(self, inputs: NetworkInput) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        atoms, pairs = [atom_features(inputs, self.sizes.tokens)], [pair_features(inputs, self.sizes.orders)]
        unit, *radial = self.distances.of_input(inputs)
        pairs += radial
        if self.config.walks:
            walks = walk_features(inputs.graph, self.config.walks).to(inputs.pos)
            atoms.append(walks.diagonal(dim1=1, dim2=2).transpose(1, 2))
            pairs.append(walks)
        x = self.embed_atom(torch.cat(atoms, -1)).to(inputs.pos)  # one type for all layers
        v = self.embed_vector(torch.stack([inputs.pos, inputs.previous_pos], -1))
        z = self.embed_pair(torch.cat(pairs, -1))
        return x, v, z, unit, radial[0]


class Transformer(Trunk):
    """The denoiser: clean positions, atoms and bonds."""

    def __init__(self, config: TransformerConfig, sizes: Sizes):
        super().__init__(config, sizes)
        c, r = config, self.distances.width
        self.norm_pair = nn.LayerNorm(c.pair_width)
        self.to_displacement = zero_linear(c.vectors, 1, bias=False)
        self.to_atom = zero_linear(c.width, sizes.tokens)
        self.to_bond = nn.Sequential(
            nn.Linear(c.pair_width + r, 2 * c.pair_width), nn.SiLU(), zero_linear(2 * c.pair_width, sizes.orders)
        )

    def forward(
        self, inputs: NetworkInput
    ) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n tokens"], Float[Tensor, "b n n orders"]]:
        x, v, z = self.features(inputs)
        pos = denoised(inputs, self.to_displacement(v)[..., 0])
        z = self.norm_pair(z)
        _, radial = self.distances(pos)
        bond_logits = self.to_bond(torch.cat([z + z.transpose(1, 2), radial], -1))
        return pos, self.to_atom(x), bond_logits


class Block(nn.Module):
    """Attention over scalars and vectors with a pair bias, a gated feed-forward, and a pair update."""

    def __init__(self, config: TransformerConfig, radial: int, update_pair: bool):
        super().__init__()
        c = config
        self.heads, self.vectors = c.heads, c.vectors
        head, head_v = c.width // c.heads, c.vectors // c.heads
        self.scale = (head + 3 * head_v) ** -0.5
        self.table = nn.Parameter(torch.randn(6, c.width) * c.width**-0.5)
        self.norm_attention = nn.LayerNorm(c.width, elementwise_affine=False)
        self.norm_v = VectorNorm(c.vectors)
        self.q, self.k, self.value = (nn.Linear(c.width, c.width, bias=False) for _ in range(3))
        self.norm_q, self.norm_k = nn.LayerNorm(head), nn.LayerNorm(head)
        self.vector_q, self.vector_k, self.vector_value = (
            nn.Linear(c.vectors, c.vectors, bias=False) for _ in range(3)
        )
        self.norm_z = nn.LayerNorm(c.pair_width)
        self.from_pair = nn.Linear(c.pair_width, c.heads + c.vectors)
        self.out = zero_linear(c.width, c.width)
        self.vector_out = zero_linear(c.vectors, c.vectors, bias=False)

        self.norm_feed = nn.LayerNorm(c.width, elementwise_affine=False)
        self.norm_feed_v = VectorNorm(c.vectors)
        self.vector_pair = nn.Linear(c.vectors, 2 * c.vectors, bias=False)
        self.feed_in = nn.Linear(c.width + c.vectors, 4 * c.width)
        self.feed_out = zero_linear(2 * c.width, c.width + c.vectors)

        self.update_pair = update_pair
        if update_pair:
            self.pair_in = nn.Linear(c.heads + c.vectors + radial, c.pair_width)
            self.norm_pair = nn.LayerNorm(c.pair_width)
            self.pair_up = nn.Linear(c.pair_width, 2 * c.pair_width)
            self.pair_down = zero_linear(2 * c.pair_width, c.pair_width)

    def begin_as_identity(self) -> None:
        """Zero what a new layer would add: its directions and its logits; its other branches begin at zero anyway."""
        to_zero = [self.from_pair, self.pair_in] if self.update_pair else [self.from_pair]
        for layer in to_zero:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x, v, z, modulation, unit, radial, bias) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes: x (b,n,D), v (b,n,3,C), z (b,n,n,P), modulation (b,1,6,D), unit (b,n,n,3), bias (b,1,1,n)."""
        scale1, shift1, gate1, scale2, shift2, gate2 = (modulation + self.table).unbind(2)
        w = self.norm_v(v)
        attended, attended_v, messages, logits = self.attention(
            self.norm_attention(x) * (1 + scale1) + shift1, w, z, unit, bias
        )
        x = x + gate1 * self.out(attended)
        v = v + self.vector_out(attended_v) + messages

        v1, v2 = self.vector_pair(self.norm_feed_v(v)).chunk(2, -1)
        y = self.norm_feed(x) * (1 + scale2) + shift2
        up, gate = self.feed_in(torch.cat([y, (v1 * v2).sum(-2)], -1)).chunk(2, -1)
        residual, gate_v = self.feed_out(F.silu(gate) * up).split([x.shape[-1], self.vectors], -1)
        x = x + gate2 * residual
        v = v + v1 * gate_v[..., None, :]

        if self.update_pair:
            inner = torch.einsum("bixc,bjxc->bijc", w, w)
            z = z + self.pair_in(torch.cat([logits.permute(0, 2, 3, 1), inner, radial], -1))
            z = z + self.pair_down(F.relu(self.pair_up(self.norm_pair(z))).square())  # SiLU is 5x slower here on a CPU
        return x, v, z

    def attention(self, y, w, z, unit, bias) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Attended scalars (b,n,D), attended vectors (b,n,3,C), direction messages (b,n,3,C), logits (b,H,n,n)."""
        b, n, width = y.shape
        h = self.heads
        pair = self.from_pair(self.norm_z(z))
        q = torch.cat([self.norm_q(self.q(y).unflatten(-1, (h, -1))), self.per_head(self.vector_q(w))], -1)
        k = torch.cat([self.norm_k(self.k(y).unflatten(-1, (h, -1))), self.per_head(self.vector_k(w))], -1)
        value = torch.cat([self.value(y).unflatten(-1, (h, -1)), self.per_head(self.vector_value(w))], -1)
        logits = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)) * self.scale + pair[..., :h].permute(0, 3, 1, 2)
        mixed = ((logits + bias).softmax(-1) @ value.transpose(1, 2)).transpose(1, 2)
        attended, attended_v = mixed.split([width // h, 3 * self.vectors // h], -1)
        attended_v = attended_v.reshape(b, n, h, 3, -1).transpose(2, 3).reshape(b, n, 3, self.vectors)
        messages = unit.transpose(2, 3) @ pair[..., h:]
        return attended.reshape(b, n, width), attended_v, messages, logits

    def per_head(self, v: Float[Tensor, "b n 3 c"]) -> Float[Tensor, "b n heads d"]:
        """Vector channels dealt to the heads, their three components side by side."""
        b, n = v.shape[:2]
        return v.reshape(b, n, 3, self.heads, -1).transpose(2, 3).reshape(b, n, self.heads, -1)
