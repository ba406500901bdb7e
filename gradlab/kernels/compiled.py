"""Loops compiled by numba: each array is read once, in pieces that stay in cache.

``compiled`` compiles a loop at its first call. Importing this module imports numba, which takes half a second: go
through ``gradlab.kernels``, or import it in the function that needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

from gradlab.kernels import LANES

COLUMNS = 512  # draws at a time

Loop = TypeVar("Loop", bound=Callable[..., Any])

# Loops run in threads without the GIL; sums may be reordered and products fused, but NaN and Inf keep their meaning.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}


def compiled(loop: Loop) -> Loop:
    """Compile a function of numpy arrays and numbers at its first call, and cache it on disk.

    If neither the package nor the user's cache is writable, every process compiles it anew (about a second).
    """
    try:
        return numba.njit(cache=True, **OPTIONS)(loop)
    except RuntimeError:
        return numba.njit(**OPTIONS)(loop)


@compiled
def sfc64(state, numbers):  # type: ignore[no-untyped-def]
    """Fill ``numbers`` ``[n, LANES]`` from LANES streams of SFC64 with state ``[4, LANES]`` (a, b, c and a counter)."""
    a, b, c, count = state[0].copy(), state[1].copy(), state[2].copy(), state[3].copy()
    for i in range(len(numbers)):
        row = numbers[i]
        for lane in range(LANES):
            drawn = a[lane] + b[lane] + count[lane]
            count[lane] += np.uint64(1)
            a[lane] = b[lane] ^ (b[lane] >> np.uint64(11))
            b[lane] = c[lane] + (c[lane] << np.uint64(3))
            c[lane] = ((c[lane] << np.uint64(24)) | (c[lane] >> np.uint64(40))) + drawn
            row[lane] = drawn
    state[0], state[1], state[2], state[3] = a, b, c, count


@compiled
def parabola(words, unit, slope, half, log_w, slopes):  # type: ignore[no-untyped-def]
    """Fill ``log_w`` with ``slope u + half u^2`` and ``slopes`` with its derivative, at ``u = unit * words``; flat."""
    for i in range(len(words)):
        u = words[i] * unit
        log_w[i] = u * (slope + half * u)
        slopes[i] = slope + (half + half) * u


@compiled
def linear(weight, slope, total, gradient):  # type: ignore[no-untyped-def]
    """Fill ``total = sum_i w_i`` and ``gradient = sum_i w_i g_i / total``; both start as zeros ``[C]``."""
    k, draws = weight.shape
    for start in range(0, draws, COLUMNS):
        end = min(start + COLUMNS, draws)
        sums, out = total[start:end], gradient[start:end]
        for i in range(k):
            w, g = weight[i, start:end], slope[i, start:end]
            for c in range(len(sums)):
                sums[c] += w[c]
                out[c] += w[c] * g[c]
        for c in range(len(sums)):
            out[c] /= sums[c]


@compiled
def squared(weight, slope, total, gradient):  # type: ignore[no-untyped-def]
    """Add ``sum_i (w_i / total)^2 g_i`` to ``gradient`` ``[C]``; normalised first, since squared weights underflow."""
    k, draws = weight.shape
    for start in range(0, draws, COLUMNS):
        end = min(start + COLUMNS, draws)
        inverse, out = 1 / total[start:end], gradient[start:end]
        for i in range(k):
            w, g = weight[i, start:end], slope[i, start:end]
            for c in range(len(out)):
                share = w[c] * inverse[c]
                out[c] += share * share * g[c]


@compiled
def walls(weight, total, ends, near, boundary, factors):  # type: ignore[no-untyped-def]
    """Compute the differences between sample i at the upper and at the lower wall, with ``r_i`` the other weights' sum.

    Args:
        weight: ``[k, C]``.
        total: ``[C]`` sums of the weights.
        ends: weights at the upper and at the lower wall.
        near: whether r_i is ``total - w_i``; otherwise it is summed from both sides, so that no digits cancel.
        boundary: ``[C]`` zeros, becomes ``sum_i upper / (upper + r_i) - lower / (lower + r_i)``.
        factors: ``[G, C]`` ones; each row is multiplied by ``(upper + r_i) / (lower + r_i)`` of its k / G samples.
    """
    k, draws = weight.shape
    upper, lower = ends
    group = -(-k // len(factors))
    rest = np.zeros((k, COLUMNS), weight.dtype)
    for start in range(0, draws, COLUMNS):
        end = min(start + COLUMNS, draws)
        sums, out, size = total[start:end], boundary[start:end], end - start
        if near:
            for i in range(k):
                w, r = weight[i, start:end], rest[i]
                for c in range(size):
                    r[c] = max(sums[c] - w[c], w[c] - w[c])
        else:
            rest[k - 1] = 0
            for i in range(k - 2, -1, -1):
                w, r, after = weight[i + 1, start:end], rest[i], rest[i + 1]
                for c in range(size):
                    r[c] = after[c] + w[c]
            before = np.zeros(COLUMNS, weight.dtype)
            for i in range(1, k):
                w, r = weight[i - 1, start:end], rest[i]
                for c in range(size):
                    before[c] += w[c]
                    r[c] += before[c]
        for i in range(k):
            r, f = rest[i], factors[i // group, start:end]
            for c in range(size):
                high, low = r[c] + upper, r[c] + lower
                inverse = 1 / (high * low)
                out[c] += r[c] * inverse
                f[c] *= high * high * inverse
        for c in range(size):
            out[c] *= upper - lower


@compiled
def central(values):  # type: ignore[no-untyped-def]
    """Return the mean and the sums of the 2nd to 4th powers of the deviations from it; float64."""
    total = 0.0
    for v in values:
        total += v
    mean = total / len(values)
    rest = 0.0  # the rounding of the first mean, which matters where the mean dominates
    for v in values:
        rest += v - mean
    mean += rest / len(values)
    two, three, four = 0.0, 0.0, 0.0
    for v in values:
        d = v - mean
        s = d * d
        two += s
        three += s * d
        four += s * s
    return mean, two, three, four
