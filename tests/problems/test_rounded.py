"""``RoundedGaussian`` against brute force that shares no code with it: numpy formulas, midpoint rules, differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError, NotExact
from gradlab.objectives.proxies import PROXIES, GumbelAnnealing, SoftRounding

X, STD, PHI = 1.0, 0.5, 0.3
CASES = [
    "noise",
    "universal",
    "straight-through",
    "soft-rounding",
    "sga",
    SoftRounding(2.0),
    GumbelAnnealing(1.0),
    GumbelAnnealing(0.25),
]
NAMES = [c if isinstance(c, str) else f"{c.name} {getattr(c, 'alpha', getattr(c, 'temperature', ''))}" for c in CASES]


def latent(case, phi, u):
    """``(scored, read by the decoder)`` in plain numpy."""
    name = case if isinstance(case, str) else case.name
    if name == "noise":
        y = phi + u
    elif name == "universal":
        y = np.round(phi - u) + u
    elif name == "straight-through":
        y = np.round(phi) + 0 * u
    elif name == "sga":
        tau = case.temperature if isinstance(case, GumbelAnnealing) else 0.5
        d = phi - math.floor(phi)
        logits = (math.atanh(d) - math.atanh(1 - d)) / tau + np.log((u + 0.5) / (0.5 - u))
        y = math.floor(phi) + 1 / (1 + np.exp(-logits / tau))
    else:
        alpha = case.alpha if isinstance(case, SoftRounding) else 5.0
        t = math.tanh(alpha / 2)
        z = math.floor(phi) + 0.5 + math.tanh(alpha * (phi - math.floor(phi) - 0.5)) / (2 * t) + u
        s = z - 0.5
        centre = np.floor(s) + 0.5
        return z, centre + np.arctanh(2 * t * (s - centre)) / alpha + 0.5
    return y, y


def log_w(case, phi, u):
    scored, read = latent(case, phi, u)

    def normal(a, b, s):
        return -0.5 * ((a - b) / s) ** 2 - math.log(s * math.sqrt(2 * math.pi))

    return normal(X, read, STD) + normal(scored, 0.0, 1.0)


def grid(n, kind):
    """Midpoints of U(-1/2, 1/2), finer towards the ends where the logistic lives; and their probabilities."""
    edges = np.linspace(-1, 1, n + 1)
    if kind == "sga":
        edges = np.sin(np.pi / 2 * edges)
    return 0.25 * (edges[:-1] + edges[1:]), 0.5 * np.diff(edges)


def slope(case, phi, u):
    """``d log w/d phi`` at fixed noise: differences of the forward pass, or what a straight-through derivative says."""
    name = case if isinstance(case, str) else case.name
    if name in ("universal", "straight-through"):
        scored, _ = latent(case, phi, u)
        return (X - scored) / STD**2 - scored
    h = 1e-5
    return (log_w(case, phi + h, u) - log_w(case, phi - h, u)) / (2 * h)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_bound_gradient_and_moments_are_those_of_brute_force(case):
    problem = gl.problems.RoundedGaussian(PHI, X, case, likelihood_std=STD)
    name = case if isinstance(case, str) else case.name
    u, p = grid(200_000, name)
    w, a = log_w(case, PHI, u), slope(case, PHI, u)
    assert problem.exact_bound(1) == pytest.approx(p @ w, abs=1e-6)
    mean, variance = problem.exact_moments("pathwise", 1)
    assert mean == pytest.approx(p @ a, abs=2e-5)
    assert variance == pytest.approx(p @ (a - p @ a) ** 2, rel=2e-4, abs=1e-9)
    u, p = grid(3000, name)
    w, a = np.exp(log_w(case, PHI, u)), slope(case, PHI, u)
    pair = p[:, None] * p
    total = w[:, None] + w
    estimate = (w[:, None] * a[:, None] + w * a) / total
    assert problem.exact_bound(2) == pytest.approx((pair * np.log(total / 2)).sum(), abs=2e-5)
    mean, variance = problem.exact_moments("pathwise", 2)
    assert mean == pytest.approx((pair * estimate).sum(), abs=5e-4)
    assert variance == pytest.approx((pair * (estimate - mean) ** 2).sum(), rel=2e-3, abs=1e-9)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@pytest.mark.parametrize("wrt", ["phi", "prior_std", "slope", "offset", "likelihood_std"])
def test_the_gradient_is_the_slope_of_the_bound(case, wrt):
    start = {"phi": PHI, "slope": 1.0, "offset": 0.0, "likelihood_std": STD, "prior_std": 1.0}

    def bound(value):
        return gl.problems.RoundedGaussian(x=X, proxy=case, **{**start, wrt: value}).exact_bound(5)

    h = 1e-4
    expected = (bound(start[wrt] + h) - bound(start[wrt] - h)) / (2 * h)
    problem = gl.problems.RoundedGaussian(x=X, proxy=case, **start)
    assert problem.exact_gradient(5, wrt) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_draws_agree_with_the_exact_moments(case):
    problem = gl.problems.RoundedGaussian(PHI, X, case, likelihood_std=STD)
    table = gl.compare(problem, ("pathwise", "stl"), k=(1, 4), draws=50_000, allow_biased=True)
    assert (table["z"].abs() < 4.5).all() and (table["z_variance"].abs() < 4.5).all()
    assert table["exact_mean"].notna().all() and table["exact_variance"].notna().all()


@pytest.mark.parametrize("name", ["noise", "universal"])
@pytest.mark.parametrize("k", [1, 7])
def test_noise_and_universal_quantization_are_the_unit_box(name, k):
    ours, box = gl.problems.RoundedGaussian(PHI, X, name), gl.problems.BoxGaussian(PHI, X)
    assert ours.exact_bound(k) == pytest.approx(box.exact_bound(k), abs=1e-12)
    assert ours.exact_gradient(k) == pytest.approx(box.exact_gradient(k), abs=1e-10)
    for estimator in ("pathwise", "dreg", "dreg-squared"):
        assert ours.exact_moments(estimator, k) == pytest.approx(box.exact_moments(estimator, k), rel=1e-9)
    assert ours.exact_limit() == pytest.approx(box.exact_limit(), abs=1e-12)
    assert ours.exact_ess(k) == pytest.approx(box.exact_ess(k), rel=1e-9)


def test_a_derivative_that_autograd_does_not_know_is_not_passed_for_exact():
    class Wrong(SoftRounding):
        path_is_true = False

        def sample(self, mean, noise):
            return mean + super().sample(mean.detach(), noise) - mean.detach()

    problem = gl.problems.RoundedGaussian(PHI, X, Wrong(4.0), likelihood_std=STD)
    with pytest.raises(NotExact, match="autograd does not compute the derivative of the forward pass"):
        problem.exact_gradient(2)
    with pytest.raises(GradlabError, match="'stl' is biased"):
        gl.compare(problem, ("stl",))
    (row,) = gl.compare(problem, ("pathwise",), 2, 100, allow_biased=True).to_dict("records")
    assert math.isnan(row["exact"])


def test_the_gap_is_what_training_sees_less_what_rounding_gives():
    problem = gl.problems.RoundedGaussian(PHI, X, "noise", likelihood_std=STD)
    rounded = -0.5 * ((X - 0.0) / STD) ** 2 - math.log(STD) - math.log(2 * math.pi)  # round(0.3) = 0
    assert problem.exact_gap(1) == pytest.approx(problem.exact_bound(1) - rounded, abs=1e-12)
    assert problem.exact_gap(1) > 0  # nearer to x than 0 is
    with pytest.raises(GradlabError, match="has no walls: use BoxGaussian"):
        problem.log_terms(problem.draw_noise(3, 2), walls=True)


def test_straight_through_is_biased_by_all_of_its_gradient_and_has_no_gap():
    problem = gl.problems.RoundedGaussian(0.6, X, "straight-through", likelihood_std=STD)
    with pytest.raises(
        GradlabError, match=r"'pathwise' is biased for the Quantized posterior.*derivative autograd knows"
    ):
        gl.compare(problem, ("pathwise",))
    (row,) = gl.compare(problem, ("pathwise",), k=3, draws=10, allow_biased=True).to_dict("records")
    assert row["exact"] == 0 and row["variance"] == 0
    assert row["bias"] == pytest.approx((X - 1.0) / STD**2 - 1.0, abs=1e-12)  # d log w/dy at round(0.6) = 1
    assert problem.exact_gap(3) == pytest.approx(0.0, abs=1e-12)


def test_steeper_proxies_close_the_gap_and_pay_in_variance():
    for family in (
        [SoftRounding(a) for a in (1.0, 4.0, 8.0)],
        [GumbelAnnealing(t) for t in (1.0, 0.5, 0.25)],
    ):
        problems = [gl.problems.RoundedGaussian(PHI, X, p, likelihood_std=STD) for p in family]
        gaps = [abs(p.exact_gap(1)) for p in problems]
        variances = [p.exact_moments("pathwise", 1)[1] for p in problems]
        assert gaps[0] > gaps[-1] and variances[0] < variances[-1]


def test_what_rounding_cannot_give_is_refused():
    problem = gl.problems.RoundedGaussian(PHI, X, "sga")
    with pytest.raises(GradlabError, match=r"dreg.*support that does not move"):
        gl.compare(problem, ("dreg",))
    with pytest.raises(GradlabError, match=r"measure-valued.*undefined"):
        gl.compare(problem, ("measure-valued",), allow_biased=True)
    with pytest.raises(GradlabError, match="unknown proxy"):
        gl.problems.RoundedGaussian(PHI, X, "rounding")
    with pytest.raises(GradlabError, match="phi is nan"):
        gl.problems.RoundedGaussian(math.nan, X)
    with pytest.raises(GradlabError, match="k is 0"):
        problem.exact_gradient(0)


def test_every_proxy_is_a_case():
    assert {c if isinstance(c, str) else c.name for c in CASES} == set(PROXIES)
    assert torch.get_default_dtype() == torch.float32
