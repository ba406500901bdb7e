"""Compute exact bounds, gradients and estimator moments over k samples, for any k.

All of them are one-dimensional integrals of expectations over a single sample, with ``M(t) = E[exp(-t w)]``. The
identities are in ``docs/theory/oracle.md``, the quadrature in :mod:`gradlab.problems._oracle.integrals`.
``w~_i = w_i / sum w`` throughout.

Accuracy (tested): means to 1e-8 of the root mean square and variances to 1e-8 relative, by centring wherever a
difference would lose digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gradlab.problems._oracle.integrals import Slice, difference_to_exp, integrate
from gradlab.problems._oracle.product import STEP, ProductSlice
from gradlab.problems._oracle.quadrature import Array, Nodes


def _integral(nodes: Nodes, k: int, integrand: Callable[[Any], Array]) -> float:
    """Return the trapezoid sum over u of one integrand."""
    return float(integrate(nodes, k, lambda s: (integrand(s),))[0])


def _two_samples(s: Slice | ProductSlice, k: int, same: Array, different: Array) -> Array:
    """Return the integrand of a sum over pairs of samples: k pairs i = j and k(k-1) pairs i != j."""
    return k * same * s.m(k - 1) + k * (k - 1) * different * s.m(k - 2)


def bound(nodes: Nodes, k: int) -> float:
    """Return ``L_k = E log (1/k sum w)``, nats: ``int (exp(-t) - M^k)/t dt - log k``, with t scaled by k E[w]."""
    if k == 1:
        return nodes.dim * nodes.mean(nodes.log_w)
    if nodes.dim > 1:
        return _product_bound(nodes, k)
    nodes, shift = nodes.centred
    return shift - _integral(nodes, k, lambda s: difference_to_exp(k * s.log_m, s.m(k), k * s.t()))


def _product_bound(nodes: Nodes, k: int) -> float:
    """Return the bound with t scaled by the point where M^k falls; E[w] may lie far beyond the weights of k samples."""

    def integrand(s: ProductSlice) -> tuple[Array, ...]:
        power = s.m(k)
        fall = s.u[np.searchsorted(-power, -0.5)]
        return np.exp(-np.exp(np.minimum(s.u - fall, 9.0))) - power, np.array([-fall / STEP])

    return float(integrate(nodes, k, integrand).sum()) - float(np.log(k))


def linear(nodes: Nodes, a: Array, k: int) -> tuple[float, float]:
    """Return mean and variance of ``P = sum_i w~_i a_i``.

    Because the w~ sum to 1, a may be centred; the terms of the variance are then all positive.
    """
    if k == 1:
        mean = nodes.mean(a)
        return mean, nodes.mean((a - mean) ** 2)
    weight = np.exp(nodes.log_w - nodes.log_w[-1])
    centre = nodes.mean(weight * a) / nodes.mean(weight)  # the mean as k -> inf
    for _ in range(2):
        shift, second = _linear(nodes, a - centre, k)
        variance = second - shift**2
        if shift**2 <= 10 * variance:
            break
        centre += shift
    return centre + shift, max(variance, 0.0)


def _linear(nodes: Nodes, b: Array, k: int) -> tuple[float, float]:
    def integrand(s: Slice) -> tuple[Array, ...]:
        (one,) = s.mean(1, b)
        (two,) = s.mean(2, b**2)
        return k * one * s.m(k - 1), _two_samples(s, k, two, one**2)

    first, second = integrate(nodes, k, integrand)
    return float(first), float(second)


def shared(nodes: Nodes, a: Array, k: int) -> tuple[float, float]:
    """Return mean and variance of ``P = sum_i w~_i sum_d a(y_id)``, for a parameter that all coordinates share."""
    if nodes.dim == 1:
        return linear(nodes, a, k)
    mean = nodes.dim * linear(nodes, a, k)[0]
    b = a - mean / nodes.dim
    if k == 1:
        return mean, nodes.dim * (nodes.mean(b**2) - nodes.mean(b) ** 2)

    def integrand(s: ProductSlice) -> Array:
        (one,) = s.mean(1, b)
        (square,) = s.mean(2, b**2)
        two = np.asarray(nodes.dim * (square + (nodes.dim - 1) * s.pair(2, b)))
        return _two_samples(s, k, two, (nodes.dim * one) ** 2)

    return mean, max(_integral(nodes, k, integrand), 0.0)


def squared(nodes: Nodes, a: Array, k: int) -> tuple[float, float]:
    """Return mean and variance of ``D = sum_i w~_i^2 a_i``.

    If the variance is so small compared with the squared mean that the difference would lose digits (a and w nearly
    constant), it is computed by the centred form ``_squared_variance``.
    """
    if k == 1:
        return linear(nodes, a, 1)

    def integrand(s: Slice) -> tuple[Array, ...]:
        (one,) = s.mean(2, a)
        (two,) = s.mean(4, a**2)
        return k * one * s.m(k - 1), _two_samples(s, k, two, one**2) / 6

    mean, second = (float(v) for v in integrate(nodes, k, integrand))
    variance = second - mean**2
    if variance < 1e-4 * mean**2 and nodes.dim == 1:
        variance = _squared_variance(nodes, a, k, mean)
    return mean, max(variance, 0.0)


def _squared_variance(nodes: Nodes, a: Array, k: int, mean: float) -> float:
    """Return ``E[(sum w_i^2 a_i - mean S^2)^2 / S^4]`` in powers of ``e = w - 1`` (E[w] = 1), all small.

    ``sum w_i^2 a_i - mean S^2 = sum f_i - mean (sum e_i)^2`` with ``f = w^2 a - k mean (1 + 2 e)``.
    """
    nodes, _ = nodes.centred
    e = np.expm1(nodes.log_w)
    c = a - k * mean
    f = c + 2 * e * c + e**2 * a
    values: list[Array] = [np.asarray(v) for v in (e, e**2, e**3, e**4, f, f**2, f * e, f * e**2)]

    def integrand(s: Slice) -> Array:
        t = s.t()  # safe apart from w here, since w is near 1
        e1, e2, e3, e4, f1, f2, fe, fee = (nodes.mean(v) - s.gap(v) for v in values)
        m1, m2, m3, m4 = (s.m(max(k - n, 0)) for n in (1, 2, 3, 4))
        k2, k3 = k * (k - 1), k * (k - 1) * (k - 2)
        k4 = k3 * (k - 3)
        ff = k * f2 * m1 + k2 * f1**2 * m2
        fs = k * fee * m1 + k2 * (2 * fe * e1 + f1 * e2) * m2 + k3 * f1 * e1**2 * m3
        ss = k * e4 * m1 + k2 * (4 * e3 * e1 + 3 * e2**2) * m2 + 6 * k3 * e2 * e1**2 * m3 + k4 * e1**4 * m4
        return np.asarray(t**4 / 6 * (ff - 2 * mean * fs + mean**2 * ss))

    return _integral(nodes, k, integrand)


def mixed(nodes: Nodes, a: Array, b: Array, k: int) -> tuple[float, float]:
    """Return mean and variance of ``G = sum_i (w~_i a_i + w~_i^2 b_i)``.

    With m the mean, ``A_n = E[w (a-m) ...]`` and ``B_n`` as above, ``E (G-m)^2 = k int (t E[w^2 (a-m)^2 e] + t^2 E[w^3
    (a-m) b e] + t^3/6 E[w^4 b^2 e]) M^(k-1) dt + k(k-1) int (t A_1^2 + t^2 A_1 B_1 + t^3/6 B_1^2) M^(k-2) dt``.
    """
    if k == 1:
        return linear(nodes, a + b, 1)
    mean = linear(nodes, a, k)[0] + squared(nodes, b, k)[0]
    c = a - mean

    def integrand(s: Slice) -> Array:
        (a1,), (a2, b1), (ab,), (b2,) = s.mean(1, c), s.mean(2, c**2, b), s.mean(3, c * b), s.mean(4, b**2)
        return _two_samples(s, k, a2 + ab + b2 / 6, a1**2 + a1 * b1 + b1**2 / 6)

    return mean, max(_integral(nodes, k, integrand), 0.0)


def concentration(nodes: Nodes, k: int) -> float:
    """Return ``E sum_i w~_i^2``: 1/k if all weights are equal, 1 if one sample has all the weight."""
    return squared(nodes, np.ones_like(nodes.p), k)[0]


def score(nodes: Nodes, s: Array, total: Array, k: int) -> tuple[float, float]:
    """Return mean and variance of the score estimator ``G = L sum_i s_i - sum_i w~_i s_i``.

    Here ``L = log(1/k sum w)`` and ``E[s] = 0``. With ``r = log(S/tau)``, ``tau = k E[w]`` and
    ``v = ln(t tau) + gamma`` (gamma is Euler's constant):

    - ``r^2 = 2 int v (exp(-t S) - exp(-t tau)) dt/t``,
    - ``r = int (exp(-t tau) - exp(-t S)) dt/t``,
    - ``r/S = -int v exp(-t S) dt``.

    ``E[G^2]`` over k samples is a sum of such terms with one or two distinct indices. The mean equals that of the
    pathwise estimator, with ``total [N]`` = d log w/dparam at fixed noise.
    """
    mean, _ = linear(nodes, total, k)
    if k == 1:
        return mean, nodes.mean(((nodes.log_w - 1) * s - mean) ** 2)
    nodes, shift = nodes.centred
    square = s**2
    s2 = nodes.mean(square)

    def integrand(part: Slice) -> Array:
        gap = part.gap(square)
        m0, m2 = -part.gap(s), s2 - gap  # E[s exp(-h)], since E[s] = 0, and E[s^2 exp(-h)]
        one, one_s = part.mean(1, s, square)
        (two,) = part.mean(2, square)
        single, pair = part.m(k - 1), part.m(k - 2)
        with np.errstate(divide="ignore"):
            log_factor = np.log1p(-np.minimum(gap / s2, 1.0)) + (k - 1) * part.log_m
        apart = s2 * difference_to_exp(log_factor, m2 / s2 * single, k * part.t())  # E[s_1^2 (exp(-tS) - exp(-t tau))]
        v = part.u + np.log(k) + np.euler_gamma
        cross = k * (apart + one_s * single) + k * (k - 1) * (m0**2 + one * m0) * pair
        return 2 * (v - shift) * cross + k * two * single + k * (k - 1) * one**2 * pair

    return mean, _integral(nodes, k, integrand) + shift**2 * k * s2 - mean**2


def boundary_gradient(nodes: Nodes, low: float, high: float, k: int) -> float:
    """Return ``dL_k/dphi`` of the unit box, ``k int M^(k-1) (exp(-t w_low) - exp(-t w_high)) dt/t``.

    Args:
        nodes: the box.
        low: log w at phi - 1/2, nats.
        high: log w at phi + 1/2, nats.
        k: samples.
    """
    if k == 1 or low == high:
        return high - low
    least, most = min(low, high), max(low, high)
    return float(np.copysign(_integral(nodes, k, lambda s: k * s.drop(least, most) * s.m(k - 1)), high - low))


def boundary_term(nodes: Nodes, low: float, high: float, k: int) -> float:
    """Return ``sum_i E[w~_i(y_i = phi + 1/2) - w~_i(y_i = phi - 1/2)]``, which the derivation of DReG drops.

    Equal to ``E[pathwise] - E[DReG]`` on the unit box; arguments as in :func:`boundary_gradient`.
    """
    if k == 1 or low == high:
        return 0.0
    return _integral(nodes, k, lambda s: k * (s.peak(high) - s.peak(low)) * s.m(k - 1))


def weight_density(nodes: Nodes, log_w: Array, k: int) -> Array:
    """Return ``k E[w~_1 | y_1 = y]``, the density of a sample drawn by its normalised weight.

    The density is relative to the posterior.

    It is 1 everywhere at k = 1. As k grows it tends to ``w / E[w]``, the true posterior cut off at the walls.

    Args:
        nodes: a posterior with one dimension.
        log_w: log-weights ``[N]`` at the points y, in nats.
        k: number of samples.
    """
    if k == 1:
        return np.ones_like(log_w)
    return integrate(nodes, k, lambda s: tuple(k * s.peak(float(at)) * s.m(k - 1) for at in log_w))


def flux(nodes: Nodes, log_w: float, k: int) -> float:
    """Return ``k (E[log S | y_1 = y] - E log S)`` in nats: the gain in the bound from placing a sample at y.

    It is ``k int M^(k-1) (M - exp(-t w)) dt/t``. On the box, the gradient is the difference between the two walls:
    moving the box by d moves a share d of the samples from one wall to the other.

    Args:
        nodes: a posterior with one dimension.
        log_w: log-weight at y, in nats.
        k: number of samples.
    """
    if k == 1:
        return log_w - nodes.mean(nodes.log_w)
    one = np.ones_like(nodes.p)
    return _integral(nodes, k, lambda s: k * (s.rise(log_w) - s.gap(one)) * s.m(k - 1))
