"""Which molecule is which never depends on how it was made; counts add up; what cannot be done is refused."""

import math
import os
import re
import time
from collections import Counter
from dataclasses import replace
from threading import RLock

import numpy as np
import pytest
import torch
from conftest import with_compositions
from rdkit import Chem
from rdkit.Chem import Crippen
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from moldiff import attempts, chem, doctor, generation, relay, windows
from moldiff.arguments import check_kinds
from moldiff.attempts import sample_attempts
from moldiff.conditions import Target
from moldiff.config import Config, NetworkConfig, preset
from moldiff.draws import SizeDraw
from moldiff.errors import RequestError
from moldiff.fragments import Wishes
from moldiff.generation import Generator, load
from moldiff.model import Model, choose_device
from moldiff.model_file import DataInfo, ModelFileError
from moldiff.molecule import Molecules
from moldiff.outcomes import Record, Tally
from moldiff.overlay import Overlay
from moldiff.requests import Request, choose_sampler, with_molecules
from moldiff.samplers import Ancestral, KeyedRandomness, Sampler
from moldiff.schedules import NoiseLevel
from moldiff.screening import Screen
from moldiff.told import NEAR

FAST = Sampler(steps=4)


@pytest.fixture
def small(trained) -> Generator:
    return load(trained, "cpu")


@pytest.fixture(scope="module")
def full_size() -> Model:
    """The architecture of the shipped model with random weights, none of them zero, on molecules of 3 to 24 atoms."""
    vocabulary = ("H", "C", "C-", "N", "N-", "N+", "O", "O-", "F")
    rows = tuple((n - max(1, n // 2), max(1, n // 2), 0, 0, 0, 1) for n in range(3, 25))
    marginals = (1 / 9,) * 9, (0.85, 0.1, 0.04, 0.01)
    info = DataInfo("random", vocabulary, "explicit", 1.4, *marginals, rows, (), "", "0" * 64)
    torch.manual_seed(0)
    model = Model(Config(network=preset("qm9-tiny").network), info).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def straight(full_size) -> list[bytes]:
    return raw(full_size)


def content(outcomes) -> list[tuple]:
    """Everything about some outcomes, coordinates bit for bit."""
    return [
        (o.id, getattr(o, "smiles", None) or o.reason, o.mol.GetConformer().GetPositions().tobytes(),
         [a.GetSymbol() for a in o.mol.GetAtoms()], [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in o.mol.GetBonds()])
        for o in outcomes
    ]  # fmt: skip


def raw(model: Model, **how) -> list[bytes]:
    """Attempts 0 to 15 of seed 5, each as its bytes, from windows of the given size."""
    window, request = how.get("window", 16), Request(16, seed=5, sampler=Sampler(steps=2))
    singles = []
    for start in range(0, 16, window):
        indices = range(start, min(start + window, 16))
        singles += sample_attempts(model, request, indices, how.get("batch_size"))[0].split()
    return [b"".join(x.numpy().tobytes() for x in (m.pos, m.atom, m.bond)) for m in singles]


class TestSameMolecules:
    """Molecule k of seed s, bit for bit."""

    @pytest.mark.parametrize("how", [{"batch_size": 1}, {"batch_size": 3}, {"window": 5}, {"window": 1}], ids=str)
    def test_batches_and_windows(self, full_size, straight, how):
        assert len(set(straight)) == 16
        assert raw(full_size, **how) == straight

    def test_threads(self, full_size, straight):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            assert raw(full_size) == straight
            assert torch.get_num_threads() == 2, "the caller's setting was changed"
        finally:
            torch.set_num_threads(before)

    def test_the_baseline_network(self, full_size):
        torch.manual_seed(0)
        network = NetworkConfig("egnn", {"width": 64, "layers": 2})
        model = Model(Config(network=network), full_size.data).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        assert raw(model, batch_size=1) == raw(model)

    def test_order_of_the_attempts(self, full_size, straight):
        swapped = sample_attempts(full_size, Request(1, seed=5, sampler=Sampler(steps=2)), [7, 2])[0].split()
        for molecule, bytes_before in zip(swapped, (straight[7], straight[2]), strict=True):
            assert bytes_before.startswith(molecule.pos.numpy().tobytes())

    @pytest.mark.parametrize("how", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 128}], ids=str)
    def test_accepted_and_rejected_ones(self, small, monkeypatch, how):
        straight = content(small.generate(6, steps=6, rejects=True))
        monkeypatch.setitem(windows.MOST, "cpu", 7)
        assert content(small.generate(6, steps=6, rejects=True, **how)) == straight

    def test_fewer_are_the_first_of_more(self, small):
        more = content(small.generate(6, steps=6))
        assert content(small.generate(3, steps=6)) == more[:3]
        assert len(more) == 6

    def test_workers(self, small):
        straight = content(small.generate(20, steps=6, rejects=True))
        assert content(small.generate(20, steps=6, rejects=True, workers=2)) == straight

    def test_continued(self, small):
        request = Request(12, sampler=Sampler(steps=6), heavy_atoms=(1, 2), unique=True, max_attempts=30)
        straight = list(small.outcomes(request))
        tally = Tally()
        for outcome in straight[:17]:
            tally.add(outcome)
        seen = {o.smiles for o in straight[:17] if isinstance(o, Record)}
        before = tally.copy()
        assert content(small.outcomes(request, tally=tally, seen=seen)) == content(straight[17:])
        assert tally == before

    def test_parts_of_a_seed_are_as_in_the_whole(self, small):
        straight = content(small.generate(20, steps=6, rejects=True, max_attempts=20))
        parts = [
            content(small.generate(k, steps=6, rejects=True, first=f, max_attempts=k)) for f, k in ((0, 9), (9, 11))
        ]
        assert len(straight) == 20 and parts[0] + parts[1] == straight

    @pytest.mark.parametrize("first", [-1, 10**8])
    def test_there_is_no_attempt_of_this_number(self, small, first):
        with pytest.raises(RequestError, match=f"--first {first}: must be"):
            small.generate(1, first=first)

    def test_want_of_memory(self, small, monkeypatch):
        """Batches that do not fit are halved; their molecules are the same."""
        straight, sizes, whole = content(small.generate(6, steps=6)), [], attempts._one_size

        def limited(told, random, tick):
            sizes.append(len(random.streams))
            if len(random.streams) > 2:
                random.of_size(random.atoms).normal()  # numbers drawn before the memory ran out are drawn again
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
            return whole(told, random, tick)

        monkeypatch.setattr(attempts, "_one_size", limited)
        assert content(small.generate(6, steps=6)) == straight
        assert max(sizes) > 2 >= min(sizes)

    @pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
    def test_no_memory_at_all(self, small, monkeypatch, error):
        def never(*_):
            raise error

        monkeypatch.setattr(attempts, "_one_size", never)
        with pytest.raises(RequestError, match="not enough memory for one molecule of"):
            list(small.generate(1, steps=4))

    def test_time_limit_of_a_run(self, small):
        start = time.monotonic()
        outcomes = list(small.outcomes(Request(10**6, sampler=Sampler(steps=6), time_limit=1.0)))
        assert 0.2 < time.monotonic() - start < 4
        assert len(outcomes) >= windows.LEAST

    @pytest.mark.parametrize(
        ("n", "cores", "expected"), [(1, 8, 1), (255, 8, 1), (256, 8, 2), (10**6, 8, 8), (1000, 2, 2), (1000, 1, 1)]
    )
    def test_workers_that_pay(self, small, monkeypatch, n, cores, expected):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        assert small.workers_for(n) == expected

    def test_other_errors_pass(self, small, monkeypatch):
        def wrong(*_):
            raise RuntimeError("shapes do not match")

        monkeypatch.setattr(attempts, "_one_size", wrong)
        with pytest.raises(RuntimeError, match="shapes do not match"):
            list(small.generate(1, steps=4))

    def test_identifiers_tell_everything_apart_that_differs(self, small, monkeypatch):
        requests = [Request(1), Request(1, seed=1), Request(1, sampler=FAST), Request(1, heavy_atoms=(1, 1)),
                    Request(1, sampler=Sampler(rule=Ancestral())), Request(1, formula="CH4"),
                    Request(1, formula="H2O")]  # fmt: skip
        one = sample_attempts(small.model, Request(1, sampler=FAST), [0])
        monkeypatch.setattr(generation, "sample_attempts", lambda *_: one)
        monkeypatch.setattr(windows, "LEAST", 1)
        first = [next(small.outcomes(request)).id for request in requests]
        assert len(set(first)) == len(first)
        assert Request(1).key(small.hash) == Request(9, max_attempts=99).key(small.hash)
        assert Request(1).key(small.hash) != Request(1).key("0" * 64)
        assert re.fullmatch(r"four-[0-9a-f]{8}-s0-00000000", first[0])


class TestCounts:
    def test_the_funnel_adds_up(self, small):
        request = Request(6, sampler=Sampler(steps=6), heavy_atoms=(1, 1), unique=True, max_attempts=40)
        tally, outcomes = Tally(), list(small.outcomes(request))
        for k, outcome in enumerate(outcomes):
            assert outcome.index == k
            tally.add(outcome)
        funnel = tally.funnel(request)
        assert list(funnel) == ["sampled", "connected", "sanitised", "of asked size", "unique", "kept"]
        assert list(funnel.values()) == sorted(funnel.values(), reverse=True)
        assert funnel["sampled"] == len(outcomes) == 40
        assert funnel["unique"] == funnel["kept"] == sum(isinstance(o, Record) for o in outcomes) <= 3
        assert funnel["sampled"] - funnel["kept"] == sum(tally.rejected.values())
        assert tally.rejected == Counter(o.reason for o in outcomes if not isinstance(o, Record))
        assert tally.rejected["duplicate"] > 3
        assert list(Tally().funnel(Request(1))) == ["sampled", "connected", "sanitised", "kept"]

    def test_records(self, small):
        for record in small.generate(8, steps=6):
            assert chem.check(record.mol).reason is None
            assert record.smiles == chem.smiles(record.mol)
            assert record.heavy_atoms == record.mol.GetNumHeavyAtoms()
            assert not any(a.GetNumImplicitHs() for a in record.mol.GetAtoms())

    def test_rejects_are_as_generated(self, small):
        rejects = [o for o in small.generate(8, steps=6, rejects=True) if not isinstance(o, Record)]
        assert rejects
        for reject in rejects:
            assert chem.check(reject.mol).reason == reject.reason

    def test_no_more_attempts_than_allowed(self, small, monkeypatch):
        monkeypatch.setattr(chem, "check", lambda mol: chem.Verdict(None, "valence"))
        outcomes = list(small.outcomes(Request(3, sampler=FAST, max_attempts=37)))
        assert [o.index for o in outcomes] == list(range(37))
        assert Request(3).attempts == 130

    @pytest.mark.parametrize("heavy", [(1, 1), (2, 2), (1, 2)])
    def test_sizes_stay_in_range(self, small, heavy):
        outcomes = small.generate(20, steps=6, heavy_atoms=heavy, rejects=True)
        kept = [o.heavy_atoms for o in outcomes if isinstance(o, Record)]
        assert set(kept) <= set(range(heavy[0], heavy[1] + 1))
        assert kept

    def test_one_number_is_a_range(self, small):
        assert {r.heavy_atoms for r in small.generate(3, steps=6, heavy_atoms=1)} == {1}

    def test_targets_reach_the_network(self, info):
        """A network whose output depends on the conditions gives other molecules for other targets, and counts twice."""
        torch.manual_seed(0)
        model = Model(Config(network=preset("qm9-tiny").network), info).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        asked = [(), (Target("gap", 3.0, 3.0),), (Target("gap", 9.0, 9.0),)]
        requests = [Request(4, sampler=Sampler(steps=3), targets=targets) for targets in asked]
        found = [sample_attempts(model, request, range(4))[0].pos for request in requests]
        assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
        assert [request.evaluations for request in requests] == [3, 6, 6]
        assert replace(requests[1], guidance=1.0).evaluations == 3

    def test_every_attempt_aims_within_the_range(self, info):
        request = Request(9, seed=3, targets=(Target("MU", 2.0, 4.0), Target("gap", 5.0, 5.0)))
        values, _ = attempts.draw_request(info, request, KeyedRandomness(3, range(9)))
        gap, mu = values.T
        assert set(gap) == {5.0} and len(set(mu)) == 9 and min(mu) > 2 and max(mu) < 4
        one, _ = attempts.draw_request(info, request, KeyedRandomness(3, [4]))
        assert one[0].tolist() == values[4].tolist()

    def test_sizes_of_molecules_are_those_drawn(self, full_size):
        random = KeyedRandomness(5, range(12))
        expected = SizeDraw(full_size.data)(random.spread()).atoms.tolist()
        molecules, _ = sample_attempts(full_size, Request(12, seed=5, sampler=Sampler(steps=2)), range(12))
        assert molecules.size.tolist() == expected
        assert len(set(expected)) > 5


class TestFormula:
    @pytest.mark.parametrize(
        ("formula", "smiles"), [("CH4", "C"), ("H2O", "O"), ("NH3", "N"), ("CH2O", "C=O"), ("HCOH", "C=O")]
    )
    def test_every_molecule_has_it(self, small, formula, smiles):
        """The model knows one molecule of each; without a formula it makes several of them."""
        outcomes = list(small.generate(2, steps=6, formula=formula, max_attempts=500, rejects=True))
        assert [o.smiles for o in outcomes if isinstance(o, Record)] == [smiles] * 2
        reasons = {o.reason for o in outcomes if not isinstance(o, Record)}
        assert reasons <= {"formula", "valence", "radical", "coordinates", "disconnected", "sanitisation"}
        assert len({o.smiles for o in small.generate(12, steps=6)}) > 1

    def test_the_others_are_counted_apart(self, small, monkeypatch):
        monkeypatch.setattr("moldiff.samplers.KEPT_FROM", math.inf)  # so that there are some
        request = Request(4, sampler=Sampler(steps=6), formula="CH2O", unique=True, max_attempts=256)
        tally, others = Tally(), []
        for outcome in small.outcomes(request):
            tally.add(outcome)
            others += [outcome.mol] if getattr(outcome, "reason", "") == "formula" else []
        funnel = tally.funnel(request)
        assert list(funnel) == ["sampled", "connected", "sanitised", "of asked formula", "unique", "kept"]
        assert funnel["sanitised"] - funnel["of asked formula"] == tally.rejected["formula"] == len(others) > 5
        assert (funnel["sampled"], funnel["unique"], funnel["kept"]) == (256, 1, 1)
        for mol in others:
            assert chem.check(mol).reason is None, "what is no molecule at all is rejected as such"
            assert CalcMolFormula(mol) != "CH2O" and mol.GetNumAtoms() == 4
        assert "of asked formula" not in tally.funnel(replace(request, formula=None))


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n": 0}, "-n 0: ask for at least one"),
            ({"n": -3}, "-n -3"),
            ({"seed": -1}, "--seed -1: must be between"),
            ({"seed": 2**63}, "--seed 9223372036854775808"),
            ({"sampler": Sampler(steps=1)}, "--steps 1: at least 2"),
            ({"max_attempts": 2}, "--max-attempts 2: fewer than the 3"),
            ({"time_limit": 0.0}, "--time-limit 0.0: must be positive"),
            ({"time_limit": math.nan}, "--time-limit nan: must be positive"),
            ({"heavy_atoms": (2, 3)}, "--n-atoms 2-3: model four molecules knows molecules of 1 to 2 heavy atoms"),
            ({"guidance": 0.0}, "--guidance 0: must be above 0"),
            ({"guidance": math.inf}, "--guidance inf: must be"),
            ({"targets": {"gap": 5.0}}, "--target gap: the model was not trained with it; it knows none"),
            ({"heavy_atoms": (0, 1)}, "--n-atoms 0-1"),
            ({"heavy_atoms": (2, 1)}, "--n-atoms 2-1: the range is reversed; write 1-2"),
            ({"formula": "CH5"}, "--formula CH5: an odd number of valences"),
            ({"formula": ""}, "--formula : write elements"),
            ({"formula": "CH3F"}, "--formula CH3F: F, and model four molecules knows H C N O"),
            ({"formula": "C2H6O"}, "--formula C2H6O: 3 heavy atoms, model four molecules knows 1 to 2"),
            ({"formula": "C2H6"}, "--formula C2H6: 8 atoms, model four molecules knows 3 to 5"),
            ({"formula": "CH4", "heavy_atoms": 1}, "--formula CH4: it is --n-atoms that gives the size"),
            ({"fix": "a.sdf"}, "fix='a.sdf': must be an RDKit molecule"),
            ({"guidance": "2"}, "guidance='2': must be a number"),
            ({"diverse": 5}, "diverse: no option of generate"),
            ({"screen": Screen(drug=True)}, "screen: no option of generate"),
            ({"sampler": Sampler(20), "quality": "fast"}, "sampler: says how many steps there are"),
        ],
        ids=str,
    )
    def test_requests(self, small, options, message):
        with pytest.raises(RequestError, match=re.escape(message)):
            small.generate(**{"n": 3, **options})

    @pytest.mark.parametrize(
        ("given", "message"),
        [({"attach": [1.5]}, "attach: 1.5: must be a whole number"),
         ({"targets": {3: 4}}, "targets: 3: must be the name of a property"),
         ({"pharmacophore": ["x"]}, "pharmacophore: 'x': must be an RDKit molecule")],
    )  # fmt: skip
    def test_members(self, given, message):
        with pytest.raises(RequestError, match=re.escape(message)):
            check_kinds(**given)
        check_kinds(attach=np.array([1, 2]), targets={"gap": 5.0}, pharmacophore=Chem.MolFromSmiles("C"))

    def test_a_property_by_any_spelling_is_the_same_request(self, info):
        draft = Request(1, targets=(Target("GAP", 5.0, 6.0),))
        assert with_molecules(draft, info, Wishes(), Overlay())[0].targets == (Target("gap", 5.0, 6.0),)

    def test_none_is_the_default(self, small):
        none = dict.fromkeys(("sampler", "unique", "guidance", "max_attempts", "time_limit"))
        found = [[r.id for r in small.generate(2, steps=4, **options)] for options in ({}, none)]
        assert found[0] == found[1]

    def test_gaps_in_the_training_sizes(self, full_size, monkeypatch):
        monkeypatch.setattr(
            full_size, "data", with_compositions(full_size.data, [(2, 0, 0, 1, 0, 1), (11, 9, 0, 0, 0, 1)])
        )
        with pytest.raises(RequestError, match="--n-atoms 5: no training molecule has that many"):
            Request(1, heavy_atoms=(5, 5)).check(full_size)

    def test_models(self, tmp_path):
        with pytest.raises(RequestError, match="--model qm8: neither a file nor a shipped model"):
            load("qm8")
        with pytest.raises(RequestError, match="neither a file"):
            load(tmp_path)

    @pytest.mark.parametrize("device", ["tpu", "cuda:x", "cpu:", ""])
    def test_unknown_devices(self, device):
        with pytest.raises(RequestError, match=f"--device {device}: choose"):
            choose_device(device)

    def test_absent_devices(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        assert choose_device("auto") == choose_device("cpu") == "cpu"
        for device in ("cuda", "mps"):
            with pytest.raises(RequestError, match=f"--device {device}: not on this machine"):
                choose_device(device)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert choose_device("auto") == "cuda"
        assert choose_device("cuda:1") == "cuda:1"
        with pytest.raises(RequestError, match="--device cuda:2: this machine has 2 GPUs"):
            choose_device("cuda:2")


def test_the_golden_sample_is_found_again(trained, monkeypatch):
    small = load(trained, "cpu")
    monkeypatch.setattr(doctor, "shipped_models", lambda: {"four": trained, "qm9": trained})
    monkeypatch.setattr(doctor, "load", lambda *_: small)
    small.model.info["golden"] = doctor.golden_sample(small)
    assert [(name, good) for name, good, _ in doctor.diagnose("cpu")] == [
        ("versions", True), ("device", True), ("weights", True), ("weights qm9-properties", True),
        ("weights qm9-hydrogens", True), ("weights qm9-fast", True), ("weights four", True), ("golden sample four", True),
    ]  # fmt: skip
    small.model.info["golden"] = ["C1CC1"] * len(small.model.info["golden"])
    assert [good for *_, good, _ in doctor.diagnose("cpu")][-1] is False


class TestCompiled:
    @pytest.fixture
    def compiled(self, monkeypatch) -> list:
        """What torch was asked to compile; the compiler itself takes minutes."""
        asked = []

        def compiler(function, **options):
            asked.append(function)
            return function

        monkeypatch.setattr(torch, "compile", compiler)
        return asked

    def test_its_layers_are_and_the_molecules_have_other_ids(self, small, trained, compiled):
        other = load(trained, "cpu", compile=True)
        layers = [function.__self__ for function in compiled if hasattr(function, "__self__")]
        assert layers == list(other.model.network.blocks)
        pairs = list(zip(small.generate(3, sampler=FAST), other.generate(3, sampler=FAST), strict=True))
        for plain, of_compiled in pairs:
            assert plain.smiles == of_compiled.smiles  # nothing was really compiled here
            assert plain.id != of_compiled.id and plain.index == of_compiled.index
        assert small.key(Request(1)) != other.key(Request(1))

    def test_what_is_drawn_and_told_belongs_to_the_ids(self, small, trained):
        """Weights of equal tensors that draw tokens or sizes otherwise make other molecules."""
        config, data = small.model.config, small.model.data
        colder = replace(config, process=replace(config.process, temperature=0.3))
        telling = replace(config, quality=replace(config.quality, told_composition=True))
        fewer = replace(data, compositions=data.compositions[:1])
        others = [Model(*of) for of in ((colder, data), (telling, data), (config, fewer))]
        for other in others:
            other.network.load_state_dict(small.model.network.state_dict())
        generators = [small, *(Generator(other, small.name, trained) for other in others)]
        assert len({g.hash for g in generators}) == 1
        assert len({g.key(Request(1)) for g in generators}) == 4

    def test_workers_compile_what_they_load(self, trained, compiled):
        generation._prepare_worker(str(trained), "cpu", True, None)
        assert compiled
        compiled.clear()
        generation._prepare_worker(str(trained), "cpu", False, None)
        assert not compiled

    def test_a_worker_that_is_ended_leaves_no_semaphore(self, trained, compiled, monkeypatch):
        """As the lock of tqdm would be, by which torch shows its progress; the resource tracker complains of it."""
        tqdm = pytest.importorskip("tqdm").tqdm
        monkeypatch.delattr(tqdm, "_lock", raising=False)
        generation._prepare_worker(str(trained), "cpu", True, None)
        assert isinstance(tqdm.get_lock(), type(RLock()))

    def test_without_a_compiler_one_line_says_so(self, trained, monkeypatch):
        def compiler(function, **options):
            raise RuntimeError("no g++\nand a long trace")

        monkeypatch.setattr(torch, "compile", compiler)
        with pytest.raises(RequestError, match=r"--compile: .* \(no g\+\+\); install a C\+\+ compiler .*leave it out"):
            load(trained, "cpu", compile=True)


class TestJudgedByValues:
    """Where values are asked for, attempts that turn out to be far from them, by RDKit or as predicted, are made again."""

    @pytest.mark.parametrize(("low", "high"), [(7.0, 7.0), (6.5, 7.0)])
    def test_the_nearest_of_three_tries(self, low, high):
        qm9 = load("qm9", "cpu")
        options = {"targets": {"gap": (low, high)}, "steps": 8, "guidance": 1.0, "seed": 1}
        std = next(p.std for p in qm9.model.data.properties if p.name == "gap")

        def missed(record: Record) -> float:
            found = record.scores["predicted_gap"]
            return max(low - found, found - high, 0) / (NEAR * std)

        found = list(qm9.generate(12, **options))
        assert {1, 3} <= {r.tries for r in found}
        assert all(missed(record) <= 1 for record in found if record.tries < 3)
        quality = replace(qm9.model.config.quality, tries=1)
        qm9.model.config = replace(qm9.model.config, quality=quality)
        once = list(qm9.generate(12, **options))
        assert all(a.smiles == b.smiles for a, b in zip(found, once, strict=True) if a.tries == 1)
        assert sum(map(missed, found)) < 0.8 * sum(map(missed, once))

    def test_exact_values_need_no_predictor(self):
        leads = load("leads", "cpu")
        logp = Request(1, targets=(Target("logp", 2.0, 2.0), Target("rings", 2.0, 2.0)))
        assert leads.measure(Request(1)) is leads.measure(replace(logp, targets=logp.targets[1:])) is None
        record = next(leads.generate(1, steps=4, seed=3))
        bare = chem.from_rdkit([chem.without_hydrogens(record.mol)], leads.model.data.vocabulary)
        found = dict(zip([p.name for p in leads.model.data.properties], leads.measure(logp)(bare)[0], strict=True))
        assert found.pop("logp") == pytest.approx(Crippen.MolLogP(record.mol), abs=1e-4)
        assert np.isnan(list(found.values())).all()

    def test_what_is_no_sound_molecule_is_not_predicted(self, monkeypatch):
        qm9 = load("qm9", "cpu")
        whole = next(qm9.generate(1, steps=8, seed=1)).mol
        torn = Chem.Mol(whole)
        torn.GetConformer().SetPositions(3 * torn.GetConformer().GetPositions())
        loose = Chem.CombineMols(whole, whole)
        monkeypatch.setattr(qm9, "to_rdkit", lambda _: [whole, torn, loose])
        blank = Molecules.collate([chem.from_rdkit([chem.without_hydrogens(whole)], qm9.model.data.vocabulary)] * 3)
        judge = qm9.measure(Request(1, targets=(Target("gap", 7.0, 7.0),)))
        assert np.isnan(judge(blank)).all(1).tolist() == [False, True, True]


class TestPupil:
    """Weights that were taught to do with few evaluations make what they can, under their own name, and nothing else."""

    @pytest.fixture
    def taught(self, small, tmp_path, monkeypatch) -> Generator:
        """``small``, with its own weights, a little changed, as its pupil."""
        pupil = Model.load(small.path)
        pupil.info = {"started_from": {"sha256": small.hash}, "until": 0.2}
        pupil.network.to_atom.bias += 0.01
        figures = {
            small.hash: [{"evaluations": 30, "fcd": 3.0}, {"evaluations": 50, "fcd": 2.0}],
            pupil.sha256: [{"evaluations": 30, "fcd": 1.0}],
        }
        monkeypatch.setattr(generation, "measured", figures.__getitem__)
        pupil.save(tmp_path / "quick.safetensors")
        monkeypatch.setattr(generation, "shipped_helpers", lambda folder: [tmp_path / "quick.safetensors"])
        monkeypatch.setattr(relay, "shipped_models", lambda: {"four": small.path})
        return small

    def names(self, outcomes) -> set[str]:
        return {o.id.split("-")[0] for o in outcomes}

    def test_it_makes_fast_molecules_of_any_size(self, taught):
        assert self.names(taught.generate(4, quality="fast")) == {"quick"}
        assert self.names(taught.generate(2, quality="fast", heavy_atoms=1)) == {"quick"}
        assert taught.maker(Request(1, sampler=choose_sampler(taught.model.config, "fast", None))).hash != taught.hash

    def test_its_teacher_makes_the_rest(self, taught):
        plain = Request(4, sampler=choose_sampler(taught.model.config, "fast", None))
        others = [
            replace(plain, sampler=choose_sampler(taught.model.config, "best", None)),
            replace(plain, formula="CH4"),
            replace(plain, targets=(Target("gap", 1.0, 2.0),)),
            replace(plain, guides=(lambda x0, noisy, level: x0,)),
        ]
        assert taught.maker(plain) is taught.pupil
        assert all(taught.maker(request) is taught for request in others)
        assert self.names(taught.generate(2, quality="fast", formula="CH4")) == {"four"}

    def test_its_estimates_end_where_its_teacher_goes_on(self, taught, random_molecules):
        molecules = random_molecules([4, 4])
        molecules = molecules.replace(atom=molecules.atom.clamp(max=3))
        own, theirs = (Model.load(g.path) for g in (taught.pupil, taught))
        for sigma, expected in ((1.0, own), (0.21, own), (0.19, theirs), (0.02, theirs)):
            level = NoiseLevel.free(molecules, torch.full((2,), sigma))
            found, right = (model.denoise(molecules, level) for model in (taught.pupil.model, expected))
            assert torch.equal(found.atom_logits, right.atom_logits) and torch.equal(found.pos, right.pos)
        assert not torch.equal(*(model.denoise(molecules, level).atom_logits for model in (own, theirs)))

    def test_a_pupil_without_its_teacher_is_refused(self, taught, monkeypatch):
        path = taught.pupil.path
        monkeypatch.setattr(relay, "shipped_models", dict)
        with pytest.raises(ModelFileError, match=f"goes with weights {taught.hash[:16]}, which do not ship"):
            load(path)

    def test_what_is_told_of_it(self, taught):
        facts = taught.facts()
        assert facts["fast by"] == f"quick ({taught.pupil.hash[:16]}), one try"
        assert [(row["evaluations"], row["fcd"]) for row in facts["measured"]] == [(30, 1.0), (50, 2.0)]

    def test_other_weights_have_no_pupil(self, taught):
        changed = Model.load(taught.path)
        changed.network.to_atom.bias += 1
        assert Generator(changed, "other", taught.path).pupil is None
