"""Compute the variance of VIMCO by tensor quadrature, for k = 2 and 3.

Its leave-one-out baseline does not factorise over samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from gradlab.errors import GradlabError, NotExact
from gradlab.problems._oracle.quadrature import Array

RADIUS = 9.0  # standard deviations; the mass beyond is 2e-19
FIRST = 64  # points per sample to start from; increased by a half until the variance converges
TOLERANCE = 1e-9
POINTS = 4e7  # of the tensor product
MOST = 3


def check_vimco(k: int) -> int:
    """Return ``k``, which must be at least 2 for VIMCO, even if its scores are zero.

    Raises:
        GradlabError: if k is 1, because no other sample provides the baseline.
    """
    if k < 2:
        raise GradlabError("k is 1, but vimco takes the baseline of a sample from the others: use at least two samples")
    return k


def vimco_variance(evaluate: Callable[[Array], tuple[Array, Array]], k: int, mean: float) -> float:
    """Return the variance of ``V = sum_i (L - L_-i) s_i - sum_i w~_i s_i`` under standard normal base noise.

    ``L = log (1/k sum w)``, and ``L_-i`` is the same with w_i replaced by the geometric mean of the other weights.
    Source: Mnih & Rezende 2016.

    Args:
        evaluate: maps noise ``[n]`` to ``(log w, s)``, with s the score of the posterior.
        k: number of samples, 2 or 3.
        mean: ``E V``.

    Raises:
        GradlabError: if k is 1.
        NotExact: if k is above 3, or the sum does not converge.
    """
    check_vimco(k)
    if k > MOST:
        raise NotExact(
            f"no exact variance of vimco at k = {k}: its baseline does not factorise over samples, so it is known for "
            f"k = 2 and {MOST} only; estimate it from draws"
        )
    points, before = FIRST, np.inf
    while points**k <= POINTS:
        noise = np.linspace(-RADIUS, RADIUS, points)
        p = np.exp(-0.5 * noise**2)
        value = _sum(*evaluate(noise), p / p.sum(), k, mean)
        if abs(value - before) <= TOLERANCE * value:
            return value
        points, before = 3 * points // 2, value
    raise NotExact(
        f"the variance of vimco at k = {k} does not converge for log-weights this steep: widen the likelihood"
    )


def _sum(log_w: Array, s: Array, p: Array, k: int, mean: float) -> float:
    rest = np.meshgrid(*[np.arange(len(p))] * (k - 1), indexing="ij", sparse=True)
    mass = np.asarray(np.prod(np.broadcast_arrays(*[p[i] for i in rest]), axis=0))
    total = 0.0
    for first in range(len(p)):  # loop over the first sample, so that triples fit in memory
        logs, scores = [log_w[first], *(log_w[i] for i in rest)], [s[first], *(s[i] for i in rest)]
        log_total = reduce(np.logaddexp, logs)
        value = -mean
        for i in range(k):
            others = logs[:i] + logs[i + 1 :]
            baseline = reduce(np.logaddexp, [*others, sum(others) / (k - 1)])
            value = value + (log_total - baseline - np.exp(logs[i] - log_total)) * scores[i]
        total += p[first] * float((mass * value**2).sum())
    return total
