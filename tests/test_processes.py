"""Forward kernels, reverse steps and losses against closed forms.

Every random number is an argument, so whole distributions can be read off by feeding a regular grid of uniforms.
"""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moldiff.processes import Categorical, Gaussian, draw_class
from moldiff.schedules import NoiseLevel

GRID = 4096
UNIFORM = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
levels = st.floats(0.01, 20.0)


@st.composite
def probabilities(draw, classes: int = 4) -> Tensor:
    weights = torch.tensor([draw(st.floats(0.01, 1.0)) for _ in range(classes)], dtype=torch.float64)
    return weights / weights.sum()


def transition_matrix(kernel, classes: int) -> Tensor:
    """Row c: how often ``kernel(token c, uniform)`` gives each class, over the grid."""
    rows = []
    for c in range(classes):
        drawn = kernel(torch.full((GRID,), c), UNIFORM)
        rows.append(torch.bincount(drawn, minlength=classes).double() / GRID)
    return torch.stack(rows)


def forward_matrix(process: Categorical, sigma: float) -> Tensor:
    """(1 - κ) I + κ 1πᵀ."""
    kappa = process.kappa(torch.tensor(sigma, dtype=torch.float64))
    pi = process.prior_probs
    return (1 - kappa) * torch.eye(len(pi), dtype=torch.float64) + kappa * pi


def at(sigma: float) -> Tensor:
    return torch.full((GRID,), sigma, dtype=torch.float64)


def first_atoms_fixed(level: NoiseLevel, count: int) -> NoiseLevel:
    return dataclasses.replace(level, pos=level.pos * (torch.arange(level.pos.shape[1]) >= count))


class TestDrawing:
    def test_frequencies(self):
        probs = torch.tensor([0.125, 0.0, 0.5, 0.375], dtype=torch.float64)
        for scale in (1.0, 3.0):  # need not be normalised
            drawn = draw_class((scale * probs).expand(GRID, -1), UNIFORM)
            assert torch.bincount(drawn, minlength=4).div(GRID).tolist() == probs.tolist()

    @given(probs=st.lists(st.sampled_from([0.0, 1e-9, 0.1, 1.0]), min_size=2, max_size=6).filter(any),
           uniform=st.floats(0, 1, exclude_max=True, width=32))  # fmt: skip
    def test_never_the_impossible(self, probs, uniform):
        drawn = draw_class(torch.tensor([probs]), torch.tensor([uniform]))
        assert probs[int(drawn)] > 0


class TestCategorical:
    process = Categorical(torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64), sigma_c=1.0)

    def test_forward_kernel_is_its_closed_form(self):
        matrix = transition_matrix(lambda c, u: self.process.noise(c, at(3.0), u), 4)
        assert torch.equal(matrix, forward_matrix(self.process, 3.0))  # κ = 3/4: all entries are binary fractions

    def test_noise_in_two_stages_is_noise_in_one(self):
        """Exact: κ is 1/2 at σ = 1 and 3/4 at σ = 3, so the second stage redraws half."""
        first = transition_matrix(lambda c, u: self.process.noise(c, at(1.0), u), 4)
        second = transition_matrix(lambda c, u: self.process.noise(c, at(3.0), u, start=1.0), 4)
        assert torch.equal(first @ second, transition_matrix(lambda c, u: self.process.noise(c, at(3.0), u), 4))

    @settings(max_examples=25, deadline=None)
    @given(pi=probabilities(), sigma_c=levels, one=levels, other=levels)
    def test_composition_for_any_levels(self, pi, sigma_c, one, other):
        low, high = sorted([one, other])
        process = Categorical(pi, sigma_c)
        second = transition_matrix(lambda c, u: process.noise(c, at(high), u, start=low), 4)
        composed = forward_matrix(process, low) @ second
        assert torch.allclose(composed, forward_matrix(process, high), atol=4 / GRID)

    @settings(max_examples=25, deadline=None)
    @given(pi=probabilities(), p0=probabilities(), one=levels, other=levels, kernel=st.sampled_from(["step", "redraw"]))
    def test_a_move_with_a_perfect_denoiser_preserves_the_marginal(self, pi, p0, one, other, kernel):
        low, high = sorted([one, other])
        process = Categorical(pi)
        forward = forward_matrix(process, high)
        posterior = p0[:, None] * forward
        posterior = (posterior / posterior.sum(0)).T  # row c: p(c0 | c at the high level)
        move = getattr(process, kernel)
        reverse = transition_matrix(lambda c, u: move(c, posterior[c], at(high), at(low), u), 4)
        assert torch.allclose(p0 @ forward @ reverse, p0 @ forward_matrix(process, low), atol=4 / GRID)

    @settings(max_examples=25, deadline=None)
    @given(pi=probabilities(), estimate=probabilities(), one=levels, other=levels)
    def test_posterior_is_bayes_by_brute_force(self, pi, estimate, one, other):
        low, high = sorted([one, other])
        process = Categorical(pi)
        to_low, to_high = forward_matrix(process, low), forward_matrix(process, high)
        between = torch.linalg.solve(to_low, to_high)  # q(c at high | c' at low)
        joint = to_low[:, :, None] * between[None]  # p(c', c | c0)
        bayes = (joint / joint.sum(1, keepdim=True)).permute(2, 0, 1)  # [c, c0, c']
        expected = torch.einsum("k,ckd->cd", estimate, bayes)
        row = estimate.expand(GRID, -1)
        drawn = transition_matrix(lambda c, u: process.posterior(c, row, at(high), at(low), u), 4)
        assert torch.allclose(drawn, expected, atol=4 / GRID)

    def test_prior_frequencies(self):
        drawn = self.process.prior(torch.zeros(GRID, dtype=torch.long), at(1.0), UNIFORM)
        assert torch.bincount(drawn).div(GRID).tolist() == self.process.prior_probs.tolist()

    @pytest.mark.parametrize("dtype", [torch.long, torch.uint8])
    def test_fixed_sites_keep_their_token(self, dtype):
        token = torch.arange(GRID).remainder(4).to(dtype)
        row = self.process.prior_probs.expand(GRID, -1)
        for result in (
            self.process.noise(token, at(0.0), UNIFORM),
            self.process.step(token, row, at(0.0), at(0.0), UNIFORM),
            self.process.redraw(token, row, at(0.0), at(0.0), UNIFORM),
            self.process.posterior(token, row, at(0.0), at(0.0), UNIFORM),
            self.process.prior(token, at(0.0), UNIFORM),
        ):
            assert torch.equal(result.to(dtype), token)

    def test_loss_by_hand(self):
        """Two free sites of three; κ(1) = 1/2, so the weight is 2; κ(0.01) is below a tenth, so the weight is 10."""
        probs = torch.tensor([0.7, 0.1, 0.1, 0.1]).log()
        logits = probs.expand(2, 3, 4) + 5.0  # logits have no fixed zero
        clean = torch.tensor([[0, 1, 2], [0, 0, 0]])
        sigma = torch.tensor([[1.0, 1.0, 0.0], [0.01, 0.0, 0.0]])
        loss = self.process.loss(logits, clean, sigma)
        assert torch.allclose(loss, torch.stack([-2 * (probs[0] + probs[1]) / 2, -10 * probs[0]]))
        assert self.process.loss(logits, clean, torch.zeros(2, 3)).tolist() == [0.0, 0.0]


class TestGaussian:
    process = Gaussian(scale=1.5)

    def response(self, function, molecules, level) -> Tensor:
        """The linear map from unit normals to positions, (b, atoms × 3 outputs, atoms × 3 inputs)."""
        b, n = molecules.mask.shape
        columns = [function(unit.view(1, n, 3).expand(b, n, 3)) for unit in torch.eye(3 * n)]
        return torch.stack(columns, -1).view(b, 3 * n, 3 * n)

    def test_covariance_without_centre_of_mass(self, random_molecules):
        """Cov = (scale σ)² (I - 11ᵀ/N): no centre of mass, variance (N - 1)/N on every coordinate."""
        molecules = random_molecules([5, 7], n=8)
        level = NoiseLevel.free(molecules, torch.tensor([0.5, 2.0]))
        noise = lambda normal: self.process.noise(molecules.pos, level, normal, molecules.mask) - molecules.pos  # noqa: E731
        prior = lambda normal: self.process.prior(molecules.pos, level, normal, molecules.mask)  # noqa: E731
        for function, variance in [(noise, (0.25, 4.0)), (prior, (1.25, 5.0))]:
            matrix = self.response(function, molecules, level)
            covariance = matrix @ matrix.transpose(1, 2)
            for k, n in enumerate([5, 7]):
                projector = torch.zeros(8, 8)
                projector[:n, :n] = torch.eye(n) - 1 / n
                expected = 1.5**2 * variance[k] * torch.kron(projector, torch.eye(3))
                assert torch.allclose(covariance[k], expected, atol=1e-5)

    def test_fixed_atoms_are_untouched(self, exact):
        level = first_atoms_fixed(NoiseLevel.free(exact, torch.ones(4)), 3)
        for method in (self.process.noise, self.process.prior):
            pos = method(exact.pos, level, torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0)), exact.mask)
            assert torch.equal(pos[:, :3], exact.pos[:, :3])
            assert (pos[:, 3:] != exact.pos[:, 3:]).all()

    def test_noise_beside_fixed_atoms_is_white(self, exact):
        """With a fixed frame the free atoms' noise keeps its centre of mass."""
        level = first_atoms_fixed(NoiseLevel.free(exact, torch.ones(4)), 3)
        function = lambda normal: self.process.noise(exact.pos, level, normal, exact.mask) - exact.pos  # noqa: E731
        matrix = self.response(function, exact, level)
        free = torch.cat([torch.zeros(3), torch.ones(4)]).repeat_interleave(3)
        assert torch.allclose(matrix, 1.5 * torch.diag(free).expand(4, -1, -1), atol=1e-6)

    @settings(max_examples=25, deadline=None)
    @given(sigma=levels, seed=st.integers(0, 99))
    def test_loss_is_that_of_a_unit_variance_target(self, random_molecules, sigma, seed):
        """With D = c_skip x + c_out F the loss is mean ‖F - (x0 - c_skip x)/c_out‖² over free atoms (Karras et al.)."""
        generator = torch.Generator().manual_seed(seed)
        clean = random_molecules([4, 6], seed)
        clean = clean.replace(pos=clean.pos.double())
        level = NoiseLevel.free(clean, torch.tensor([sigma, 1.0], dtype=torch.float64))
        level = first_atoms_fixed(level, 1)
        normal, answer = torch.randn(2, 2, 6, 3, generator=generator, dtype=torch.float64)
        x0 = clean.pos / 1.5
        x = self.process.noise(clean.pos, level, normal, clean.mask) / 1.5
        s = level.pos[..., None]
        skip, out = 1 / (1 + s**2), s / (1 + s**2).sqrt()
        target = (x0 - skip * x) / out
        free = level.pos > 0
        expected = torch.stack([(answer - target)[k][free[k]].square().mean() for k in range(2)])
        loss = self.process.loss(1.5 * (skip * x + out * answer), clean.pos, level)
        assert torch.allclose(loss, expected)

    def test_step_is_a_straight_line(self, exact):
        x0, x = exact.pos, exact.pos + 2
        assert torch.allclose(self.process.step(x, x0, 0.25), x0 + 0.5)
        assert torch.equal(self.process.step(x, x0, 0.0), x0)
