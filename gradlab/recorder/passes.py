"""The recorder's arithmetic as passes of torch over chunks: for accelerators and small models.

For large models on a CPU :mod:`gradlab.recorder.compiled` does the same; the tests hold both against
:func:`gradlab.snr.replicate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.snr import FLOOR

CHUNK = 1 << 20
"""Scalars per chunk: accelerators want few large launches, and memory for the temporaries stays small."""


def update(
    means: Sequence[Tensor],
    m2s: Sequence[Tensor],
    others: Sequence[Tensor],
    other_m2s: Sequence[Tensor],
    n: int,
    b: int,
    replicated: bool,
) -> list[Tensor]:
    """See :func:`gradlab.recorder.compiled.update`; on any device, and replicates as float64 scalars there."""
    theirs: Sequence[Tensor | None] = list(other_m2s) or [None] * len(others)
    found = []
    for mean, m2, other, other_m2 in zip(means, m2s, others, theirs, strict=True):
        flat, total = other.reshape(-1), mean.new_zeros(())
        for start in range(0, len(mean), CHUNK):
            at = slice(start, start + CHUNK)
            m, s = mean[at], m2[at]
            d = flat[at].to(m).sub(m)
            added = d.square().mul_(n * b / (n + b))
            if other_m2 is not None:
                added += other_m2[at].to(added)
            s += added
            if replicated:
                total += _replicate(d, m, s, added, n, b)
            m.add_(d, alpha=b / (n + b))
        found.append(total)
    return found


def _replicate(delta: Tensor, mean: Tensor, m2: Tensor, added: Tensor, n: int, b: int) -> Tensor:
    """``snr.replicate`` of one chunk, a float64 scalar: ``mean`` before the block, ``m2`` after it, ``added`` by it.

    The root is taken in float64, since float32 cannot hold the square of a gradient of 1e-30; what follows in float32.
    """
    root = m2.rsqrt().nan_to_num_(posinf=0.0)  # 1 / std but for a factor; 0 for the dead
    p, z, w = (mean * root).float(), (delta * root).float(), (added * root.square()).float()
    c = torch.nn.functional.hardshrink(p * math.sqrt(n * (n + b - 1)), FLOOR).clamp_(-8.0, 8.0)
    z.mul_(math.sqrt(n * b / (n + b) * (n + b - 1)))
    moved = (c + z).abs_().sub_(c.abs()).sum(dtype=torch.float64)
    widened = (p.abs_() * w.mul_((n + b - 1) / b).sub_(1)).sum(dtype=torch.float64)
    return moved - 0.5 * math.sqrt((n + b + 1) / (n - 1) * b * (n + b - 1)) * widened
