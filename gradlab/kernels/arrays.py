"""The functions of ``compiled`` as numpy operations, for where numba is not installed.

They allocate temporaries of the size of their arguments and take a few times as long.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradlab.kernels import LANES

Array = NDArray[np.floating]


def sfc64(state: NDArray[np.uint64], numbers: NDArray[np.uint64]) -> None:
    """Fill ``numbers [n, LANES]`` from streams of numpy's SFC64 with state ``[4, LANES]``, updated in place."""
    source = np.random.SFC64(0)
    for lane in range(LANES):
        source.state = {**source.state, "state": {"state": state[:, lane]}}
        numbers[:, lane] = source.random_raw(len(numbers))
        state[:, lane] = source.state["state"]["state"]


def parabola(
    words: NDArray[np.integer], unit: np.floating, slope: np.floating, half: np.floating, log_w: Array, slopes: Array
) -> None:
    """Fill ``log_w`` with ``slope u + half u^2`` and ``slopes`` with its derivative, at ``u = unit * words``; flat."""
    u = words * unit
    log_w[:] = u * (slope + half * u)
    slopes[:] = slope + (half + half) * u


def linear(weight: Array, slope: Array, total: Array, gradient: Array) -> None:
    """Fill ``total = sum_i w_i`` and ``gradient = sum_i w_i g_i / total``; both start as zeros ``[C]``."""
    total += weight.sum(0)
    gradient += (weight * slope).sum(0) / total


def squared(weight: Array, slope: Array, total: Array, gradient: Array) -> None:
    """Add ``sum_i (w_i / total)^2 g_i`` to ``gradient`` ``[C]``; normalised first, since squared weights underflow."""
    share = weight / total
    gradient += (share * share * slope).sum(0)


def walls(
    weight: Array, total: Array, ends: tuple[np.floating, np.floating], near: bool, boundary: Array, factors: Array
) -> None:
    """Compute the differences between sample i at the upper and at the lower wall; see ``compiled.walls``."""
    upper, lower = ends
    if near:
        rest = np.maximum(total - weight, 0)
    else:  # the sums before and after each sample, so that no digits cancel
        rest = np.zeros_like(weight)
        rest[1:] = weight[:-1].cumsum(0)
        rest[:-1] += weight[:0:-1].cumsum(0)[::-1]
    high, low = rest + upper, rest + lower
    boundary += (rest / (high * low)).sum(0) * (upper - lower)
    group = -(-len(weight) // len(factors))
    for i, ratio in enumerate(high / low):
        factors[i // group] *= ratio


def central(values: Array) -> tuple[float, float, float, float]:
    """Return the mean and the sums of the 2nd to 4th powers of the deviations from it; float64."""
    values = values.astype(np.float64)
    mean = values.mean()
    mean += (values - mean).mean()  # the rounding of the first mean, which matters where the mean dominates
    d = values - mean
    s = d * d
    return float(mean), float(s.sum()), float((s * d).sum()), float((s * s).sum())
