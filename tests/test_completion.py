"""What is known stays, and no attempt depends on what else is sampled."""

from dataclasses import replace
from itertools import count

import pytest
import torch

from moldiff import completion, generation
from moldiff.completion import (
    BONDS,
    CONFORMER,
    MAX_ATTEMPTS,
    complete,
    element_token,
    in_windows,
    key_of,
    name_of,
    same_element,
)
from moldiff.errors import RequestError
from moldiff.generation import PER_WORKER
from moldiff.model import Model
from moldiff.requests import Request
from moldiff.samplers import Sampler

FIELDS = ("mask", "pos", "atom", "bond")
SAMPLER = Sampler(4)


@pytest.fixture(scope="module")
def model(trained):
    return Model.load(trained)


@pytest.fixture
def generator(trained):
    return generation.load(trained, "cpu")


@pytest.fixture
def singles(random_molecules):
    """Nine molecules of three sizes with tokens H, C, N, O."""
    found = random_molecules([3, 5, 4, 5, 3, 3, 5, 4, 5]).split()
    return [m.replace(atom=m.atom.clamp(max=3)) for m in found]


def equal(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


@pytest.mark.parametrize("free", [CONFORMER, BONDS])
def test_an_attempt_does_not_depend_on_the_others(model, singles, free):
    keys = [(k, k % 2) for k in range(len(singles))]
    together = complete(model, singles, keys, free, SAMPLER, 3)
    alone = [complete(model, [m], [key], free, SAMPLER, 3)[0] for m, key in zip(singles, keys, strict=True)]
    assert all(map(equal, together, alone))


@pytest.mark.parametrize(("free", "kept"), [(CONFORMER, ("mask", "atom", "bond")), (BONDS, ("mask", "pos"))])
def test_what_is_known_comes_back_as_given(model, singles, free, kept):
    made = complete(model, singles, [(1, k) for k in range(9)], free, SAMPLER, 0)
    for given, found in zip(singles, made, strict=True):
        assert all(torch.equal(getattr(given, name), getattr(found, name)) for name in kept)
        assert not any(
            torch.equal(getattr(given, name), getattr(found, name)) for name in ("pos", "bond") if name in free
        )


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_batches_that_do_not_fit_the_memory_are_halved(model, singles, monkeypatch, error):
    asked = (model, singles, [(1, k) for k in range(9)], CONFORMER, SAMPLER, 3)
    straight, sizes, whole = complete(*asked), [], completion._one_size

    def limited(model, template, free, sampler, random, tick):
        sizes.append(len(template))
        if len(template) > 2:
            random.normal()  # numbers drawn before the memory ran out are drawn again
            raise error
        return whole(model, template, free, sampler, random, tick)

    monkeypatch.setattr(completion, "_one_size", limited)
    assert all(map(equal, complete(*asked), straight))
    assert sizes == [3, 1, 1, 1, 1, 1, 1, 1, 1, 1]  # what a size has shown is not tried again with a larger one


def test_want_of_memory_for_one_molecule(model, singles, monkeypatch):
    def never(*_):
        raise MemoryError

    monkeypatch.setattr(completion, "_one_size", never)
    with pytest.raises(RequestError, match="not enough memory for one molecule of 3 atoms"):
        complete(model, singles, [(1, k) for k in range(9)], CONFORMER, SAMPLER, 3)


@pytest.mark.parametrize("other", [dict(seed=1), dict(keys=[(2, 0)]), dict(keys=[(1, 1)])])
def test_seed_molecule_and_attempt_decide(model, singles, other):
    asked = {"keys": [(1, 0)], "seed": 0}
    one, another = (
        complete(model, singles[:1], a["keys"], CONFORMER, SAMPLER, a["seed"])[0] for a in (asked, asked | other)
    )
    assert not torch.equal(one.pos, another.pos)


@pytest.mark.parametrize("free", [CONFORMER, BONDS])
def test_heavy_atoms_and_the_composition_are_told(model, singles, monkeypatch, free):
    told, denoise = [], Model.denoise

    def spy(self, noisy, level, conditions, *rest):
        told.append((noisy, conditions))
        return denoise(self, noisy, level, conditions, *rest)

    monkeypatch.setattr(Model, "denoise", spy)
    complete(model, singles, [(1, k) for k in range(9)], free, SAMPLER, 0)
    assert told
    for noisy, conditions in told:
        assert torch.equal(conditions.composition.sum(1), noisy.size)
        assert torch.equal(conditions.heavy, conditions.composition[:, 1:].sum(1))  # of H, C, N, O
        if "atom" not in free:
            assert torch.equal(conditions.composition, of_atoms(model, noisy))
    expected = {tuple(row) for m in singles for row in of_atoms(model, m).tolist()}
    assert {tuple(row) for _, conditions in told for row in conditions.composition.tolist()} == expected


def of_atoms(model, molecules):
    return model.told_atoms(model.nothing_asked(len(molecules)), molecules).composition


def test_keys_differ():
    assert key_of(1, MAX_ATTEMPTS - 1) < key_of(2, 0) < 2**63
    assert len({key_of(k, a) for k in range(9) for a in range(9)}) == 81


def test_atoms_keep_their_element(info):
    allowed = same_element(replace(info, vocabulary=("H", "C", "N", "N+", "O-")), torch.tensor([[0, 2, 3, 4]]))
    assert allowed.int().tolist() == [[[1, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]]


def test_every_step_is_told(model, singles):
    told = []
    complete(model, singles, [(1, k) for k in range(9)], BONDS, SAMPLER, 0, told.append)
    assert sum(told) == pytest.approx(9)


class TestWindows:
    REQUEST = Request(1, 0, SAMPLER)

    def test_are_made_in_order_as_they_are_asked_for(self, generator):
        made, told = [], []

        def window(generator, request, sources, tick):
            made.append("".join(sources))
            tick(len(sources))
            return [source.upper() for source in sources]

        found = in_windows(window, generator, self.REQUEST, "abcde", 2, 1, told.append)
        assert next(found) == "A" and made == ["ab"]
        assert list(found) == ["B", "C", "D", "E"] and made == ["ab", "cd", "e"]
        assert sum(told) == 5

    @pytest.mark.parametrize("workers", [0, -1])
    def test_of_workers_there_is_a_whole_number(self, generator, workers):
        with pytest.raises(RequestError, match=f"workers {workers}: must be a whole number above 0"):
            in_windows(lambda g, r, sources, tick: sources, generator, self.REQUEST, "a", 1, workers, print)

    def test_a_stream_is_read_no_further_than_to_see_what_workers_pay(self, generator, monkeypatch):
        monkeypatch.setattr(generation.os, "sched_getaffinity", lambda pid: {0}, raising=False)
        endless = count()
        found = in_windows(lambda g, r, sources, tick: sources, generator, self.REQUEST, endless, 3, None, print)
        assert [next(found) for _ in range(4)] == [0, 1, 2, 3]
        assert next(endless) <= PER_WORKER + 6


def test_a_molecule_is_called_by_its_number_and_title():
    assert (name_of(3, ""), name_of(3, "water")) == ("molecule 3", "molecule 3 (water)")


def test_elements_of_a_model(info):
    assert [element_token(info, symbol) for symbol in ("H", "O", "N", "S")] == [0, 3, 2, None]
