"""What is drawn before molecules are made: compositions as in the training data, by what is asked for and known."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import with_compositions

from moldiff import attempts
from moldiff.attempts import (
    Request,
    SameSize,
    SizeDraw,
    Sizes,
    choose_sampler,
    draw_examples,
    draw_request,
    sample_attempts,
    sample_sizes,
)
from moldiff.conditions import Target, properties_by_composition
from moldiff.config import Config, QualityConfig, preset
from moldiff.errors import RequestError
from moldiff.known import Known
from moldiff.model import Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules
from moldiff.samplers import KeyedRandomness, Sampler

UNIFORM = (np.arange(3000) + 0.5) / 3000
# Three heavy atoms and four hydrogens, five atoms in all, and ten: H C N O and molecules.
ROWS = ((4, 2, 1, 0, 2), (4, 2, 0, 1, 1), (4, 1, 1, 1, 3), (3, 2, 0, 0, 5), (6, 4, 0, 0, 4))
LARGE, SMALL = 7, 5


@pytest.fixture
def data(info) -> DataInfo:
    return with_compositions(info, ROWS)


def with_gaps(data: DataInfo, means: list[float], stds: list[float]) -> DataInfo:
    """The gap depends on the composition, the other property does not."""
    rows = tuple(((mean, 3.0), (std, 2.0)) for mean, std in zip(means, stds, strict=True))
    return replace(data, property_by_composition=rows)


def drawn(sizes: Sizes) -> Counter:
    """How often each composition, of H and then others, is; their atoms are the size, those behind H the heavy ones."""
    assert (sizes.atoms == sizes.composition.sum(1)).all()
    assert (sizes.heavy == sizes.composition[:, 1:].sum(1)).all()
    return Counter(map(tuple, sizes.composition.tolist()))


def asked(gap: float) -> np.ndarray:
    return np.tile([gap, np.nan], (len(UNIFORM), 1))


@pytest.fixture
def part() -> Callable[..., Known]:
    """A part of these tokens that is known altogether."""

    def make(*tokens: int, grows: bool = True) -> Known:
        n = len(tokens)
        known = torch.ones(n, dtype=torch.bool)
        bond = torch.zeros(1, n, n, dtype=torch.long)
        molecule = Molecules(known[None], torch.randn(1, n, 3), torch.tensor([tokens]), bond)
        return Known(molecule, known, known, known[:, None] & known, ~known, grows)

    return make


class TestTrainingData:
    def test_compositions_are_drawn_in_proportion_to_their_counts(self, info, data):
        assert drawn(SizeDraw(info, None)(UNIFORM)) == {(4, 2, 1, 0): 2000, (5, 3, 0, 1): 1000}
        assert drawn(SizeDraw(data, None)(UNIFORM)) == {row[:-1]: 200 * row[-1] for row in ROWS}

    def test_a_range_of_heavy_atoms(self, info, data):
        assert drawn(SizeDraw(info, (4, 4))(UNIFORM)) == {(5, 3, 0, 1): 3000}
        assert drawn(SizeDraw(data, (3, 4))(UNIFORM)) == {row[:-1]: 300 * row[-1] for row in (*ROWS[:3], ROWS[4])}

    def test_no_number_is_outside(self, info):
        assert SizeDraw(info, None)(np.array([0.0, 1 - 1e-16])).atoms.tolist() == [7, 9]

    def test_where_atoms_are_given_only_elements_are_drawn(self, data):
        atoms = np.tile([LARGE, SMALL, LARGE], 1000)
        sizes = SizeDraw(data, None)(UNIFORM, atoms=atoms)
        assert (sizes.atoms == atoms).all()
        assert drawn(sizes.select(np.flatnonzero(atoms == SMALL))) == {(3, 2, 0, 0): 1000}
        found = drawn(sizes.select(np.flatnonzero(atoms == LARGE)))
        assert found == {row[:-1]: pytest.approx(2000 * row[-1] / 6, abs=2) for row in ROWS[:3]}

    def test_of_a_number_of_atoms_that_no_composition_has_nothing_is_known(self, data):
        sizes = SizeDraw(data, None)(UNIFORM[:3], atoms=np.array([LARGE, 6, SMALL]))
        assert sizes.atoms.tolist() == [LARGE, 6, SMALL] and sizes.heavy.tolist() == [3, 0, 2]
        assert (sizes.composition.sum(1) == [LARGE, 0, SMALL]).all()

    def test_rows_are_selected_together(self):
        sizes = Sizes(np.array([7, 5, 10]), np.array([3, 2, 4]), np.array([[4, 3], [3, 2], [6, 4]])).select([2, 0])
        assert len(sizes) == 2 and sizes.atoms.tolist() == [10, 7] and sizes.heavy.tolist() == [4, 3]
        assert sizes.composition.tolist() == [[6, 4], [4, 3]]

    def test_where_hydrogens_are_implicit_every_atom_is_heavy(self, info):
        bare = with_compositions(replace(info, vocabulary=("C", "N", "O"), hydrogens="implicit"), [(6, 3, 0, 1, 2)])
        drawn = SizeDraw(bare, None)(UNIFORM[:2])
        assert (
            drawn.heavy.tolist() == drawn.atoms.tolist() == [4, 4] and drawn.composition.tolist() == [[6, 3, 0, 1]] * 2
        )
        assert SizeDraw(bare, None)(UNIFORM[:2], atoms=np.array([4, 10])).composition.any(1).tolist() == [True, False]

    def test_pieces_change_nothing(self, data, monkeypatch):
        values, atoms = asked(6.0), np.tile([LARGE, SMALL, 10], 1000)
        values[::2] = np.nan
        whole = SizeDraw(data, None)(UNIFORM, values, atoms)
        monkeypatch.setattr(attempts, "DRAWN", 7)
        assert (SizeDraw(data, None)(UNIFORM, values, atoms).composition == whole.composition).all()

    def test_no_attempt_depends_on_the_others(self, data):
        request = Request(9, targets=(Target("gap", 5.0, 8.0),))
        values, sizes = draw_request(data, request, KeyedRandomness(0, range(9)))
        value, size = draw_request(data, request, KeyedRandomness(0, [6]))
        assert (value[0, 0], size.atoms[0]) == (values[6, 0], sizes.atoms[6])
        assert (size.composition[0] == sizes.composition[6]).all()


class TestExamples:
    """Properties of training molecules, told with their composition."""

    @pytest.fixture
    def told(self, data) -> DataInfo:
        return replace(data, examples=((0, 5.0, 1.0), (0, 6.0, None), (3, 7.0, 2.0)))

    def test_those_of_the_composition_are_drawn_alike(self, told):
        rows = np.array([ROWS[0][:-1], ROWS[0][:-1], ROWS[3][:-1], ROWS[4][:-1], (0,) * 4])
        found = draw_examples(told, rows, np.array([0.0, 0.5, 1 - 1e-16, 0.3, 0.3]))
        assert np.array_equal(found, [[5, 1], [6, np.nan], [7, 2], [np.nan] * 2, [np.nan] * 2], equal_nan=True)

    def test_none_are_drawn_where_weights_hold_none(self, data):
        _, sizes = draw_request(data, Request(3), KeyedRandomness(0, range(3)))
        assert sizes.properties.shape == (3, 2) and np.isnan(sizes.properties).all()

    def test_all_is_drawn_of_each_attempt_alone(self, told):
        _, sizes = draw_request(told, Request(9), KeyedRandomness(0, range(9)))
        _, one = draw_request(told, Request(9), KeyedRandomness(0, [6]))
        assert np.array_equal(one.properties, sizes.select([6]).properties, equal_nan=True)
        assert {tuple(row) for row in sizes.composition[~np.isnan(sizes.properties[:, 0])]} <= {
            ROWS[0][:-1],
            ROWS[3][:-1],
        }


class TestValues:
    def test_the_nearest_mean_wins(self, data):
        """Among molecules of one size, too; each attempt has values of its own, and without any counts alone matter."""
        draw = SizeDraw(with_gaps(data, [2.0, 4.0, 6.0, 8.0, 9.0], [0.1] * 5), None)
        for gap, row in [(2.9, 0), (3.1, 1), (4.9, 1), (5.1, 2), (-3.0, 0), (99.0, 4)]:
            assert drawn(draw(UNIFORM, asked(gap))) == {ROWS[row][:-1]: 3000}
        mixed = np.where(np.arange(3000)[:, None] % 3 == 0, asked(3.9), np.nan)
        sizes = draw(UNIFORM, mixed)
        assert drawn(sizes.select(np.arange(0, 3000, 3))) == {ROWS[1][:-1]: 1000}
        rest = drawn(sizes.select(np.flatnonzero(np.arange(3000) % 3)))
        assert rest == {row[:-1]: pytest.approx(2000 * row[-1] / 15, abs=2) for row in ROWS}

    def test_odds_are_those_of_normal_distributions(self, info):
        """The gap is near 2 in molecules of seven atoms, near 6 in those of nine, which are half as frequent."""
        draw = SizeDraw(with_gaps(info, [2.0, 6.0], [1.0, 1.0]), None)
        assert Counter(draw(UNIFORM, asked(4.0)).atoms.tolist()) == {7: 2000, 9: 1000}  # as near to both
        odds = Counter(draw(UNIFORM, asked(5.0)).atoms.tolist())
        assert odds[9] / odds[7] == pytest.approx(0.5 * math.exp((3**2 - 1**2) / 2), rel=0.05)
        wide = SizeDraw(with_gaps(info, [5.0, 5.0], [1.0, 4.0]), None)  # where the narrow one is four times as high
        odds = Counter(wide(UNIFORM, asked(5.0)).atoms.tolist())
        assert odds[9] / odds[7] == pytest.approx(0.5 / 4, rel=0.01)

    def test_where_all_have_the_same_properties_counts_alone_matter(self, info):
        assert Counter(SizeDraw(info, None)(UNIFORM, asked(5.0)).atoms.tolist()) == {7: 2000, 9: 1000}

    def test_the_range_comes_first(self, data):
        """Means are those of the rows that are left."""
        draw = SizeDraw(with_gaps(data, [2.0, 4.0, 6.0, 8.0, 9.0], [0.1] * 5), (2, 2))
        assert drawn(draw(UNIFORM, asked(2.0))) == {(3, 2, 0, 0): 3000}
        draw = SizeDraw(with_gaps(data, [2.0, 4.0, 6.0, 8.0, 9.0], [0.1] * 5), (4, 4))
        assert drawn(draw(UNIFORM, asked(2.0))) == {(6, 4, 0, 0): 3000}
        table = with_gaps(with_compositions(data, ROWS[::-1]), [9.0, 8.0, 6.0, 4.0, 2.0], [0.1] * 5)
        assert drawn(SizeDraw(table, (3, 3))(UNIFORM, asked(8.0))) == {(4, 1, 1, 1): 3000}

    def test_what_follows_from_the_composition_is_met(self, data):
        """As a mass does: all molecules of a composition have the same."""
        compositions = np.array(ROWS)[:, :-1]
        of = np.repeat(compositions, [row[-1] for row in ROWS], axis=0)
        mass = lambda rows: rows @ [1.0, 12.0, 14.0, 16.0]  # noqa: E731
        values = np.stack([mass(of), np.arange(len(of))], 1)
        found = properties_by_composition(values, of, compositions)
        rows = tuple((tuple(mean), tuple(std)) for mean, std in found)
        draw = SizeDraw(replace(data, property_by_composition=rows), None)
        for row in compositions:
            assert drawn(draw(UNIFORM, asked(float(mass(row))))) == {tuple(row.tolist()): 3000}


class TestKnownPart:
    def test_only_compositions_that_hold_its_elements(self, data, part):
        """Tokens are H C N O N+; of a size, odds are those of the counts."""
        assert drawn(SizeDraw(data, (3, 3), part(1, 3))(UNIFORM)) == {(4, 2, 0, 1): 750, (4, 1, 1, 1): 2250}
        assert drawn(SizeDraw(data, None, part(4, 3))(UNIFORM)) == {(4, 1, 1, 1): 3000}  # a charge does not matter
        assert set(drawn(SizeDraw(data, None, part(1))(UNIFORM))) == {row[:-1] for row in ROWS}
        assert set(drawn(SizeDraw(data, None, part(2))(UNIFORM))) == {ROWS[0][:-1], ROWS[2][:-1]}

    def test_there_is_a_heavy_atom_more_and_room_for_its_hydrogens(self, data, part):
        assert set(drawn(SizeDraw(data, None, part(1, 1))(UNIFORM))) == {(4, 2, 1, 0), (4, 2, 0, 1), (6, 4, 0, 0)}
        assert set(drawn(SizeDraw(data, None, part(1, 0, 0, 0, 0, 0))(UNIFORM))) == {(6, 4, 0, 0)}
        with pytest.raises(RequestError, match=r"the known part has 4 heavy atoms, .* at most 4: no room for more"):
            SizeDraw(data, None, part(1, 1, 1, 1))

    def test_values_count_among_those(self, data, part):
        draw = SizeDraw(with_gaps(data, [2.0, 4.0, 6.0, 8.0, 9.0], [0.1] * 5), None, part(1, 3))
        assert drawn(draw(UNIFORM, asked(9.0))) == {(4, 1, 1, 1): 3000}
        assert drawn(draw(UNIFORM, asked(2.0))) == {(4, 2, 0, 1): 3000}

    @pytest.mark.parametrize("tokens", [(3, 3), (2, 4), (2, 2, 1)], ids=["O2", "N2", "N2C"])
    def test_where_no_composition_holds_it_only_a_size_is_drawn(self, data, part, tokens):
        draw = SizeDraw(data, None, part(*tokens))
        sizes = draw(UNIFORM)
        assert not sizes.composition.any()
        larger = {(sum(row[:-1]), sum(row[1:-1])) for row in ROWS if sum(row[1:-1]) > len(tokens)}
        assert set(zip(sizes.atoms.tolist(), sizes.heavy.tolist(), strict=True)) == larger  # heavy atoms are known
        assert SMALL not in sizes.atoms
        four = SizeDraw(data, (4, 4), part(*tokens))(UNIFORM)
        assert (four.atoms == 10).all() and (four.heavy == 4).all() and not four.composition.any()

    def test_of_a_molecule_like_it_nothing_is_told(self, data, part):
        sizes = SizeDraw(data, None, part(1, 3, 0, 0, 0, grows=False))(UNIFORM, asked(5.0))
        assert (sizes.atoms == 5).all() and sizes.composition.shape == (3000, 4) and not sizes.composition.any()
        assert sizes.heavy.shape == (3000,) and not sizes.heavy.any()


class TestNetwork:
    @pytest.fixture
    def model(self, info) -> Model:
        """Random weights, none of them zero."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Model(Config(network=preset("qm9-tiny").network), info).eval().requires_grad_(False)
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        return model

    def test_heavy_atoms_and_the_composition_reach_it(self, model):
        """Isomers but for one element, heavy atoms alone, and nothing told."""
        found = []
        for heavy, row in [(3, (4, 2, 1, 0)), (3, (4, 2, 0, 1)), (3, (0,) * 4), (2, (0,) * 4), (0, (0,) * 4)]:
            sizes = Sizes(np.array([7]), np.array([heavy]), np.array([row]))
            request = Request(1, formula="C2H4O", sampler=Sampler(steps=2))
            found.append(sample_sizes(model, request, KeyedRandomness(0, [0]), sizes, None).pos)
        assert not any(torch.equal(one, other) for one, other in combinations(found, 2))

    def test_every_molecule_is_told_its_own(self, model, monkeypatch):
        """Isomers in a batch, which is filled up, as each alone; where no values are asked for, heavy atoms only."""
        model.data = with_compositions(model.data, ROWS)
        told, denoise = [], Model.denoise

        def spy(self, noisy, level, conditions, *rest):
            told.append((noisy.size, conditions.heavy, conditions.composition))
            return denoise(self, noisy, level, conditions, *rest)

        monkeypatch.setattr(Model, "denoise", spy)
        request = Request(12, seed=3, sampler=Sampler(steps=2), targets=(Target("gap", 5.0, 8.0),), guidance=1.0)
        _, sizes = draw_request(model.data, request, KeyedRandomness(3, range(12)))
        together = sample_attempts(model, request, range(12), batch_size=4).split()
        for size, heavy, composition in told:
            assert torch.equal(size, composition.sum(1)) and torch.equal(heavy, composition[:, 1:].sum(1))
        seen = {tuple(row) for *_, composition in told for row in composition.tolist()}
        assert seen == set(drawn(sizes)) and len(seen) > 2
        for k in range(12):
            del told[:]
            alone = sample_attempts(model, request, [k])
            assert torch.equal(alone.pos, together[k].pos)
            assert told and all((heavy == sizes.heavy[k]).all() for _, heavy, _ in told)
            assert all((composition == torch.tensor(sizes.composition[k])).all() for *_, composition in told)
        del told[:]
        sample_attempts(model, replace(request, targets=()), [0])
        assert told and all((heavy > 0).all() and not composition.any() for _, heavy, composition in told)

    def test_weights_can_want_it_always(self, model, part, monkeypatch):
        """But where a part is known, whose hydrogens no composition of the training data tells."""
        quality = QualityConfig(fast=2, balanced=3, grid="early", told_composition=True)
        monkeypatch.setattr(model, "config", replace(model.config, quality=quality))
        assert choose_sampler(model.config, "fast", None) == Sampler(2, grid="early")
        assert choose_sampler(model.config, None, None).evaluations == 3
        assert choose_sampler(model.config, None, 7) == Sampler(7, grid="early")
        sizes = Sizes(np.array([7]), np.array([3]), np.array([[4, 2, 1, 0]]))
        for known, expected in ((None, [4, 2, 1, 0]), (part(1), [0] * 4)):
            request = Request(1, known=known)
            found = SameSize(model, request, sizes, None, lambda work: None).conditions(np.array([0]))
            assert found.composition.tolist() == [expected] and found.heavy.tolist() == [3]

    def test_weights_can_want_properties_too(self, model, part, monkeypatch):
        """Those of the weights' own draw; not where others are asked for, or a part is known."""
        quality = QualityConfig(told_composition=True, told_properties=True)
        monkeypatch.setattr(model, "config", replace(model.config, quality=quality))
        row = np.array([[4, 2, 1, 0]])
        sizes = Sizes(np.array([7]), np.array([3]), row, np.array([[8.0, np.nan]]))
        for known, values, expected in (
            (None, None, [True, False]),
            (None, np.array([[np.nan, 1.0]]), [False, True]),
            (part(1), None, [False, False]),
        ):
            conditions = SameSize(model, Request(1, known=known), sizes, values, lambda work: None).conditions(
                np.array([0])
            )
            assert conditions.given.tolist() == [expected]
        told = SameSize(model, Request(1), sizes, None, lambda work: None).conditions(np.array([0]))
        assert told.value[0, 0].item() == pytest.approx((8.0 - 6.6) / 1.4)

    def test_what_is_only_told_costs_no_guidance(self, model, monkeypatch):
        quality = QualityConfig(told_composition=True, told_properties=True)
        monkeypatch.setattr(model, "config", replace(model.config, quality=quality))
        model.data = replace(model.data, examples=((0, 8.0, 1.0), (1, 5.0, 2.0)))
        told, denoise = [], Model.denoise

        def spy(self, noisy, level, conditions, *rest):
            told.append(conditions.given)
            return denoise(self, noisy, level, conditions, *rest)

        monkeypatch.setattr(Model, "denoise", spy)
        request = Request(1, sampler=Sampler(steps=3), guidance=2.0)
        sample_attempts(model, request, [0])
        assert len(told) == request.evaluations == 3 and all(given.all() for given in told)

    def test_a_formula_is_told_to_all(self, model, monkeypatch):
        told, denoise = [], Model.denoise

        def spy(self, noisy, level, conditions, *rest):
            told.append(conditions)
            return denoise(self, noisy, level, conditions, *rest)

        monkeypatch.setattr(Model, "denoise", spy)
        request = Request(5, formula="C2H4O", sampler=Sampler(steps=2))
        assert sample_attempts(model, request, range(5)).size.tolist() == [7] * 5
        assert told and all((c.heavy == 3).all() for c in told)
        assert all((c.composition == torch.tensor([4, 2, 0, 1])).all() for c in told)


class TestFormula:
    def test_a_molecule_to_be_like_gives_the_size_itself(self, info, part):
        with pytest.raises(RequestError, match="--formula C2H4O: it is --like that gives the size"):
            SizeDraw(info, known=part(1, 1, 3, 0, 0, 0, 0, grows=False), formula="C2H4O")

    def test_a_part_must_fit_into_it(self, info, part):
        methoxy = part(1, 3, 0, 0, 0)
        drawn = SizeDraw(info, known=methoxy, formula="C2H4O")(UNIFORM[:2])
        assert drawn.composition.tolist() == [[4, 2, 0, 1]] * 2 and drawn.heavy.tolist() == [3, 3]
        for known, formula in ((methoxy, "C3H6"), (part(1, 1, 3), "C2H4O")):  # no oxygen; no further heavy atom
            with pytest.raises(RequestError, match="no room for the known part"):
                SizeDraw(info, known=known, formula=formula)
