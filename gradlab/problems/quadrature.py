"""Nodes and weights of a one-dimensional posterior that resolve ``exp(-t w(y))`` at every t.

As t runs over (0, inf), ``exp(-t w(y))`` is a step that travels along y and has width ``1 / |d log w/dy|``. Panels of
Gauss-Legendre nodes are therefore halved until log w varies by a few nats on each, which is where a step of that shape
is resolved to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import eval_legendre, roots_legendre

from gradlab.errors import GradlabError

Array = NDArray[np.float64]
Evaluate = Callable[[Array], tuple[Array, Array]]

ORDER = 16  # nodes per panel
VARIATION = 3.0  # nats that log w may vary by on a panel: exp(-t w) is then resolved to 1e-13
TOLERANCE = 1e-11  # tail of the Legendre series of a panel, times its share of the range
DEPTH = 44  # halvings; a panel that still is not resolved there holds a jump or a pole
PANELS = 40_000

_X, _W = roots_legendre(ORDER)
# Values at the nodes -> coefficients of the Legendre series.
_ANALYSIS = _W[:, None] * eval_legendre(np.arange(ORDER), _X[:, None]) * (np.arange(ORDER) + 0.5)


class Nodes(NamedTuple):
    """A posterior as nodes, sorted by log-weight.

    Attributes:
        y: ``[N]`` points.
        p: ``[N]`` probabilities, summing to 1.
        log_w: ``[N]`` log-weights, nats, ascending.
    """

    y: Array
    p: Array
    log_w: Array

    def mean(self, values: Array) -> float:
        """E_q of ``values [N]``."""
        return float(self.p @ values)

    def log_mean_weight(self) -> float:
        """log E_q[w], nats: what the bound tends to as k grows."""
        top = float(self.log_w[-1])
        return top + float(np.log(self.p @ np.exp(self.log_w - top)))


def _unresolved(log_w: Array, slope: Array, scale: float, share: Array) -> NDArray[np.bool_]:
    """``[panels]`` whether to halve each; ``log_w, slope [panels, ORDER]``, ``share [panels]`` of the whole range."""
    middle = 0.5 * (log_w.max(1, keepdims=True) + log_w.min(1, keepdims=True))
    steep = np.ptp(log_w, axis=1) > VARIATION
    d = np.clip(log_w - middle, -VARIATION, VARIATION)
    step = np.exp(-np.exp(d))
    tail = np.zeros(len(log_w))
    for f in (step, np.exp(d) * step * slope / scale):
        tail = np.maximum(tail, np.abs(f @ _ANALYSIS[:, -3:]).max(1))
    return np.asarray(steep | (tail * share > TOLERANCE))


def _check(y: Array, log_w: Array, slope: Array) -> None:
    bad = ~(np.isfinite(log_w) & np.isfinite(slope))
    if bad.any():
        where = float(y[bad].flat[0])
        raise GradlabError(
            f"log w or its derivative is not finite at y = {where:.6g}: "
            "give a log w that is bounded and differentiable on the whole support"
        )


def adaptive(evaluate: Evaluate, lower: float, upper: float, density: Callable[[Array], Array], panels: int) -> Nodes:
    """Composite Gauss-Legendre nodes on ``[lower, upper]``, panels halved until ``exp(-t w)`` is resolved.

    Args:
        evaluate: maps points (any shape) to ``(log w, d log w/dy)``, nats.
        lower: left end.
        upper: right end.
        density: q at the points; normalised over the nodes afterwards.
        panels: how many panels to start from.

    Raises:
        GradlabError: log w is not finite somewhere, jumps or has a pole, or varies too much to be resolved.
    """
    ends = np.array([lower, upper])
    _check(ends, *evaluate(ends))
    edges = np.linspace(lower, upper, panels + 1)
    left, right = edges[:-1], edges[1:]
    done: list[tuple[Array, Array, Array]] = []
    count, scale = 0, 1e-300
    for _ in range(DEPTH):
        half = 0.5 * (right - left)
        y = 0.5 * (left + right)[:, None] + half[:, None] * _X
        log_w, slope = evaluate(y)
        _check(y, log_w, slope)
        scale = max(scale, float(np.abs(slope).max()))
        split = _unresolved(log_w, slope, scale, 2 * half / (upper - lower))
        kept = ~split
        done.append((y[kept].ravel(), (half[:, None] * _W)[kept].ravel(), log_w[kept].ravel()))
        count += int(kept.sum())
        if not split.any():
            break
        if count + 2 * int(split.sum()) > PANELS:
            raise GradlabError(
                f"log w varies too much over the support for the exact answers (more than {VARIATION * PANELS / 2:.0f} "
                "nats in all): widen the likelihood or the prior"
            )
        middle = 0.5 * (left + right)[split]
        left, right = np.concatenate([left[split], middle]), np.concatenate([middle, right[split]])
    else:
        raise GradlabError(
            f"log w jumps or is unbounded near y = {float(left[0]):.6g}: "
            "give a log w that is bounded and differentiable on the whole support"
        )
    y, weight, log_w = (np.concatenate(parts) for parts in zip(*done, strict=True))
    p = weight * density(y)
    order = np.argsort(log_w, kind="stable")
    return Nodes(y[order], (p / p.sum())[order], log_w[order])
