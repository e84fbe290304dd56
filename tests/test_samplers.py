"""Every rule on every grid against denoisers whose answer is known."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from moldiff.config import Config, ConfigError, NetworkConfig, preset
from moldiff.generation import load
from moldiff.model import Model
from moldiff.molecule import Molecules, Prediction
from moldiff.processes import Categorical, Gaussian
from moldiff.samplers import RULES, Ancestral, ChurnedEuler, Heun, KeyedRandomness, Run, Sampler, UniPC, sample
from moldiff.schedules import GRIDS, NoiseLevel

SCALE = 1.4  # Å
ATOMS, BONDS = torch.tensor([0.5, 0.3, 0.15, 0.05]), torch.tensor([0.7, 0.2, 0.1])  # what the sites of the data are
PROCESS = {
    "pos": Gaussian(SCALE),
    "atom": Categorical(torch.tensor([0.1, 0.2, 0.3, 0.4]), 1.0),
    "bond": Categorical(torch.tensor([0.3, 0.3, 0.4]), 0.5),
}


class Batched:
    """Statistics need many numbers, not streams."""

    def __init__(self, count: int, atoms: int):
        self.shape, self.generator = (count, atoms), torch.Generator().manual_seed(0)

    def normal(self):
        return torch.randn(*self.shape, 3, generator=self.generator, dtype=torch.float64)

    def uniform(self):
        draw = torch.rand(self.shape[0], *self.shape[1:], 1 + self.shape[1], generator=self.generator).double()
        return draw[..., 0], draw[..., 1:].triu(1) + draw[..., 1:].triu(1).transpose(1, 2)

    def gumbel(self, classes: int):
        return -(-torch.rand(*self.shape, classes, generator=self.generator).log()).log()


class Doubles(KeyedRandomness):
    """The same numbers in double precision, the normals turned by an orthogonal matrix."""

    def __init__(self, count: int, atoms: int, turn: torch.Tensor | None = None, seed: int = 0):
        super().__init__(seed, range(count))
        self.of_size(atoms)
        self.turn = torch.eye(3, dtype=torch.float64) if turn is None else turn

    def normal(self):
        return super().normal().double() @ self.turn.T

    def uniform(self):
        return tuple(u.double() for u in super().uniform())


def template(count: int, atoms: int) -> Molecules:
    tokens = torch.zeros(count, atoms, dtype=torch.long)
    bond = torch.zeros(count, atoms, atoms, dtype=torch.long)
    return Molecules(torch.ones(count, atoms, dtype=torch.bool), torch.zeros(count, atoms, 3).double(), tokens, bond)


def everything_free(molecules: Molecules) -> NoiseLevel:
    return NoiseLevel.free(molecules, torch.ones(len(molecules), dtype=torch.float64))


def posterior(token: torch.Tensor, sigma: torch.Tensor, data: torch.Tensor, process: Categorical) -> torch.Tensor:
    """p(c0 | c, σ) of independent sites, by Bayes."""
    kappa = process.kappa(sigma)[..., None]
    onehot = torch.nn.functional.one_hot(token, len(data)).double()
    likelihood = (1 - kappa) * onehot + kappa * process.prior_probs.double()[token][..., None]
    joint = data.double() * likelihood
    return joint / joint.sum(-1, keepdim=True)


def exact(state: Molecules, level: NoiseLevel, previous: Prediction | None) -> Prediction:
    """The perfect denoiser of atoms and bonds that are independent and of positions from a normal of unit variance."""
    atom = posterior(state.atom, level.atom, ATOMS, PROCESS["atom"])
    bond = posterior(state.bond, level.bond, BONDS, PROCESS["bond"])
    return Prediction(state.pos / (1 + level.pos[..., None] ** 2), atom.log(), bond.log())


def drawn(rule, steps: int, grid: str = "log", count: int = 1, atoms: int = 6, **options) -> Molecules:
    blank = template(count, atoms)
    sampler = Sampler(steps, rule, grid, **options)
    random = Batched(count, atoms) if count > 1 else Doubles(1, atoms)
    return sample(exact, PROCESS, blank, everything_free(blank), sampler, random)[0]


def variance_of(rule, sigmas: list[float]) -> float:
    """Of the last estimate, by the recursion that each rule amounts to for a linear denoiser D(x) = gain · x."""

    def gain(sigma: float) -> float:
        return 1 / (1 + sigma**2)

    def integral(slope, h: float):
        """Of an estimate that changes by ``slope`` per unit of λ, over a step of length h."""
        return (math.exp(-h) - 1 + h) * slope

    x, place, estimate = np.eye(3)  # the state; state and estimate before the last step, where that was unchurned
    both = np.diag([1 + sigmas[0] ** 2, 0.0, 0.0])  # their covariance
    h_before = None
    for s, t in pairwise(sigmas):
        noise = 0.0
        if isinstance(rule, Ancestral):
            kept = (t / s) ** 2
            rows = [(kept + (1 - kept) * gain(s)) * x, x, x]
            noise = t**2 * (1 - kept)
        elif isinstance(rule, Heun):
            slope = (1 - gain(s)) / s
            slope_next = (1 + (t - s) * slope) * (1 - gain(t)) / t
            rows = [(1 + (t - s) * (slope + slope_next) / 2) * x, x, x]
        elif rule.churn > 0 and rule.low < s <= rule.high:
            up = s * (1 + rule.churn)
            both[0, 0] += up**2 - s**2
            rows = [(t / up + (1 - t / up) * gain(up)) * x, x, x]
            h_before = None
        else:
            h, now, slope, corrected = math.log(s / t), gain(s) * x, 0 * x, x
            if h_before and isinstance(rule, UniPC):
                slope, kept = (now - estimate) / h_before, math.exp(-h_before)
                corrected = kept * place + (1 - kept) * estimate + integral(slope, h_before)
            rows = [t / s * corrected + (1 - t / s) * now + integral(slope, h), corrected, now]
            h_before = h
        move = np.array(rows)
        both = move @ both @ move.T
        both[0, 0] += noise
    return float(both[0, 0]) * gain(sigmas[-1]) ** 2


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("rule", RULES)
def test_moments_of_positions(rule, grid):
    """Mean 0 and, within the statistical error, the second moment that the rule's recursion says."""
    count, atoms = 1000, 6
    pos = drawn(RULES[rule](), 24, grid, count, atoms).pos / SCALE
    expected = variance_of(RULES[rule](), Sampler(24, grid=grid).sigmas())
    numbers = count * (atoms - 1) * 3  # one atom's worth is taken by the centre of mass
    assert pos.mean(1).abs().max() < 1e-12
    assert pos.mean(0).abs().max() < 5 * (expected / count) ** 0.5
    assert float(pos.square().sum() / numbers) == pytest.approx(expected, rel=5 * (2 / numbers) ** 0.5)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("rule", "limit"),
    [(ChurnedEuler(churn=0.0), 1), (Heun(), 1), (UniPC(churn=0.0), 1), (Ancestral(), 1),
     (UniPC(churn=0.5), 0.9127**2), (UniPC(), 0.8659**2), (ChurnedEuler(churn=0.8, high=3.0), 0.8815**2)],
)  # fmt: skip
def test_many_steps_reach_the_data(rule, limit, grid):
    """The spread of the data, 1; a fixed churn takes steps that stay long, and so ends below it."""
    assert variance_of(rule, Sampler(4000, grid=grid, sigma_max=8.0).sigmas()) == pytest.approx(limit, abs=0.005)


def test_what_churn_costs_of_the_spread():
    """At the default's levels, of normal data of unit variance: README.md tells what it is of molecules."""
    found = [variance_of(UniPC(churn), Sampler().sigmas()) ** 0.5 for churn in (0.0, 0.5, 1.0)]
    assert found == pytest.approx([0.998, 0.943, 0.873], abs=0.002)
    assert variance_of(Sampler().rule, Sampler().sigmas()) ** 0.5 == pytest.approx(found[-1])


@pytest.mark.parametrize("rule", [ChurnedEuler(churn=0.0), Heun(), UniPC(churn=0.0)], ids=["euler", "heun", "unipc"])
def test_deterministic_rules_do_what_their_formula_says(rule):
    steps = 12
    start = Doubles(1, 6)
    start.uniform()
    normal = start.normal()
    first = SCALE * (1 + 2.0**2) ** 0.5 * (normal - normal.mean(1, keepdim=True))
    sigmas = Sampler(steps, grid="log").sigmas()
    factor = (variance_of(rule, sigmas) / (1 + sigmas[0] ** 2)) ** 0.5
    torch.testing.assert_close(drawn(rule, steps).pos, factor * first, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "order", "fewest"),
    [(ChurnedEuler(churn=0.0), 1, 32), (Heun(), 2, 32), (UniPC(churn=0.0), 2, 256)],
    ids=["euler", "heun", "unipc"],
)
def test_order_of_convergence(rule, order, fewest):
    """Halving the steps of a grid in log σ changes the error of the probability flow 2^order times.

    That of UniPC changes its sign at fewer steps, where it is a hundredth of Heun's.
    """
    options = {"sigma_max": 8.0, "sigma_min": 0.05}
    exactly = (1 + 0.05**2) ** -0.5  # standard deviation of the last estimate
    errors = []
    for steps in (fewest + 1, 2 * fewest + 1, 4 * fewest + 1):
        sigmas = Sampler(steps, rule, "log", **options).sigmas()
        errors.append(abs(variance_of(rule, sigmas) ** 0.5 - exactly))
    measured = [math.log2(a / b) for a, b in pairwise(errors)]
    assert measured == pytest.approx([order] * 2, abs=0.25)


def test_second_order_is_better_at_the_same_cost():
    error = {}
    for name, rule, steps in (
        ("euler", ChurnedEuler(churn=0.0), 41),
        ("heun", Heun(), 21),
        ("unipc", UniPC(churn=0.0), 41),
    ):
        sampler = Sampler(steps, rule, "log", sigma_min=0.05)
        assert sampler.evaluations == 41
        error[name] = abs(variance_of(rule, sampler.sigmas()) ** 0.5 - (1 + 0.05**2) ** -0.5)
    assert error["heun"] < error["euler"] / 3
    assert error["unipc"] < error["euler"] / 10


@pytest.mark.parametrize("rule", RULES)
def test_tokens_keep_their_marginal(rule):
    """A perfect denoiser of independent sites: exact for any number of steps, here few and uneven ones."""
    count, atoms = 600, 8
    molecules = drawn(RULES[rule](), 8, "karras", count, atoms, sigma_max=3000.0, temperature=1.0)
    upper = torch.triu_indices(atoms, atoms, 1)
    sites = {"atom": (molecules.atom, ATOMS), "bond": (molecules.bond[:, upper[0], upper[1]], BONDS)}
    for name, (tokens, expected) in sites.items():
        found = torch.bincount(tokens.flatten(), minlength=len(expected)) / tokens.numel()
        error = (expected * (1 - expected) / tokens.numel()).sqrt()
        assert ((found - expected).abs() < 4 * error + 0.003).all(), (name, found)
    assert torch.equal(molecules.bond, molecules.bond.transpose(1, 2))
    assert not molecules.bond.diagonal(dim1=1, dim2=2).any()


@pytest.mark.parametrize("of", ["sampler", "process"])
@pytest.mark.parametrize(("temperature", "clean"), [(0.5, False), (1.0, False), (2.0, False), (1.0, True)])
def test_draws_follow_the_estimate_to_the_power_of_one_over_temperature(temperature, clean, of):
    """Those of clean tokens do so whatever the next level is."""
    count, atoms = 600, 8
    molecules = template(count, atoms)
    process = {"pos": PROCESS["pos"]} | {
        name: replace(PROCESS[name], temperature=temperature) for name in ("atom", "bond")
    }
    processes, own = (PROCESS, temperature) if of == "sampler" else (process, None)
    free, numbers = everything_free(molecules), Batched(count, atoms)
    run = Run(exact, processes, free, numbers, 0.0, temperature=own, clean_tokens=clean)
    estimate = Prediction(
        molecules.pos,
        ATOMS.double().log().expand(count, atoms, -1),
        BONDS.double().log().expand(count, atoms, atoms, -1),
    )
    moved = run.move_tokens(molecules, estimate, 1.0, 0.9 if clean else 1e-9)
    upper = torch.triu_indices(atoms, atoms, 1)
    for tokens, data in ((moved.atom, ATOMS), (moved.bond[:, upper[0], upper[1]], BONDS)):
        expected = data ** (1 / temperature) / (data ** (1 / temperature)).sum()
        found = torch.bincount(tokens.flatten(), minlength=len(data)) / tokens.numel()
        assert ((found - expected).abs() < 4 * (expected * (1 - expected) / tokens.numel()).sqrt() + 0.001).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_is_positive(temperature):
    with pytest.raises(ValueError, match="must be positive"):
        Sampler(temperature=temperature)
    with pytest.raises(ConfigError, match=r"process.temperature = .*: must be positive"):
        preset("leads-tiny").override([f"process.temperature={temperature}"])


def test_each_kind_of_data_has_its_temperature():
    assert (preset("qm9-tiny").process.temperature, preset("leads-deep").process.temperature) == (0.7, 1.0)
    assert [load(name).model.process["atom"].temperature for name in ("qm9-atoms", "leads")] == [0.7, 1.0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("known", ["fragment", "graph", "positions"])
def test_what_is_known_comes_back_exactly(rule, known, random_molecules):
    given = random_molecules([7, 5], seed=3, n=8)
    given = given.replace(pos=(given.pos.double() + 10) * given.mask[..., None], bond=given.bond.clamp(max=2),
                          atom=given.atom.clamp(max=3))  # fmt: skip
    free = everything_free(given)
    fixed = torch.arange(8)[None] < 3
    if known == "fragment":
        both = fixed[:, :, None] & fixed[:, None, :]
        free = NoiseLevel(free.pos * ~fixed, free.atom * ~fixed, free.bond * ~both)
    elif known == "graph":
        free = NoiseLevel(free.pos, free.atom * 0, free.bond * 0)
    else:
        free = NoiseLevel(free.pos * 0, free.atom, free.bond)
    found, _ = sample(exact, PROCESS, given, free, Sampler(6, RULES[rule]()), Doubles(2, 8))
    for name in ("pos", "atom", "bond"):
        is_free, old, new = getattr(free, name) > 0, getattr(given, name), getattr(found, name)
        assert torch.equal(old[~is_free], new[~is_free]), name
        assert not is_free.any() or not torch.equal(old[is_free], new[is_free]), name
    assert torch.equal(found.mask, given.mask)
    if known == "graph":  # nothing but its centre holds the molecule in a place
        assert ((found.pos - given.pos) * found.mask[..., None]).sum(1).abs().max() < 1e-10


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 7])
def test_evaluations_are_counted(rule, steps):
    calls = []

    def denoiser(state, level, previous):
        calls.append((float(level.sigma[0]), previous))
        return exact(state, level, previous)

    sampler = Sampler(steps, RULES[rule]())
    blank = template(2, 4)
    _, evaluations = sample(denoiser, PROCESS, blank, everything_free(blank), sampler, Doubles(2, 4))
    assert len(calls) == evaluations == sampler.evaluations
    assert calls[-1][0] == pytest.approx(sampler.sigma_min)
    below = [sigma < sampler.self_condition_below for sigma, _ in calls]
    assert [previous is not None for _, previous in calls] == below
    assert below[-1] and not below[0]


@pytest.mark.parametrize(("known", "first"), [(0, 2.0), (1, 8.0)])
@pytest.mark.parametrize("from_template", [False, True])
def test_it_begins_further_out_around_what_is_known(known, first, from_template):
    """But not where a molecule is given to start from, which lies where it lies."""
    levels = []

    def denoiser(state, level, previous):
        levels.append(float(level.sigma.max()))
        return exact(state, level, previous)

    blank, sampler = template(1, 4), Sampler(8, UniPC(churn=0.0), from_template=from_template)
    free = everything_free(blank)
    free = NoiseLevel(free.pos * (torch.arange(4) >= known), free.atom, free.bond)
    sample(denoiser, PROCESS, blank, free, sampler, Doubles(1, 4))
    assert levels[0] == pytest.approx(sampler.sigma_max if from_template else first)


def test_unknown_grid_is_named():
    with pytest.raises(ValueError, match=r"grid 'cosine': there are staged, early, few, arcsin, log, karras"):
        Sampler(grid="cosine")


def test_sizes_are_drawn_by_numbers_that_are_spread():
    """Of a thousand, whatever the first, a tenth is in every tenth, and no two are nearer than a third of the mean distance."""
    for seed, first in ((0, 0), (3, 10**9)):
        numbers = KeyedRandomness(seed, range(first, first + 1000)).spread()
        assert ((numbers >= 0) & (numbers < 1)).all()
        assert np.abs(np.histogram(numbers, 10, (0, 1))[0] - 100).max() <= 2
        assert np.diff(np.sort(numbers)).min() > 1 / 3000
        alone = KeyedRandomness(seed, [first + 7]).spread()
        assert alone[0] == numbers[7]
    assert KeyedRandomness(0, [5]).spread() != KeyedRandomness(1, [5]).spread()


def test_streams_are_those_of_their_molecules():
    """Molecule k's numbers are the same alone, among others, in another order, and beside padding."""

    def numbers(random: KeyedRandomness, position: int) -> list[np.ndarray]:
        random = random.of_size(5)
        atom, bond = random.uniform()
        return [x[position].numpy() for x in (random.normal(), atom, bond, random.normal())]

    alone = numbers(KeyedRandomness(7, [42]), 0)
    for random, position in (
        (KeyedRandomness(7, [3, 42, 5]), 1),
        (KeyedRandomness(7, [3, 42, 5]).select([2, 1]), 1),
        (KeyedRandomness(7, [42]).padded(3), 0),
    ):
        np.testing.assert_array_equal(np.concatenate([x.ravel() for x in numbers(random, position)]),
                                      np.concatenate([x.ravel() for x in alone]))  # fmt: skip
    for other in (KeyedRandomness(8, [42]), KeyedRandomness(7, [43]), KeyedRandomness(42, [7])):
        assert not np.array_equal(numbers(other, 0)[0], alone[0])


def test_numbers_are_normal_and_uniform_and_mirrored():
    random = KeyedRandomness(0, range(400))
    first = random.numbers(1)
    random.of_size(9)
    normal, (atom, bond) = random.normal(), random.uniform()
    assert first.mean() == pytest.approx(0.5, abs=5 * (1 / 12 / 400) ** 0.5)
    assert float(normal.mean()) == pytest.approx(0, abs=5 * normal.numel() ** -0.5)
    assert float(normal.square().mean()) == pytest.approx(1, abs=5 * (2 / normal.numel()) ** 0.5)
    assert float(atom.mean()) == pytest.approx(0.5, abs=5 * (1 / 12 / atom.numel()) ** 0.5)
    assert float(bond.sum() / (400 * 72)) == pytest.approx(0.5, abs=5 * (1 / 12 / (400 * 36)) ** 0.5)
    assert torch.equal(bond, bond.transpose(1, 2))
    assert not bond.diagonal(dim1=1, dim2=2).any()


@pytest.mark.parametrize("rule", RULES)
def test_turning_the_noise_turns_the_molecules(rule, info, float64):
    """The whole path from noise to molecule, under a rotation with reflection, exact to rounding."""
    torch.manual_seed(0)
    options = {"width": 16, "layers": 2, "vectors": 4, "pair_width": 8, "heads": 2, "radial": 4}
    model = Model(Config(network=NetworkConfig(options=options)), info).eval().requires_grad_(False)
    for parameter in model.parameters():  # also those that start at zero
        parameter += 0.2 * torch.randn_like(parameter)
    turn, _ = torch.linalg.qr(torch.randn(3, 3))
    turn = -turn * torch.linalg.det(turn).sign()
    assert torch.linalg.det(turn) < 0
    blank = template(3, 6)

    def run(random: Doubles) -> Molecules:
        denoiser = lambda state, level, previous: model.denoise(state, level, None, previous)  # noqa: E731
        return sample(denoiser, model.process, blank, everything_free(blank), Sampler(10, RULES[rule]()), random)[0]

    straight, turned = run(Doubles(3, 6)), run(Doubles(3, 6, turn))
    torch.testing.assert_close(turned.pos, straight.pos @ turn.T, rtol=0, atol=1e-9)
    assert straight.pos.std() > 0.3
    assert torch.equal(straight.atom, turned.atom)
    assert torch.equal(straight.bond, turned.bond)
