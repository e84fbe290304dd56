"""What is drawn before molecules are made: compositions as in the training data, by what is asked for and known."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import ROWS, drawn, with_compositions
from rdkit import Chem
from rdkit.Chem import AllChem
from scipy.sparse.csgraph import connected_components

from moldiff import chem
from moldiff.attempts import draw_request, sample_attempts, sample_sizes
from moldiff.conditions import Property, Target
from moldiff.config import Config, QualityConfig, preset
from moldiff.draws import Drawn
from moldiff.guidance import WithinValences
from moldiff.model import Model
from moldiff.molecule import Molecules, split_token
from moldiff.requests import Request, choose_sampler
from moldiff.samplers import KeyedRandomness, Sampler
from moldiff.told import Told
from moldiff.valences import STRICT_VALENCES


def test_no_attempt_depends_on_the_others(data):
    request = Request(9, targets=(Target("gap", 5.0, 8.0),))
    values, sizes = draw_request(data, request, KeyedRandomness(0, range(9)))
    value, size = draw_request(data, request, KeyedRandomness(0, [6]))
    assert (value[0, 0], size.atoms[0]) == (values[6, 0], sizes.atoms[6])
    assert (size.composition[0] == sizes.composition[6]).all()


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
            sizes = Drawn(np.array([7]), np.array([heavy]), np.array([row]))
            request = Request(1, formula="C2H4O", sampler=Sampler(steps=2))
            found.append(sample_sizes(model, request, KeyedRandomness(0, [0]), sizes, None)[0].pos)
        assert not any(torch.equal(one, other) for one, other in combinations(found, 2))

    def test_no_atom_has_more_bonds_than_it_can(self, model, monkeypatch):
        """What an untrained network makes would have too many."""
        most = torch.tensor([max(STRICT_VALENCES[split_token(token)]) for token in model.data.vocabulary])
        crowded = []
        for below in (-1.0, WithinValences.BELOW):
            monkeypatch.setattr(WithinValences, "BELOW", below)
            made, _ = sample_attempts(model, Request(32, sampler=Sampler(steps=3)), range(32))
            crowded.append(int((made.bond.sum(-1) > most[made.atom])[made.mask].sum()))
        assert crowded[0] > crowded[1] == 0

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
        together = sample_attempts(model, request, range(12), batch_size=4)[0].split()
        for size, heavy, composition in told:
            assert torch.equal(size, composition.sum(1)) and torch.equal(heavy, composition[:, 1:].sum(1))
        seen = {tuple(row) for *_, composition in told for row in composition.tolist()}
        assert seen == set(drawn(sizes)) and len(seen) > 2
        for k in range(12):
            del told[:]
            alone, _ = sample_attempts(model, request, [k])
            assert torch.equal(alone.pos, together[k].pos)
            assert told and all((heavy == sizes.heavy[k]).all() for _, heavy, _ in told)
            assert all((composition == torch.tensor(sizes.composition[k])).all() for *_, composition in told)
        del told[:]
        sample_attempts(model, replace(request, targets=()), [0])
        assert told and all((heavy > 0).all() and not composition.any() for _, heavy, composition in told)

    def test_weights_can_want_it_always(self, model, part, monkeypatch):
        """But where a part is known, whose hydrogens no composition of the training data tells."""
        quality = QualityConfig(fast=12, balanced=13, grid="early", told_composition=True)
        monkeypatch.setattr(model, "config", replace(model.config, quality=quality))
        assert choose_sampler(model.config, "fast", None) == Sampler(12, grid="early")
        assert choose_sampler(model.config, None, None).evaluations == 13
        assert choose_sampler(model.config, None, 17) == Sampler(17, grid="early")
        few = choose_sampler(model.config, None, 7)
        assert few.evaluations == 7 and few.rule.churn == 0 and few.clean_tokens
        assert (
            few.sigmas()[-1] < few.self_condition_below < few.sigmas()[-2]
        )  # the last estimate alone sees the one before
        sizes = Drawn(np.array([7]), np.array([3]), np.array([[4, 2, 1, 0]]))
        for known, expected in ((None, [4, 2, 1, 0]), (part(1), [0] * 4)):
            request = Request(1, known=known)
            found = Told.of(model, request, sizes, None).conditions()
            assert found.composition.tolist() == [expected] and found.heavy.tolist() == [3]

    def test_weights_can_want_properties_too(self, model, part, monkeypatch):
        """Those that were drawn, beside those that are asked for; not where a part is known."""
        quality = QualityConfig(told_composition=True, told_properties=True)
        monkeypatch.setattr(model, "config", replace(model.config, quality=quality))
        row = np.array([[4, 2, 1, 0]])
        sizes = Drawn(np.array([7]), np.array([3]), row, np.array([[8.0, np.nan]]))
        for known, values, expected in (
            (None, None, [True, False]),
            (None, np.array([[np.nan, 1.0]]), [True, True]),
            (part(1), None, [False, False]),
        ):
            conditions = Told.of(model, Request(1, known=known), sizes, values).conditions()
            assert conditions.given.tolist() == [expected]
        told = Told.of(model, Request(1), sizes, None).conditions()
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
        assert sample_attempts(model, request, range(5))[0].size.tolist() == [7] * 5
        assert told and all((c.heavy == 3).all() for c in told)
        assert all((c.composition == torch.tensor([4, 2, 0, 1])).all() for c in told)


class TestTries:
    """Attempts begin anew until their counts are those that they were told, if the weights are used to it."""

    ASKED = Request(40, seed=1, sampler=Sampler(steps=3), targets=(Target("rings", 1.0, 1.0),), guidance=1.0)

    @pytest.fixture
    def tried(self, info, monkeypatch) -> Callable[..., tuple[Molecules, np.ndarray]]:
        """What a random network makes of the attempts of these numbers, in so many tries at most."""
        rings = Property("rings", "", 1.0, 1.0, 0.0, 4.0)
        data = replace(info, vocabulary=("C", "N", "O"), atom_marginal=(0.6, 0.2, 0.2), hydrogens="implicit")
        rows = [(2 * n + 2, n, 0, 0, 1) for n in range(4, 8)]
        data = with_compositions(replace(data, properties=(rings,)), rows)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Model(Config(network=preset("qm9-tiny").network), data).eval().requires_grad_(False)
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)

        def make(tries: int, indices: Sequence[int], tick: Callable[[float], None] = lambda work: None):
            monkeypatch.setattr(model, "config", replace(model.config, quality=QualityConfig(tries=tries)))
            return sample_attempts(model, self.ASKED, indices, tick=tick)

        return make

    @staticmethod
    def rings(molecules: Molecules) -> np.ndarray:
        """Bonds that close a ring, by counting."""
        parts = np.array([connected_components(bond > 0)[0] for bond in molecules.bond.numpy()])
        bonds = (molecules.bond > 0).sum((1, 2)).numpy() // 2
        n = molecules.mask.shape[1]
        return bonds - n + parts

    def test_until_they_are_as_told(self, tried):
        (first, once), (made, tries) = tried(1, range(40)), tried(4, range(40))
        assert (once == 1).all() and set(tries) == {1, 2, 3, 4}
        assert ((tries == 1) == (self.rings(first) == 1)).all()
        assert (self.rings(made)[tries < 4] == 1).all()
        same = torch.from_numpy(tries == 1)
        assert torch.equal(made.pos[same], first.pos[same]) and torch.equal(made.bond[same], first.bond[same])

    def test_alone_as_among_others(self, tried):
        made, tries = tried(4, range(40))
        for k in (int(np.flatnonzero(tries == count)[0]) for count in (1, 2, 4)):
            alone, count = tried(4, [k])
            n = alone.mask.shape[1]
            assert count[0] == tries[k] and torch.equal(alone.bond[0], made.bond[k, :n, :n])
            assert torch.equal(alone.pos[0], made.pos[k, :n])

    def test_work_is_counted_in_molecules(self, tried):
        done: list[float] = []
        tried(4, range(40), done.append)
        assert sum(done) == pytest.approx(40)

    def test_the_nearest_is_kept(self, tried, monkeypatch):
        """The third of five is as far off as the fourth, and nearer than the others."""
        at_each = iter([4.0, 3.0, 2.0, 2.0, 6.0])
        monkeypatch.setattr(Told, "off_by", lambda told, found: np.full(len(found), next(at_each)))
        made, tries = tried(5, [7])
        at_each = iter([4.0, 3.0, 0.0])
        third, count = tried(5, [7])
        assert (tries[0], count[0]) == (5, 3)
        assert torch.equal(made.pos, third.pos) and torch.equal(made.bond, third.bond)

    @pytest.mark.parametrize(("off", "expected"), [(0.0, 1), (1.0, 1), (2.0, 3)])
    def test_one_off_will_do(self, tried, monkeypatch, off, expected):
        monkeypatch.setattr(Told, "off_by", lambda told, found: np.full(len(found), off))
        assert tried(3, [7])[1].tolist() == [expected]


class TestOffBy:
    """Of ethanol, which has no ring, a donor and an acceptor."""

    NAMES = ("rings", "weight", "hbd", "hba")

    @pytest.fixture
    def off_by(self, info) -> Callable[..., float]:
        mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        molecules = chem.from_rdkit([mol], info.vocabulary)

        def found(
            told: Sequence[float | None], asked: str, composition: Sequence[int], formula: str | None, measure=None,
            targets: tuple[Target, ...] = (),
        ) -> float:  # fmt: skip
            properties = tuple(Property(name, "", 1.0, 1.0, 0.0, 4.0) for name in self.NAMES)
            model = Model(Config(network=preset("qm9-tiny").network), replace(info, properties=properties))
            values = np.array([[np.nan if value is None else value for value in told]], dtype=float)
            is_asked = np.array([[name == asked for name in self.NAMES]])
            request = Request(1, formula=formula, targets=targets)
            heavy, elements = np.array([3]), np.array([composition])
            return (
                Told(model, request, np.array([9]), heavy, values, is_asked, elements, measure).off_by(molecules).item()
            )

        return found

    @pytest.mark.parametrize(
        ("told", "asked", "expected"),
        [
            ([0, 300, 1, 1], "", 0), ([1, 0, 1, 1], "", 1), ([1, 0, 0, 3], "", 4), ([1, 0, 0, 3], "hba", 6),
            ([None, None, 3, None], "hbd", 4), ([0, 0, 1.5, 0.5], "hbd", 0),
            ([0, 0, 1.6, 1], "hbd", 2), ([2, 0, 1, 1], "rings", 4),
        ],
    )  # fmt: skip
    def test_counts(self, off_by, told, asked, expected):
        assert off_by(told, asked, [4, 2, 1, 0], None) == expected  # whatever the elements are

    @pytest.mark.parametrize(
        ("weight", "asked", "expected"),
        [
            (46.0, "weight", 0.0),
            (46.25, "weight", 2.5),
            (46.25, "", 0.0),
            (46.25, "hbd", 0.0),
            (None, "weight", np.inf),
        ],
    )
    def test_values(self, off_by, weight, asked, expected):
        """A tenth of the standard deviation, 1, is as much as one count; only what is asked for is judged so."""
        measure = lambda molecules: np.array([[5.0, np.nan if weight is None else weight, 5.0, 5.0]])  # noqa: E731
        assert off_by([None, 46.0, 1, None], asked, [4, 2, 1, 0], None, measure) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("found", "low", "high", "expected"),
        [(46.0, 40.0, 50.0, 0.0), (40.0, 40.0, 50.0, 0.0), (39.75, 40.0, 50.0, 2.5), (50.5, 40.0, 50.0, 5.0)],
    )
    def test_ranges_of_values(self, off_by, found, low, high, expected):
        """Within a range all is as asked, whichever of its values was drawn."""
        measure = lambda molecules: np.array([[5.0, found, 5.0, 5.0]])  # noqa: E731
        asked = Target("weight", low, high)
        off = off_by([None, 44.0, 1, None], "weight", [4, 2, 1, 0], None, measure, (asked,))
        assert off == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("low", "high", "expected"), [(0.0, 2.0, 0), (1.0, 3.0, 0), (2.0, 3.0, 2), (3.0, 5.0, 4), (1.2, 2.0, 0)]
    )
    def test_ranges_of_counts(self, off_by, low, high, expected):
        told = [None, None, None, high]
        assert off_by(told, "hba", [4, 2, 1, 0], None, targets=(Target("hba", low, high),)) == expected

    @pytest.mark.parametrize(
        ("composition", "formula", "expected"),
        [([6, 2, 0, 1], None, 0), ([4, 2, 0, 1], None, 2), ([7, 2, 1, 0], None, 3), ([0, 0, 0, 0], None, 0),
         ([4, 2, 0, 1], "C2H4O", 2)],
    )  # fmt: skip
    def test_elements(self, off_by, composition, formula, expected):
        assert off_by([None] * 4, "", composition, formula) == expected
        assert off_by([None, 50, None, None], "weight", composition, formula) == (expected if formula else 0)
        if formula:
            assert off_by([1, None, None, None], "rings", composition, formula) == expected + 2
