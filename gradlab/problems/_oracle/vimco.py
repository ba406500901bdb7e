"""Variance of VIMCO, whose leave-one-out baseline does not factorise over samples: tensor quadrature, k = 2 and 3."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from gradlab.errors import GradlabError, NotExact
from gradlab.problems._oracle.quadrature import Array

RADIUS = 9.0  # standard deviations; the mass beyond is 2e-19
FIRST = 64  # points per sample to start from; half as many again until the variance settles
TOLERANCE = 1e-9
POINTS = 4e7  # of the tensor product
MOST = 3


def check_vimco(k: int) -> int:
    """Return ``k``, which must be at least 2 for VIMCO, even where its scores are zero.

    Raises:
        GradlabError: k is 1: there is no other sample to take the baseline from.
    """
    if k < 2:
        raise GradlabError("vimco is not defined at k = 1, where no other sample gives a baseline: give k >= 2")
    return k


def vimco_variance(evaluate: Callable[[Array], tuple[Array, Array]], k: int, mean: float) -> float:
    """Return the variance of ``V = sum_i (L - L_-i) s_i - sum_i w~_i s_i`` under standard normal base noise.

    ``L = log (1/k sum w)``, and ``L_-i`` is the same with w_i replaced by the geometric mean of the other weights.
    Source: Mnih & Rezende 2016.

    Args:
        evaluate: maps noise ``[n]`` to ``(log w, s)``, s the score of the posterior.
        k: samples, 2 or 3.
        mean: ``E V``.

    Raises:
        GradlabError: k is 1.
        NotExact: k is above 3, or the sum does not settle.
    """
    check_vimco(k)
    if k > MOST:
        raise NotExact(
            f"no exact variance of vimco at k = {k}: its baseline does not factorise over samples, so that it is "
            f"summed over all pairs or triples of points, k = 2 or {MOST}; draw samples instead"
        )
    points, before = FIRST, np.inf
    while points**k <= POINTS:
        noise = np.linspace(-RADIUS, RADIUS, points)
        p = np.exp(-0.5 * noise**2)
        value = _sum(*evaluate(noise), p / p.sum(), k, mean)
        if abs(value - before) <= TOLERANCE * value:
            return value
        points, before = 3 * points // 2, value
    raise NotExact(f"the variance of vimco at k = {k} does not settle for log-weights this steep: widen the likelihood")


def _sum(log_w: Array, s: Array, p: Array, k: int, mean: float) -> float:
    rest = np.meshgrid(*[np.arange(len(p))] * (k - 1), indexing="ij", sparse=True)
    mass = np.asarray(np.prod(np.broadcast_arrays(*[p[i] for i in rest]), axis=0))
    total = 0.0
    for first in range(len(p)):  # the first sample in a loop, so that triples fit in memory
        logs, scores = [log_w[first], *(log_w[i] for i in rest)], [s[first], *(s[i] for i in rest)]
        log_total = reduce(np.logaddexp, logs)
        value = -mean
        for i in range(k):
            others = logs[:i] + logs[i + 1 :]
            baseline = reduce(np.logaddexp, [*others, sum(others) / (k - 1)])
            value = value + (log_total - baseline - np.exp(logs[i] - log_total)) * scores[i]
        total += p[first] * float((mass * value**2).sum())
    return total
