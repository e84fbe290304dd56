"""The model: preconditioning with a known answer, losses, the weights file and all the ways it can be wrong."""

import dataclasses
import hashlib
import json
import os
import stat

import pytest
import torch
from conftest import with_compositions
from safetensors.torch import load_file, save_file

from moldiff.config import Config, NetworkConfig
from moldiff.model import Model, symmetric
from moldiff.model_file import DataInfo, ModelFileError, read_file
from moldiff.schedules import NoiseLevel

SMALL = NetworkConfig("transformer", {"width": 16, "layers": 2, "vectors": 4, "pair_width": 8, "heads": 2, "radial": 4})


@pytest.fixture
def model(info) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model(Config(preset="small", network=SMALL), info, info={"samples": 5})


@pytest.fixture
def weights(model, tmp_path):
    path = tmp_path / "weights.safetensors"
    model.save(path)
    return path


class TestPreconditioning:
    @pytest.mark.parametrize("kind", ["transformer", "egnn", "tensor_product"])
    def test_an_untrained_network_is_the_linear_denoiser(self, info, exact, kind):
        """For Gaussian data of the stated variance, E[x0 | x] = x / (1 + σ²): training starts at the exact answer."""
        options = {"width": 16, "layers": 2} if kind != "transformer" else SMALL.options
        model = Model(Config(network=NetworkConfig(kind, options)), info)
        sigma = torch.tensor([0.01, 0.5, 2.0, 20.0])
        noisy = exact.centre()
        answer = model.denoise(noisy, NoiseLevel.free(noisy, sigma))
        assert torch.allclose(answer.pos, noisy.pos / (1 + sigma**2)[:, None, None], atol=1e-6)
        assert (answer.atom_logits == 0).all()

    def test_inputs_and_targets_have_unit_variance(self, model, info, random_molecules):
        """c_in² E‖x‖² = 1 and E(x0 - c_skip x)² = c_out², for data of unit variance (Karras et al. 2022, table 1)."""
        molecules = random_molecules([6]).select([0] * 500)
        generator = torch.Generator().manual_seed(0)
        clean, noise = info.coordinate_std * torch.randn(2, 500, 6, 3, generator=generator)
        for sigma in (0.05, 1.0, 10.0):
            level = NoiseLevel.free(molecules, torch.full((500,), sigma))
            x = model.precondition(molecules.replace(pos=clean + sigma * noise), level)
            assert float(x.pos.std()) == pytest.approx(1.0, rel=0.03)
            target = (clean / info.coordinate_std - x.skip) / x.c_out
            assert float(target.std()) == pytest.approx(1.0, rel=0.03)

    def test_flags(self, model, padded):
        free = NoiseLevel.free(padded, torch.ones(4))
        level = dataclasses.replace(free, pos=torch.zeros(4, 9))
        x = model.precondition(padded, level)
        assert torch.equal(x.flags[..., 0] == 1, padded.mask)
        assert (x.flags[..., 1] == 0).all()
        assert (x.bond_flag == 0).all()


class TestComposition:
    def test_atoms_are_counted_by_element(self, model, random_molecules):
        """H C N O N+, of which the last is nitrogen, and padding is no hydrogen."""
        molecules = random_molecules([3, 5], n=6)
        atom = torch.tensor([[4, 2, 1, 0, 0, 0], [0, 0, 3, 3, 0, 0]])
        given = torch.tensor([[True, False], [True, True]])
        asked = dataclasses.replace(model.nothing_asked(2), value=torch.ones(2, 2), given=given)
        told = model.told_atoms(asked, molecules.replace(atom=atom))
        assert told.composition.tolist() == [[0, 1, 2, 0], [3, 0, 0, 2]]
        assert told.heavy.tolist() == [3, 2]
        assert torch.equal(told.value, asked.value) and torch.equal(told.given, given)
        nothing = model.nothing_asked(2)
        assert nothing.composition.tolist() == [[0] * 4] * 2 and nothing.heavy.tolist() == [0, 0]

    def test_where_hydrogens_are_implicit_every_atom_is_heavy(self, info, random_molecules):
        bare = dataclasses.replace(info, vocabulary=("C", "N", "O", "N+", "F"), hydrogens="implicit")
        model = Model(Config(network=SMALL), with_compositions(bare, [(2, 1, 0, 1, 1)]))
        molecules = random_molecules([3, 5], n=6)
        assert model.told_atoms(model.nothing_asked(2), molecules).heavy.tolist() == [3, 5]

    def test_sizes_follow_from_compositions(self, info):
        assert info.elements == ("H", "C", "N", "O") and info.element_of == (0, 1, 2, 3, 2)
        assert info.size_histogram == ((3, 7, 2), (4, 9, 1))
        assert (info.heavy_range, info.atom_range) == ((3, 4), (7, 9))
        rows = ((5, 3, 0, 1, 1), (4, 2, 1, 0, 2), (4, 1, 1, 1, 5), (2, 3, 2, 0, 4))
        assert with_compositions(info, rows).size_histogram == ((3, 7, 7), (4, 9, 1), (5, 7, 4))

    def test_a_molecule_outside_the_sizes(self, info):
        assert info.size_problem(3, 7) == info.size_problem(4, 9) == ""
        assert info.size_problem(5, 9) == "5 heavy atoms, model small knows 3 to 4"
        assert info.size_problem(3, 12) == "12 atoms, model small knows 7 to 9"


class TestWhatTheNetworkSees:
    """Composition and number of heavy atoms, at all levels; each molecule by its own."""

    def told(self, model, molecules, sigma: list[float], **fields):
        level = NoiseLevel.free(molecules, torch.tensor(sigma))
        told = model.told_atoms(model.nothing_asked(len(molecules)), molecules)
        return model.precondition(molecules, level, dataclasses.replace(told, **fields)).condition

    def seen(self, one, other) -> list[bool]:
        return (one != other).any(1).tolist()

    def test_the_composition_at_every_level(self, model, exact):
        sigma = [0.01, 0.499, 0.5, 20.0]
        whole, none = self.told(model, exact, sigma), torch.zeros(4, 4, dtype=torch.long)
        assert self.seen(whole, self.told(model, exact, sigma, composition=none)) == [True] * 4
        other = none + torch.tensor([5, 2, 0, 0])
        assert self.seen(whole, self.told(model, exact, sigma, composition=other)) == [True] * 4

    def test_heavy_atoms_at_every_level(self, model, exact):
        sigma = [0.01, 0.499, 0.5, 20.0]
        whole, heavy = self.told(model, exact, sigma), torch.full((4,), 6)
        assert (model.told_atoms(model.nothing_asked(4), exact).heavy != heavy).all()
        assert self.seen(whole, self.told(model, exact, sigma, heavy=heavy)) == [True] * 4
        assert self.seen(whole, self.told(model, exact, sigma, heavy=0 * heavy)) == [True] * 4

    def test_nothing_is_told_by_default(self, model, exact):
        level = NoiseLevel.free(exact, torch.tensor([0.01, 0.5, 2.0, 20.0]))
        nothing = model.precondition(exact, level, model.nothing_asked(4)).condition
        assert torch.equal(model.precondition(exact, level).condition, nothing)

    def test_layers_get_one_type_of_numbers_in_mixed_precision(self, model, exact):
        inputs = model.precondition(exact, NoiseLevel.free(exact, torch.ones(4)))
        with torch.autocast("cpu", torch.bfloat16):
            assert model.network.embed_condition(inputs.condition).dtype == torch.bfloat16
            assert model.network.embed(inputs)[0].dtype == torch.float32


class TestLoss:
    def test_is_a_function_of_the_generator(self, model, exact):
        conditions = model.nothing_asked(4)
        losses = [model.loss(exact, conditions, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
        assert losses[0] == losses[1]
        assert losses[0]["total"] != losses[2]["total"]
        one, t = losses[0], model.config.train
        assert torch.equal(one["total"], one["pos"] + t.atom_weight * one["atom"] + t.bond_weight * one["bond"])

    def test_corruption_keeps_what_is_known(self, model, random_molecules):
        clean = random_molecules([8] * 64)
        conditions = model.nothing_asked(64)
        noisy, level, _, clean = model.corrupt(clean, conditions, torch.Generator().manual_seed(0))
        for field in ("pos", "atom", "bond"):
            fixed = getattr(level, field) == 0
            assert torch.equal(getattr(noisy, field)[fixed], getattr(clean, field)[fixed])
            assert not torch.equal(getattr(noisy, field), getattr(clean, field))
        assert torch.equal(noisy.bond, noisy.bond.transpose(1, 2))
        centre = (clean.pos * level.fixed_pos[..., None]).sum(1)
        assert torch.allclose(centre, torch.zeros_like(centre), atol=1e-4)

    def test_half_are_told_their_composition_and_most_their_heavy_atoms(self, model, random_molecules):
        """None its composition only; at high and at low noise alike."""
        clean = random_molecules([5, 8] * 1000, n=9)
        clean = clean.replace(
            atom=torch.where(torch.arange(9) == 0, 1, clean.atom)
        )  # of each one atom at least is heavy
        of_all = model.told_atoms(model.nothing_asked(2000), clean)
        _, level, told, _ = model.corrupt(clean, model.nothing_asked(2000), torch.Generator().manual_seed(0))
        assert (of_all.heavy > 0).all()
        composed, counted = told.composition.sum(1) > 0, told.heavy > 0
        assert torch.equal(told.composition[composed], of_all.composition[composed])
        assert torch.equal(told.heavy[counted], of_all.heavy[counted])
        assert not (composed & ~counted).any()
        noisy = level.sigma > 0.5
        for where in (noisy, ~noisy):
            assert composed[where].float().mean() == pytest.approx(0.5, abs=0.06)
            assert counted[where].float().mean() == pytest.approx(0.9, abs=0.04)
        assert (model.config.train.drop_heavy, model.config.train.drop_composition) == (0.1, 0.5)

    def test_what_was_told_before_does_not_matter(self, model, exact):
        """Training tells the molecules' own atoms; the properties asked for stay those given, or none."""
        stranger = dataclasses.replace(
            model.nothing_asked(4), heavy=torch.full((4,), 99), composition=torch.full((4, 4), 9)
        )
        found = []
        for asked in (stranger, model.nothing_asked(4)):
            _, _, told, _ = model.corrupt(exact, asked, torch.Generator().manual_seed(0))
            found.append((told.heavy.tolist(), told.composition.tolist()))
        assert found[0] == found[1] and 99 not in found[0][0]

    def test_one_number_per_pair(self):
        uniform = symmetric(torch.rand(3, 5, 5))
        assert torch.equal(uniform, uniform.transpose(1, 2))


class TestFile:
    def test_round_trip_is_bitwise(self, model, weights):
        again = Model.load(weights)
        assert (again.config, again.data, again.info) == (model.config, model.data, model.info)
        mine, theirs = model.network.state_dict(), again.network.state_dict()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine | theirs)
        assert again.sha256 == model.sha256
        assert not any(p.requires_grad for p in again.parameters())
        second = weights.with_name("second.safetensors")
        again.save(second)
        assert second.read_bytes() == weights.read_bytes()

    @pytest.mark.parametrize("kind", ["egnn", "tensor_product"])
    def test_every_network_round_trips(self, info, exact, tmp_path, kind):
        model = Model(Config(network=NetworkConfig(kind, {"width": 16, "layers": 1})), info)
        model.save(tmp_path / "w.safetensors")
        assert Model.load(tmp_path / "w.safetensors").sha256 == model.sha256

    def test_half_precision(self, model, tmp_path):
        model.save(tmp_path / "half.safetensors", torch.bfloat16)
        assert (tmp_path / "half.safetensors").stat().st_size < 0.75 * 4 * sum(p.numel() for p in model.parameters())
        again = Model.load(tmp_path / "half.safetensors")
        for mine, theirs in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.equal(mine.bfloat16().float(), theirs)

    def test_others_may_read_it(self, weights, tmp_path):
        plain = tmp_path / "plain"
        plain.touch()
        assert stat.S_IMODE(os.stat(weights).st_mode) == stat.S_IMODE(os.stat(plain).st_mode)
        assert {p.name for p in tmp_path.iterdir()} == {weights.name, "plain"}, "no temporary file is left"

    def test_missing(self, tmp_path):
        with pytest.raises(ModelFileError, match=r"none\.safetensors: no such file"):
            Model.load(tmp_path / "none.safetensors")

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
    def test_truncated(self, weights, share):
        content = weights.read_bytes()
        weights.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ModelFileError, match="not a complete safetensors file"):
            Model.load(weights)

    def test_flipped_byte(self, weights):
        content = bytearray(weights.read_bytes())
        content[-100] ^= 1
        weights.write_bytes(content)
        with pytest.raises(ModelFileError, match="do not match their hash"):
            Model.load(weights)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_pickle_is_refused_unopened(self, model, tmp_path, zipped):
        path = tmp_path / "weights.pt"
        torch.save(model.network.state_dict(), path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ModelFileError, match=r"pickle or zip archive.*refused"):
            Model.load(path)

    def test_foreign_safetensors(self, tmp_path):
        path = tmp_path / "foreign.safetensors"
        save_file({"weight": torch.zeros(3)}, path)
        with pytest.raises(ModelFileError, match="not written by moldiff"):
            Model.load(path)

    @pytest.mark.parametrize(("number", "remedy"), [(99, "update moldiff"), (1, "train again")])
    def test_other_format(self, weights, number, remedy):
        text = json.dumps({"format": number})
        digest = hashlib.sha256(text.encode()).hexdigest()
        save_file(load_file(weights), weights, metadata={"moldiff": f"{digest} {text}"})
        with pytest.raises(ModelFileError, match=f"format {number}, .*{remedy}"):
            Model.load(weights)

    @pytest.mark.parametrize("section", [(), ("network", "options")])
    def test_settings_of_another_version(self, weights, section):
        tensors, header = read_file(weights)
        target = header["config"]
        for name in section:
            target = target[name]
        target["foo"] = 1
        text = json.dumps(header)
        digest = hashlib.sha256(text.encode()).hexdigest()
        save_file(tensors, weights, metadata={"moldiff": f"{digest} {text}"})
        with pytest.raises(
            ModelFileError, match=r"w.*\.safetensors: .*foo.*; use the version of moldiff that wrote it"
        ):
            Model.load(weights)


def test_data_info_from_meta(info):
    meta = json.loads(json.dumps(dataclasses.asdict(info))) | {"sha256": {"train": info.sha256}, "molecules": 7}
    assert DataInfo.from_meta(meta) == info


def test_a_header_length_that_looks_like_a_pickle_is_read(model, tmp_path):
    """The file begins with its header's length; the first byte is 0x80, as a pickle's, for one file in 32."""
    path = tmp_path / "weights.safetensors"
    for filling in range(0, 4096, 8):
        model.info = {"filling": "x" * filling}
        model.save(path)
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert Model.load(path).info == model.info


def test_equal_models_are_equal_files(model, tmp_path):
    contents = set()
    for k in range(8):
        model.save(tmp_path / f"{k}.safetensors")
        contents.add((tmp_path / f"{k}.safetensors").read_bytes())
    assert len(contents) == 1
