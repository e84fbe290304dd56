"""What is known in a training sample: one model learns all requests by drawing a task per molecule."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moldiff.molecule import Molecules
from moldiff.schedules import NoiseLevel

TASKS = {"free": 0.80, "fragment": 0.10, "conformer": 0.05, "bonds": 0.05}


def task_levels(
    molecules: Molecules, sigma: Float[Tensor, " b"], generator: torch.Generator, tasks: dict[str, float] = TASKS
) -> NoiseLevel:
    """Noise levels of a training batch: σ where the drawn task leaves a field free, 0 where it is known.

    ``fragment``: one or two connected pieces known with all their fields, and of some of their atoms that nothing else is
    bonded to them; ``conformer``: the graph known, positions free; ``bonds``: positions known, tokens free. ``tasks`` gives
    the shares.
    """
    b = len(molecules)
    names = list(tasks)
    shares = torch.tensor([tasks[k] for k in names], dtype=torch.float64, device=generator.device)
    task = torch.multinomial(shares, b, replacement=True, generator=generator)
    is_task = {k: (task == i).to(sigma.device) for i, k in enumerate(names)}
    known = random_fragments(molecules, generator) & is_task["fragment"][:, None]
    level = NoiseLevel.free(molecules, sigma)
    known_pos = known | is_task["bonds"][:, None]
    known_token = known | is_task["conformer"][:, None]
    closed = closed_atoms(molecules, known, generator)
    known_bond = (known[:, :, None] & known[:, None, :]) | is_task["conformer"][:, None, None]
    known_bond |= (closed[:, :, None] & ~known[:, None, :]) | (~known[:, :, None] & closed[:, None, :])
    return NoiseLevel(
        pos=level.pos.masked_fill(known_pos, 0),
        atom=level.atom.masked_fill(known_token, 0),
        bond=level.bond.masked_fill(known_bond, 0),
    )


def random_fragments(molecules: Molecules, generator: torch.Generator) -> Bool[Tensor, "b n"]:
    """One or two connected pieces per molecule, grown by 1–4 rings of neighbours of which a fifth is left out.

    At least one atom always stays outside.
    """
    b, n = molecules.mask.shape
    draw = lambda *shape: torch.rand(*shape, generator=generator, device=generator.device).to(molecules.device)  # noqa: E731
    bonded = (molecules.bond > 0).float()
    seeds = (draw(b, 2) * molecules.size[:, None]).long()
    known = torch.zeros(b, n, device=molecules.device)
    known.scatter_(1, seeds[:, :1], 1.0)
    second = (draw(b, 1) < 0.5).float()
    known.scatter_reduce_(1, seeds[:, 1:], second, "amax")
    rings = (draw(b) * 4).long() + 1
    age = known
    for ring in range(4):
        reached = (bonded @ known[..., None])[..., 0] > 0
        grown = torch.maximum(known, (reached & (draw(b, n) < 0.8)).float())
        known = torch.where((ring < rings)[:, None], grown, known)
        age = age + known
    known = (known > 0) & molecules.mask
    everything = known.sum(1) == molecules.size
    youngest = torch.where(known, age, torch.inf).argmin(1)  # no other atom was reached through it
    known[everything, youngest[everything]] = False
    return known


def closed_atoms(molecules: Molecules, known: Bool[Tensor, "b n"], generator: torch.Generator) -> Bool[Tensor, "b n"]:
    """Those of the known atoms that are bonded to no other: all in half of the molecules, a random share in the rest."""
    b, n = known.shape
    draw = lambda *shape: torch.rand(*shape, generator=generator, device=generator.device).to(known.device)  # noqa: E731
    outside = (molecules.mask & ~known).float()
    ends = ((molecules.bond > 0).float() @ outside[..., None])[..., 0] == 0
    return known & ends & (draw(b, n) < 2 * draw(b, 1))
