"""Exact moments of the boundary, measure-valued, wake and leave-one-out estimators: tensor sums and seeded draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gradlab.errors import GradlabError, NotExact
from gradlab.problems import BoxGaussian, BoxProblem, NormalGaussian, moved, oracle
from tests.problems import brute

SETTINGS = {"x": 0.8, "slope": 1.3, "offset": -0.2, "likelihood_std": 0.6, "prior_std": 1.4}
MODEL = brute.Model(**SETTINGS)
PHI, MEAN, STD = 0.3, 0.4, 0.7
BOX = BoxGaussian(PHI, **SETTINGS)
NORMAL = NormalGaussian(MEAN, STD, **SETTINGS)


def logsum(log_w, axis=-1):
    top = log_w.max(axis, keepdims=True)
    return (np.log(np.exp(log_w - top).sum(axis, keepdims=True)) + top).squeeze(axis)


def replaced(log_w, i, value):
    return np.concatenate([log_w[:, :i], np.broadcast_to(value, log_w[:, i].shape)[:, None], log_w[:, i + 1 :]], axis=1)


def box_estimates(y, log_w, wanted):
    """name -> per-draw estimates of ``y, log_w [draws, k]``, by plain formulas."""
    share, _ = brute.weights(log_w)
    up, down = MODEL.log_joint(np.array([PHI + 0.5, PHI - 0.5]))
    k = y.shape[1]
    found = {}
    if "dreg-boundary" in wanted:
        put_back = 0.0
        for i in range(k):
            put_back = put_back + np.exp(up - logsum(replaced(log_w, i, up)))
            put_back = put_back - np.exp(down - logsum(replaced(log_w, i, down)))
        found["dreg-boundary"] = (share**2 * MODEL.by_y(y)).sum(1) + put_back
    if "measure-valued" in wanted:
        found["measure-valued"] = sum(
            logsum(replaced(log_w, i, up)) - logsum(replaced(log_w, i, down)) for i in range(k)
        )
    if "gdreg" in wanted:
        of_prior = -y / SETTINGS["prior_std"] ** 2
        parts = (share - share**2) * MODEL.by_y(y) - share * of_prior
        found["gdreg"] = (parts * y / SETTINGS["prior_std"]).sum(1)
    if "ess" in wanted:
        found["ess"] = (share**2).sum(1)
    return found


def normal_estimates(noise, log_w, wrt):
    share, bound = brute.weights(log_w)
    k = noise.shape[1]
    y = MEAN + STD * noise
    score = (noise**2 - 1 if wrt == "std" else noise) / STD
    found = {"rws": (share * score).sum(1)}
    if k > 1:
        found["vimco"] = -found["rws"]
        for i in range(k):
            others = np.delete(log_w, i, axis=1).mean(1)
            found["vimco"] = found["vimco"] + (bound + math.log(k) - logsum(replaced(log_w, i, others))) * score[:, i]
    if wrt == "std":
        plus = np.sign(noise) * stats.maxwell.ppf(stats.chi.cdf(abs(noise), 1))
        minus, scale = noise, 1 / STD
    else:
        plus = np.sqrt(-2 * np.log(stats.norm.cdf(noise)))
        minus, scale = -plus, 1 / (STD * math.sqrt(2 * math.pi))
    found["measure-valued"] = -found["rws"]
    for i in range(k):
        ends = [MODEL.log_joint(MEAN + STD * e[:, i]) - brute.log_normal(e[:, i], 0, 1) + math.log(STD) for e in (plus, minus)]
        change = logsum(replaced(log_w, i, ends[0])) - logsum(replaced(log_w, i, ends[1]))
        found["measure-valued"] = found["measure-valued"] + scale * change
    path = (MODEL.by_y(y) + noise / STD) * (noise if wrt == "std" else 1.0)
    found |= {name: (share**2 * path).sum(1) for name in ("dreg-boundary", "gdreg")}
    if wrt == "prior_std":
        prior = -y / SETTINGS["prior_std"] ** 2 + noise / STD  # d_y (log p(y) - log q(y))
        parts = (share - share**2) * (MODEL.by_y(y) + noise / STD) - share * prior
        found = {"gdreg": (parts * y / SETTINGS["prior_std"]).sum(1)}
    return found


def tensor(points, p, k):
    index = np.indices((len(p),) * k).reshape(k, -1).T
    return points[index], p[index].prod(1)


def check(found, values, mass, digits=1e-8):
    mean = mass @ values
    variance = mass @ (values - mean) ** 2
    assert abs(found[0] - mean) <= digits * math.sqrt(mean**2 + variance) + 1e-15
    assert abs(found[1] - variance) <= digits * variance + 1e-18


@pytest.mark.parametrize("k", [1, 2, 3])
def test_box_by_tensor_sums(k):
    y, p = brute.box_points(PHI, {1: 60, 2: 60, 3: 40}[k])
    y, mass = tensor(y, p, k)
    found = box_estimates(y, MODEL.log_joint(y), ("dreg-boundary", "measure-valued", "gdreg", "ess"))
    for name in ("dreg-boundary", "measure-valued"):
        exact = BOX.exact_moments(name, k)
        if (k, name) == (1, "measure-valued"):
            assert exact == (pytest.approx(mass @ found[name], rel=1e-13), 0.0)
            continue
        check(exact, found[name], mass)
        assert exact[0] == BOX.exact_gradient(k)
        assert mass @ found[name] == pytest.approx(BOX.exact_gradient(k), rel=1e-12)  # unbiased, by quadrature
    check(BOX.exact_moments("gdreg", k, "prior_std"), found["gdreg"], mass)
    assert BOX.exact_concentration(k) == pytest.approx(mass @ found["ess"], rel=1e-12)
    assert BOX.exact_ess(k) == pytest.approx(1 / (mass @ found["ess"]), rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("wrt", ["phi", "mean", "std", "prior_std"])
def test_normal_by_tensor_sums(k, wrt):
    points, radius = {1: (4000, 10.0), 2: (600, 9.0), 3: (72, 7.0)}[k]
    if wrt == "std" and k > 1:
        points = {2: 1400, 3: 150}[k]
    noise, p = brute.normal_points(points, radius)
    if wrt == "std":  # the quantile function starts like a cube root: points in the Maxwell variable instead
        value, _ = brute.normal_points(points, radius)
        noise = np.sign(value) * stats.chi.isf(stats.maxwell.sf(abs(value)), 1)
        p = value**2 * p / (value**2 * p).sum()
    noise, mass = tensor(noise, p, k)
    log_w = MODEL.log_joint(MEAN + STD * noise) - brute.log_normal(noise, 0, 1) + math.log(STD)
    for name, values in normal_estimates(noise, log_w, wrt).items():
        digits = 1e-8 if k < 3 else 1e-6
        check(NORMAL.exact_moments(name, k, wrt), values, mass, digits)
        if name in ("vimco", "measure-valued"):
            assert NORMAL.exact_moments(name, k, wrt)[0] == NORMAL.exact_gradient(k, wrt)
