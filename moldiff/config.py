"""Configuration: frozen dataclasses, TOML in, JSON out, presets as one literal table."""

import dataclasses
import json
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moldiff.errors import MoldiffError

QUALITIES = ("fast", "balanced", "best")
PRECISIONS = ("float32", "bfloat16")
# `moldiff bonds`: the known coordinates leave little to find: 5, 10 and 20 evaluations give the same share of right molecules
# within the error, of 300 uncharged and 141 charged ones of QM9 (scripts/evaluate_completion.py); of water, 5 often give none
BONDS_EVALUATIONS = 10
BONDS_ATTEMPTS = 10  # for one molecule, until what is made is valid
GUIDANCE = 2.0  # weight of classifier-free guidance, unless another is given


class ConfigError(MoldiffError):
    """A configuration names an unknown key or a value of the wrong type."""


@dataclass(frozen=True)
class NetworkConfig:
    """``kind``: transformer, egnn or tensor_product; ``options``: fields of that network's own config."""

    kind: str = "transformer"
    options: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        for name, value in self.options.items():
            if type(value) is not int or value < 0:
                raise ConfigError(f"network.options.{name} = {value!r}: a whole number, 0 or more")


@dataclass(frozen=True)
class ProcessConfig:
    sigma_c_atom: float = 1.0  # σ at which half of the atoms are redrawn
    sigma_c_bond: float = 1.0
    marginal_share: float = 0.8  # π = share · data marginal + (1 - share) · uniform
    sigma_mean: float = -1.2  # of ln σ in training
    sigma_std: float = 1.4
    sigma_tail: float = 0.1  # share of log-uniform σ
    temperature: float = 0.7  # of token draws in sampling

    def __post_init__(self):
        for name in ("sigma_c_atom", "sigma_c_bond", "sigma_std", "temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"process.{name} = {getattr(self, name)}: must be positive")
        if not math.isfinite(self.sigma_mean):
            raise ConfigError(f"process.sigma_mean = {self.sigma_mean}: must be finite")
        _check_shares("process", self, "marginal_share", "sigma_tail")


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 20_000
    batch: int = 128
    lr: float = 2e-3
    warmup: int = 300
    cooldown: float = 0.25  # last share of the steps, lr falls linearly to zero
    clip: float = 1.0
    weight_decay: float = 0.01  # of the matrices under Muon
    ema: float = 0.05  # relative width of the weight average (power-function profile, EDM2, arXiv 2312.02696)
    atom_weight: float = 0.3
    bond_weight: float = 0.5
    drop_all: float = 0.5  # chance that a sample sees no property
    keep_all: float = 0.0  # chance that it sees every one
    drop_heavy: float = 0.1  # chance that a sample does not see how many of its atoms are heavy
    drop_composition: float = 0.5  # and how many there are of each element
    self_condition: float = 0.5  # share of each batch that sees its own first estimate
    seed: int = 0
    patience: int = 0  # checks without a better held-out loss after which training ends; 0: no checks
    check_steps: int = 50  # steps between two of them
    checkpoint_seconds: float = 60.0
    precision: str = "float32"  # or bfloat16
    compile: bool = False

    def check(self) -> None:
        """Raise :class:`ConfigError` for what nothing can be trained with; weights that exist are not asked."""
        if self.precision not in PRECISIONS:
            raise ConfigError(f"train.precision = {self.precision}: there are {' and '.join(PRECISIONS)}")
        for names, least in ((("steps", "batch", "warmup", "check_steps"), 1), (("patience", "seed"), 0)):
            for name in names:
                if getattr(self, name) < least:
                    raise ConfigError(f"train.{name} = {getattr(self, name)}: at least {least}")
        if not 0 < self.ema <= 0.28:  # 0.289: all steps weigh the same
            raise ConfigError(f"train.ema = {self.ema}: a relative width, above 0 and at most 0.28")
        for name in ("lr", "clip", "weight_decay", "atom_weight", "bond_weight", "checkpoint_seconds"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"train.{name} = {getattr(self, name)}: must be 0 or more")
        _check_shares(
            "train", self, "cooldown", "drop_all", "keep_all", "drop_heavy", "drop_composition", "self_condition"
        )
        if self.drop_all + self.keep_all > 1:
            text = f"train.drop_all = {self.drop_all}, train.keep_all = {self.keep_all}"
            raise ConfigError(f"{text}: shares of the same samples, 1 at most together")


def _check_shares(section: str, config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{section}.{name} = {getattr(config, name)}: a share, from 0 to 1")


@dataclass(frozen=True)
class QualityConfig:
    """How these weights are sampled: network evaluations of each named quality (README.md, "Results"), time grid (one of
    :data:`moldiff.schedules.GRIDS`), whether tokens are clean (:class:`moldiff.samplers.Sampler`), and what every molecule
    is told where nothing is asked for: a composition drawn from the training data, and the properties of a training molecule
    of this composition. ``tries``: how often an attempt is made at most, from new noise, until it is about as it was
    told (:meth:`moldiff.told.Told.off_by`); 1 takes it as it comes."""

    fast: int = 30
    balanced: int = 50
    best: int = 100
    grid: str = "staged"
    clean_tokens: bool = False
    told_composition: bool = False
    told_properties: bool = False
    tries: int = 1


@dataclass(frozen=True)
class Config:
    preset: str = "custom"
    task: str = "generate"  # or predict: properties from elements and coordinates; or place-hydrogens
    network: NetworkConfig = NetworkConfig()
    process: ProcessConfig = ProcessConfig()
    train: TrainConfig = TrainConfig()
    quality: QualityConfig = QualityConfig()

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path | None = None) -> "Config":
        """``path``: the file that the values are from, for messages."""
        try:
            return _build(cls, values, "")
        except ConfigError as error:
            if path is None:
                raise
            raise ConfigError(f"{path}: {error}; correct it, or use the version of moldiff that wrote it") from error

    def override(self, assignments: list[str]) -> "Config":
        """Apply ``section.key=value`` strings, values written as in TOML, e.g. ``train.lr=1e-3``."""
        values = self.to_dict()
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                raise ConfigError(f"--set {assignment}: write it as section.key=value, e.g. train.lr=1e-3")
            *sections, name = key.strip().split(".")
            target = values
            for section in sections:
                target = target.get(section)
                if not isinstance(target, dict):
                    raise ConfigError(f"--set {assignment}: no section {section!r}; there are {', '.join(values)}")
            target[name] = _parse(text.strip())
        return self.from_dict(values)


def read_config(path: Path) -> Config:
    """Of a TOML file, or of a run's ``config.json``."""
    kind, parse = ("JSON", json.loads) if Path(path).suffix == ".json" else ("TOML", tomllib.loads)
    try:
        values = parse(Path(path).read_text())
    except ValueError as error:
        raise ConfigError(f"{path}: not {kind} ({error}); correct it, or name a preset") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a configuration; correct it, or name a preset")
    return Config.from_dict(values, path)


def preset(name: str) -> Config:
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return Config.from_dict({"preset": name, **PRESETS[name]})


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _build(cls, values: dict[str, Any], path: str):
    fields = {f.name: f for f in dataclasses.fields(cls)}
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"unknown key {path}{key}; there are {', '.join(path + f for f in fields)}")
        kind = fields[key].type
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            value = _build(kind, value, f"{path}{key}.")
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        expected = dict if kind == dict[str, int] else kind
        if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            raise ConfigError(f"{path}{key} = {value!r}: expected {expected.__name__}")
        arguments[key] = value
    return cls(**arguments)


# networks of 1.2, 1.8 and 4 M parameters
TINY = {
    "kind": "transformer",
    "options": dict(width=128, layers=6, vectors=16, pair_width=32, heads=8, radial=16),
}
DEEP = {**TINY, "options": {**TINY["options"], "layers": 9, "walks": 8}}
SMALL = {
    "kind": "transformer",
    "options": dict(width=192, layers=9, vectors=24, pair_width=64, heads=12, radial=32, pair_every=2),
}

# What the shipped ones give is in the model cards (moldiff/weights/README.md).
PRESETS: dict[str, dict[str, Any]] = {
    # 1.25 M parameters; the default of `moldiff train`, two CPU cores for under two hours
    "qm9-tiny": {
        "network": TINY,
        "train": dict(steps=20_000, batch=128, lr=2e-3),
    },
    # three layers more, for QM9 without hydrogens, on two CPU cores; half of the atoms, so that a step is a third of the work
    "qm9-deep": {
        "network": DEEP,
        "process": dict(temperature=1.0),
        "train": dict(steps=20_000, batch=256, lr=2e-3, drop_composition=0.2, drop_all=0.2, keep_all=0.4),
        "quality": dict(
            fast=8, balanced=28, best=96, grid="early", told_composition=True, told_properties=True, tries=3
        ),
    },
    # 4 M parameters; for one GPU in ten-minute pieces, or a day on two cores
    "qm9-small": {
        "network": SMALL,
        "train": dict(steps=60_000, batch=512, lr=1.5e-3, warmup=1000),
    },
    # 17 M parameters; for one GPU
    "qm9-base": {
        "network": {
            "kind": "transformer",
            "options": dict(width=384, layers=10, vectors=48, pair_width=96, heads=12, radial=32, pair_every=2),
        },
        "train": dict(steps=60_000, batch=512, lr=1e-3, warmup=1000),
    },
    # the network of qm9-tiny for lead-like molecules, hydrogens left out
    "leads-tiny": {
        "network": TINY,
        "process": dict(temperature=1.0),
        "train": dict(steps=20_000, batch=128, lr=2e-3),
    },
    # three layers more, which `--init-from` adds to weights of leads-tiny
    "leads-deep": {
        "network": DEEP,
        "process": dict(temperature=1.0),
        "train": dict(steps=20_000, batch=128, lr=2e-3, drop_composition=0.2, drop_all=0.2, keep_all=0.4),
        "quality": dict(clean_tokens=True, told_composition=True, told_properties=True, tries=3),
    },
    # and that of qm9-small
    "leads-small": {
        "network": SMALL,
        "process": dict(temperature=1.0),
        "train": dict(steps=60_000, batch=256, lr=1.5e-3, warmup=1000),
    },
    # EDM's network (9 layers of 256) on this process: the baseline of the benchmark
    "qm9-egnn": {
        "network": {"kind": "egnn", "options": dict(width=256, layers=9)},
        "train": dict(steps=60_000, batch=64, lr=5e-4),
    },
    # 1.3 M parameters, the layers of qm9-tiny: properties from elements and coordinates
    "qm9-properties": {
        "task": "predict",
        "network": TINY,
        "train": dict(steps=20_000, batch=128, lr=2e-3),
    },
    # 0.2 M parameters: positions of the hydrogens that a model without them leaves to valence
    "qm9-hydrogens": {
        "task": "place-hydrogens",
        "network": {"kind": "transformer", "options": dict(width=64, layers=4, vectors=8, pair_width=16, heads=4, radial=16)},
        "process": dict(sigma_mean=-1.9, sigma_std=1.1, sigma_tail=0.0),
        "train": dict(steps=7000, batch=128, lr=2e-3, cooldown=0.5,
                      drop_all=1.0, drop_heavy=1.0, drop_composition=1.0, self_condition=0.0),
    },
    # 0.3 M parameters on e3nn, features up to degree 2: a NequIP-like network on this process
    "qm9-tensor": {
        "network": {"kind": "tensor_product", "options": dict(width=64, layers=4, lmax=2, radial=16)},
        "train": dict(steps=60_000, batch=64, lr=1e-3),
    },
}  # fmt: skip
