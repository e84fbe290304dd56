"""Configuration: what is wrong is refused by name."""

import dataclasses
import json

import pytest
import torch

from moldiff.config import PRESETS, Config, ConfigError, NetworkConfig, preset, read_config
from moldiff.denoisers import build_network
from moldiff.denoisers.layers import Sizes, condition_width


def test_dictionary_round_trip():
    config = preset("qm9-tiny")
    assert config.preset == "qm9-tiny"
    assert Config.from_dict(config.to_dict()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.preset = "other"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trian": {}}, "unknown key trian"),
        ({"train": {"lr_max": 1.0}}, r"unknown key train\.lr_max.*train\.lr"),
        ({"train": {"steps": "many"}}, r"train\.steps = 'many': expected int"),
        ({"train": {"steps": 1.5}}, r"train\.steps = 1\.5: expected int"),
        ({"train": {"steps": True}}, r"train\.steps = True: expected int"),
        ({"train": {"lr": True}}, r"train\.lr = True: expected float"),
        ({"train": {"compile": 1}}, r"train\.compile = 1: expected bool"),
        ({"train": 3}, r"train = 3: expected TrainConfig"),
        ({"network": {"options": 3}}, r"network\.options = 3: expected dict"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Config.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"precision": "bf16"}, r"train\.precision = bf16: there are float32 and bfloat16"),
        ({"lr": float("nan")}, r"train\.lr = nan: must be 0 or more"),
        ({"cooldown": 1.5}, r"train\.cooldown = 1\.5: a share, from 0 to 1"),
        ({"warmup": 0}, r"train\.warmup = 0: at least 1"),
        ({"ema": 0.0}, r"train\.ema = 0\.0: a relative width, above 0 and at most 0\.28"),
        ({"ema": 0.5}, r"train\.ema = 0\.5: a relative width"),
        ({"patience": -1}, r"train\.patience = -1: at least 0"),
        ({"seed": -1}, r"train\.seed = -1: at least 0"),
        ({"checkpoint_seconds": float("nan")}, r"train\.checkpoint_seconds = nan: must be 0 or more"),
        ({"drop_all": 0.8, "keep_all": 0.6}, r"train\.drop_all = 0\.8, train\.keep_all = 0\.6: .* 1 at most together"),
    ],
)
def test_what_nothing_can_be_trained_with_is_refused(values, message):
    """When training begins: weights that were made with it can be used as before."""
    config = Config.from_dict({"train": values})
    with pytest.raises(ConfigError, match=message):
        config.train.check()


def test_whole_numbers_serve_as_floats():
    lr = Config.from_dict({"train": {"lr": 1}}).train.lr
    assert isinstance(lr, float)
    assert lr == 1.0


def test_override():
    config = preset("qm9-tiny").override(
        ["train.lr=1e-3", " train.compile = true", "network.options.width=64", 'train.precision="bfloat16"', "preset=x"]
    )
    assert (config.train.lr, config.train.compile, config.train.precision) == (1e-3, True, "bfloat16")
    assert config.network.options["width"] == 64
    assert config.network.options["layers"] == preset("qm9-tiny").network.options["layers"]
    assert config.preset == "x"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.lr", "write it as section.key=value"),
        ("tarin.lr=1", "no section 'tarin'"),
        ("train.lr=fast", "expected float"),
        ("train.speed=1", "unknown key train.speed"),
        ("train=1", "train = 1"),
    ],
)
def test_wrong_overrides_are_refused(assignment, message):
    with pytest.raises(ConfigError, match=message):
        Config().override([assignment])


def test_toml(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('preset = "mine"\n[train]\nsteps = 7\n[network]\nkind = "egnn"\noptions = { width = 8 }\n')
    config = read_config(path)
    assert (config.preset, config.train.steps, config.network.kind) == ("mine", 7, "egnn")
    path.write_text("train = [")
    with pytest.raises(ConfigError, match=r"config\.toml: not TOML"):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json: not JSON \(.*\); correct it, or name a preset"),
        ("[]", r"config\.json: not a configuration; correct it"),
        ('{"foo": 1}', r"config\.json: unknown key foo; there are .*; correct it, or use the version"),
    ],
)
def test_the_configuration_of_a_run(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(preset("qm9-tiny").to_dict()))
    assert read_config(path) == preset("qm9-tiny")
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_presets_build():
    with pytest.raises(ConfigError, match="no preset 'qm8-tiny'; there are qm9-tiny"):
        preset("qm8-tiny")
    millions = {}
    for name in PRESETS:
        with torch.device("cpu" if name == "qm9-tensor" else "meta"):  # e3nn computes constants as it builds
            network = build_network(preset(name).network, Sizes(9, 4, condition_width(6, 5)))
        millions[name] = sum(p.numel() for p in network.parameters()) / 1e6
    expected = {"qm9-tiny": 1.25, "qm9-small": 4.0, "qm9-base": 17.3, "qm9-egnn": 5.4, "qm9-tensor": 0.31}
    assert millions == pytest.approx({**millions, **expected}, rel=0.03)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"process": {"marginal_share": 2.0}}, r"process\.marginal_share = 2\.0: a share, from 0 to 1"),
        ({"process": {"sigma_c_atom": -1.0}}, r"process\.sigma_c_atom = -1\.0: must be positive"),
        ({"process": {"sigma_mean": float("nan")}}, r"process\.sigma_mean = nan: must be finite"),
        ({"network": {"options": {"width": -1}}}, r"network\.options\.width = -1: a whole number, 0 or more"),
    ],
)
def test_values_without_a_meaning_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Config.from_dict(values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 7}, "width = 128: must be a multiple of heads = 7"),
        ({"vectors": 12}, "vectors = 12: must be a multiple of heads = 8"),
        ({"pair_every": 0}, "pair_every = 0: at least 1"),
    ],
)
def test_sizes_that_make_no_network_are_refused(options, message):
    with pytest.raises(ConfigError, match=f"network.options for transformer: {message}"):
        build_network(NetworkConfig("transformer", options), Sizes(5, 4, condition_width(0, 4)))


def test_networks_refuse_unknown_options():
    with pytest.raises(ConfigError, match=r"network\.kind = 'gnn': there are transformer"):
        build_network(NetworkConfig("gnn"), Sizes(5, 4, condition_width(0, 4)))
    with pytest.raises(ConfigError, match=r"network\.options for transformer: .*'depth'"):
        build_network(NetworkConfig("transformer", {"depth": 3}), Sizes(5, 4, condition_width(0, 4)))
