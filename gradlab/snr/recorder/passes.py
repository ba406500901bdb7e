"""Implement the recorder's arithmetic as torch operations on whole pieces, for accelerators and small models.

A piece holds many parameters, so a draw takes a few large operations, however many parameters there are. Only the sums
behind the standard errors are computed for each parameter; they are stacked and copied to the CPU once. ``compiled``
does the same for large models on a CPU. The tests compare both with ``definitions.replicate``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradlab.snr.definitions import FLOOR
from gradlab.snr.recorder.layout import Moments


def update(
    into: Moments, new: Moments | Sequence[Tensor | None], n: int, b: int, replicated: bool
) -> NDArray[np.float64]:
    """Add b draws to the n draws in ``into``, in place (Welford, Chan).

    Args:
        into: the moments so far.
        new: moments of b draws in the same layout; or, if b is 1, one gradient per parameter, as in ``Layout.filled``.
        n: number of draws so far, at least 2 for replicates.
        b: number of draws to add.
        replicated: whether to compute replicates.

    Returns:
        The replicate of each parameter; empty unless ``replicated``.
    """
    pieces, sums = into.layout.pieces, []
    # Compute piece by piece, because all pieces of gradients share one work vector.
    deltas: Iterable[Tensor]
    new_m2s: Sequence[Tensor | None]
    if isinstance(new, Moments):
        deltas, new_m2s = (mean - old for mean, old in zip(new.piece_mean, into.piece_mean, strict=True)), new.piece_m2
    else:
        gradients = into.layout.filled(new)
        deltas = (gradient.sub_(old) for gradient, old in zip(gradients, into.piece_mean, strict=True))
        new_m2s = [None] * len(pieces)
    for piece, mean, m2, delta, new_m2 in zip(pieces, into.piece_mean, into.piece_m2, deltas, new_m2s, strict=True):
        added = delta.square().mul_(n * b / (n + b))
        if new_m2 is not None:
            added += new_m2
        m2 += added
        if replicated:
            sums.append(_sums(delta, mean, m2, added, n, b, sizes=piece.sizes))
        mean.add_(delta, alpha=b / (n + b))
    if not replicated:
        return np.empty(0)
    # The draw's only copy to the CPU; sums of several devices meet on the first.
    moved, widened = torch.cat([part.to(sums[0].device) for part in sums]).cpu().numpy().T
    values = moved - 0.5 * math.sqrt((n + b + 1) / (n - 1) * b * (n + b - 1)) * widened
    # A parameter that is larger than a piece has a value in each of its pieces.
    return np.bincount([row for piece in pieces for row in piece.rows], values)  # type: ignore[return-value]


def _sums(delta: Tensor, mean: Tensor, m2: Tensor, added: Tensor, n: int, b: int, *, sizes: list[int]) -> Tensor:
    """Compute the two sums of ``definitions.replicate`` for each parameter of a piece, ``[parameters, 2]``, float64.

    ``mean`` is before the block, ``m2`` after it, and ``added`` the block's contribution to ``m2``. The root is taken
    in float64, since float32 cannot hold the square of a gradient of 1e-30; the rest in float32.
    """
    root = m2.rsqrt().nan_to_num_(posinf=0.0)  # 1 / std but for a factor; 0 for the dead
    p, z, w = (mean * root).float(), (delta * root).float(), (added * root.square()).float()
    c = torch.nn.functional.hardshrink(p * math.sqrt(n * (n + b - 1)), FLOOR).clamp_(-8.0, 8.0)
    z.mul_(math.sqrt(n * b / (n + b) * (n + b - 1)))
    moved = z.add_(c).abs_().sub_(c.abs())
    widened = w.mul_((n + b - 1) / b).sub_(1).mul_(p.abs_())
    both = torch.stack((moved, widened)).double()
    return torch.stack([part.sum(1) for part in both.split(sizes, dim=1)])
