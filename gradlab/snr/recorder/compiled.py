"""The recorder's arithmetic on a CPU, as compiled loops: every number is read once, and stays in a register.

A draw is bound by the memory that it must go through (gradient, mean and M2: 36 bytes a scalar); as passes of torch it
took three times as long (``passes``, for accelerators and small models). The replicate is that of
``definitions.replicate``; the tests hold the three against each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradlab.kernels import compiled
from gradlab.snr.definitions import FLOOR

PIECE = 1 << 18
"""Scalars of one parameter that one thread takes at a time; sums are merged in the order of the pieces."""


@compiled
def _update(mean, m2, other, other_m2, n, b, replicated):  # type: ignore[no-untyped-def]
    """Chan's update by the mean and M2 of b draws on top of n, Welford's where b is 1; returns the replicate.

    A single draw has no M2: ``other_m2`` is then empty. 0.0 where no replicate is asked for.
    """
    old, new, single = n * b / (n + b), b / (n + b), len(other_m2) == 0
    if not replicated:
        for i in range(len(mean)):
            d = other[i] - mean[i]
            m2[i] += d * d * old if single else d * d * old + other_m2[i]
            mean[i] += d * new
        return 0.0
    to_c, to_z, to_v = math.sqrt(n * (n + b - 1)), math.sqrt(old * (n + b - 1)), (n + b - 1) / b
    moved, widened = 0.0, 0.0
    for i in range(len(mean)):
        m = mean[i]
        d = other[i] - m
        added = d * d * old if single else d * d * old + other_m2[i]
        q = m2[i] + added
        m2[i] = q
        mean[i] = m + d * new
        root = 1 / math.sqrt(q)
        root = root if q > 0 else 0.0  # 0 for the dead
        c = m * root * to_c
        c = c if abs(c) >= FLOOR else 0.0
        c = max(min(c, 8.0), -8.0)
        moved += abs(c + d * root * to_z) - abs(c)
        widened += abs(m * root) * (added * root * root * to_v - 1)
    return moved - 0.5 * math.sqrt((n + b + 1) / (n - 1) * b * (n + b - 1)) * widened


@compiled
def _sum(values):  # type: ignore[no-untyped-def]
    total = values[0] * 0
    for i in range(len(values)):
        total += values[i]
    return total


def sums_to_finite(values: Tensor) -> bool:
    """Whether the sum of a tensor on the CPU is finite, as it is not where a term is NaN or infinite."""
    return math.isfinite(_sum(_flat(values)))


_NO_M2 = np.empty(0)


def update(
    means: Sequence[Tensor],
    m2s: Sequence[Tensor],
    others: Sequence[Tensor],
    other_m2s: Sequence[Tensor],
    n: int,
    b: int,
    *,
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
