"""A model: network + processes + preconditioning + what it knows of its data. ``loss``, ``denoise``, ``save``, ``load``."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from moldiff.conditions import Conditions, Property
from moldiff.config import Config
from moldiff.denoisers import build_network
from moldiff.denoisers.layers import NetworkInput, Sizes, condition_features, condition_width
from moldiff.errors import MoldiffError, RequestError
from moldiff.files import write_atomically
from moldiff.molecule import BOND_CLASSES, Molecules, Prediction
from moldiff.processes import Categorical, Gaussian
from moldiff.schedules import NoiseLevel, training_sigmas
from moldiff.tasks import task_levels

FORMAT = 2
HISTORY = ("samples", "steps", "cpu_seconds", "started_from")  # keys of Model.info: how the weights were trained
KNOWN_LOGIT = 30.0  # log-odds given to a token that is fixed


class ModelFileError(MoldiffError):
    """A weights file cannot be used; the message names the file, what is wrong and the remedy."""


@dataclass(frozen=True)
class DataInfo:
    """What a model knows of its training data; travels inside the weights file."""

    name: str
    vocabulary: tuple[str, ...]  # token names such as "N+"
    hydrogens: str  # explicit or implicit
    coordinate_std: float  # Å
    atom_marginal: tuple[float, ...]
    bond_marginal: tuple[float, ...]
    size_histogram: tuple[tuple[int, int, int], ...]  # (heavy atoms, atoms, molecules)
    properties: tuple[Property, ...]
    source: str
    sha256: str  # of the training split
    # (heavy atoms, atoms, means, deviations), where the size is frequent enough
    property_by_size: tuple[tuple[int, int, tuple[float, ...], tuple[float, ...]], ...] = ()

    @property
    def heavy(self) -> tuple[bool, ...]:
        """False for the tokens of hydrogen."""
        return tuple(name.rstrip("+-") != "H" for name in self.vocabulary)

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "DataInfo":
        """From a prepared set's ``meta.json``."""
        known = {f.name for f in dataclasses.fields(cls)}
        values = {k: v for k, v in meta.items() if k in known}
        return cls.from_dict({**values, "sha256": meta["sha256"]["train"]})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DataInfo":
        return cls(**{
            **values,
            "vocabulary": tuple(values["vocabulary"]),
            "atom_marginal": tuple(values["atom_marginal"]),
            "bond_marginal": tuple(values["bond_marginal"]),
            "size_histogram": tuple(tuple(row) for row in values["size_histogram"]),
            "properties": tuple(Property(**p) for p in values["properties"]),
            "property_by_size": tuple((h, n, tuple(m), tuple(s)) for h, n, m, s in values.get("property_by_size", ())),
        })  # fmt: skip


class Model(nn.Module):
    """The diffusion model. Everything outside speaks Å and class indices; σ is in units of ``data.coordinate_std``."""

    def __init__(self, config: Config, data: DataInfo, info: dict[str, Any] | None = None):
        super().__init__()
        self.config, self.data, self.info = config, data, info or {}
        sizes = Sizes(len(data.vocabulary), BOND_CLASSES, condition_width(len(data.properties)))
        self.network = build_network(config.network, sizes)
        p = config.process
        self.process: dict[str, Gaussian | Categorical] = {
            "pos": Gaussian(data.coordinate_std),
            "atom": Categorical(_prior(data.atom_marginal, p.marginal_share), p.sigma_c_atom),
            "bond": Categorical(_prior(data.bond_marginal, p.marginal_share), p.sigma_c_bond),
        }

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

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
            conditions = Conditions.none(b, len(self.data.properties), device)
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
                level.sigma.to(dtype), noisy.size, conditions.value.to(dtype), conditions.given, conditions.heavy, on
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
        level = task_levels(clean, sigma, generator)
        clean = clean.centre(level.fixed_pos)
        conditions = dataclasses.replace(conditions, heavy=self.heavy_atoms(clean))
        numbers = uniform(b, len(self.data.properties) + 2)
        conditions = conditions.dropped(numbers, t.drop_all, t.drop_each, t.drop_heavy)
        normal = torch.randn(b, n, 3, generator=generator, device=generator.device).to(device)
        noisy = clean.replace(
            pos=self.process["pos"].noise(clean.pos, level, normal, clean.mask),
            atom=self.process["atom"].noise(clean.atom, level.atom, uniform(b, n)),
            bond=self.process["bond"].noise(clean.bond, level.bond, symmetric(uniform(b, n, n))),
        )
        return noisy, level, conditions, clean

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
        padded = Prediction(
            *(
                torch.cat([x, x.new_zeros(rest, *x.shape[1:])])
                for x in (first.pos, first.atom_logits, first.bond_logits)
            )
        )
        return padded, torch.arange(len(noisy), device=noisy.device) < count

    def heavy_atoms(self, molecules: Molecules) -> Integer[Tensor, " b"]:
        """How many atoms of each molecule are no hydrogens."""
        heavy = torch.tensor(self.data.heavy, device=molecules.device)
        return (heavy[molecules.atom.long()] & molecules.mask).sum(1)

    def save(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write one safetensors file holding weights and, as JSON metadata, everything needed to use them."""
        tensors = {k: v.detach().to(dtype).cpu().contiguous() for k, v in self.network.state_dict().items()}
        header = {
            "format": FORMAT,
            "config": self.config.to_dict(),
            "data": dataclasses.asdict(self.data),
            "info": self.info,
            "sha256": tensor_hash(tensors),
        }
        text = json.dumps(header)
        # one key, hash first: safetensors writes several in random order, and equal models should be equal files
        metadata = {"moldiff": f"{hashlib.sha256(text.encode()).hexdigest()} {text}"}
        with write_atomically(path) as temporary:
            # save_file would deny other users of the machine to read it
            temporary.write_bytes(save(tensors, metadata=metadata))

    @property
    def sha256(self) -> str:
        """Hash of the weights as they are now."""
        return tensor_hash({k: v.detach().cpu() for k, v in self.network.state_dict().items()})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> "Model":
        """Read a file written by :meth:`save`.

        Raises:
            ModelFileError: the file is missing, truncated, a pickle, of another format, or its weights do not match
                the hash they were saved with.
        """
        tensors, header = _read(Path(path))
        if tensor_hash(tensors) != header["sha256"]:
            raise ModelFileError(f"{path}: weights do not match their hash, the file is damaged; get it again")
        model = cls(Config.from_dict(header["config"]), DataInfo.from_dict(header["data"]), header["info"])
        model.network.load_state_dict({k: v.float() for k, v in tensors.items()})
        model.requires_grad_(False)
        return model.eval().to(device)


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


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, shapes, types and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        digest.update(f"{name}{tuple(t.shape)}{t.dtype}".encode())
        digest.update(
            t.view(torch.uint8).numpy().tobytes() if t.ndim else t.reshape(1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


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


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    with open(path, "rb") as file:
        start = file.read(9)
    is_json = start[8:] == b"{"  # after the header's length, whose bytes may look like the start of anything
    if not is_json and (start[:2] == b"PK" or start[:1] == b"\x80"):
        raise ModelFileError(
            f"{path}: a pickle or zip archive, which may run code when opened; refused. Use safetensors"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a complete safetensors file ({error}); get it again") from error
    if "moldiff" not in metadata:
        raise ModelFileError(f"{path}: safetensors, but not written by moldiff (no moldiff metadata)")
    expected, _, text = metadata["moldiff"].partition(" ")
    if expected != hashlib.sha256(text.encode()).hexdigest():
        raise ModelFileError(f"{path}: its header does not match its hash, the file is damaged; get it again")
    header = json.loads(text)
    if header["format"] != FORMAT:
        raise ModelFileError(f"{path}: format {header['format']}, this version reads {FORMAT}; update moldiff")
    return tensors, header
