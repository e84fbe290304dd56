import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moldiff.composition import KeptComposition
from moldiff.molecule import Molecules, Prediction
from moldiff.processes import Categorical, Gaussian
from moldiff.samplers import KEPT_FROM, KeyedRandomness, Run
from moldiff.schedules import NoiseLevel

ELEMENT_OF = (0, 1, 1, 2)  # of H, C, C+, N
STILL = torch.zeros(1, 3, 4)


def elements(probs: torch.Tensor) -> torch.Tensor:
    return torch.tensor(ELEMENT_OF)[probs.argmax(-1)]


@settings(deadline=None)  # the first draw imports SciPy
@given(st.integers(0, 10**6), st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any))
def test_every_draw_has_the_counts(seed, counts):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(2, sum(counts), 4, generator=generator).softmax(-1)
    gumbel = torch.rand(probs.shape, generator=generator)
    kept = KeptComposition(torch.tensor([counts, [0, 0, 0]]), ELEMENT_OF)
    drawn = kept.draw(probs, gumbel)
    assert np.bincount(elements(drawn[0]), minlength=3).tolist() == counts
    assert ((drawn[0] == 0) | (drawn[0] == 1)).all() and (drawn[0].sum(-1) == 1).all()
    assert torch.equal(drawn[1], probs[1])  # no composition is asked for


def test_the_likeliest_assignment_wins():
    """The first two atoms would both be C+; the second gives way, since it has the better alternative."""
    probs = torch.tensor([[[0.0, 0.2, 0.7, 0.1], [0.0, 0.1, 0.5, 0.4], [0.9, 0.05, 0.05, 0.0]]])
    kept = KeptComposition(torch.tensor([[1, 1, 1]]), ELEMENT_OF)
    assert kept.draw(probs, STILL).argmax(-1).tolist() == [[2, 3, 0]]


def test_what_is_known_stays():
    known = torch.tensor([[[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.2, 0.1, 0.0, 0.7]]])
    kept = KeptComposition(torch.tensor([[1, 0, 2]]), ELEMENT_OF)
    assert kept.draw(known, STILL).argmax(-1).tolist() == [[3, 3, 0]]


def test_noise_decides_between_equals():
    """Which of two like atoms is the nitrogen is drawn with equal odds."""
    random = KeyedRandomness(0, range(400)).of_size(2)
    probs = torch.tensor([0.0, 0.5, 0.0, 0.5]).expand(400, 2, 4)
    drawn = elements(KeptComposition(torch.tensor([[0, 1, 1]] * 400), ELEMENT_OF).draw(probs, random.gumbel(4)))
    assert (drawn.sum(1) == 3).all()
    assert 160 < (drawn[:, 0] == 1).sum() < 240


def test_it_is_kept_until_atoms_may_mend_valences():
    count = 50
    blank = Molecules(
        mask=torch.ones(count, 6, dtype=torch.bool),
        pos=torch.zeros(count, 6, 3),
        atom=torch.zeros(count, 6, dtype=torch.long),
        bond=torch.zeros(count, 6, 6, dtype=torch.long),
    )
    prior = torch.full((4,), 0.25)
    process = {"pos": Gaussian(1.0), "atom": Categorical(prior, 1.0), "bond": Categorical(prior, 1.0)}
    anything = Prediction(blank.pos, torch.zeros(count, 6, 4), torch.zeros(count, 6, 6, 4))
    kept = KeptComposition(torch.tensor([[3, 2, 1]] * count), ELEMENT_OF)

    def share(sigma: float) -> float:
        random = KeyedRandomness(0, range(count)).of_size(6)
        run = Run(
            lambda *_: anything, process, NoiseLevel.free(blank, torch.ones(count)), random, 1.0, composition=kept
        )
        drawn = np.array(ELEMENT_OF)[run.move_tokens(blank, anything, sigma, 1e-6).atom.numpy()]
        return float(np.mean([np.bincount(row, minlength=3).tolist() == [3, 2, 1] for row in drawn]))

    assert share(KEPT_FROM) == 1
    assert share(0.9 * KEPT_FROM) < 0.5
