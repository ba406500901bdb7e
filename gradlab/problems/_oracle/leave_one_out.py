"""Compute moments of estimators that move one sample and leave the others in place.

Such an estimator is ``G = sum_i f(y_i, S_-i)``, where ``S_-i`` is the sum of the other weights and
``f(y, s) = int_0^inf exp(-t s) a(t; y) dt``. Its second moment is a double integral over two times: a trapezoid sum
over ``log t`` and ``log s`` in which every expectation of a product is a matrix product over the nodes. See
``docs/theory/oracle.md``, "Estimators that move one sample".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradlab.errors import NotExact
from gradlab.problems._oracle import moments
from gradlab.problems._oracle.quadrature import Array, Nodes

Kernel = Callable[[Array, slice], Array]

STEP = 0.25  # in log t: the trapezoid rule is then right to exp(-pi^2/STEP) = 7e-18
LOW = 36.0  # exp(-LOW) / k is dropped compared with 1
HIGH = 4.5  # exp(-exp(HIGH)) = 1e-39 is dropped
NEGLIGIBLE = -60.0  # log of a power of M from which on the integrals are over
BLOCK = 2**21  # matrix entries at a time
BUDGET = 3e10  # multiplications; more would take many seconds


def rise(u: Array, log_w: Array | float) -> Array:
    """Return ``h = t w`` at ``u = log t``, capped where ``exp(-h)`` is 0 in any case; broadcasts."""
    return np.asarray(np.exp(np.minimum(u + log_w, HIGH + 2.5)))


def drop(u: Array, high: Array | float, low: Array | float) -> Array:
    """Return ``exp(-t w_low) - exp(-t w_high)`` without cancellation, at log-weights that broadcast."""
    least, most = np.minimum(high, low), np.maximum(high, low)
    value = -np.exp(-rise(u, least)) * np.expm1(rise(u, least) - rise(u, most))
    return np.asarray(np.where(np.asarray(high) >= np.asarray(low), value, -value))


def dreg_boundary(nodes: Nodes, slope: Array, low: float, high: float, k: int) -> tuple[float, float]:
    """Return mean and variance of DReG with the boundary of the unit box added back.

    ``G = sum_i [w~_i^2 g_i + w~_i(y_i = phi + 1/2) - w~_i(y_i = phi - 1/2)]``, ``w~_i(y_i = u) = w_u / (w_u + S_-i)``.

    Args:
        nodes: the box ``[N]``.
        slope: ``g = d log w/dy`` at the nodes ``[N]``.
        low: log w at phi - 1/2, in nats.
        high: log w at phi + 1/2, in nats.
        k: number of samples.
    """
    mean = moments.boundary_gradient(nodes, low, high, k)
    if k == 1:  # w~ is 1 wherever the sample is
        return mean, moments.linear(nodes, slope, 1)[1]

    def kernel(u: Array, part: slice) -> Array:
        h, up, down = rise(u, nodes.log_w[part, None]), rise(u, high), rise(u, low)
        return slope[part, None] * h**2 * np.exp(-h) + up * np.exp(-up) - down * np.exp(-down)

    return mean, variance(nodes, kernel, k, mean, (min(low, high), max(low, high)))


def measure_valued(nodes: Nodes, low: float, high: float, k: int) -> tuple[float, float]:
    """Return mean and variance of ``G = sum_i [L(y_i = phi + 1/2) - L(y_i = phi - 1/2)]``, ``L = log (1/k sum w)``.

    Arguments as in :func:`dreg_boundary`.
    """
    mean = moments.boundary_gradient(nodes, low, high, k)
    if k == 1:  # the same in every draw
        return mean, 0.0
    return mean, variance(nodes, lambda u, part: drop(u, high, low), k, mean, (min(low, high), max(low, high)))


def variance(nodes: Nodes, kernel: Kernel, k: int, mean: float, reach: tuple[float, float]) -> float:
    """Return the variance of ``G`` over k >= 2 samples.

    Args:
        nodes: the posterior ``[N]``.
        kernel: maps ``u [1, U]`` and a slice of the nodes ``[n]`` to ``t a(t; y)`` ``[n or 1, U]`` at ``t = exp(u)``.
        k: number of samples.
        mean: ``E G``.
        reach: smallest and largest log-weight that the kernel evaluates in addition to the nodes, in nats.

    Raises:
        NotExact: if log w varies so much over the support that the matrices become too large.
    """
    low, high = min(nodes.log_w[0], reach[0]), max(nodes.log_w[-1], reach[1])
    u = np.arange(-LOW - np.log(k) - high, HIGH - low + STEP, STEP)
    if k > 2:
        u = u[: 1 + int(np.searchsorted(-(k - 2) * _log_m(nodes, u), -NEGLIGIBLE))]
    if len(nodes.p) * len(u) ** 2 > BUDGET:
        raise NotExact(
            f"no exact variance for log-weights that vary by {high - low:.0f} nats over the support: "
            "widen the likelihood or the prior, or estimate it from draws"
        )
    shape = (len(u), len(u))
    decayed, same, cross = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for part in _parts(nodes, u):
        h = rise(u, nodes.log_w[part, None])
        decay = np.exp(-h)
        a = kernel(u[None], part) - mean * h * decay
        weighted = nodes.p[part, None] * a
        decayed += decay.T @ (nodes.p[part, None] * decay)
        same += weighted.T @ a
        cross += weighted.T @ decay
    with np.errstate(divide="ignore"):
        power = np.exp((k - 2) * np.log(decayed)) if k > 2 else np.ones(shape)
    return float(STEP**2 * (k * (power * decayed * same).sum() + k * (k - 1) * (power * cross * cross.T).sum()))


def _parts(nodes: Nodes, u: Array) -> list[slice]:
    size = max(1, BLOCK // len(u))
    return [slice(start, start + size) for start in range(0, len(nodes.p), size)]


def _log_m(nodes: Nodes, u: Array) -> Array:
    m = np.zeros_like(u)
    for part in _parts(nodes, u):
        m += nodes.p[part] @ np.exp(-rise(u, nodes.log_w[part, None]))
    with np.errstate(divide="ignore"):
        return np.log(m)
