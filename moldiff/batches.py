"""What training sees: random batches, the same molecules for every held-out loss, and generators that depend on a key."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from moldiff.conditions import Conditions
from moldiff.datasets.prepared import Split
from moldiff.model_file import TrainedNetwork
from moldiff.molecule import Molecules

HELD_OUT = 512  # noisy copies that a held-out loss is the mean of; of few molecules, several copies each
TOGETHER = 256  # copies in memory at a time


def keyed_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the key alone (numpy's SeedSequence hashes it; zeros at its end do not count).

    On a GPU it lives there, with other numbers than on a CPU: drawing on the host would hold the GPU up.
    """
    seed = np.random.SeedSequence(key).generate_state(2, np.uint64)[0]
    on_gpu = torch.device(device).type == "cuda"
    return torch.Generator(device if on_gpu else "cpu").manual_seed(int(seed >> 1))


class Batches:
    """Random batches of one exact size each, resident on the device. Size n is drawn in proportion to its molecules."""

    def __init__(self, split: Split, properties: int, device: torch.device):
        values = torch.from_numpy(split.properties)
        self.sizes, self.molecules, self.properties = [], [], []
        for molecules, rows in split.buckets().values():
            self.molecules.append(molecules.to(device))
            self.properties.append(values[rows].to(device) if properties else torch.zeros(len(rows), 0, device=device))
            self.sizes.append(len(rows))
        self.shares = torch.tensor(self.sizes, dtype=torch.float64)

    def draw(self, count: int, generator: torch.Generator, rank: int = 0, world: int = 1) -> tuple[Molecules, Tensor]:
        """``count`` different molecules of one size (fewer if there are fewer), and their properties.

        All ranks draw the same batch and keep every world-th molecule; all of them, if they are fewer than the ranks.
        """
        bucket = int(torch.multinomial(self.shares, 1, generator=generator))
        rows = torch.randperm(self.sizes[bucket], generator=generator)[:count]
        rows = rows[rank::world] if len(rows) >= world else rows
        rows = rows.to(self.molecules[bucket].device)
        return self.molecules[bucket].select(rows), self.properties[bucket][rows]

    def repeated(self, copies: int) -> Iterator[tuple[Molecules, Tensor]]:
        """Every molecule ``copies`` times, in order of size, at most ``TOGETHER`` at once."""
        for molecules, properties in zip(self.molecules, self.properties, strict=True):
            for rows in torch.arange(len(molecules), device=molecules.device).repeat(copies).split(TOGETHER):
                yield molecules.select(rows), properties[rows]


class HeldOut:
    """The training loss on molecules that training does not see, with the same noise at every call.

    Losses of different weights on the same set can be compared: nothing else changes, the seed of the training included.
    """

    def __init__(self, model: TrainedNetwork, split: Split, device: torch.device, rank: int = 0, world: int = 1):
        count = min(len(split), HELD_OUT)
        chosen = np.zeros(len(split), bool)
        chosen[torch.randperm(len(split), generator=keyed_generator(HELD_OUT))[:count].numpy()] = True
        self.batches = Batches(split.select(chosen), len(model.data.properties), device)
        self.copies = HELD_OUT // count
        self.model = type(model)(model.config, model.data).to(device).requires_grad_(False).eval()
        self.rank, self.world = rank, world

    def losses(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """The training losses of a network with these parameters, the same on all processes."""
        self.model.network.load_state_dict(self.model.network.state_dict() | weights)
        device = self.model.device
        sums = torch.zeros(len(self.model.losses) + 1, dtype=torch.float64, device=device)
        for k, (molecules, properties) in enumerate(self.batches.repeated(self.copies)):
            if k % self.world == self.rank:
                conditions = Conditions.from_physical(properties, self.model.data.properties)
                found = self.model.loss(molecules, conditions, keyed_generator(HELD_OUT, k + 1, device=device))
                sums += len(molecules) * torch.stack(
                    [*(found[name] for name in self.model.losses), torch.ones_like(found["total"])]
                )
        if self.world > 1:
            dist.all_reduce(sums)
        return dict(zip(self.model.losses, (sums[:-1] / sums[-1]).tolist(), strict=True))
