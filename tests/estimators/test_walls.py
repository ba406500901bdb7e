"""Estimators that put the boundary back or move samples: exact in expectation by quadrature, in one and more dimensions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.estimators import ESTIMATORS
from gradlab.objectives.posteriors import Box, Normal
from gradlab.objectives.terms import LogTerms, Tap, Walls
from gradlab.problems.comparison import gradients

PHI, X, LIK, PRIOR = 0.3, 1.0, 0.5, 1.2
MEAN, STD = 0.3, 0.4
WALLED = ["dreg-boundary", "measure-valued"]


def box():
    return gl.problems.BoxGaussian(PHI, X, likelihood_std=LIK, prior_std=PRIOR)


def normal(mean=MEAN, std=STD):
    return gl.problems.NormalGaussian(mean, std, X, likelihood_std=0.7, prior_std=PRIOR)


def log_w(y):
    """The log-weight of ``box()``, with nothing of gradlab."""
    n = lambda v, s: -0.5 * (v / s) ** 2 - math.log(s) - 0.5 * math.log(2 * math.pi)  # noqa: E731
    return n(X - y, LIK) + n(y, PRIOR)


def legendre(nodes, k):
    """Tensor Gauss-Legendre on [-1/2, 1/2]^k: points ``[nodes^k, k]`` and probabilities."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    points = np.array(list(itertools.product(x / 2, repeat=k)))
    return points, np.array([math.prod(p) for p in itertools.product(w / 2, repeat=k)])


def brute_gradient(k, nodes=16):
    """``k E_rest[L^(y_1 at the upper wall) - L^(y_1 at the lower wall)]``: the boundary form, by tensor quadrature."""
    if k == 1:
        return log_w(PHI + 0.5) - log_w(PHI - 0.5)
    points, p = legendre(nodes, k - 1)
    rest = np.exp(log_w(PHI + points)).sum(1)
    return k * float(p @ (np.log(np.exp(log_w(PHI + 0.5)) + rest) - np.log(np.exp(log_w(PHI - 0.5)) + rest)))


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("name", WALLED)
def test_unbiased_on_the_box_in_expectation(name, k):
    """Not by sampling: the estimate integrated over the noise of all k samples is the gradient."""
    points, p = legendre(16, k)
    ours = gradients(box(), ESTIMATORS[name], torch.tensor(points))
    expected = brute_gradient(k)
    assert float(torch.tensor(p) @ ours) == pytest.approx(expected, abs=1e-10)
    assert box().exact_gradient(k) == pytest.approx(expected, abs=1e-9)
    dreg = float(torch.tensor(p) @ gradients(box(), ESTIMATORS["dreg"], torch.tensor(points)))
    assert k == 1 or abs(dreg - expected) > 0.1  # what is repaired


def test_per_draw_formulas_on_the_box():
    noise = torch.rand(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    y = PHI + noise.numpy()
    w = np.exp(log_w(y))
    up, down = math.exp(log_w(PHI + 0.5)), math.exp(log_w(PHI - 0.5))
    rest = w.sum(1, keepdims=True) - w
    slope = (X - y) / LIK**2 - y / PRIOR**2
    share = w / w.sum(1, keepdims=True)
    dreg_boundary = (share**2 * slope + up / (up + rest) - down / (down + rest)).sum(1)
    measure_valued = (np.log(up + rest) - np.log(down + rest)).sum(1)
    assert np.allclose(gradients(box(), ESTIMATORS["dreg-boundary"], noise), dreg_boundary, rtol=0, atol=1e-10)
    assert np.allclose(gradients(box(), ESTIMATORS["measure-valued"], noise), measure_valued, rtol=0, atol=1e-10)


def test_measure_valued_needs_no_derivative():
    """On a log-weight of the rounded latent every path estimate is 0; the differences are exact at one sample."""

    def rough(y):
        return -((torch.round(4 * y) / 4) ** 2)

    class Rounded(gl.problems.BoxProblem):
        def _prepare(self):
            """No exact answers: its log-weight jumps."""

    problem = Rounded(rough, PHI)
    noise = torch.rand(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    assert torch.equal(gradients(problem, ESTIMATORS["pathwise"], noise), torch.zeros(50, dtype=torch.float64))
    expected = float(rough(torch.tensor(PHI + 0.5)) - rough(torch.tensor(PHI - 0.5)))
    assert torch.allclose(gradients(problem, ESTIMATORS["measure-valued"], noise), torch.tensor(expected).double())


@pytest.mark.parametrize("wrt", ["phi", "std"])
@pytest.mark.parametrize("k", [1, 2])
def test_measure_valued_is_unbiased_on_a_normal_in_expectation(wrt, k):
    """Quadrature over the noise of all samples, against the finite difference of the bound by quadrature.

    In the cube root of the noise, since the quantile of the Maxwell has a cusp at 0 that goes like it.
    """
    root = np.linspace(-2.1, 2.1, 401)
    grid = root**3
    p = root**2 * np.exp(-0.5 * grid**2)
    p /= p.sum()
    points = np.array(list(itertools.product(grid, repeat=k)))
    mass = np.array([math.prod(q) for q in itertools.product(p, repeat=k)])

    def bound(mean, std):
        y = mean + std * points
        log_q = -0.5 * points**2 - math.log(std)
        value = -0.5 * ((X - y) / 0.7) ** 2 - 0.5 * (y / PRIOR) ** 2 - log_q
        return float(mass @ np.log(np.exp(value).mean(1)))

    h = 1e-4
    step = (h, 0.0) if wrt == "phi" else (0.0, h)
    expected = (bound(MEAN + step[0], STD + step[1]) - bound(MEAN - step[0], STD - step[1])) / (2 * h)
    ours = gradients(normal(), ESTIMATORS["measure-valued"], torch.tensor(points), wrt=wrt)
    assert float(torch.tensor(mass) @ ours) == pytest.approx(expected, abs=1e-6)


def test_pairs_of_the_normal_have_their_laws():
    """Weibull and double-sided Maxwell: quantiles against scipy, near 0 and far out."""
    from scipy import stats

    e = torch.tensor([-7.0, -2.5, -0.7, -1e-3, 1e-3, 0.4, 1.1, 3.0, 5.5], dtype=torch.float64)
    q = Normal(torch.tensor(MEAN, dtype=torch.float64), torch.tensor(STD, dtype=torch.float64))
    plus, minus = q.mean_pair(e)
    distance = ((plus - MEAN) / STD).numpy()
    # A Weibull of shape 2 and scale sqrt(2) is a Rayleigh.
    assert np.allclose(stats.rayleigh.logsf(distance), stats.norm.logcdf(e.numpy()), rtol=1e-9, atol=1e-19)
    assert np.allclose((minus - MEAN) / STD, -distance, rtol=1e-9)
    plus, minus = q.std_pair(e)
    assert torch.allclose(minus, MEAN + STD * e)
    standard = ((plus - MEAN) / STD).numpy()
    assert (np.sign(standard) == np.sign(e.numpy())).all()
    assert np.allclose(stats.maxwell.sf(abs(standard)), 2 * stats.norm.sf(abs(e.numpy())), rtol=1e-8)
    assert q.std_pair(torch.zeros(1, dtype=torch.float64))[0].item() == pytest.approx(MEAN)


def test_without_a_moving_support_the_boundary_is_nothing():
    noise = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for wrt in ("phi", "std"):
        ours = gradients(normal(), ESTIMATORS["dreg-boundary"], noise, wrt=wrt)
        assert torch.equal(ours, gradients(normal(), ESTIMATORS["dreg"], noise, wrt=wrt))


# A box in D dimensions, built by hand: correlated coordinates, each with a centre of its own.


def joint(y):
    """``log w`` of ``[..., D]``: no product over coordinates."""
    return -0.5 * ((y - 0.8) ** 2).sum(-1) - (y[..., 0] * y[..., 1] - 0.3) ** 2 + 0.4 * y[..., -1]


def terms_of(noise, center, coordinates=None):
    """Terms of ``noise [B, K, D]`` at a live ``center [B, 1, D]``."""
    q = Box(center)
    y = q.sample(noise)
    lik = y.view_as(y)
    return LogTerms(
        log_lik=joint(lik)[..., None],
        samples=(y, None),
        taps=(Tap(lik, "y", "lik"),),
        walls=q.walls(y, joint, coordinates),
        prior_paths=(),
    )


def in_dimensions(name, noise, coordinates=None):
    """``[B, D]`` gradient by the centre of each coordinate."""
    center = torch.full((noise.shape[0], 1, noise.shape[2]), 0.2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(ESTIMATORS[name](terms_of(noise, center, coordinates), "iwae").sum(), center)
    return grad[:, 0]


@pytest.mark.parametrize(("dim", "k", "nodes"), [(2, 2, 10), (3, 1, 14)])
@pytest.mark.parametrize("name", WALLED)
def test_unbiased_in_dimensions(name, dim, k, nodes):
    points, p = legendre(nodes, k * dim)
    noise, mass = torch.tensor(points).reshape(-1, k, dim), torch.tensor(p)

    def bound(center):
        return float(mass @ (torch.logsumexp(joint(center + noise), dim=1) - math.log(k)))

    ours = mass @ in_dimensions(name, noise)
    for d in range(dim):
        h = torch.zeros(dim, dtype=torch.float64)
        h[d] = 1e-4
        expected = (bound(0.2 + h) - bound(0.2 - h)) / 2e-4
        assert float(ours[d]) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", WALLED)
def test_a_random_subset_of_coordinates_is_unbiased(name):
    """The mean over all subsets of a size is the estimate with all coordinates, draw by draw."""
    noise = torch.rand(20, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    whole = in_dimensions(name, noise)
    for size in (1, 2, 3):
        subsets = list(itertools.combinations(range(4), size))
        mean = sum(in_dimensions(name, noise, torch.tensor(s)) for s in subsets) / len(subsets)
        assert torch.allclose(mean, whole, rtol=0, atol=1e-12), size
    subsets = torch.tensor([[b % 4, (b + 1) % 4] for b in range(20)])  # one subset per draw
    ours = in_dimensions(name, noise, subsets)
    for b in range(20):
        expected = in_dimensions(name, noise[b : b + 1], subsets[b])
        assert torch.allclose(ours[b], expected[0], rtol=0, atol=1e-12)


def test_walls_move_one_coordinate_of_one_sample():
    noise = torch.rand(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    center = torch.tensor([[[0.1, 0.7]], [[0.3, -0.4]]], dtype=torch.float64, requires_grad=True)
    walls = terms_of(noise, center).walls
    assert walls.log_w.shape == (2, 3, 4) and walls.scale.tolist() == [1.0, 1.0, -1.0, -1.0]
    y = (center + noise).detach()
    for b, i, (side, d) in itertools.product(range(2), range(3), enumerate([0, 1, 0, 1])):
        moved = y[b, i].clone()
        moved[d] = center[b, 0, d].detach() + (0.5 if side < 2 else -0.5)
        assert float(walls.log_w[b, i, side].detach()) == pytest.approx(float(joint(moved).detach()), abs=1e-14)
        assert float(walls.moves[b, i, side].detach()) == float(center[b, 0, d].detach())


def test_tempered_weights_keep_their_boundary():
    """In bits per pixel the objective is another one; its gradient too is a difference at the walls."""
    points, p = legendre(16, 2)
    noise, mass = torch.tensor(points), torch.tensor(p)
    unit = 1 / (7 * math.log(2))

    def bound(phi):
        return float(mass @ (torch.logsumexp(unit * torch.tensor(log_w(phi + points)), dim=1) - math.log(2)))

    expected = (bound(PHI + 1e-4) - bound(PHI - 1e-4)) / 2e-4
    for name in WALLED:
        phi = torch.full((len(points),), PHI, dtype=torch.float64, requires_grad=True)
        terms = box().log_terms(noise, {"phi": phi}, walls=True)
        object.__setattr__(terms, "pixels", 7)
        (grad,) = torch.autograd.grad(ESTIMATORS[name](terms, "iwae", scale="bpp").sum(), phi)
        assert float(mass @ grad) == pytest.approx(expected, abs=1e-7), name


@pytest.mark.parametrize("rate_weight", [1.0, 0.6])
@pytest.mark.parametrize("scale", ["nats", "bpp"])
def test_a_boundary_and_a_score_together(scale, rate_weight):
    """y ~ U(0, s): the upper wall moves with s, and the density 1/s has a score; k = 2, by quadrature."""
    points, p = legendre(20, 2)
    noise, mass = torch.tensor(points) + 0.5, torch.tensor(p)
    unit = 1.0 if scale == "nats" else 1 / math.log(2)

    def h(y):
        return -2 * (y - 0.9) ** 2 + torch.sin(3 * y)

    def bound(s):
        return float(mass @ torch.logsumexp(unit * (h(s * noise) + rate_weight * math.log(s)), dim=1)) - math.log(2)

    s = torch.full((len(points),), 1.3, dtype=torch.float64, requires_grad=True)
    y = s[:, None] * noise
    lik = y.view_as(y)
    log_q = -torch.log(s)[:, None, None].expand(-1, 2, 1)
    terms = LogTerms(
        log_lik=h(lik)[..., None],
        log_q=log_q.detach(),
        scores=(log_q,),
        samples=(y, None),
        taps=(Tap(lik, "y", "lik"),),
        walls=Walls((h(s) + rate_weight * torch.log(s)).detach()[:, None, None].expand(-1, 2, 1),
                    torch.tensor([1 / 1.3], dtype=torch.float64), s[:, None, None]),
        rate_weight=rate_weight,
    )  # fmt: skip
    (grad,) = torch.autograd.grad(ESTIMATORS["dreg-boundary"](terms, "iwae", scale=scale).sum(), s)
    expected = (bound(1.3 + 1e-4) - bound(1.3 - 1e-4)) / 2e-4
    assert float(mass @ grad) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", WALLED)
def test_terms_without_walls_are_refused(name):
    noise = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(GradlabError, match=f"the terms have no walls, which {name} needs"):
        ESTIMATORS[name](box().log_terms(noise), "iwae")


@pytest.mark.parametrize("name", WALLED)
def test_objectives_that_cannot_move_one_sample_are_refused(name):
    def terms(**more):
        return LogTerms(torch.zeros(1, 2, 1), walls=Walls(torch.zeros(1, 2, 2), torch.ones(2)), **more)

    with pytest.raises(GradlabError, match=f"{name} does not support objective 'jvi'"):
        ESTIMATORS[name](terms(), "jvi")
    with pytest.raises(GradlabError, match="use weighting='joint'"):
        ESTIMATORS[name](terms(), "iwae", weighting="per-term")
    shared = terms(log_pz=torch.zeros(1, 1, 1), samples=(torch.zeros(1, 2), torch.zeros(1, 1)))
    with pytest.raises(GradlabError, match="z is shared between the samples of y"):
        ESTIMATORS[name](shared, "ms-nic-mix")


def test_a_posterior_that_gives_neither_is_undefined_whatever_is_allowed():
    class Opaque(Box):
        walls_known = False
        derivative_known = False

    class Problem(gl.problems.BoxGaussian):
        @property
        def posterior(self):
            return Opaque(super().posterior.center)

    problem = Problem(PHI, X)
    reasons = {"dreg-boundary": "one whose walls are known", "measure-valued": "another measure-valued derivative"}
    for name, reason in reasons.items():
        with pytest.raises(GradlabError, match=rf"'{name}' is undefined for the Opaque posterior at k = 2: .*{reason}"):
            gl.compare(problem, (name,), 2, 100, allow_biased=True)
