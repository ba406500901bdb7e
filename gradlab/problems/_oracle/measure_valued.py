"""Compute the exact variance of the measure-valued estimator under a Normal posterior (Mohamed et al. 2020, table 1).

``G = c sum_i [L(y_i = mean + std P_i) - L(y_i = mean + std N_i)] - sum_i w~_i s_i`` with ``L = log (1/k sum w)`` and
the score s, which is the explicit dependence of the weights on the parameter. Both points derive from the base noise
e_i of the sample itself:

- for the mean, ``P = -N = sqrt(-2 ln Phi(e))``, which has the Weibull distribution, and ``c = 1/(std sqrt(2 pi))``;
- for the standard deviation, P has the double-sided Maxwell distribution (by its quantile function), ``N = e`` and
  ``c = 1/std``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import erfcinv, erfinv, gammainc, gammaincc, log_ndtr

from gradlab.errors import NotExact
from gradlab.problems._oracle import leave_one_out
from gradlab.problems._oracle.quadrature import VARIATION, Array, Evaluate, Nodes, adaptive

RADIUS = 9.0  # standard deviations, of the noise or of P; the mass beyond is 2e-17
GRID = 4001  # points at which the slope is evaluated to find the steepest
PANELS = 1500


def variance(
    evaluate: Evaluate, score: Callable[[Array], Array], std: float, by_std: bool, k: int, mean: float
) -> float:
    """Return the variance of ``G`` over k samples.

    Args:
        evaluate: maps noise (any shape) to log-weights in nats and their derivative with respect to the noise.
        score: maps noise to the score of the parameter.
        std: standard deviation of the posterior.
        by_std: whether the parameter is std (otherwise it is the mean).
        k: number of samples.
        mean: ``E G``.

    Raises:
        NotExact: if log w is too steep.
    """
    points = _maxwell if by_std else _weibull
    nodes = _nodes(evaluate, points, by_std)
    noise, positive, negative = points(nodes.y)
    above, below, s = evaluate(positive)[0], evaluate(negative)[0], score(noise)
    scale = 1 / std if by_std else 1 / (std * np.sqrt(2 * np.pi))
    if k == 1:
        return nodes.mean((scale * (above - below) - s - mean) ** 2)

    def kernel(u: Array, part: slice) -> Array:
        h = leave_one_out.rise(u, nodes.log_w[part, None])
        return scale * leave_one_out.drop(u, above[part, None], below[part, None]) - s[part, None] * h * np.exp(-h)

    ends = np.concatenate([above, below])
    return leave_one_out.variance(nodes, kernel, k, mean, (float(ends.min()), float(ends.max())))


def _weibull(noise: Array) -> tuple[Array, Array, Array]:
    distance = np.sqrt(-2 * log_ndtr(noise))
    return noise, distance, -distance


def _maxwell(positive: Array) -> tuple[Array, Array, Array]:
    """Return the noise as a function of P, which is smooth (P as a function of the noise starts like a cube root)."""
    half = 0.5 * positive**2
    magnitude = np.where(half < 1, erfinv(gammainc(1.5, half)), erfcinv(gammaincc(1.5, half)))
    noise = np.copysign(np.sqrt(2) * magnitude, positive)
    return noise, positive, noise


def _nodes(evaluate: Evaluate, points: Callable[[Array], tuple[Array, Array, Array]], by_std: bool) -> Nodes:
    """Return nodes that resolve the log-weights of the sample and of both points, sorted by those of the sample."""
    grid = np.linspace(-RADIUS, RADIUS, GRID)
    steepest = max(float(np.abs(np.diff(evaluate(p)[0])).max()) / (grid[1] - grid[0]) for p in points(grid))
    panels = max(32, int(np.ceil(2 * RADIUS * steepest / VARIATION)))
    if panels > PANELS:
        raise NotExact("no exact variance of measure-valued for log-weights this steep: widen the likelihood")

    def evaluated(y: Array) -> tuple[Array, Array]:
        noise = points(y)[0]
        value, slope = evaluate(noise)
        return value, slope * y**2 * np.exp(0.5 * (noise**2 - y**2)) if by_std else slope

    def density(y: Array) -> Array:
        return np.asarray(np.exp(-0.5 * y**2) * (y**2 if by_std else 1.0))

    return adaptive(evaluated, -RADIUS, RADIUS, density, panels=panels)
