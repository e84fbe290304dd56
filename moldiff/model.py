"""A model: network + processes + preconditioning + what it knows of its data. ``loss``, ``denoise``, ``save``, ``load``."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moldiff.conditions import Conditions
from moldiff.config import Config, ConfigError
from moldiff.denoisers import build_network
from moldiff.denoisers.layers import NetworkInput, Sizes, condition_features, condition_width
from moldiff.errors import RequestError
from moldiff.model_file import DataInfo, TrainedNetwork
from moldiff.molecule import BOND_CLASSES, Molecules, Prediction
from moldiff.processes import Categorical, Gaussian
from moldiff.schedules import GRIDS, NoiseLevel, training_sigmas
from moldiff.tasks import task_levels
from moldiff.valences import implied_hydrogens

KNOWN_LOGIT = 30.0  # log-odds given to a token that is fixed


class Model(TrainedNetwork):
    """The diffusion model. Everything outside speaks Å and class indices; σ is in units of ``data.coordinate_std``."""

    TASK = "generate"
    losses = ("total", "pos", "atom", "bond")

    def __init__(self, config: Config, data: DataInfo, info: dict[str, Any] | None = None):
        super().__init__(config, data, info)
        if config.quality.grid not in GRIDS:
            raise ConfigError(f"quality.grid = {config.quality.grid}: there are {', '.join(GRIDS)}")
        sizes = Sizes(len(data.vocabulary), BOND_CLASSES, condition_width(len(data.properties), len(data.elements)))
        self.network = build_network(config.network, sizes)
        p = config.process
        self.process: dict[str, Gaussian | Categorical] = {
            "pos": Gaussian(data.coordinate_std),
            "atom": Categorical(_prior(data.atom_marginal, p.marginal_share), p.sigma_c_atom, p.temperature),
            "bond": Categorical(_prior(data.bond_marginal, p.marginal_share), p.sigma_c_bond, p.temperature),
        }

    def denoise(
        self,
        noisy: Molecules,
        level: NoiseLevel,
        conditions: Conditions | None = None,
        previous: Prediction | None = None,
        seen: Bool[Tensor, " b"] | None = None,
    ) -> Prediction:
        """Estimate the clean state. ``noisy.pos`` must have its origin at the fixed atoms' centre, else at the molecule's.

        ``previous``: an earlier estimate to condition on (self-conditioning, arXiv 2208.04202), for the molecules
        ``seen`` (default: all). Fixed positions come back unchanged and fixed tokens with near certainty.
        """
        pos, atom_logits, bond_logits = self.network(self.precondition(noisy, level, conditions, previous, seen))
        dtype = noisy.pos.dtype
        return Prediction(
            pos=torch.where(level.pos[..., None] > 0, pos.to(dtype) * self.data.coordinate_std, noisy.pos),
            atom_logits=_fix(atom_logits.to(dtype), noisy.atom, level.atom > 0),
            bond_logits=_fix(bond_logits.to(dtype), noisy.bond, level.bond > 0),
        )

    def precondition(
        self,
        noisy: Molecules,
        level: NoiseLevel,
        conditions: Conditions | None = None,
        previous: Prediction | None = None,
        seen: Bool[Tensor, " b"] | None = None,
    ) -> NetworkInput:
        """c_in, c_skip, c_out of Karras et al. 2022 (arXiv 2206.00364, table 1) per atom, for data of unit variance."""
        b, n = noisy.mask.shape
        dtype, device = noisy.pos.dtype, noisy.pos.device
        tokens = len(self.data.vocabulary)
        if conditions is None:
            conditions = self.nothing_asked(b)
        if previous is None:
            on = torch.zeros(b, 1, dtype=dtype, device=device)
            seen_pos, seen_atom, seen_bond = (
                torch.zeros(b, n, *shape, dtype=dtype, device=device) for shape in [(3,), (tokens,), (n, BOND_CLASSES)]
            )
        else:
            on = torch.ones(b, 1, dtype=dtype, device=device) if seen is None else seen.to(dtype)[:, None]
            seen_pos = previous.pos / self.data.coordinate_std * on[..., None]
            seen_atom = previous.atom_logits.softmax(-1) * on[..., None]
            seen_bond = previous.bond_logits.softmax(-1) * on[..., None, None]
        x = noisy.pos / self.data.coordinate_std
        variance = (1 + level.pos**2)[..., None].to(dtype)
        known = torch.stack([level.pos == 0, level.atom == 0], -1) & noisy.mask[..., None]
        return NetworkInput(
            mask=noisy.mask,
            pos=x * variance.rsqrt(),
            skip=x / variance,
            c_out=level.pos[..., None].to(dtype) * variance.rsqrt(),
            atom=noisy.atom,
            bond=noisy.bond,
            flags=known.to(dtype),
            bond_flag=((level.bond == 0) & noisy.pair_mask).to(dtype),
            condition=condition_features(
                level.sigma.to(dtype),
                noisy.size,
                conditions.value.to(dtype),
                conditions.given,
                conditions.heavy,
                conditions.composition,
                on,
            ),
            previous=on,
            previous_pos=seen_pos,
            previous_atom=seen_atom,
            previous_bond=seen_bond,
        )

    def loss(
        self, clean: Molecules, conditions: Conditions, generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """Training losses of one batch: ``pos``, ``atom``, ``bond`` and their weighted ``total``.

        All random numbers come from ``generator``.
        """
        t = self.config.train
        noisy, level, conditions, clean = self.corrupt(clean, conditions, generator)
        previous, seen = self._first_estimate(noisy, level, conditions)
        prediction = self.denoise(noisy, level, conditions, previous, seen)
        losses = {
            "pos": self.process["pos"].loss(prediction.pos, clean.pos, level).mean(),
            "atom": self.process["atom"].loss(prediction.atom_logits, clean.atom, level.atom).mean(),
            "bond": self.process["bond"].loss(prediction.bond_logits, clean.bond, level.bond).mean(),
        }
        losses["total"] = losses["pos"] + t.atom_weight * losses["atom"] + t.bond_weight * losses["bond"]
        return losses

    def corrupt(
        self, clean: Molecules, conditions: Conditions, generator: torch.Generator
    ) -> tuple[Molecules, NoiseLevel, Conditions, Molecules]:
        """Draw σ, a task and the noise of every field. Returns noisy, level, thinned conditions, and clean re-centred."""
        b, n = clean.mask.shape
        p, t, device = self.config.process, self.config.train, clean.device
        uniform = lambda *shape: torch.rand(*shape, generator=generator, device=generator.device).to(device)  # noqa: E731
        sigma = training_sigmas(uniform(b), p.sigma_mean, p.sigma_std, p.sigma_tail)
        sigma = sigma[
            torch.randperm(b, generator=generator, device=generator.device).to(device)
        ]  # else the self-conditioned half has low σ
        level = self.levels(clean, sigma, generator)
        clean = clean.centre(level.fixed_pos)
        conditions = self.told_atoms(conditions, clean)
        numbers = uniform(b, len(self.data.properties) + 2)
        conditions = conditions.dropped(numbers, t.drop_all, t.drop_heavy, t.drop_composition, t.keep_all)
        normal = torch.randn(b, n, 3, generator=generator, device=generator.device).to(device)
        noisy = clean.replace(
            pos=self.process["pos"].noise(clean.pos, level, normal, clean.mask),
            atom=self.process["atom"].noise(clean.atom, level.atom, uniform(b, n)),
            bond=self.process["bond"].noise(clean.bond, level.bond, symmetric(uniform(b, n, n))),
        )
        return noisy, level, conditions, clean

    def levels(self, molecules: Molecules, sigma: Float[Tensor, " b"], generator: torch.Generator) -> NoiseLevel:
        """Of a training batch: what is noisy in a task that is drawn for each molecule."""
        return task_levels(molecules, sigma, generator)

    def _first_estimate(
        self, noisy: Molecules, level: NoiseLevel, conditions: Conditions
    ) -> tuple[Prediction | None, Tensor | None]:
        """A gradient-free estimate for the first part of the batch, zeros for the rest."""
        count = int(len(noisy) * self.config.train.self_condition)
        if count == 0:
            return None, None
        with torch.no_grad():
            first = self.denoise(
                noisy.select(slice(count)), level.select(slice(count)), conditions.select(slice(count))
            )
        rest = len(noisy) - count
        padded = first.map(lambda x: torch.cat([x, x.new_zeros(rest, *x.shape[1:])]))
        return padded, torch.arange(len(noisy), device=noisy.device) < count

    def told_atoms(self, conditions: Conditions, molecules: Molecules) -> Conditions:
        """With the numbers of atoms that these molecules have, hydrogens that their valences imply included."""
        composition = torch.zeros(len(molecules), len(self.data.elements), dtype=torch.long, device=molecules.device)
        composition.scatter_add_(1, self.data.elements_in(molecules.atom), molecules.mask.long())
        if self.data.hydrogens == "implicit":
            composition[:, 0] = implied_hydrogens(molecules, self.data.vocabulary)
        heavy = composition[:, [symbol != "H" for symbol in self.data.elements]].sum(1)
        return conditions.replace(heavy=heavy, composition=composition)

    def nothing_asked(self, b: int) -> Conditions:
        return Conditions.none(b, len(self.data.properties), len(self.data.elements), self.device)


def choose_device(device: str) -> str:
    """Resolve ``auto`` and refuse a device that is not there: never a silent fall-back to the CPU."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(d for d in ("cuda", "mps", "cpu") if there[d])
    kind, _, number = device.partition(":")
    if kind not in there or not (number.isdigit() or device == kind):
        raise RequestError(f"--device {device}: choose auto, cpu, cuda or mps (one of several GPUs: cuda:1)")
    if not there[kind]:
        raise RequestError(f"--device {device}: not on this machine, or torch is built without it; use cpu")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise RequestError(f"--device {device}: this machine has {torch.cuda.device_count()} GPUs, counted from 0")
    return device


def symmetric(uniform: Float[Tensor, "b n n"]) -> Float[Tensor, "b n n"]:
    """Mirror the upper triangle: one random number per pair of atoms."""
    upper = uniform.triu(1)
    return upper + upper.transpose(1, 2)


def _prior(marginal: tuple[float, ...], share: float) -> Tensor:
    marginal = torch.tensor(marginal)
    return share * marginal + (1 - share) / len(marginal)


def _fix(logits: Tensor, token: Tensor, free: Tensor) -> Tensor:
    known = torch.nn.functional.one_hot(token.long(), logits.shape[-1]).to(logits.dtype) * KNOWN_LOGIT
    return torch.where(free[..., None], logits, known)
