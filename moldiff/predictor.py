"""Properties of a molecule from its elements and coordinates: what a generator that was asked for values is judged by.

It sees neither bonds nor charges nor which molecule was asked for, and learns on molecules of its own (EDM's protocol for
conditional generation, arXiv 2203.17003, has it trained on the half of QM9 that the generator does not see).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moldiff.conditions import Conditions
from moldiff.config import Config, ConfigError
from moldiff.denoisers import options_of
from moldiff.denoisers.layers import NetworkInput, Sizes, condition_features, condition_width
from moldiff.denoisers.transformer import TransformerConfig, Trunk
from moldiff.model_file import DataInfo, TrainedNetwork
from moldiff.molecule import BOND_CLASSES, Molecules

DIPOLES = 8
TOGETHER = 256  # molecules that the network sees at a time
SIZE = 20.0  # atoms by which sums over atoms are divided


class Predictor(TrainedNetwork):
    """The layers of the generator's network, and an invariant read-out of all properties at once."""

    TASK = "predict"

    def __init__(self, config: Config, data: DataInfo, info: dict[str, Any] | None = None):
        super().__init__(config, data, info)
        if config.network.kind != "transformer":
            raise ConfigError(f"network.kind = {config.network.kind!r}: a predictor has a transformer")
        if not data.properties:
            raise ConfigError(f"{data.name} has no properties to predict; prepare it with --property")
        sizes = Sizes(len(data.vocabulary), BOND_CLASSES, condition_width(0, 0))
        with options_of(config.network.kind):
            options = TransformerConfig(**config.network.options)
        self.network = PropertyNetwork(options, sizes, len(data.properties))

    @property
    def losses(self) -> tuple[str, ...]:
        """``total``, of standardised values, and the mean absolute error of each property in its unit."""
        return ("total", *(p.name for p in self.data.properties))

    def predict(self, molecules: Molecules) -> Float[Tensor, "b properties"]:
        """In the units of ``data.properties``; any number of molecules."""
        starts = range(0, len(molecules), TOGETHER)
        value = torch.cat([self(molecules.select(slice(k, k + TOGETHER))) for k in starts]).float()
        std, mean = (value.new_tensor([getattr(p, name) for p in self.data.properties]) for name in ("std", "mean"))
        return value * std + mean

    def forward(self, molecules: Molecules) -> Float[Tensor, "b properties"]:
        """Standardised."""
        return self.network(self.inputs(molecules))

    def inputs(self, molecules: Molecules) -> NetworkInput:
        b, n = molecules.mask.shape
        device, tokens = molecules.device, len(self.data.vocabulary)
        zeros = lambda *shape: torch.zeros(b, *shape, device=device)  # noqa: E731
        pos = molecules.centre().pos / self.data.coordinate_std
        told = Conditions.none(b, 0, 0, device)
        features = condition_features(
            torch.ones(b, device=device), molecules.size, told.value, told.given, told.heavy, told.composition, zeros(1)
        )
        return NetworkInput(
            mask=molecules.mask, pos=pos, skip=pos, c_out=zeros(n, 1), atom=self.elements(molecules),
            bond=torch.zeros_like(molecules.bond), flags=zeros(n, 2), bond_flag=zeros(n, n), condition=features,
            previous=zeros(1), previous_pos=zeros(n, 3), previous_atom=zeros(n, tokens),
            previous_bond=zeros(n, n, BOND_CLASSES),
        )  # fmt: skip

    def elements(self, molecules: Molecules) -> Tensor:
        """Tokens without their charges: the first token of the same element, (b, n)."""
        of = self.data.element_of
        first = torch.tensor([of.index(element) for element in of], device=molecules.device)
        return first[molecules.atom.long()]

    def loss(
        self, clean: Molecules, conditions: Conditions, generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """Mean absolute errors, of known values. Nothing here is random."""
        error = (self(clean) - conditions.value).abs() * conditions.given
        mean = error.sum(0) / conditions.given.sum(0).clamp(min=1)
        of_each = mean.detach() * mean.new_tensor([p.std for p in self.data.properties])
        return {"total": mean.mean(), **dict(zip(self.losses[1:], of_each, strict=True))}


class PropertyNetwork(nn.Module):
    """Sums, means and weighted means over atoms, and lengths of dipole vectors, which charges and atomic dipoles add up to."""

    def __init__(self, config: TransformerConfig, sizes: Sizes, properties: int):
        super().__init__()
        width = config.width
        self.trunk = Trunk(config, sizes)
        self.atom = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        self.weight = nn.Linear(width, 1)
        self.charge = nn.Linear(width, DIPOLES)
        self.dipole = nn.Linear(config.vectors, DIPOLES, bias=False)
        self.out = nn.Sequential(nn.Linear(3 * width + DIPOLES, width), nn.SiLU(), nn.Linear(width, properties))

    def muon_parameters(self) -> list[nn.Parameter]:
        return self.trunk.muon_parameters()

    def begin_as_identity(self, first: int) -> None:
        """As :meth:`moldiff.denoisers.transformer.Trunk.begin_as_identity`."""
        self.trunk.begin_as_identity(first)

    def forward(self, inputs: NetworkInput) -> Float[Tensor, "b properties"]:
        x, v, _ = self.trunk.features(inputs)
        real = inputs.mask.to(x.dtype)[..., None]
        count = real.sum(1)
        h = self.atom(x) * real
        total = h.sum(1)
        weight = self.weight(x).masked_fill(~inputs.mask[..., None], -1e9).softmax(1)
        charge = self.charge(x) * real
        charge = (charge - charge.sum(1, keepdim=True) / count[:, None]) * real  # none in all: wherever the origin is
        moment = torch.einsum("bnk,bnc->bkc", charge, inputs.pos) + (self.dipole(v) * real[..., None]).sum(1).mT
        length = (moment.square().sum(-1) + 1e-6).sqrt()
        return self.out(torch.cat([total / SIZE, total / count, (weight * h).sum(1), length], -1))
