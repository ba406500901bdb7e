"""Implement the recorder's arithmetic on a CPU as compiled loops, which read every number once.

Memory traffic limits a draw (gradient, mean and M2: 36 bytes per scalar). Torch operations (``passes``, for
accelerators and small models) took three times as long. The tests compare both with ``definitions.replicate``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradlab.kernels.compiled import compiled
from gradlab.snr.definitions import FLOOR
from gradlab.snr.recorder.layout import Moments

PIECE = 1 << 18
"""Scalars of one parameter that a thread takes at a time; sums are merged in the order of the pieces."""


@compiled
def _update(mean, m2, other, other_m2, counts, replicated):  # type: ignore[no-untyped-def]
    """Add the mean and M2 of b draws to those of n draws, ``counts = (n, b)``, in place; return the replicate, or 0.0.

    This is Chan's update, and Welford's if b is 1: a single draw has no M2, and ``other_m2`` is empty.
    """
    n, b = counts
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


def update(
    into: Moments, new: Moments | Sequence[Tensor | None], n: int, b: int, replicated: bool
) -> NDArray[np.float64]:
    """Add b draws to the n draws in ``into``, in place; arguments and result as in ``passes.update``."""
    if isinstance(new, Moments):
        means, m2s = [mean.numpy() for mean in new.mean], [m2.numpy() for m2 in new.m2]
    else:
        means = [np.zeros(len(mean)) if g is None else _flat(g) for g, mean in zip(new, into.mean, strict=True)]
        m2s = [np.empty(0)] * len(means)
    old = [(mean.numpy(), m2.numpy()) for mean, m2 in zip(into.mean, into.m2, strict=True)]
    pieces = [(i, slice(start, start + PIECE)) for i, mean in enumerate(means) for start in range(0, len(mean), PIECE)]
    values, counts = np.zeros(len(pieces)), (float(n), float(b))
    # The threads of torch spin for some milliseconds after their work, and use up half of the processor's time.
    threads = max(1, min(torch.get_num_threads() // 2, len(pieces)))

    def work(first: int) -> None:
        for index in range(first, len(pieces), threads):
            i, part = pieces[index]
            mean, m2 = old[i]
            values[index] = _update(mean[part], m2[part], means[i][part], m2s[i][part], counts, replicated)

    if threads == 1:
        work(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
    return np.bincount([i for i, _ in pieces], values)  # type: ignore[return-value]


def _flat(values: Tensor) -> Any:
    """Return a contiguous float32 or float64 vector, as the loops expect it."""
    values = values.reshape(-1)
    array = (values if values.dtype in (torch.float32, torch.float64) else values.float()).cpu().numpy()
    return np.ascontiguousarray(array)
