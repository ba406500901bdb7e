"""The oracle against tensor-product quadrature (k <= 3), finite differences, closed forms and published values."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from gradlab.problems import BoxGaussian, BoxProblem, NormalGaussian
from tests.problems import brute_force

GENERATIVE = ("prior_std", "slope", "offset", "likelihood_std")
SETTINGS = {"x": 0.8, "slope": 1.3, "offset": -0.2, "likelihood_std": 0.6, "prior_std": 1.4}
PHI, MEAN, STD = 0.3, 0.4, 0.7
POINTS = {1: 400, 2: 200, 3: 48}


def box_case(k):
    y, p = brute_force.box_points(PHI, POINTS[k])
    model = brute_force.Model(**SETTINGS)
    return y, p, model, model.log_joint(y)


def normal_case(k):
    noise, p = brute_force.normal_points({1: 2000, 2: 400, 3: 90}[k], {1: 12.0, 2: 10.0, 3: 7.5}[k])
    y = MEAN + STD * noise
    model = brute_force.Model(**SETTINGS)
    return noise, y, p, model, model.log_joint(y) - brute_force.log_normal(y, MEAN, STD)


def normal_slopes(noise, y, model, wrt):
    """(total, path, score) derivatives of log w, by complex step of the whole chain."""
    step = 1e-30
    mean, std = (MEAN + 1j * step, STD) if wrt != "std" else (MEAN, STD + 1j * step)
    moved = mean + std * noise
    joint = np.imag(model.log_joint(moved)) / step
    total = joint - np.imag(brute_force.log_normal(moved, mean, std)) / step
    path = joint - np.imag(brute_force.log_normal(moved, MEAN, STD)) / step
    score = np.imag(brute_force.log_normal(y, mean, std)) / step
    return total, path, score


def check(exact, expected, second):
    """Mean to 1e-8 of sqrt(E P^2), variance to 1e-8 relative."""
    assert abs(exact[0] - expected[0]) <= 1e-8 * math.sqrt(second)
    assert abs(exact[1] - expected[1]) <= 1e-8 * expected[1] + 1e-18


@pytest.mark.parametrize("lam, answers", [
    (1.0, (-0.5507595, 0.1597036, -0.2575327, 0.0409868)),
    (4.0, (-1.7439937, 2.7203863, -0.8389650, 0.9925381)),
])  # fmt: skip
def test_published_values(lam, answers):
    problem = BoxProblem(lambda y: -lam * y**2, 0.3)
    pathwise, dreg = problem.exact_moments("pathwise", 2), problem.exact_moments("dreg", 2)
    exact = (problem.exact_gradient(2), pathwise[1], *dreg)
    assert exact == pytest.approx(answers, abs=6e-8, rel=0)
    assert pathwise[0] == pytest.approx(answers[0], abs=6e-8)
    # k = 1 in closed form: gradient -2 lam y, variance lam^2/3.
    assert problem.exact_gradient(1) == pytest.approx(-0.6 * lam, rel=1e-13)
    assert problem.exact_moments("pathwise", 1) == pytest.approx((-0.6 * lam, lam**2 / 3), rel=1e-13)
    # The same family as a BoxGaussian with a flat likelihood.
    flat = BoxGaussian(0.3, x=0.0, slope=0.0, prior_std=math.sqrt(0.5 / lam))
    assert flat.exact_gradient(2) == pytest.approx(problem.exact_gradient(2), rel=1e-12)
    assert flat.exact_moments("dreg", 2) == pytest.approx(dreg, rel=1e-12)


def test_published_bounds():
    problem = BoxProblem(lambda y: -4 * y**2, 0.3)
    assert problem.exact_bound(1) == pytest.approx(-0.6933333, abs=6e-8)
    assert problem.exact_bound(2) == pytest.approx(-0.5660713, abs=6e-8)
    assert problem.exact_limit() == pytest.approx(-0.4740767, abs=6e-8)
    nodes = [problem.exact_bound(k) for k in (1, 2, 8, 100, 10_000)]
    assert np.all(np.diff(nodes) > 0) and nodes[-1] < problem.exact_limit() < nodes[-1] + 1e-4


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("estimator", ["pathwise", "stl", "dreg", "score"])
def test_box_against_tensor_quadrature(k, estimator):
    problem = BoxGaussian(PHI, **SETTINGS)
    y, p, model, log_w = box_case(k)
    bound, _ = brute_force.moments(log_w, p, "bound", log_w, k)
    assert problem.exact_bound(k) == pytest.approx(bound, abs=1e-10)
    if estimator == "score":
        assert problem.exact_moments("score", k) == (0.0, 0.0)
    else:
        expected = brute_force.moments(log_w, p, "squared" if estimator == "dreg" else "linear", model.by_y(y), k)
        check(problem.exact_moments(estimator, k), expected, expected[1] + expected[0] ** 2)
    for wrt in GENERATIVE:
        expected = brute_force.moments(log_w, p, "linear", model.by(wrt, y), k)
        check(problem.exact_moments(estimator, k, wrt), expected, expected[1] + expected[0] ** 2)
        assert problem.exact_gradient(k, wrt) == pytest.approx(expected[0], abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("wrt", ["phi", "mean", "std", *GENERATIVE])
def test_normal_against_tensor_quadrature(k, wrt):
    problem = NormalGaussian(MEAN, STD, **SETTINGS)
    noise, y, p, model, log_w = normal_case(k)
    bound, _ = brute_force.moments(log_w, p, "bound", log_w, k)
    assert problem.exact_bound(k) == pytest.approx(bound, abs=1e-10)
    if wrt in GENERATIVE:
        expected = brute_force.moments(log_w, p, "linear", model.by(wrt, y), k)
        for estimator in ("pathwise", "stl", "dreg", "score"):
            check(problem.exact_moments(estimator, k, wrt), expected, expected[1] + expected[0] ** 2)
        return
    total, path, score = normal_slopes(noise, y, model, wrt)
    for estimator, kind, a in [
        ("pathwise", "linear", total), ("stl", "linear", path), ("dreg", "squared", path), ("score", "score", score)
    ]:  # fmt: skip
        expected = brute_force.moments(log_w, p, kind, a, k)
        check(problem.exact_moments(estimator, k, wrt), expected, expected[1] + expected[0] ** 2)
    assert problem.exact_gradient(k, wrt) == problem.exact_moments("pathwise", k, wrt)[0]


@pytest.mark.parametrize("k", [1, 2, 7, 300])
@pytest.mark.parametrize("posterior", ["box", "normal"])
def test_gradient_is_the_slope_of_the_bound(k, posterior):
    if posterior == "box":
        values, make = {"phi": PHI, **SETTINGS}, lambda v: BoxGaussian(**v)
    else:
        values, make = {"mean": MEAN, "std": STD, **SETTINGS}, lambda v: NormalGaussian(**v)
    problem, h = make(values), 2e-3

    def bound(name, step):
        return make(values | {name: values[name] + step}).exact_bound(k)

    for name in [n for n in values if n != "x"]:
        central = [(bound(name, s * h) - bound(name, -s * h)) / (2 * s * h) for s in (1, 2, 4)]
        second = [(4 * a - b) / 3 for a, b in pairwise(central)]
        slope = (16 * second[0] - second[1]) / 15  # Richardson: error of order h^6
        assert problem.exact_gradient(k, name) == pytest.approx(slope, abs=1e-9)


def test_normal_closed_forms_at_one_sample():
    # Rainforth et al.'s toy: p(z) = N(0, 1), p(x|z) = N(z, 1), q = N(m, 2/3).
    m, x, s = 0.35, 1.1, math.sqrt(2 / 3)
    problem = NormalGaussian(m, s, x)
    assert problem.exact_moments("pathwise", 1) == pytest.approx((x - 2 * m, 8 / 3), rel=1e-12)
    for estimator in ("stl", "dreg"):
        assert problem.exact_moments(estimator, 1) == pytest.approx((x - 2 * m, 1 / 6), rel=1e-12)
    assert problem.exact_limit() == pytest.approx(brute_force.log_normal(x, 0.0, math.sqrt(2)), rel=1e-13)
    # G = (log w - 1) noise/s with log w = A + B noise + C noise^2, and Gaussian moments 1, 3, 15.
    a = -0.5 * (x - m) ** 2 - 0.5 * m**2 - 0.5 * math.log(2 * math.pi) + math.log(s) - 1
    b, c = s * (x - 2 * m), 0.5 - s**2
    expected = (a**2 + 3 * (b**2 + 2 * a * c) + 15 * c**2) / s**2 - (b / s) ** 2
    assert problem.exact_moments("score", 1) == pytest.approx((b / s, expected), rel=1e-12)
    # The optimum: STL and DReG are zero in every draw (sticking the landing), the score estimator is not.
    best = NormalGaussian(x / 2, math.sqrt(0.5), x)
    for k in (1, 4, 1000):
        assert best.exact_bound(k) == pytest.approx(best.exact_limit(), abs=1e-12)
        for estimator in ("stl", "dreg"):
            assert best.exact_moments(estimator, k) == pytest.approx((0.0, 0.0), abs=1e-14)
        assert best.exact_moments("pathwise", k, "std")[1] > 0 and best.exact_moments("score", k)[1] > 0


def test_score_of_a_constant_weight():
    # w constant = e^c: G = c sum s - mean(s) up to w~ = 1/k, hence E G^2 = E s^2 (k c^2 - 2 c + 1/k).
    x = 1.1
    best = NormalGaussian(x / 2, math.sqrt(0.5), x)
    c = best.exact_limit()
    for k in (1, 2, 30, 10_000):
        assert best.exact_moments("score", k)[1] == pytest.approx(2 * (k * c**2 - 2 * c + 1 / k), rel=1e-9)


def test_constant_and_linear_log_weights():
    flat = BoxProblem(lambda y: torch.full_like(y, -3.0), 0.1)
    assert flat.exact_bound(5) == pytest.approx(-3.0, abs=1e-13)
    assert flat.exact_gradient(5) == 0.0 and flat.exact_moments("dreg", 5) == (0.0, 0.0)
    # log w = c y: the slope is c in every draw.
    for k in (1, 2, 1000):
        assert BoxProblem(lambda y: 0.7 * y, 0.1).exact_moments("pathwise", k) == pytest.approx((0.7, 0.0), abs=1e-13)
        assert BoxProblem(lambda y: 0.7 * y, 0.1).exact_gradient(k) == pytest.approx(0.7, rel=1e-11)


@pytest.mark.parametrize("kink", [0.0, 0.137])
def test_kinks_are_resolved(kink):
    problem = BoxProblem(lambda y: -3 * (y - kink).abs(), 0.3)
    y, p = brute_force._panels(-0.2, kink, 100, 1)
    z, q = brute_force._panels(kink, 0.8, 100, 1)
    p, q = p * (kink + 0.2), q * (0.8 - kink)
    y, p = np.concatenate([y, z]), np.concatenate([p, q])
    expected = brute_force.moments(-3 * abs(y - kink), p, "linear", -3 * np.sign(y - kink), 2)
    check(problem.exact_moments("pathwise", 2), expected, expected[1] + expected[0] ** 2)
    assert problem.exact_gradient(2) == pytest.approx(expected[0], abs=1e-9)
