"""What is drawn of molecules before they are made."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROWS, drawn, with_compositions

from moldiff import draws
from moldiff.draws import NEAREST, WIDTH, Drawn, SizeDraw
from moldiff.errors import RequestError
from moldiff.model_file import DataInfo

UNIFORM = (np.arange(3000) + 0.5) / 3000
LARGE, SMALL = 7, 5
GAPS = [2.0, 4.0, 6.0, 8.0, 9.0]  # of each row


def with_gaps(data: DataInfo, gaps: list[float]) -> DataInfo:
    """Five examples for each molecule: the gap depends on the composition, the other property does not."""
    numbers = [5 * row[-1] for row in data.compositions]
    return replace(data, examples=tuple((k, gap, 3.0) for k, gap in enumerate(gaps) for _ in range(numbers[k])))


def asked(gap: float) -> np.ndarray:
    return np.tile([gap, np.nan], (len(UNIFORM), 1))


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
        sizes = Drawn(np.array([7, 5, 10]), np.array([3, 2, 4]), np.array([[4, 3], [3, 2], [6, 4]])).select([2, 0])
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
        monkeypatch.setattr(draws, "DRAWN", 7)
        assert (SizeDraw(data, None)(UNIFORM, values, atoms).composition == whole.composition).all()


class TestExamples:
    """Training molecules whose properties the weights hold are drawn themselves."""

    @pytest.fixture
    def told(self, data) -> DataInfo:
        return replace(data, examples=((0, 5.0, 1.0), (0, 6.0, None), (3, 7.0, 2.0)))

    def test_each_as_often_with_its_properties(self, told):
        sizes = SizeDraw(told)(UNIFORM)
        found = Counter(map(str, np.column_stack([sizes.composition, sizes.properties]).tolist()))
        rows = [[*ROWS[0][:-1], 5.0, 1.0], [*ROWS[0][:-1], 6.0, np.nan], [*ROWS[3][:-1], 7.0, 2.0]]
        assert found == {str([float(x) for x in row]): 1000 for row in rows}

    def test_within_a_range(self, told):
        sizes = SizeDraw(told, (2, 2))(UNIFORM[:3])
        assert sizes.properties.tolist() == [[7.0, 2.0]] * 3

    def test_where_there_is_none_compositions_are_drawn_without_properties(self, data, told, part):
        for wishes in ({"heavy": (4, 4)}, {"known": part(3)}, {"formula": "C2H4O"}):
            sizes = SizeDraw(told, **wishes)(UNIFORM)
            assert np.isnan(sizes.properties).all()
            assert drawn(sizes) == drawn(SizeDraw(data, **wishes)(UNIFORM))
        assert np.isnan(SizeDraw(data)(UNIFORM).properties).all()

    def test_of_a_formula(self, told):
        sizes = SizeDraw(replace(told, examples=(*told.examples, (1, 8.0, 1.5))), formula="C2H4O")(UNIFORM)
        assert drawn(sizes) == {ROWS[1][:-1]: 3000} and (sizes.properties == [8.0, 1.5]).all()

    def test_a_number_of_atoms_that_none_has(self, told):
        sizes = SizeDraw(told)(UNIFORM[:2], atoms=np.array([LARGE, 10]))
        assert sizes.properties[0, 0] in (5.0, 6.0) and np.isnan(sizes.properties[1]).all()

    def test_the_whole_range_is_told_of_in_errors(self, told):
        with pytest.raises(RequestError, match="--n-atoms 5: model small knows molecules of 2 to 4 heavy atoms"):
            SizeDraw(told, (5, 5))


class TestValues:
    def test_the_nearest_wins(self, data):
        """Among molecules of one size, too; each attempt has values of its own, and without any numbers alone matter."""
        draw = SizeDraw(with_gaps(data, GAPS))
        for gap, row in [(2.9, 0), (3.1, 1), (4.9, 1), (5.1, 2), (-3.0, 0), (99.0, 4)]:
            assert drawn(draw(UNIFORM, asked(gap))) == {ROWS[row][:-1]: 3000}
        mixed = np.where(np.arange(3000)[:, None] % 3 == 0, asked(3.9), np.nan)
        sizes = draw(UNIFORM, mixed)
        assert drawn(sizes.select(np.arange(0, 3000, 3))) == {ROWS[1][:-1]: 1000}
        rest = drawn(sizes.select(np.flatnonzero(np.arange(3000) % 3)))
        assert rest == {row[:-1]: pytest.approx(2000 * row[-1] / 15, abs=2) for row in ROWS}

    def test_what_is_as_near_is_drawn_as_often(self, data):
        """Here by half a gap; rows by their numbers of molecules."""
        found = drawn(SizeDraw(with_gaps(data, [2.0, 3.0, 9.0, 9.0, 9.0]))(UNIFORM, asked(2.5)))
        assert found == {ROWS[0][:-1]: 2000, ROWS[1][:-1]: 1000}

    def test_nearness_is_normal(self, info):
        """One standard deviation, 1.4, times the width away."""
        table = replace(info, examples=((0, 5.0, 0.0),) * 10 + ((1, 5.0 + 1.4 * WIDTH, 0.0),) * 10)
        odds = Counter(SizeDraw(table)(UNIFORM, asked(5.0)).atoms.tolist())
        assert odds[9] / odds[7] == pytest.approx(math.exp(-0.5), rel=0.01)

    def test_it_is_as_wide_as_some_molecules_need(self, info):
        """Of five, far from each other, none is drawn always."""
        table = replace(info, examples=tuple((k % 2, 5.0 + k, 0.0) for k in range(NEAREST)))
        gaps = Counter(SizeDraw(table)(UNIFORM, asked(5.0)).properties[:, 0].tolist())
        assert len(gaps) == NEAREST and sorted(gaps, key=gaps.get, reverse=True) == sorted(gaps)
        assert gaps[5.0 + NEAREST - 1] / gaps[5.0] == pytest.approx(math.exp(-0.5), rel=0.02)

    def test_several_at_once(self, data):
        """Both must be near."""
        rows = tuple(
            (k, gap, mu) for k, (gap, mu) in enumerate([(2, 1), (2, 9), (8, 1), (8, 9), (5, 5)]) for _ in range(5)
        )
        draw = SizeDraw(replace(data, examples=rows))
        for k, both in enumerate([(2, 1), (2, 9), (8, 1), (8, 9)]):
            assert drawn(draw(UNIFORM, np.tile(np.array(both, float), (3000, 1)))) == {ROWS[k][:-1]: 3000}

    def test_where_all_have_the_same_properties_numbers_alone_matter(self, info):
        table = replace(info, examples=((0, 6.0, 3.0), (0, 6.0, 3.0), (1, 6.0, 3.0)))
        assert Counter(SizeDraw(table)(UNIFORM, asked(5.0)).atoms.tolist()) == {7: 2000, 9: 1000}

    def test_where_none_is_known_numbers_alone_matter(self, info):
        assert Counter(SizeDraw(info)(UNIFORM, asked(5.0)).atoms.tolist()) == {7: 2000, 9: 1000}
        table = replace(info, examples=((0, None, 3.0), (0, None, 3.0), (1, None, 3.0)))
        assert Counter(SizeDraw(table)(UNIFORM, asked(5.0)).atoms.tolist()) == {7: 2000, 9: 1000}

    def test_one_of_which_it_is_unknown_is_far(self, info):
        table = replace(info, examples=((0, None, 3.0),) * 9 + ((1, 9.0, 3.0),))
        assert set(SizeDraw(table)(UNIFORM, asked(2.0)).atoms.tolist()) == {9}

    def test_the_range_comes_first(self, data):
        draw = SizeDraw(with_gaps(data, GAPS), (2, 2))
        assert drawn(draw(UNIFORM, asked(2.0))) == {(3, 2, 0, 0): 3000}
        draw = SizeDraw(with_gaps(data, GAPS), (4, 4))
        assert drawn(draw(UNIFORM, asked(2.0))) == {(6, 4, 0, 0): 3000}
        table = with_gaps(with_compositions(data, ROWS[::-1]), GAPS[::-1])
        assert drawn(SizeDraw(table, (3, 3))(UNIFORM, asked(6.0))) == {(4, 1, 1, 1): 3000}


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
        draw = SizeDraw(with_gaps(data, GAPS), None, part(1, 3))
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
