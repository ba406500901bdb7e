"""The recorder's arithmetic as operations of torch on whole pieces: for accelerators and small models.

A piece holds many parameters, so a draw is a few large operations, however many parameters there are. Only the sums
behind the standard errors go by parameter; they are copied to the CPU once, stacked. For large models on a CPU
``compiled`` does the same; the tests compare both with ``definitions.replicate``.
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


def draw(into: Moments, gradients: Sequence[Tensor | None], n: int, replicated: bool) -> NDArray[np.float64]:
    """Add one draw to the n draws in ``into``, in place (Welford).

    Args:
        into: the moments so far.
        gradients: one per parameter, as for ``Layout.filled``.
        n: draws so far, at least 2 for replicates.
        replicated: whether to compute replicates.

    Returns:
        The replicate of each parameter; empty where none is asked for.
    """
    news = into.layout.filled(gradients)
    deltas = (new.sub_(mean) for new, mean in zip(news, into.piece_mean, strict=True))
    return _update(into, deltas, [None] * len(into.piece_mean), n, 1, replicated)


def join(into: Moments, other: Moments, n: int, b: int, replicated: bool) -> NDArray[np.float64]:
    """Add the b draws in ``other``, of the same layout, to the n draws in ``into``, in place (Chan); see ``draw``."""
    deltas = (new - mean for new, mean in zip(other.piece_mean, into.piece_mean, strict=True))
    return _update(into, deltas, other.piece_m2, n, b, replicated)


def _update(
    into: Moments, deltas: Iterable[Tensor], other_m2s: Sequence[Tensor | None], n: int, b: int, replicated: bool
) -> NDArray[np.float64]:
    """``deltas``: of each piece, the mean of the b new draws minus that of the n before, computed when asked for."""
    pieces, sums = into.layout.pieces, []
    for piece, mean, m2, delta, other_m2 in zip(pieces, into.piece_mean, into.piece_m2, deltas, other_m2s, strict=True):
        added = delta.square().mul_(n * b / (n + b))
        if other_m2 is not None:
            added += other_m2
        m2 += added
        if replicated:
            sums.append(_sums(delta, mean, m2, added, n, b, sizes=piece.sizes))
        mean.add_(delta, alpha=b / (n + b))
    if not replicated:
        return np.empty(0)
    # The draw's one copy to the CPU; several devices meet on the first.
    moved, widened = torch.cat([each.to(sums[0].device) for each in sums]).cpu().numpy().T
    values = moved - 0.5 * math.sqrt((n + b + 1) / (n - 1) * b * (n + b - 1)) * widened
    # A parameter that is larger than a piece has a value in each of its pieces.
    found: NDArray[np.float64] = np.bincount([row for piece in pieces for row in piece.rows], values)  # type: ignore[assignment]
    return found


def _sums(delta: Tensor, mean: Tensor, m2: Tensor, added: Tensor, n: int, b: int, *, sizes: list[int]) -> Tensor:
    """The two sums of ``snr.replicate`` for each parameter of a piece, ``[parameters, 2]``, float64.

    ``mean`` is the one before the block, ``m2`` the one after it and ``added`` what the block adds to ``m2``. The root
    is taken in float64, since float32 cannot hold the square of a gradient of 1e-30; what follows in float32.
    """
    root = m2.rsqrt().nan_to_num_(posinf=0.0)  # 1 / std but for a factor; 0 for the dead
    p, z, w = (mean * root).float(), (delta * root).float(), (added * root.square()).float()
    c = torch.nn.functional.hardshrink(p * math.sqrt(n * (n + b - 1)), FLOOR).clamp_(-8.0, 8.0)
    z.mul_(math.sqrt(n * b / (n + b) * (n + b - 1)))
    moved = z.add_(c).abs_().sub_(c.abs())
    widened = w.mul_((n + b - 1) / b).sub_(1).mul_(p.abs_())
    both = torch.stack((moved, widened)).double()
    return torch.stack([part.sum(1) for part in both.split(sizes, dim=1)])
