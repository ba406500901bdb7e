"""The recorder's arithmetic on a CPU, as compiled loops: every number is read once, and stays in a register.

A draw is bound by the memory that it must go through (gradient, mean and M2: 36 bytes a scalar); as passes of torch it
took three times as long (:mod:`gradlab.recorder.passes`, which accelerators still use). The replicate is
:func:`gradlab.snr.replicate`: its root in float64, since float32 cannot hold the square of a gradient of 1e-30, what
follows in float32, since a standard error needs three digits. The tests hold the three against each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradlab.compiling import compiled
from gradlab.snr import FLOOR

PIECE = 1 << 18
"""Scalars of one parameter that one thread takes at a time; sums are merged in the order of the pieces."""

_BLOCK = 2048  # scalars between the two loops of a replicate: 24 KiB, the first-level cache
_LIMIT = 8.0  # c beyond this changes nothing
_F = np.float32


@compiled
def _replicate(p, z, w, size, n, b):  # type: ignore[no-untyped-def]
    """``snr.replicate`` of up to ``_BLOCK`` scalars from mean, delta and added, each over the root of the new M2."""
    to_c, to_z = _F(math.sqrt(n * (n + b - 1))), _F(math.sqrt(n * b / (n + b) * (n + b - 1)))
    to_v, floor, limit, zero = _F((n + b - 1) / b), _F(FLOOR), _F(_LIMIT), _F(0)
    moved, widened = zero, zero
    for i in range(size):
        c = p[i] * to_c
        c = c if abs(c) >= floor else zero
        c = max(min(c, limit), -limit)
        moved += abs(c + z[i] * to_z) - abs(c)
        widened += abs(p[i]) * (w[i] * to_v - _F(1))
    return moved - 0.5 * math.sqrt((n + b + 1) / (n - 1) * b * (n + b - 1)) * widened


@compiled
def _update(mean, m2, other, other_m2, n, b, replicated):  # type: ignore[no-untyped-def]
    """Chan's update by the mean and M2 of b draws on top of n, Welford's where b is 1; returns the replicate.

    A single draw has no M2: ``other_m2`` is then empty. 0.0 where no replicate is asked for.
    """
    old, new, total, single = n * b / (n + b), b / (n + b), 0.0, len(other_m2) == 0
    if not replicated:
        for i in range(len(mean)):
            d = other[i] - mean[i]
            m2[i] += d * d * old if single else d * d * old + other_m2[i]
            mean[i] += d * new
        return total
    p, z, w = np.empty(_BLOCK, _F), np.empty(_BLOCK, _F), np.empty(_BLOCK, _F)
    for start in range(0, len(mean), _BLOCK):
        part = slice(start, min(start + _BLOCK, len(mean)))
        means, squares, others, theirs = mean[part], m2[part], other[part], other_m2[part]
        for i in range(len(means)):
            m = means[i]
            d = others[i] - m
            added = d * d * old if single else d * d * old + theirs[i]
            q = squares[i] + added
            squares[i] = q
            means[i] = m + d * new
            root = 1 / math.sqrt(q)
            root = root if q > 0 else 0.0  # 0 for the dead
            p[i], z[i], w[i] = _F(m * root), _F(d * root), _F(added * root * root)
        total += _replicate(p, z, w, len(means), n, b)
    return total


@compiled
def _sum(values):  # type: ignore[no-untyped-def]
    total = values[0] * 0
    for i in range(len(values)):
        total += values[i]
    return total


def finite(values: Tensor) -> bool:
    """Whether no number of a tensor on the CPU is NaN or infinite."""
    # A sum is finite only if all its terms are, and costs a tenth of a look at each; that of finite ones may overflow.
    return math.isfinite(_sum(_flat(values))) or bool(torch.isfinite(values).all())


_NO_M2 = np.empty(0)


def update(
    means: Sequence[Tensor],
    m2s: Sequence[Tensor],
    others: Sequence[Tensor],
    other_m2s: Sequence[Tensor],
    n: int,
    b: int,
    replicated: bool,
) -> list[float]:
    """Merge b draws into n of every parameter, in place; returns their replicates, 0.0 where none is asked for.

    Args:
        means: flat float64 vectors on the CPU; ``m2s`` likewise.
        others: of each the mean of the b draws, of any float type and shape; the gradient itself where b is 1.
        other_m2s: their M2, flat float64; empty where b is 1.
        n: draws so far, at least 2 for a replicate.
        b: draws to merge.
        replicated: whether to compute replicates.
    """
    before = [(m.numpy(), s.numpy()) for m, s in zip(means, m2s, strict=True)]
    new = [_flat(o) for o in others]
    new_m2 = [_flat(s) for s in other_m2s] or [_NO_M2] * len(new)
    pieces = [(i, slice(at, at + PIECE)) for i, o in enumerate(new) for at in range(0, len(o), PIECE)]
    found = [0.0] * len(pieces)
    # For some milliseconds torch's own threads wait for more to do on half of the processor's time.
    threads = min(torch.get_num_threads() // 2, len(pieces))

    def work(first: int) -> None:
        for at in range(first, len(pieces), max(1, threads)):
            i, part = pieces[at]
            mean, m2 = before[i]
            found[at] = _update(mean[part], m2[part], new[i][part], new_m2[i][part], float(n), float(b), replicated)

    if threads < 2:
        work(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
    sums = [0.0] * len(new)
    for (i, _), value in zip(pieces, found, strict=True):
        sums[i] += value
    return sums


def _flat(values: Tensor) -> Any:
    """A vector that the loops take: float32 or float64, contiguous."""
    values = values.reshape(-1)
    array = (values if values.dtype in (torch.float32, torch.float64) else values.float()).cpu().numpy()
    return np.ascontiguousarray(array)
