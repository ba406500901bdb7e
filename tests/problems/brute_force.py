"""Brute-force answers that share nothing with the oracle: tensor-product quadrature and plain formulas."""

from __future__ import annotations

import math

import numpy as np


def log_normal(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi)


def box_points(phi, n, panels=1):
    """Gauss-Legendre points and probabilities on [phi - 1/2, phi + 1/2]."""
    return _panels(phi - 0.5, phi + 0.5, n, panels)


def normal_points(n, radius):
    """Base noise and its probabilities: the trapezoid rule, which converges exponentially under a normal density."""
    e = np.linspace(-radius, radius, n)
    p = np.exp(-0.5 * e**2)
    return e, p / p.sum()


def _panels(low, high, n, panels):
    x, w = np.polynomial.legendre.leggauss(n)
    edges = np.linspace(low, high, panels + 1)
    half = (high - low) / panels / 2
    points = ((edges[:-1] + edges[1:])[:, None] / 2 + half * x).ravel()
    return points, np.tile(w, panels) / w.sum() / panels


class Model:
    """log p(x, y) of the linear-Gaussian model, its derivatives by numerical differentiation of the plain formula."""

    def __init__(self, x, slope=1.0, offset=0.0, likelihood_std=1.0, prior_std=1.0):
        self.values = {
            "x": x, "slope": slope, "offset": offset, "likelihood_std": likelihood_std, "prior_std": prior_std
        }  # fmt: skip

    def log_joint(self, y, **changed):
        v = self.values | changed
        likelihood = log_normal(v["x"], v["slope"] * y + v["offset"], v["likelihood_std"])
        return likelihood + log_normal(y, 0.0, v["prior_std"])

    def by(self, name, y):
        """d log p(x, y)/d name at fixed y, by complex step."""
        step = 1e-30
        return np.imag(self.log_joint(y, **{name: self.values[name] + 1j * step})) / step

    def by_y(self, y):
        step = 1e-30
        return np.imag(self.log_joint(y + 1j * step)) / step


def weights(log_w):
    """``(w~ [..., k], log(1/k sum w) [...])``."""
    top = log_w.max(-1, keepdims=True)
    w = np.exp(log_w - top)
    total = w.sum(-1, keepdims=True)
    return w / total, (np.log(total / w.shape[-1]) + top).squeeze(-1)


def estimate(share, bound, kind, a):
    """Per-draw estimates ``[...]``; ``a [..., k]`` is the per-sample derivative, or the score for ``score``."""
    if kind == "linear":
        return (share * a).sum(-1)
    if kind == "squared":
        return (share**2 * a).sum(-1)
    if kind == "bound":
        return bound
    assert kind == "score"
    return bound * a.sum(-1) - (share * a).sum(-1)


def moments(log_w, p, kind, a, k):
    """Mean and variance over all k samples by the tensor product of one-dimensional points ``[n]``."""
    n = len(p)
    index = np.indices((n,) * (k - 1)).reshape(k - 1, n ** (k - 1)).T
    rest = p[index].prod(1)
    values, masses = [], []
    for i in range(n):  # the last sample in a loop, so that k = 3 fits in memory
        full = np.concatenate([index, np.full((len(index), 1), i)], axis=1)
        values.append(estimate(*weights(log_w[full]), kind, a[full]))
        masses.append(rest * p[i])
    value, mass = np.concatenate(values), np.concatenate(masses)
    mean = mass @ value
    return mean, mass @ (value - mean) ** 2
