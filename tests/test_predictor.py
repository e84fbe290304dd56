"""Predictors: invariant, blind to bonds and charges, trained and stored like generators, and seen in records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import embedded
from rdkit import Chem
from typer.testing import CliRunner

from moldiff import generation, predictions, screening
from moldiff.batches import Batches, keyed_generator
from moldiff.cli import app
from moldiff.conditions import Conditions, Property, Target
from moldiff.config import Config, ConfigError, NetworkConfig, TrainConfig
from moldiff.datasets.prepared import read_split
from moldiff.finetuning import start_from
from moldiff.generation import Generator
from moldiff.model import Model
from moldiff.model_file import ModelFileError
from moldiff.predictor import Predictor
from moldiff.training import train

DATA = Path(__file__).parents[1] / "data" / "qm9_sample"
SMALL = NetworkConfig("transformer", {"width": 32, "layers": 1, "vectors": 4, "pair_width": 8, "heads": 2, "radial": 8})
CONFIG = Config(task="predict", network=SMALL, train=TrainConfig(steps=100, batch=32, lr=5e-3, warmup=5, clip=10.0))


@pytest.fixture
def predictor(info) -> Predictor:
    torch.manual_seed(0)
    return Predictor(CONFIG, info).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def trained_predictor(tmp_path_factory) -> Path:
    return train(DATA, tmp_path_factory.mktemp("predictor"), CONFIG)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4)


def test_rotations_reflections_translations_order_and_padding_change_nothing(predictor, random_molecules):
    molecules = random_molecules([3, 5, 8])
    before = predictor.predict(molecules)
    assert before.std(0).min() > 1e-4  # molecules differ
    orthogonal = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    for rotation in (orthogonal, -orthogonal):
        assert close(predictor.predict(molecules.rotate(rotation)), before)
    moved = molecules.replace(pos=(molecules.pos + 2.5) * molecules.mask[..., None])
    assert close(predictor.predict(moved), before)
    single = molecules.split()
    assert close(torch.cat([predictor.predict(m) for m in single]), before)
    order = torch.tensor([4, 0, 2, 1, 3])
    m = single[1]
    shuffled = m.replace(pos=m.pos[:, order], atom=m.atom[:, order], bond=m.bond[:, order][:, :, order])
    assert close(predictor.predict(shuffled), before[1:2])


def test_elements_count_and_neither_charges_nor_bonds(predictor, exact):
    nitrogen, ammonium, oxygen = (torch.full_like(exact.atom, k) for k in (2, 4, 3))
    one = predictor.predict(exact.replace(atom=nitrogen))
    assert torch.equal(predictor.predict(exact.replace(atom=ammonium, bond=torch.zeros_like(exact.bond))), one)
    assert not close(predictor.predict(exact.replace(atom=oxygen)), one)


def test_the_loss_is_the_mean_absolute_error_of_known_values(predictor, exact, info):
    with torch.no_grad():
        values = predictor.predict(exact)
        values[:, 0] += 0.7
        values[0, 0] = values[:2, 1] = torch.nan
        conditions = Conditions.from_physical(values, info.properties)
        losses = predictor.loss(exact, conditions, torch.Generator())
    assert losses["gap"] == pytest.approx(0.7, abs=1e-4) and losses["mu"] == pytest.approx(0.0, abs=1e-4)
    assert losses["total"] == pytest.approx((0.7 / 1.4 + 0.0) / 2, abs=1e-4)
    unknown = Conditions.none(4, 2, 0)
    assert predictor.loss(exact, unknown, torch.Generator())["total"] == 0


def test_training_learns(trained_predictor):
    predictor = Predictor.load(trained_predictor)
    assert predictor.losses == ("total", "alpha", "gap", "homo", "lumo", "mu", "Cv")
    split = read_split(DATA, "train")
    errors, spread = [], []
    for molecules, rows in split.buckets().values():
        values = split.properties[rows.numpy()]
        errors += list(np.abs(predictor.predict(molecules).numpy() - values))
        spread += list(np.abs(split.properties.mean(0) - values))
    assert (np.mean(errors, 0) < 0.95 * np.mean(spread, 0)).all()


def test_weights_are_for_one_task(trained_predictor, trained):
    with pytest.raises(ModelFileError, match=r"made to predict, not to generate"):
        Model.load(trained_predictor)
    with pytest.raises(ModelFileError, match=r"made to generate, not to predict"):
        Predictor.load(trained)


def test_training_starts_from_other_weights(trained_predictor, tmp_path):
    still = replace(CONFIG, train=replace(CONFIG.train, steps=1, lr=0.0))
    again = train(DATA, tmp_path / "again", still, init_from=trained_predictor)
    assert Predictor.load(again).sha256 == Predictor.load(trained_predictor).sha256
    source = Predictor.load(trained_predictor)
    more = replace(
        source.data, vocabulary=(*source.data.vocabulary, "Br"), atom_marginal=(*source.data.atom_marginal, 0.0)
    )
    grown = Predictor(CONFIG, more)
    start_from(grown, source, trained_predictor)
    molecules, _ = Batches(read_split(DATA, "test"), len(more.properties), torch.device("cpu")).draw(
        8, keyed_generator(0), 0, 1
    )
    assert close(grown(molecules), source(molecules))


def test_the_command_trains_predictors_on(trained_predictor, tmp_path):
    """The weights say what they are made for; no preset need be named."""
    names = ["train", DATA, "--init-from", trained_predictor, "--set", "train.steps=1", "-o", tmp_path / "run"]
    result = CliRunner().invoke(app, [*map(str, names)])
    assert result.exit_code == 0, result.output
    assert Predictor.load(tmp_path / "run" / "weights.safetensors").config.network == SMALL


def test_what_cannot_be_trained_is_refused(info, tmp_path):
    with pytest.raises(ConfigError, match=r"network\.kind = 'egnn': a predictor has a transformer"):
        Predictor(replace(CONFIG, network=NetworkConfig("egnn", {})), info)
    with pytest.raises(ConfigError, match=r"network\.options for transformer: .*'widht'"):
        Predictor(replace(CONFIG, network=NetworkConfig("transformer", {"widht": 8})), info)
    with pytest.raises(ConfigError, match="no properties to predict"):
        Predictor(CONFIG, replace(info, properties=()))
    with pytest.raises(ConfigError, match="task = 'paint': there are generate, predict"):
        train(DATA, tmp_path / "run", replace(CONFIG, task="paint"))


class TestInRecords:
    @pytest.fixture
    def shipped(self, monkeypatch, trained_predictor) -> Predictor:
        monkeypatch.setattr(predictions, "shipped_helpers", lambda folder: [trained_predictor])
        return Predictor.load(trained_predictor)

    @pytest.fixture
    def water(self) -> Chem.Mol:
        return embedded("O")

    def test_predictions_of_a_molecule(self, shipped, water):
        values = predictions.predicted(shipped, water)
        assert list(values) == list(shipped.losses[1:])
        assert all(isinstance(value, float) for value in values.values())

    @pytest.mark.parametrize("smiles", ["ClCCl", "C" * 10, "C[NH3+]"])  # an element, a size, a charge
    def test_unknown_where_the_predictor_has_no_experience(self, shipped, smiles):
        assert set(predictions.predicted(shipped, embedded(smiles)).values()) == {None}

    def test_same_names_in_other_units_are_others(self, shipped):
        gap = Property("gap", "eV", 6.6, 1.4, 1.1, 10.0)
        assert predictions.predictable(shipped, [gap, replace(gap, unit="kcal/mol")]) == ["gap"]
        assert predictions.predictor_of([gap]) is not None
        assert predictions.predictor_of([replace(gap, unit="kcal/mol")]) is None
        assert predictions.predictable(None, [gap]) == []

    def test_records_tell_what_was_asked_for_and_what_is_predicted(self, shipped, trained, water, info):
        model = Model.load(trained)
        model.data = replace(model.data, properties=(info.properties[0], Property("logp", "", 0.0, 1.0, -3.0, 3.0)))
        generator = Generator(model, "four", trained)
        request = generation.Request(1, targets=(Target("gap", 6.5, 6.5), Target("logp", 0.0, 1.0)))
        columns = generator.own_columns(request)
        assert list(columns) == ["asked_gap", "asked_logp_low", "asked_logp_high", "logp", "predicted_gap"]
        scores = generator.own_scores(request, screening.Facts(water))
        assert [scores[name] for name in list(columns)[:3]] == [6.5, 0.0, 1.0] and scores["logp"] < 0
        assert scores["predicted_gap"] == pytest.approx(predictions.predicted(shipped, water)["gap"], abs=1e-4)
