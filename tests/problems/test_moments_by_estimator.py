"""Exact moments of the boundary, measure-valued, wake and leave-one-out estimators: tensor sums and seeded draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gradlab.errors import GradlabError, NotExact
from gradlab.problems import BoxGaussian, BoxProblem, NormalGaussian
from gradlab.problems._oracle import leave_one_out, moments
from tests.problems import brute_force

SETTINGS = {"x": 0.8, "slope": 1.3, "offset": -0.2, "likelihood_std": 0.6, "prior_std": 1.4}
MODEL = brute_force.Model(**SETTINGS)
PHI, MEAN, STD = 0.3, 0.4, 0.7
BOX = BoxGaussian(PHI, **SETTINGS)
NORMAL = NormalGaussian(MEAN, STD, **SETTINGS)


def logsum(log_w, axis=-1):
    top = log_w.max(axis, keepdims=True)
    return (np.log(np.exp(log_w - top).sum(axis, keepdims=True)) + top).squeeze(axis)


def replaced(log_w, i, value):
    return np.concatenate([log_w[:, :i], np.broadcast_to(value, log_w[:, i].shape)[:, None], log_w[:, i + 1 :]], axis=1)


def box_estimates(y, log_w, names):
    """name -> per-draw estimates of ``y, log_w [draws, k]``, by plain formulas."""
    share, _ = brute_force.weights(log_w)
    up, down = MODEL.log_joint(np.array([PHI + 0.5, PHI - 0.5]))
    k = y.shape[1]
    estimates = {}
    if "dreg-boundary" in names:
        put_back = 0.0
        for i in range(k):
            put_back = put_back + np.exp(up - logsum(replaced(log_w, i, up)))
            put_back = put_back - np.exp(down - logsum(replaced(log_w, i, down)))
        estimates["dreg-boundary"] = (share**2 * MODEL.by_y(y)).sum(1) + put_back
    if "measure-valued" in names:
        estimates["measure-valued"] = sum(
            logsum(replaced(log_w, i, up)) - logsum(replaced(log_w, i, down)) for i in range(k)
        )
    if "dreg-squared" in names:
        estimates["dreg-squared"] = (share**2 * MODEL.by_y(y)).sum(1)
    if "gdreg" in names:
        of_prior = -y / SETTINGS["prior_std"] ** 2
        parts = (share - share**2) * MODEL.by_y(y) - share * of_prior
        estimates["gdreg"] = (parts * y / SETTINGS["prior_std"]).sum(1)
    if "ess" in names:
        estimates["ess"] = (share**2).sum(1)
    return estimates


def normal_estimates(noise, log_w, wrt, plus=None):
    share, bound = brute_force.weights(log_w)
    k = noise.shape[1]
    y = MEAN + STD * noise
    score = (noise**2 - 1 if wrt == "std" else noise) / STD
    estimates = {"rws": (share * score).sum(1)}
    if k > 1:
        estimates["vimco"] = -estimates["rws"]
        for i in range(k):
            others = np.delete(log_w, i, axis=1).mean(1)
            estimates["vimco"] = (
                estimates["vimco"] + (bound + math.log(k) - logsum(replaced(log_w, i, others))) * score[:, i]
            )
    if wrt == "std":
        plus = np.sign(noise) * stats.maxwell.isf(stats.chi.sf(abs(noise), 1)) if plus is None else plus
        minus, scale = noise, 1 / STD
    else:
        plus = np.sqrt(-2 * np.log(stats.norm.cdf(noise)))
        minus, scale = -plus, 1 / (STD * math.sqrt(2 * math.pi))
    estimates["measure-valued"] = -estimates["rws"]
    for i in range(k):
        ends = [
            MODEL.log_joint(MEAN + STD * e[:, i]) - brute_force.log_normal(e[:, i], 0, 1) + math.log(STD)
            for e in (plus, minus)
        ]
        change = logsum(replaced(log_w, i, ends[0])) - logsum(replaced(log_w, i, ends[1]))
        estimates["measure-valued"] = estimates["measure-valued"] + scale * change
    path = (MODEL.by_y(y) + noise / STD) * (noise if wrt == "std" else 1.0)
    estimates |= {name: (share**2 * path).sum(1) for name in ("dreg-boundary", "dreg-squared", "gdreg")}
    if wrt == "prior_std":
        prior = -y / SETTINGS["prior_std"] ** 2 + noise / STD  # d_y (log p(y) - log q(y))
        parts = (share - share**2) * (MODEL.by_y(y) + noise / STD) - share * prior
        estimates = {"gdreg": (parts * y / SETTINGS["prior_std"]).sum(1)}
    return estimates


def tensor(points, p, k):
    index = np.indices((len(p),) * k).reshape(k, -1).T
    return points[index], p[index].prod(1)


def check(exact, values, mass, digits=1e-8):
    mean = mass @ values
    variance = mass @ (values - mean) ** 2
    assert abs(exact[0] - mean) <= digits * math.sqrt(mean**2 + variance) + 1e-15
    assert abs(exact[1] - variance) <= digits * variance + 1e-18


@pytest.mark.parametrize("k", [1, 2, 3])
def test_box_by_tensor_sums(k):
    y, p = brute_force.box_points(PHI, {1: 60, 2: 60, 3: 40}[k])
    y, mass = tensor(y, p, k)
    estimates = box_estimates(
        y, MODEL.log_joint(y), ("dreg-boundary", "dreg-squared", "measure-valued", "gdreg", "ess")
    )
    for name in ("dreg-boundary", "measure-valued"):
        exact = BOX.exact_moments(name, k)
        if (k, name) == (1, "measure-valued"):
            assert exact == (pytest.approx(mass @ estimates[name], rel=1e-13), 0.0)
            continue
        check(exact, estimates[name], mass)
        assert exact[0] == BOX.exact_gradient(k)
        assert mass @ estimates[name] == pytest.approx(BOX.exact_gradient(k), rel=1e-12)  # unbiased, by quadrature
    check(BOX.exact_moments("dreg-squared", k), estimates["dreg-squared"], mass)
    check(BOX.exact_moments("gdreg", k, "prior_std"), estimates["gdreg"], mass)
    assert BOX.exact_concentration(k) == pytest.approx(mass @ estimates["ess"], rel=1e-12)
    assert BOX.exact_ess(k) == pytest.approx(1 / (mass @ estimates["ess"]), rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("wrt", ["phi", "mean", "std", "prior_std"])
def test_normal_by_tensor_sums(k, wrt):
    points, radius = {1: (4000, 10.0), 2: (600, 9.0), 3: (72, 7.0)}[k]
    if wrt == "std" and k > 1:
        points = {2: 300, 3: 90}[k]
    noise, p = brute_force.normal_points(points, radius)
    plus = noise
    if wrt == "std":  # the quantile function starts like a cube root: points in the Maxwell variable instead
        noise = np.sign(plus) * stats.chi.isf(stats.maxwell.sf(abs(plus)), 1)
        p = plus**2 * p / (plus**2 * p).sum()
    noise, mass = tensor(noise, p, k)
    plus, _ = tensor(plus, p, k)
    log_w = MODEL.log_joint(MEAN + STD * noise) - brute_force.log_normal(noise, 0, 1) + math.log(STD)
    for name, values in normal_estimates(noise, log_w, wrt, plus if wrt == "std" else None).items():
        digits = 1e-8 if k < 3 else 1e-6
        check(NORMAL.exact_moments(name, k, wrt), values, mass, digits)
        if name in ("vimco", "measure-valued"):
            assert NORMAL.exact_moments(name, k, wrt)[0] == NORMAL.exact_gradient(k, wrt)


def z_scores(values, mean, variance):
    d = values - values.mean()
    second, fourth = np.mean(d**2), np.mean(d**4)
    n = len(values)
    return (
        (values.mean() - mean) / math.sqrt(second / n),
        (second * n / (n - 1) - variance) / math.sqrt((fourth - second**2) / n),
    )


@pytest.mark.parametrize("k, draws", [(16, 100_000), (100, 10_000)])
def test_box_by_seeded_draws(k, draws):
    rng = np.random.default_rng(11)
    y = PHI + rng.random((draws, k)) - 0.5
    log_w = MODEL.log_joint(y)
    estimates = box_estimates(y, log_w, ("dreg-squared", "gdreg", "ess"))
    w, (up, down) = np.exp(log_w), np.exp(MODEL.log_joint(np.array([PHI + 0.5, PHI - 0.5])))
    rest = w.sum(1, keepdims=True) - w
    estimates["measure-valued"] = np.log((up + rest) / (down + rest)).sum(1)
    estimates["dreg-boundary"] = ((w / (w + rest)) ** 2 * MODEL.by_y(y) + up / (up + rest) - down / (down + rest)).sum(
        1
    )
    ess = estimates.pop("ess")
    assert abs(ess.mean() - BOX.exact_concentration(k)) < 4.5 * ess.std() / math.sqrt(draws)
    for name, values in estimates.items():
        exact = BOX.exact_moments(name, k, "prior_std" if name == "gdreg" else "phi")
        assert max(map(abs, z_scores(values, *exact))) < 4.5, name


@pytest.mark.parametrize("wrt", ["phi", "std", "prior_std"])
def test_normal_by_seeded_draws(wrt, k=12, draws=100_000):
    noise = np.random.default_rng(12).standard_normal((draws, k))
    log_w = MODEL.log_joint(MEAN + STD * noise) - brute_force.log_normal(noise, 0, 1) + math.log(STD)
    estimates = normal_estimates(noise, log_w, wrt)
    if wrt != "prior_std":
        vimco = estimates.pop("vimco")
        assert abs(vimco.mean() - NORMAL.exact_gradient(k, wrt)) < 4.5 * vimco.std() / math.sqrt(draws)
    for name, values in estimates.items():
        assert max(map(abs, z_scores(values, *NORMAL.exact_moments(name, k, wrt)))) < 4.5, name
    share, _ = brute_force.weights(log_w)
    ess = (share**2).sum(1)
    assert abs(ess.mean() - NORMAL.exact_concentration(k)) < 4.5 * ess.std() / math.sqrt(draws)


@pytest.mark.parametrize("k", [2, 5, 300, 100_000])
def test_two_times_and_one_time_agree(k):
    """The identity in two times, on estimators whose moments the oracle has by one: shares only the nodes."""
    nodes = BOX.nodes
    slope = MODEL.by_y(nodes.y)
    prior = -nodes.y / SETTINGS["prior_std"]
    ends = float(nodes.log_w[0]), float(nodes.log_w[-1])

    def by_two_times(a, b, mean):
        def kernel(u, part):
            h = np.exp(np.minimum(u + nodes.log_w[part, None], 7))
            return (h * a[part, None] + h**2 * b[part, None]) * np.exp(-h)

        return leave_one_out.variance(nodes, kernel, k, mean, ends)

    for a, b, exact in [
        (slope, 0 * slope, moments.linear(nodes, slope, k)),
        (0 * slope, slope, moments.squared(nodes, slope, k)),
        (prior, slope, moments.mixed(nodes, prior, slope, k)),
    ]:
        assert by_two_times(a, b, exact[0]) == pytest.approx(exact[1], rel=1e-8)


def test_boundary_terms_of_any_size():
    # On a flat log w nothing moves; on log w = c y the gradient is c, and measure-valued keeps a spread that pathwise
    # has not.
    flat = BoxProblem(lambda y: 0 * y - 3.0, 0.1)
    line = BoxProblem(lambda y: 0.7 * y, 0.1)
    for k in (1, 2, 1000):
        for name in ("dreg-boundary", "measure-valued"):
            assert flat.exact_moments(name, k) == pytest.approx((0.0, 0.0), abs=1e-20)
            assert line.exact_moments(name, k)[0] == pytest.approx(0.7, rel=1e-11)
            assert (line.exact_moments(name, k)[1] > 1e-20) == (k > 1)
    # For large k both are k (w_up - w_down)/S to first order: the same variance, k times which settles.
    scaled = [k * BOX.exact_moments("dreg-boundary", k)[1] for k in (10_000, 100_000, 1_000_000)]
    assert scaled == pytest.approx([scaled[-1]] * 3, rel=2e-3)
    assert scaled[-1] == pytest.approx(1_000_000 * BOX.exact_moments("measure-valued", 1_000_000)[1], rel=1e-5)
    w = np.exp(BOX.nodes.log_w)
    up, down = np.exp(MODEL.log_joint(np.array([PHI + 0.5, PHI - 0.5])))
    limit = (BOX.nodes.p @ w**2 / (BOX.nodes.p @ w) ** 2 - 1) * ((up - down) / (BOX.nodes.p @ w)) ** 2
    assert scaled[-1] == pytest.approx(limit, rel=1e-4)


def test_prior_path_of_gdreg():
    # Biased on the box by the walls that it drops, at k = 1 by +1/prior_std; unbiased on the Normal.
    gap = BOX.exact_moments("gdreg", 1, "prior_std")[0] - BOX.exact_gradient(1, "prior_std")
    assert gap == pytest.approx(1 / SETTINGS["prior_std"], rel=1e-12)
    for k in (1, 2, 50, 10_000):
        exact = NORMAL.exact_gradient(k, "prior_std")
        assert NORMAL.exact_moments("gdreg", k, "prior_std")[0] == pytest.approx(exact, rel=1e-8)
    for problem in (BOX, NORMAL):
        for wrt in ("slope", "offset", "likelihood_std"):
            plain = problem.exact_moments("pathwise", 4, wrt)
            for name in ("dreg-squared", "gdreg", "nvil", "rws", "vimco", "dreg-boundary", "measure-valued"):
                assert problem.exact_moments(name, 4, wrt) == plain


def test_wake_gradient():
    y = np.linspace(-12, 12, 20_001)
    p = np.exp(MODEL.log_joint(y))
    p /= p.sum()
    for wrt, score in (("phi", (y - MEAN) / STD**2), ("std", ((y - MEAN) ** 2 / STD**2 - 1) / STD)):
        assert NORMAL.exact_wake_gradient(wrt) == pytest.approx(p @ score, rel=1e-9)
        # What the rws estimator tends to as k grows.
        assert NORMAL.exact_moments("rws", 1_000_000, wrt)[0] == pytest.approx(p @ score, abs=1e-5)
    with pytest.raises(NotExact, match="is -inf for a box, which does not cover the true posterior"):
        BOX.exact_wake_gradient()
    with pytest.raises(
        GradlabError, match="wrt is 'slope', a parameter of the model, but wake-phi trains the posterior"
    ):
        NORMAL.exact_wake_gradient("slope")


def test_effective_sample_size_between_one_and_k():
    for problem in (BOX, NORMAL, BoxGaussian(0.3, 0.9, likelihood_std=0.02)):
        sizes = [problem.exact_ess(k) for k in (1, 2, 16, 1000, 100_000)]
        assert sizes[0] == pytest.approx(1.0, rel=1e-13) and np.all(np.diff(sizes) > 0) and sizes[1] < 2
    assert BoxProblem(lambda y: 0 * y, 0.3).exact_ess(37) == pytest.approx(37, rel=1e-12)


def test_steep_likelihoods():
    """Narrow likelihoods stay exact by quadrature, or are refused in one sentence."""
    problem = BoxGaussian(0.3, 0.62, likelihood_std=0.1)
    y, p = brute_force.box_points(0.3, 40, panels=10)
    log_w = brute_force.Model(x=0.62, likelihood_std=0.1).log_joint(y)
    up, down = brute_force.Model(x=0.62, likelihood_std=0.1).log_joint(np.array([0.8, -0.2]))
    pair = sum(np.logaddexp(w, up) - np.logaddexp(w, down) for w in (log_w[:, None], log_w))
    mass = p[:, None] * p
    mean = (mass * pair).sum()
    check(problem.exact_moments("measure-valued", 2), pair.ravel(), mass.ravel())
    assert problem.exact_gradient(2) == pytest.approx(mean, rel=1e-9)
    steep = BoxGaussian(0.3, 0.62, likelihood_std=0.008)
    with pytest.raises(NotExact, match=r"no exact variance for log-weights that vary by .* widen the likelihood"):
        steep.exact_moments("dreg-boundary", 2)
    steep = NormalGaussian(0.3, 1.0, 0.62, likelihood_std=0.1)
    with pytest.raises(NotExact, match="measure-valued for log-weights this steep: widen the likelihood"):
        steep.exact_moments("measure-valued", 2)
    with pytest.raises(NotExact, match="vimco at k = 3 does not converge for log-weights this steep"):
        steep.exact_moments("vimco", 3)


def test_what_is_not_exact_says_why():
    for wrt in ("phi", "slope"):
        with pytest.raises(GradlabError, match="k is 1, but vimco takes the baseline"):
            BOX.exact_moments("vimco", 1, wrt)
        with pytest.raises(GradlabError, match="k is 1, but vimco takes the baseline"):
            NORMAL.exact_moments("vimco", 1, wrt)
    with pytest.raises(NotExact, match="no exact variance of vimco at k = 4: its baseline does not factorise"):
        NORMAL.exact_moments("vimco", 4)
    with pytest.raises(NotExact, match="no exact moments of nvil: its baselines are learned"):
        NORMAL.exact_moments("nvil", 2)
    assert BOX.exact_moments("nvil", 2) == BOX.exact_moments("rws", 2) == BOX.exact_moments("vimco", 2) == (0.0, 0.0)
