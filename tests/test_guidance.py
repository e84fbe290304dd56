"""Closures around a denoiser: formulas, counts of evaluations, and what is known stays known."""

import pytest
import torch

from moldiff.conditions import Conditions
from moldiff.guidance import AllowedAtoms, AsMarked, OnTheirSide, WithinValences, classifier_free, evaluations, guided
from moldiff.molecule import BOND_CLASSES, Molecules, Prediction
from moldiff.schedules import NoiseLevel

TOKENS = 5
GIVEN = torch.ones(4, 2, dtype=torch.bool)
ASKED = Conditions(torch.ones(4, 2), GIVEN, torch.arange(5, 9), torch.arange(1, 13).view(4, 3))


class Model:
    """Answers with 1 where a property is given, with 0 where none is."""

    def __init__(self):
        self.calls = []

    def __call__(self, state, level, conditions, previous) -> Prediction:
        self.calls.append((conditions, previous))
        value = float(conditions is not None and conditions.given.any())
        b, n = state.mask.shape
        atom = torch.zeros(b, n, TOKENS)
        atom[..., 0] = value
        return Prediction(torch.full((b, n, 3), value), atom, torch.zeros(b, n, n, BOND_CLASSES))


@pytest.fixture
def state(exact) -> tuple[Molecules, NoiseLevel]:
    return exact, NoiseLevel.free(exact, torch.ones(len(exact)))


@pytest.mark.parametrize("weight", [0.5, 2.0, 5.0])
def test_classifier_free_guidance_extrapolates_positions_and_log_probabilities(state, weight):
    model = Model()
    x0 = classifier_free(model, ASKED, weight)(*state, None)
    assert [bool(conditions.given.any()) for conditions, _ in model.calls] == [True, False]
    for name in ("heavy", "composition"):
        assert all(torch.equal(getattr(conditions, name), getattr(ASKED, name)) for conditions, _ in model.calls)
    assert torch.allclose(x0.pos, torch.full_like(x0.pos, weight))
    log_odds = (x0.atom_logits[..., 0] - x0.atom_logits[..., 1]).unique()
    assert torch.allclose(log_odds, torch.tensor(weight))  # 0 without, 1 with


@pytest.mark.parametrize(("conditions", "weight"), [(Conditions.none(4, 2, 3), 2.0), (ASKED, 1.0)])
def test_no_second_evaluation_where_none_is_needed(state, conditions, weight):
    model = Model()
    classifier_free(model, conditions, weight)(*state, None)
    assert [given for given, _ in model.calls] == [conditions]
    assert evaluations(conditions is ASKED, weight) == 1


def test_both_evaluations_see_the_guided_estimate_before(state):
    model, before = Model(), Prediction(torch.ones(4, 7, 3), torch.ones(4, 7, TOKENS), torch.ones(4, 7, 7, 4))
    classifier_free(model, ASKED, 3.0)(*state, before)
    assert [previous for _, previous in model.calls] == [before, before]
    assert evaluations(True, 3.0) == 2


class Push:
    """A guide that moves everything."""

    def __init__(self, shift: float):
        self.shift = shift

    def __call__(self, x0, noisy, level) -> Prediction:
        return x0.replace(pos=2 * x0.pos + self.shift)


def test_guides_act_in_order_and_leave_known_positions_alone(state):
    molecules, level = state
    known = NoiseLevel(level.pos.clone(), level.atom, level.bond)
    known.pos[:, 2] = 0
    model = lambda noisy, level, previous: Model()(noisy, level, None, previous)  # noqa: E731
    pos = guided(model, [Push(1.0), Push(5.0)])(molecules, known, None).pos
    assert set(pos[:, 2].flatten().tolist()) == {0.0}
    assert set(pos[:, 3].flatten().tolist()) == {7.0}  # 2 (2 · 0 + 1) + 5
    assert guided(model, []) is model


def test_atoms_become_only_what_is_allowed(state):
    allowed = torch.zeros(4, 7, TOKENS, dtype=torch.bool)
    allowed[..., 3] = True
    x0 = AllowedAtoms(allowed)(Model()(*state, ASKED, None), *state)
    assert (x0.atom_logits.argmax(-1) == 3).all()
    assert torch.isfinite(x0.atom_logits.log_softmax(-1)).all()


class TestValences:
    VOCABULARY = ("C", "N", "O", "F", "N+", "Na+", "Xe")

    def estimate(self, symbols: str, orders: dict[tuple[int, int], list[float]]) -> Prediction:
        """Atoms by name, and the log-odds of the four orders of some pairs; all other pairs are unbonded for sure."""
        n = len(symbols.split())
        atom, bond = torch.full((1, n, len(self.VOCABULARY)), -9.0), torch.tensor([0.0, -9, -9, -9]).repeat(1, n, n, 1)
        for k, symbol in enumerate(symbols.split()):
            atom[0, k, self.VOCABULARY.index(symbol)] = 0
        for (i, j), logits in orders.items():
            bond[0, i, j] = bond[0, j, i] = torch.tensor(logits)
        return Prediction(torch.zeros(1, n, 3), atom, bond)

    def bonds(self, x0: Prediction, sigma: float = 0.1, known: tuple[tuple[int, int], ...] = (), full=None) -> dict:
        """Bonds that the guided estimate holds for likeliest."""
        b, n = x0.pos.shape[:2]
        mask = torch.ones(b, n, dtype=torch.bool)
        noisy = Molecules(mask, x0.pos, torch.zeros(b, n, dtype=torch.long), torch.zeros(b, n, n, dtype=torch.long))
        level = NoiseLevel.free(noisy, torch.full((b,), sigma))
        for i, j in known:
            level.bond[:, i, j] = level.bond[:, j, i] = 0
        guided_bonds = WithinValences(self.VOCABULARY, full)(x0, noisy, level).bond_logits.argmax(-1)[0]
        assert torch.equal(guided_bonds, guided_bonds.T)
        return {(i, j): int(guided_bonds[i, j]) for i in range(n) for j in range(i, n) if guided_bonds[i, j]}

    SINGLE, WEAK, DOUBLE = [-5.0, 0, -5, -9], [-1.0, 0, -5, -9], [-9.0, -3, 0, -9]

    def test_what_is_known_of_an_atoms_bonds_holds_at_every_level(self):
        x0 = self.estimate("O C C", {(0, 1): self.SINGLE, (0, 2): self.WEAK})
        assert self.bonds(x0) == {(0, 1): 1, (0, 2): 1}
        for sigma in (0.1, 2.0):
            assert self.bonds(x0, sigma, full=torch.tensor([1])) == {(0, 1): 1}
            assert self.bonds(x0, sigma, full=torch.tensor([-1])) == {(0, 1): 1, (0, 2): 1}

    def test_the_weakest_bond_goes(self):
        x0 = self.estimate("F C C", {(0, 1): self.SINGLE, (0, 2): self.WEAK})
        assert self.bonds(x0) == {(0, 1): 1}
        assert self.bonds(x0, sigma=0.3) == {(0, 1): 1, (0, 2): 1}
        assert self.bonds(x0, known=((0, 2),)) == {(0, 2): 1}
        assert self.bonds(x0, known=((0, 1), (0, 2))) == {(0, 1): 1, (0, 2): 1}

    def test_a_double_bond_becomes_a_single_one(self):
        x0 = self.estimate("N C C O", {(0, 1): self.DOUBLE, (0, 2): self.DOUBLE, (2, 3): self.SINGLE})
        assert sorted(self.bonds(x0).values()) == [1, 1, 2]

    def test_a_bond_between_two_crowded_atoms_goes_before_one_at_each(self):
        """Cheaper by itself is the bond to carbon, 4 instead of 5; but the one between the fluorines mends both."""
        x0 = self.estimate("F F C C", {(0, 1): self.SINGLE, (0, 2): [-4.0, 0, -9, -9], (1, 3): [-4.0, 0, -9, -9]})
        assert self.bonds(x0) == {(0, 2): 1, (1, 3): 1}

    def test_a_bond_of_a_ring_goes_before_one_that_holds_the_molecule_together(self):
        ring = {(0, 1): self.SINGLE, (1, 2): self.SINGLE, (0, 2): self.SINGLE}
        x0 = self.estimate("N C C C C", {**ring, (0, 3): self.WEAK, (0, 4): self.SINGLE})
        left = self.bonds(x0)
        assert len(left) == 4 and {(0, 3), (0, 4), (1, 2)} < set(left)
        assert (0, 3) not in self.bonds(
            self.estimate("N C C C C", {(0, k): self.SINGLE for k in (1, 2, 4)} | {(0, 3): self.WEAK})
        )

    def test_charges_have_valences_of_their_own(self):
        four = {(0, k): self.SINGLE for k in range(1, 5)}
        assert len(self.bonds(self.estimate("N+ C C C C", four))) == 4
        assert len(self.bonds(self.estimate("N C C C C", four))) == 3
        assert self.bonds(self.estimate("Na+ C", {(0, 1): self.SINGLE})) == {}

    def test_tokens_that_the_table_lacks_are_not_judged(self):
        assert len(self.bonds(self.estimate("Xe C C C C C", {(0, k): self.SINGLE for k in range(1, 6)}))) == 5

    def test_any_estimate_is_within_valences_and_a_good_one_is_kept_to_the_bit(self):
        generator = torch.Generator().manual_seed(0)
        b, n = 64, 9
        logits = torch.randn(b, n, n, BOND_CLASSES, generator=generator) + torch.tensor([1.0, 0, 0, 0])
        x0 = Prediction(
            torch.zeros(b, n, 3), torch.randn(b, n, 5, generator=generator), logits + logits.transpose(1, 2)
        )
        mask = torch.ones(b, n, dtype=torch.bool)
        mask[::2, 7:] = False
        zeros = torch.zeros(b, n, n, dtype=torch.long)
        noisy = Molecules(mask, x0.pos, zeros[..., 0], zeros)
        found = WithinValences(self.VOCABULARY)(x0, noisy, NoiseLevel.free(noisy, torch.full((b,), 0.1)))
        most = torch.tensor([4, 3, 2, 1, 4])[x0.atom_logits.argmax(-1)]
        before, after = ((x.bond_logits.argmax(-1) * noisy.pair_mask).sum(-1) for x in (x0, found))
        assert (after <= most)[mask].all()
        fine = (before <= most).all(1)
        assert 0 < fine.sum() < b
        same = (found.bond_logits == x0.bond_logits).flatten(1).all(1)
        assert torch.equal(same, fine)
        torch.testing.assert_close(found.bond_logits.sort(-1).values, x0.bond_logits.sort(-1).values)


@pytest.mark.parametrize("order", [1, 2])
def test_one_bond_of_the_marked_order_grows(order):
    """To the likeliest of the added atoms, whatever else was estimated; other bonds are left alone."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 5, BOND_CLASSES, generator=generator)
    logits = logits + logits.transpose(1, 2)
    x0 = Prediction(torch.zeros(3, 5, 3), torch.zeros(3, 5, TOKENS), logits)
    noisy = Molecules(torch.ones(3, 5, dtype=torch.bool), x0.pos, torch.zeros(3, 5).long(), torch.zeros(3, 5, 5).long())
    found = AsMarked(torch.tensor([0, order]))(x0, noisy, NoiseLevel.free(noisy, torch.ones(3))).bond_logits
    assert torch.equal(found, found.transpose(1, 2)) and torch.isfinite(found.log_softmax(-1)).all()
    likeliest = logits.softmax(-1)[:, 1, 2:, 1:].sum(-1).argmax(1)
    for k, added in enumerate(likeliest.tolist()):
        orders = found[k, 1, 2:].argmax(-1)
        assert orders[added] == order and orders.sum() == order
    other = torch.ones(5, 5, dtype=torch.bool)
    other[1, 2:] = other[2:, 1] = False
    assert torch.equal(found[:, other], logits[:, other])


def test_what_is_bonded_to_a_marked_atom_lies_on_its_side():
    pos = torch.tensor([[[0.0, 0, 0], [1, 0, 1], [1, 0, -1], [0, 0, -2]]])
    bonds = torch.zeros(1, 4, 4, BOND_CLASSES)
    bonds[..., 0] = 1
    bonds[0, 0, 1:3] = bonds[0, 1:3, 0] = torch.tensor([0.0, 1, 0, 0])
    x0 = Prediction(pos, torch.zeros(1, 4, TOKENS), bonds)
    noisy = Molecules(
        torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, 3), torch.zeros(1, 4).long(), torch.zeros(1, 4, 4).long()
    )
    found = OnTheirSide(torch.tensor([[0.0, 0, 3]]))(x0, noisy, NoiseLevel.free(noisy, torch.ones(1)))
    mirrored = 2 * OnTheirSide.CLEAR + 1  # as far beyond a plane a little on the right side
    assert found.pos[0].flatten().tolist() == pytest.approx([0, 0, 0, 1, 0, 1, 1, 0, mirrored, 0, 0, -2])
    assert torch.equal(OnTheirSide(torch.zeros(1, 3))(x0, noisy, NoiseLevel.free(noisy, torch.ones(1))).pos, pos)
