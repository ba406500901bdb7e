"""The oracle at large k: seeded draws, extended precision, narrow likelihoods, limits and identities."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from gradlab.problems import BoxGaussian, BoxProblem, NormalGaussian
from gradlab.problems._oracle import moments
from tests.problems import brute_force

SETTINGS = {"x": 0.8, "slope": 1.3, "offset": -0.2, "likelihood_std": 0.6, "prior_std": 1.4}


def z_scores(values, mean, variance):
    """z of the mean and of the variance of independent ``values``."""
    n = len(values)
    d = values - values.mean()
    second, fourth = np.mean(d**2), np.mean(d**4)
    return (
        (values.mean() - mean) / math.sqrt(second / n),
        (second * n / (n - 1) - variance) / math.sqrt((fourth - second**2) / n),
    )


def simulate(posterior, k, draws, seed):
    """name -> per-draw estimates ``[draws]``, by plain formulas on numpy's own noise."""
    rng, model = np.random.default_rng(seed), brute_force.Model(**SETTINGS)
    v = model.values
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, draws, max(1, 2**19 // k)):
        shape = (min(max(1, 2**19 // k), draws - start), k)
        if posterior == "box":
            y = 0.3 + rng.random(shape) - 0.5
            noise, log_q = None, 0.0
        else:
            noise = rng.standard_normal(shape)
            y, log_q = 0.4 + 0.7 * noise, brute_force.log_normal(noise, 0.0, 0.7) + 0.5 * noise**2 * (1 / 0.49 - 1)
        residual = (v["x"] - v["slope"] * y - v["offset"]) / v["likelihood_std"] ** 2
        slope = v["slope"] * residual - y / v["prior_std"] ** 2
        log_w = model.log_joint(y) - log_q
        cases = {("prior_std", "pathwise"): ("linear", y**2 / v["prior_std"] ** 3 - 1 / v["prior_std"])}
        cases["phi", "pathwise"] = ("linear", slope)
        if posterior == "box":
            cases["phi", "dreg"] = ("squared", slope)
        else:
            path = slope + noise / 0.7
            cases |= {("phi", "stl"): ("linear", path), ("phi", "dreg"): ("squared", path)}
            cases |= {
                ("phi", "score"): ("score", noise / 0.7),
                ("std", "pathwise"): ("linear", slope * noise + 1 / 0.7),
            }
            cases |= {("std", "dreg"): ("squared", path * noise), ("std", "score"): ("score", (noise**2 - 1) / 0.7)}
        cases["", "bound"] = ("bound", y)
        share, bound = brute_force.weights(log_w)
        for name, (kind, a) in cases.items():
            parts.setdefault(name, []).append(brute_force.estimate(share, bound, kind, a))
    return {name: np.concatenate(values) for name, values in parts.items()}


@pytest.mark.parametrize("k, draws", [(8, 1_000_000), (64, 250_000), (1000, 20_000)])
@pytest.mark.parametrize("posterior", ["box", "normal"])
def test_against_seeded_draws(posterior, k, draws):
    problem = BoxGaussian(0.3, **SETTINGS) if posterior == "box" else NormalGaussian(0.4, 0.7, **SETTINGS)
    for (wrt, estimator), values in simulate(posterior, k, draws, seed=7).items():
        if estimator == "bound":
            assert abs(values.mean() - problem.exact_bound(k)) < 4.5 * values.std() / math.sqrt(draws)
            continue
        scores = z_scores(values, *problem.exact_moments(estimator, k, wrt))
        assert max(map(abs, scores)) < 4.5, (wrt, estimator, scores)


def long_double(log_w, a, p, k, step):
    """(bound, (mean, variance) of pathwise, of DReG) as DESIGN writes them: t and w apart, variances not centred.

    In extended precision, on a fixed dense grid: the digits that this loses are spare.
    """
    w, a, p = (np.asarray(v, dtype=np.longdouble) for v in (np.exp(np.asarray(log_w, dtype=np.longdouble)), a, p))
    step = np.longdouble(step)
    sums = [np.longdouble(0)] * 5
    for u in np.arange(-70, 30, float(step)):
        t = np.exp(np.longdouble(u))
        q = p * np.exp(-t * w)
        m = q.sum()
        if k * (1 - m) > 200 and u > 10:
            break
        a1, a2, b1, b2 = (q @ v for v in (w * a, (w * a) ** 2, w**2 * a, (w**2 * a) ** 2))
        rest, pair = m ** (k - 1), m ** (k - 2)
        terms = (
            np.exp(-t) - m**k,
            k * t * a1 * rest,
            k * t**2 * a2 * rest + k * (k - 1) * t**2 * a1**2 * pair,
            k * t**2 * b1 * rest,
            (k * t**4 * b2 * rest + k * (k - 1) * t**4 * b1**2 * pair) / 6,
        )
        sums = [s + step * v for s, v in zip(sums, terms, strict=True)]
    bound, p1, p2, d1, d2 = sums
    return bound - np.log(np.longdouble(k)), (p1, p2 - p1**2), (d1, d2 - d1**2)


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="needs an extended long double")
@pytest.mark.parametrize("x, likelihood_std, k, digits", [
    (0.5, 0.5, 10_000, 1e-8), (0.9, 0.5, 300, 1e-8), (0.5, 0.02, 10_000, 1e-6), (0.62, 0.02, 500, 1e-6)
])  # fmt: skip
def test_against_extended_precision(x, likelihood_std, k, digits):
    problem = BoxGaussian(0.3, x=x, likelihood_std=likelihood_std)
    y, p = brute_force.box_points(0.3, 40, panels=max(2, round(1 / likelihood_std)))
    model = brute_force.Model(x=x, likelihood_std=likelihood_std)
    bound, pathwise, dreg = long_double(model.log_joint(y), model.by_y(y), p, k, step=0.13)
    assert problem.exact_bound(k) == pytest.approx(float(bound), abs=1e-10)
    for estimator, (mean, variance) in {"pathwise": pathwise, "dreg": dreg}.items():
        exact = problem.exact_moments(estimator, k)
        assert abs(exact[0] - mean) < 1e-8 * math.sqrt(variance + mean**2)
        assert abs(exact[1] - variance) < digits * variance


@pytest.mark.parametrize("x", [0.5, 0.85])
def test_narrow_likelihood_at_two_samples(x):
    """A likelihood 50 times narrower than the box, where log w falls by up to 1400 nats."""
    problem = BoxGaussian(0.3, x=x, likelihood_std=0.02)
    y, p = brute_force.box_points(0.3, 16, panels=160)
    model = brute_force.Model(x=x, likelihood_std=0.02)
    log_w, g = model.log_joint(y), model.by_y(y)
    with np.errstate(over="ignore"):
        share = 1 / (1 + np.exp(log_w[None, :] - log_w[:, None]))  # w~_1 [n, n]
    both = p[:, None] * p
    for estimator, n in (("pathwise", 1), ("dreg", 2)):
        values = share**n * g[:, None] + share.T**n * g
        mean = (both * values).sum()
        variance = (both * (values - mean) ** 2).sum()
        exact = problem.exact_moments(estimator, 2)
        assert abs(exact[0] - mean) < 1e-7 * math.sqrt(variance + mean**2)
        assert exact[1] == pytest.approx(variance, rel=1e-6)
    pair = np.maximum(log_w[:, None], log_w) + np.log1p(np.exp(-abs(log_w[:, None] - log_w))) - math.log(2)
    assert problem.exact_bound(2) == pytest.approx((both * pair).sum(), rel=1e-8)


@pytest.mark.parametrize("k", [1, 2, 8, 1000, 10_000])
@pytest.mark.parametrize("problem", [
    pytest.param(BoxGaussian(0.3, **SETTINGS), id="mild"), pytest.param(BoxGaussian(0.3, 0.9, likelihood_std=0.02), id="narrow"), pytest.param(BoxProblem(lambda y: (4 * y).sin(), 0.3), id="sine")
])  # fmt: skip
def test_bias_of_dreg_is_the_boundary_term(problem, k):
    pathwise, dreg = problem.exact_moments("pathwise", k), problem.exact_moments("dreg", k)
    scale = math.sqrt(pathwise[1] + pathwise[0] ** 2)
    assert abs(pathwise[0] - dreg[0] - problem.boundary_term(k)) < 1e-8 * scale
    # The boundary form of the gradient is the mean of the pathwise estimator: the latter is unbiased on the box.
    assert abs(pathwise[0] - problem.exact_gradient(k)) < 1e-8 * scale


def test_boundary_term_by_quadrature():
    problem = BoxGaussian(0.3, **SETTINGS)
    y, p = brute_force.box_points(0.3, 200)
    model = brute_force.Model(**SETTINGS)
    low, high = np.exp(model.log_joint(np.array([-0.2, 0.8])))
    w = np.exp(model.log_joint(y))
    assert problem.boundary_term(2) == pytest.approx(2 * p @ (high / (high + w) - low / (low + w)), rel=1e-11)


def test_dreg_vanishes_on_the_box_and_not_on_the_normal():
    box, normal = BoxGaussian(0.3, **SETTINGS), NormalGaussian(0.4, 0.7, **SETTINGS)
    sizes = (1, 10, 100, 1000, 10_000)
    means = [abs(box.exact_moments("dreg", k)[0]) for k in sizes]
    assert np.all(np.diff(means) < 0) and means[-1] < 2e-4 * means[0]
    assert abs(box.exact_gradient(10_000)) > 0.1 * abs(box.exact_gradient(1))
    snr = {
        e: [abs(m) / math.sqrt(v) for m, v in (normal.exact_moments(e, k) for k in sizes)] for e in ("pathwise", "dreg")
    }
    assert np.polyfit(np.log(sizes[2:]), np.log(snr["dreg"][2:]), 1)[0] == pytest.approx(0.5, abs=0.02)
    assert np.polyfit(np.log(sizes[2:]), np.log(snr["pathwise"][2:]), 1)[0] == pytest.approx(-0.5, abs=0.02)
    for k in sizes:  # DReG is unbiased on a fixed support
        assert normal.exact_moments("dreg", k)[0] == pytest.approx(normal.exact_gradient(k), rel=1e-8)
        assert normal.exact_moments("score", k)[0] == pytest.approx(normal.exact_gradient(k), rel=1e-8)


def test_variance_of_dreg_where_weights_are_nearly_equal():
    """D = c sum w~^2 for log w = c y: its variance is 1e-12 of its squared mean, and must still have its digits."""
    c = 0.01
    problem = BoxProblem(lambda y: c * y, 0.3)
    y, p = brute_force.box_points(0.3, 40)
    for k in (2, 3):  # sum w~^2 = 1/k + sum (w~ - 1/k)^2, the second without cancellation for k = 2, 3
        w = np.exp(c * (y - 0.3))
        grids = np.meshgrid(*[w] * k, indexing="ij")
        weight = np.prod(np.meshgrid(*[p] * k, indexing="ij"), axis=0)
        share = [g / sum(grids) for g in grids]
        spread = c * sum((s - 1 / k) ** 2 for s in share)
        variance = (weight * (spread - (weight * spread).sum()) ** 2).sum()
        assert problem.exact_moments("dreg", k)[1] == pytest.approx(variance, rel=1e-8, abs=0)
    rng = np.random.default_rng(3)
    w = np.exp(c * (rng.random((20_000, 200)) - 0.5))
    spread = c * ((w / w.sum(1, keepdims=True) - 1 / 200) ** 2).sum(1)
    mean, variance = problem.exact_moments("dreg", 200)
    assert max(map(abs, z_scores(spread, mean - c / 200, variance))) < 4.5


@pytest.mark.parametrize("k", [2, 3, 4, 5, 50, 2000])
def test_both_forms_of_the_variance_of_dreg_agree(k):
    problem = BoxProblem(lambda y: -4 * y**2, 0.3)
    g = -8 * problem.nodes.y
    mean, variance = moments.squared(problem.nodes, g, k)
    assert moments._squared_variance(problem.nodes, g, k, mean) == pytest.approx(variance, rel=1e-10, abs=0)


def test_stable_under_shifts_and_beyond_ten_thousand():
    """log w + c changes nothing but the bound, and the answers go on smoothly beyond k = 10^4."""
    plain = BoxProblem(lambda y: -4 * y**2, 0.3)
    for shift in (-2000.0, 500.0):
        moved = BoxProblem(lambda y, c=shift: c - 4 * y**2, 0.3)
        for k in (2, 100):
            assert moved.exact_bound(k) - shift == pytest.approx(plain.exact_bound(k), abs=1e-11)
            assert moved.exact_gradient(k) == pytest.approx(plain.exact_gradient(k), rel=1e-10)
            assert moved.exact_moments("dreg", k) == pytest.approx(plain.exact_moments("dreg", k), rel=1e-9, abs=0)
    scaled = [k * plain.exact_moments("pathwise", k)[1] for k in (10_000, 100_000, 1_000_000)]
    assert scaled == pytest.approx([scaled[-1]] * 3, rel=3e-4)
    assert plain.exact_gradient(1_000_000) == pytest.approx(
        -1.2448023, abs=2e-6
    )  # d/dphi of the log evidence in the box


def test_time_is_printed():
    for problem in (BoxGaussian(0.3, 0.5), BoxGaussian(0.3, 0.5, likelihood_std=0.02), NormalGaussian(0.3, 0.7, 0.8)):
        for k in (2, 100, 10_000):
            start = time.perf_counter()
            problem.exact_moments("dreg", k)
            middle = time.perf_counter()
            problem.exact_gradient(k)
            print(f"{type(problem).__name__} k={k}: dreg {1e3 * (middle - start):.1f} ms, ", end="")
            print(f"gradient {1e3 * (time.perf_counter() - middle):.1f} ms")


@pytest.mark.parametrize("steep", [4.0, 4000.0])  # few nodes, whose slices are kept, and many
def test_answers_do_not_depend_on_what_was_asked_before(steep):
    def exact_at(*sizes):
        problem = BoxProblem(lambda y: -steep * y**2, 0.3)
        for k in sizes:
            values = [*problem.exact_moments("pathwise", k), *problem.exact_moments("dreg", k), problem.exact_bound(k)]
        return values

    assert exact_at(10**6) == exact_at(2, 10**9, 100, 10**6)
    assert exact_at(2) == exact_at(10**6, 2)
