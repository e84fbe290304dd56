"""Starting from other weights: what is kept, what is refused, what new elements change, and how the command says it."""

import dataclasses
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import CONFIG, DATA, SMALL, changed, stop_at, without_cpu_time
from typer.testing import CliRunner, Result

from moldiff import batches
from moldiff.checkpoints import latest_checkpoint
from moldiff.cli import app
from moldiff.config import Config, NetworkConfig
from moldiff.datasets.prepared import SPLITS, learned_from, read_meta, read_split, write_prepared
from moldiff.denoisers.layers import BEFORE_PROPERTIES, PER_ELEMENT, PER_PROPERTY
from moldiff.finetuning import SETTINGS, adapt, settings_for, start_from, translate
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Prediction
from moldiff.schedules import NoiseLevel
from moldiff.training import TrainingError, train


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """Weights that a run has left."""
    return train(DATA, tmp_path_factory.mktemp("first"), CONFIG)


def write_own(
    folder: Path,
    properties: list[str],
    reverse: bool = False,
    hydrogens: str = "explicit",
    element: str = "F",
    unit: str = "eV",
) -> Path:
    """The test molecules of the sample as a set of other tokens, properties and scale; ``element`` in place of F."""
    meta, split = read_meta(DATA), read_split(DATA, "test")
    columns = [k for k, p in enumerate(meta["properties"]) if p["name"] in properties]
    vocabulary = [{"F": element}.get(name, name) for name in meta["vocabulary"]]
    order = vocabulary[::-1] if reverse else vocabulary
    own = dataclasses.replace(
        split.with_vocabulary(vocabulary, order),
        properties=split.properties[:, columns],
        source=np.arange(1, len(split) + 1),
    )
    names = [(meta["properties"][k]["name"], unit) for k in columns]
    told = {
        **{k: v for k, v in meta.items() if k not in ("format", "sha256", "molecules")},
        **learned_from([own], order, names),
        "name": "own",
        "hydrogens": hydrogens,
        "vocabulary": order,
        "atom_marginal": meta["atom_marginal"][:: -1 if reverse else 1],
        "properties": [{**meta["properties"][k], "unit": unit, "mean": 0.0} for k in columns],
        "coordinate_std": 3.0,
        "first_row": {"a.smi": 1, "b.smi": 51},
    }
    write_prepared(folder, {name: [(own, [])] for name in SPLITS}, told)
    return folder


def randomise(model: Model) -> None:
    """The outputs of an untrained network are zero; these are not."""
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))


def of_kind(kind: str, info: DataInfo) -> Model:
    options = SMALL.options if kind == "transformer" else {"width": 16, "layers": 2}
    model = Model(dataclasses.replace(CONFIG, network=NetworkConfig(kind, options)), info)
    randomise(model)
    return model


def assert_compositions(own: DataInfo, info: DataInfo, source: DataInfo) -> None:
    """Those of the set, in the order of the weights' elements."""
    assert info.elements == source.elements[::-1] == own.elements[::-1]
    assert own.compositions == tuple((*row[-2::-1], row[-1]) for row in info.compositions)


def assert_examples(own: DataInfo, info: DataInfo, source: DataInfo) -> None:
    """Those of the set, with its gap where it has one; what else the weights know is unknown."""
    gap = [p.name for p in source.properties].index("gap")
    assert len(own.examples) == len(info.examples) > 0
    for mine, told in zip(own.examples, info.examples, strict=True):
        row, *values = mine
        assert (row, values.pop(gap)) == told and set(values) == {None}


def test_training_starts_from_given_weights(tmp_path, first):
    copied = Model.load(train(DATA, tmp_path / "second", changed(steps=1, lr=0.0), init_from=first))
    history = {k: v for k, v in Model.load(first).info.items() if k in ("samples", "steps", "cpu_seconds")}
    assert copied.info["started_from"] == {"sha256": Model.load(first).sha256, **history}
    assert copied.sha256 == Model.load(first).sha256
    other = dataclasses.replace(CONFIG, network=NetworkConfig("transformer", {**SMALL.options, "layers": 1}))
    with pytest.raises(TrainingError, match=r"weights\.safetensors: its network is .*leave --preset and --config out"):
        train(DATA, tmp_path / "third", other, init_from=first)


def test_fine_tuning_speaks_the_language_of_the_weights(tmp_path, monkeypatch, first):
    """Tokens and properties are matched by name, scale and marginals kept, and a stopped run goes on the same."""
    source = Model.load(first).data
    data = write_own(tmp_path / "own", reverse=True, properties=["gap"])
    info = DataInfo.from_meta(read_meta(data))
    own = Model.load(train(data, tmp_path / "straight", CONFIG, init_from=first)).data
    for name in ("vocabulary", "coordinate_std", "atom_marginal", "bond_marginal", "properties"):
        assert getattr(own, name) == getattr(source, name)
    assert (own.name, own.sha256, own.size_histogram) == ("own", info.sha256, info.size_histogram)
    assert_compositions(own, info, source)
    assert_examples(own, info, source)
    before, after = read_split(DATA, "test"), translate(read_split(data, "train"), info, own)
    assert (before.atom == after.atom).all()
    gap = [p.name for p in source.properties].index("gap")
    assert (before.properties[:, gap] == after.properties[:, gap]).all()
    assert np.isnan(np.delete(after.properties, gap, 1)).all()
    with monkeypatch.context() as patch:
        stop_at(3, patch, signal.SIGTERM)
        train(data, tmp_path / "stopped", CONFIG, init_from=first)
    train(data, tmp_path / "stopped", CONFIG, resume=True)
    runs = [without_cpu_time(tmp_path / name / "weights.safetensors") for name in ("straight", "stopped")]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hydrogens": "implicit"}, "its hydrogens are explicit, those of own implicit; prepare the set with --hydro"),
        (
            {"unit": "K"},
            "its property gap is in eV, that of own in K; prepare the set in the same unit, or give it another name",
        ),
        (
            {"element": "Br"},
            r"Br, in 3 molecules \(b\.smi row 48, b\.smi row 49, b\.smi row 50\), is not in its vocabulary \(H C .*; "
            r"--extend-vocabulary adds it; .*--vocabulary-of .*weights\.safetensors` drops the molecules",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_sets_that_the_weights_do_not_know_are_refused(tmp_path, first, change, message):
    data = write_own(tmp_path / "own", properties=["gap"], **change)
    with pytest.raises(TrainingError, match=message):
        train(data, tmp_path / "run", CONFIG, init_from=first)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("pair_every", [1, 2])
@pytest.mark.parametrize("more", [{"layers": 5}, {"walks": 4}, {"layers": 5, "walks": 4}], ids=" ".join)
def test_a_larger_network_begins_with_the_estimates_of_its_source(more, pair_every):
    info = DataInfo.from_meta(read_meta(DATA))
    options = {**SMALL.options, "layers": 2, "pair_every": pair_every}
    old, new, narrow = (
        Model(dataclasses.replace(CONFIG, network=NetworkConfig("transformer", {**options, **other})), info)
        for other in ({}, more, {**more, "radial": 7})
    )
    randomise(old)
    start_from(new, old, Path("old"))
    molecules, _ = read_split(DATA, "test").buckets()[18]
    level = NoiseLevel.free(molecules.centre(), torch.ones(len(molecules)))
    a, b = (m.denoise(molecules.centre(), level, m.nothing_asked(len(molecules))) for m in (old, new))
    assert a.atom_logits.std() > 0.1
    for ours, theirs in [(b.pos, a.pos), (b.atom_logits, a.atom_logits), (b.bond_logits, a.bond_logits)]:
        assert torch.equal(ours, theirs)
    b.pos.square().sum().backward()
    assert all(block.from_pair.weight.grad.any() for block in new.network.blocks)
    assert "walks" not in more or new.network.embed_pair.weight.grad[:, -4:].any()
    for fewer, source in [(old, new), (narrow, old)]:
        with pytest.raises(TrainingError, match="only layers and walks can be added"):
            start_from(fewer, source, Path("old"))


class TestNewTokens:
    """``--extend-vocabulary``: what the weights knew, they still do."""

    def extended(self, source: Model, folder: Path) -> Model:
        data = write_own(folder, properties=[], element="Br")
        known = adapt(read_meta(data), source.data, [read_split(data, "train")], folder, extend=True)
        model = Model(source.config, known)
        start_from(model, source, folder)
        return model

    @pytest.mark.parametrize("kind", ["transformer", "egnn"])
    def test_molecules_without_them_get_the_same_estimate(self, tmp_path, kind):
        old = of_kind(kind, DataInfo.from_meta(read_meta(DATA)))
        new = self.extended(old, tmp_path / "own")
        assert new.data.vocabulary == (*old.data.vocabulary, "Br")
        molecules, _ = read_split(DATA, "test").buckets()[18]
        molecules = molecules.centre()
        level = NoiseLevel.free(molecules, torch.ones(len(molecules)))
        values = torch.randn(len(molecules), len(old.data.properties), generator=torch.Generator().manual_seed(0))
        asked = dataclasses.replace(old.nothing_asked(len(molecules)), value=values, given=values > 0)
        conditions, more = (m.told_atoms(asked, molecules) for m in (old, new))
        assert torch.equal(more.composition[:, :-1], conditions.composition)
        assert conditions.composition.any() and not more.composition[:, -1].any()
        assert torch.equal(more.heavy, conditions.heavy) and conditions.heavy.all()
        with torch.no_grad():
            before = old.denoise(molecules, level, conditions)
            never = torch.full((*before.atom_logits.shape[:2], 1), -1e9)
            known = Prediction(before.pos, torch.cat([before.atom_logits, never], -1), before.bond_logits)
            a = old.denoise(molecules, level, conditions, before)
            b = new.denoise(molecules, level, more, known)
            untold = conditions.without_composition(molecules.size > 0)
            uncounted = dataclasses.replace(untold, heavy=asked.heavy)
            c, d = (old.denoise(molecules, level, other, before) for other in (untold, uncounted))
        assert a.atom_logits.std() > 0.1
        assert min((x.atom_logits - y.atom_logits).abs().max() for x, y in [(a, c), (c, d)]) > 0.01
        torch.testing.assert_close(b.pos, a.pos, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(b.bond_logits, a.bond_logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(b.atom_logits[..., :-1], a.atom_logits, rtol=1e-4, atol=1e-4)
        assert (b.atom_logits[..., -1] == 0).all()

    def test_compositions(self, tmp_path, first):
        """Bromine is behind the elements of the weights, and of the set's own fluorine there is none."""
        data = self.extended(Model.load(first), tmp_path / "own").data
        info = DataInfo.from_meta(read_meta(tmp_path / "own"))
        assert info.elements == ("H", "C", "N", "O", "Br")
        assert data.elements == ("H", "C", "N", "O", "F", "Br")
        assert data.compositions == tuple((*row[:4], 0, *row[4:]) for row in info.compositions)
        assert [row[0] for row in data.examples] == [row[0] for row in info.examples]

    def test_marginals(self, tmp_path, first):
        source = Model.load(first)
        old, new = source.data.atom_marginal, self.extended(source, tmp_path / "own").data.atom_marginal
        fluorine = read_meta(DATA)["atom_marginal"][source.data.vocabulary.index("F")]
        assert new[-1] == pytest.approx(fluorine)  # Br stands in its place
        assert sum(new) == pytest.approx(1)
        assert np.divide(new[:-1], old) == pytest.approx(1 - fluorine)

    def test_training_learns_them_and_resumes(self, tmp_path, monkeypatch, first):
        data = write_own(tmp_path / "own", properties=[], element="Br")
        straight = train(data, tmp_path / "straight", CONFIG, init_from=first, extend_vocabulary=True)
        weights = Model.load(straight).network.state_dict()
        assert weights["to_atom.weight"][-1].abs().sum() > 0
        known = Model.load(straight).data
        assert weights["embed_atom.weight"].shape[1] == 2 * len(known.vocabulary) + 2
        before = Model.load(first)
        assert known.elements == (*before.data.elements, "Br")
        old, new = before.network.state_dict()["embed_condition.0.weight"], weights["embed_condition.0.weight"]
        assert new.shape[1] == old.shape[1] + PER_ELEMENT
        assert (new[:, -PER_ELEMENT:] != 0).any()  # it is told of, and learned
        with monkeypatch.context() as patch:
            stop_at(2, patch, signal.SIGTERM)
            train(data, tmp_path / "stopped", CONFIG, init_from=first, extend_vocabulary=True)
        stopped = train(data, tmp_path / "stopped", CONFIG, resume=True)
        assert without_cpu_time(stopped) == without_cpu_time(straight)

    def test_not_for_flat_weights(self, tmp_path):
        config = Config(network=NetworkConfig("tensor_product", {"width": 8, "layers": 1}))
        with pytest.raises(TrainingError, match="new tokens and properties are not made for tensor_product networks"):
            self.extended(Model(config, DataInfo.from_meta(read_meta(DATA))), tmp_path / "own")


class TestNewProperties:
    """A property of one's own: what the weights know stays, and where it is not told nothing changes."""

    def pair(self, folder: Path, kind: str) -> tuple[Model, Model]:
        """Weights that know two properties of the sample, and what starts from them on a set with its gap."""
        info = DataInfo.from_meta(read_meta(DATA))
        others = tuple(p for p in info.properties if p.name != "gap")[:2]
        old = of_kind(kind, dataclasses.replace(info, properties=others, examples=()))
        data = write_own(folder, properties=["gap"])
        new = Model(old.config, adapt(read_meta(data), old.data, [read_split(data, "train")], folder))
        start_from(new, old, folder)
        return old, new

    @pytest.mark.parametrize("kind", ["transformer", "egnn"])
    def test_estimates_are_those_of_the_weights(self, tmp_path, kind):
        old, new = self.pair(tmp_path / "own", kind)
        molecules = read_split(DATA, "test").buckets()[18][0].centre()
        b = len(molecules)
        level = NoiseLevel.free(molecules, torch.ones(b))
        value = torch.randn(b, 3, generator=torch.Generator().manual_seed(0))
        given = torch.rand(b, 3, generator=torch.Generator().manual_seed(1)) < 0.5
        told = dataclasses.replace(old.nothing_asked(b), value=value[:, :2], given=given[:, :2])
        more = dataclasses.replace(new.nothing_asked(b), value=value, given=given)
        with torch.no_grad():
            a = old.denoise(molecules, level, old.told_atoms(told, molecules))
            c = new.denoise(molecules, level, new.told_atoms(more, molecules))
            untold = old.denoise(molecules, level, old.told_atoms(told.without_properties(), molecules))
        assert (a.atom_logits - untold.atom_logits).abs().max() > 0.01
        for ours, theirs in [(c.pos, a.pos), (c.atom_logits, a.atom_logits), (c.bond_logits, a.bond_logits)]:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    def test_are_behind_those_of_the_weights(self, tmp_path):
        old, new = self.pair(tmp_path / "own", "transformer")
        info = DataInfo.from_meta(read_meta(tmp_path / "own"))
        assert new.data.properties == (*old.data.properties, *info.properties)
        assert [row[-1] for row in new.data.examples] == [row[-1] for row in info.examples]
        assert {row[1:3] for row in new.data.examples} == {(None, None)}
        split = translate(read_split(tmp_path / "own", "train"), info, new.data)
        assert np.isnan(split.properties[:, :2]).all() and np.isfinite(split.properties[:, 2]).all()

    def test_training_learns_them_and_resumes(self, tmp_path, monkeypatch):
        old, _ = self.pair(tmp_path / "own", "transformer")
        old.save(tmp_path / "old.safetensors")
        straight = train(tmp_path / "own", tmp_path / "straight", CONFIG, init_from=tmp_path / "old.safetensors")
        column = BEFORE_PROPERTIES + 2 * PER_PROPERTY
        learned = Model.load(straight).network.state_dict()["embed_condition.0.weight"][:, column:][:, :PER_PROPERTY]
        assert learned.abs().sum() > 0
        with monkeypatch.context() as patch:
            stop_at(2, patch, signal.SIGTERM)
            train(tmp_path / "own", tmp_path / "stopped", CONFIG, init_from=tmp_path / "old.safetensors")
        stopped = train(tmp_path / "own", tmp_path / "stopped", CONFIG, resume=True)
        assert without_cpu_time(stopped) == without_cpu_time(straight)


class TestCommand:
    def run(self, *arguments: object) -> Result:
        result = CliRunner().invoke(app, ["train", *map(str, arguments)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def test_the_weights_say_how(self, tmp_path, monkeypatch, first):
        """No preset need be named, the schedule is short, and what ended early is a success that is told."""
        monkeypatch.setattr(batches, "HELD_OUT", 48)
        run = tmp_path / "run"
        again = [
            "--init-from",
            first,
            "-o",
            run,
            "--device",
            "cpu",
            "--set",
            "train.lr=0",
            "--set",
            "train.check_steps=1",
        ]
        done = self.run(DATA, *again, "--patience", 2)
        assert done.exit_code == 0, done.stderr
        assert (
            f"stopped early, at step 2 of {SETTINGS['steps']}: the held-out loss was least at step 0, before any"
            in done.stderr
        )
        assert re.search(r"step 1/\d+  held out \d\.\d{4} \(least at step 0\)", done.stderr)
        found = Model.load(run / "weights.safetensors")
        assert found.config.network == SMALL
        assert found.config.train.steps == SETTINGS["steps"]
        assert found.info["held_out"]["step"] == 0
        assert found.sha256 == Model.load(first).sha256
        checkpoint = latest_checkpoint(run)
        resumed = self.run(DATA, "-o", run, "--resume", "--device", "cpu")
        assert resumed.exit_code == 0, resumed.stderr
        assert latest_checkpoint(run) == checkpoint
        wrong = self.run(DATA, "--init-from", first, "--preset", "qm9-small", "-o", tmp_path / "other")
        assert wrong.exit_code == 2
        assert "leave --preset and --config out" in wrong.stderr

    def test_new_tokens_need_weights(self, tmp_path):
        refused = self.run(DATA, "--extend-vocabulary", "-o", tmp_path / "run")
        assert refused.exit_code == 2
        assert "--extend-vocabulary: goes with --init-from, whose weights it extends; name them" in refused.stderr

    def test_settings_keep_what_the_weights_were_trained_for(self):
        source = changed(atom_weight=0.7, steps=10**6, precision="bfloat16")
        settings = settings_for(source)
        assert settings.network == source.network
        assert settings.train == dataclasses.replace(source.train, **SETTINGS)
        assert settings.train.atom_weight == 0.7
