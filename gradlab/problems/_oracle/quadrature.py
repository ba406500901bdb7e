"""Compute nodes and weights of a one-dimensional posterior that resolve ``exp(-t w(y))`` at every t.

As t runs over (0, inf), ``exp(-t w(y))`` is a step of width ``1 / |d log w/dy|`` that travels along y. Panels of
Gauss-Legendre nodes are therefore halved until log w varies by a few nats on each; a step of that shape is then
resolved to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import eval_legendre, roots_legendre

from gradlab.errors import GradlabError

Array = NDArray[np.float64]
Evaluate = Callable[[Array], tuple[Array, Array]]

ORDER = 16  # nodes per panel
VARIATION = 3.0  # nats that log w may vary by on a panel: exp(-t w) is then resolved to 1e-13
TOLERANCE = 1e-11  # tail of the Legendre series of a panel
KINK = 1e-6  # nats that log w may vary by on a panel that holds a kink
FLAT = 1e-2  # slopes are resolved relative to the steepest of them, or to this, nats per unit
DEPTH = 44  # halvings; a panel that is still not resolved then holds a jump or a pole
PANELS = 40_000

_X, _W = roots_legendre(ORDER)
# Values at the nodes -> coefficients of the Legendre series.
_ANALYSIS = _W[:, None] * eval_legendre(np.arange(ORDER), _X[:, None]) * (np.arange(ORDER) + 0.5)


@dataclass(frozen=True, eq=False)
class Nodes:
    """A posterior as nodes, sorted by log-weight.

    Attributes:
        y: points ``[N]``.
        p: probabilities ``[N]`` that sum to 1.
        log_w: log-weights ``[N]`` in nats, ascending.
        dim: number of coordinates; the nodes describe one of that many independent, identical posteriors and
            log-weights.
        kept: cache that integrals over these nodes share (:mod:`gradlab.problems._oracle.integrals`).
    """

    y: Array
    p: Array
    log_w: Array
    dim: int = 1
    kept: dict[int, Any] = field(init=False, repr=False, default_factory=dict)

    def mean(self, values: Array) -> float:
        """Return E_q of ``values [N]``."""
        return float(self.p @ values)

    @cached_property
    def centred(self) -> tuple[Nodes, float]:
        """The same nodes scaled to ``E[w] = 1``, and ``log E[w]`` before scaling, in nats."""
        shift = self.log_mean_weight()
        return replace(self, log_w=self.log_w - shift), shift

    def log_mean_weight(self) -> float:
        """Return ``log E_q[w]`` of all coordinates, nats: the limit of the bound as k grows."""
        top = float(self.log_w[-1])
        return self.dim * (top + float(np.log(self.p @ np.exp(self.log_w - top))))


def _unresolved(log_w: Array, slope: Array, scale: float, share: Array) -> NDArray[np.bool_]:
    """Return whether to halve each panel; ``log_w, slope [panels, ORDER]``, ``share [panels]`` of the range."""
    spread = np.ptp(log_w, axis=1)
    middle = 0.5 * (log_w.max(1, keepdims=True) + log_w.min(1, keepdims=True))
    d = np.clip(log_w - middle, -VARIATION, VARIATION)
    step = np.exp(-np.exp(d))
    tail = np.zeros(len(log_w))
    for f in (step, np.exp(d) * step * slope / scale):
        tail = np.maximum(tail, np.abs(f @ _ANALYSIS[:, -3:]).max(1))
    tolerance = max(TOLERANCE, 1e-14 * float(np.abs(log_w).max()))  # the rounding of log w itself
    # A kink is accepted once its panel is too small to matter; a jump never is.
    kink = (tail * share < tolerance) & (spread < KINK)
    return np.asarray((spread > VARIATION) | ((tail > tolerance) & ~kink))


def _jump(y: Array, log_w: Array, slope: Array) -> float | None:
    """Return the point at which log w jumps between panels, if it does; arguments ``[panels, ORDER]``."""
    order = np.argsort(y[:, 0])
    y, log_w, slope = y[order], log_w[order], slope[order]
    before, after = slope[:-1, -1], slope[1:, 0]
    distance = y[1:, 0] - y[:-1, -1]
    expected = 0.5 * (before + after) * distance
    slack = np.abs(after - before) * distance + 1e-4 + 1e-14 * np.abs(log_w).max()
    jumps = np.flatnonzero(np.abs(log_w[1:, 0] - log_w[:-1, -1] - expected) > slack)
    return float(0.5 * (y[jumps[0], -1] + y[jumps[0] + 1, 0])) if len(jumps) else None


def _check(y: Array, log_w: Array, slope: Array) -> None:
    bad = ~(np.isfinite(log_w) & np.isfinite(slope))
    if bad.any():
        where = float(y[bad].flat[0])
        raise GradlabError(
            f"log w or its derivative is not finite at y = {where:.6g}: "
            "give a log w that is bounded and differentiable on the whole support"
        )


def adaptive(evaluate: Evaluate, lower: float, upper: float, density: Callable[[Array], Array], panels: int) -> Nodes:
    """Return composite Gauss-Legendre nodes on ``[lower, upper]`` whose panels resolve ``exp(-t w)``.

    Args:
        evaluate: maps points (any shape) to ``(log w, d log w/dy)`` in nats.
        lower: left end.
        upper: right end.
        density: maps points to q, which is then normalised over the nodes.
        panels: number of panels to start from.

    Raises:
        GradlabError: if log w is not finite somewhere, jumps or has a pole, or varies too much to be resolved.
    """
    ends = np.array([lower, upper])
    _check(ends, *evaluate(ends))
    edges = np.linspace(lower, upper, panels + 1)
    left, right = edges[:-1], edges[1:]
    done: list[tuple[Array, Array, Array, Array]] = []
    count, scale = 0, FLAT
    for _ in range(DEPTH):
        half = 0.5 * (right - left)
        y = 0.5 * (left + right)[:, None] + half[:, None] * _X
        log_w, slope = evaluate(y)
        _check(y, log_w, slope)
        scale = max(scale, float(np.abs(slope).max()))
        split = _unresolved(log_w, slope, scale, 2 * half / (upper - lower))
        kept = ~split
        done.append((y[kept], (half[:, None] * _W)[kept], log_w[kept], slope[kept]))
        count += int(kept.sum())
        if not split.any():
            break
        if count + 2 * int(split.sum()) > PANELS:
            raise GradlabError(
                f"log w varies by more than the exact answers resolve, about {VARIATION * PANELS / 2:.0f} nats over "
                "the support: give a bounded log w, or widen the likelihood or the prior"
            )
        middle = 0.5 * (left + right)[split]
        left, right = np.concatenate([left[split], middle]), np.concatenate([middle, right[split]])
    else:
        raise _unbounded(float(left[0]))
    y, weight, log_w, slope = (np.concatenate(parts) for parts in zip(*done, strict=True))
    jump = _jump(y, log_w, slope)
    if jump is not None:
        raise _unbounded(jump)
    p = (weight * density(y)).ravel()
    order = np.argsort(log_w, axis=None, kind="stable")
    return Nodes(y.ravel()[order], (p / p.sum())[order], log_w.ravel()[order])


def _unbounded(where: float) -> GradlabError:
    return GradlabError(
        f"log w jumps or is unbounded near y = {where:.6g}: "
        "give a log w that is bounded and differentiable on the whole support"
    )
