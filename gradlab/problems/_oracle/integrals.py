"""Reduce expectations over k samples to integrals over t of expectations over one sample (``docs/theory/oracle.md``).

The variables are ``u = log t`` and ``h = exp(u + log w)``, because w alone underflows if the likelihood is narrow. The
trapezoid rule in u converges like ``exp(-pi^2/step)``. The nodes come from ``quadrature``, the integrands from
``moments``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from gradlab.problems._oracle.product import ProductSlice
from gradlab.problems._oracle.quadrature import Array, Nodes

STEP = 0.2  # in u: the trapezoid rule is then right to exp(-pi^2/STEP) = 4e-22
CHUNK = 64  # points of u at a time: memory is CHUNK x (nodes in the band)
WIDE = 320  # the same if there are few nodes: up to k = ANCHOR, one slice then covers all of u
FEW = 512  # with at most this many nodes, slices are kept, since they are the same for every k
ANCHOR = 1024.0  # sample size for which the first point of u is the first that matters
MOST = 64 * np.log(2)  # log of the largest k
LOW = 40.0  # exp(-LOW) / k is dropped compared with 1
HIGH = 4.5  # exp(-exp(HIGH)) = 1e-39 is dropped
NEGLIGIBLE = -80.0  # log of a power of M from which on the integrals are over


class Slice:
    """Expectations over one sample under ``exp(-t w)`` at some values of u, for any k.

    ``step`` is the step of u. Only nodes in the band ``-LOW - MOST < u + log w < HIGH`` are evaluated; exp(-h) is 1
    below the band and 0 above it.
    """

    step = STEP

    def __init__(self, nodes: Nodes, u: Array) -> None:
        """Evaluate the band of ``nodes`` at ``u [U]``."""
        first = int(np.searchsorted(nodes.log_w, -LOW - MOST - u[-1]))
        last = int(np.searchsorted(nodes.log_w, HIGH - u[0]))
        self.u, self._nodes, self._last, self._band = u, nodes, last, slice(first, last)
        self._p, self._above = nodes.p[self._band], nodes.p[last:].sum()
        # One exp per node and one per u instead of one per pair; neither overflows or underflows inside the band.
        self._h = np.exp(u - u[0])[:, None] * np.exp(nodes.log_w[self._band] + u[0])
        self._decay = np.exp(-self._h)
        self._kernels = {1: self._h * self._decay}
        self.log_m = self._log_m(nodes.p[:first].sum() + _times(self._decay, self._p))

    def _log_m(self, m: Array) -> Array:
        with np.errstate(divide="ignore"):
            if m[0] < 0.5:
                return np.asarray(np.log(m))
            gap = _times(self._rise, self._p) + self._above
            return np.asarray(np.where(gap < 0.5, np.log1p(-np.minimum(gap, 0.5)), np.log(m)))

    @cached_property
    def _rise(self) -> Array:
        return np.asarray(-np.expm1(-self._h))

    def t(self) -> Array:
        """Return t, for weights near 1; capped far beyond the range that matters, to avoid overflow."""
        return np.asarray(np.exp(np.minimum(self.u, 600.0)))

    def m(self, n: int) -> Array:
        """Return ``M(t)^n``, for n >= 0."""
        return np.asarray(np.exp(n * self.log_m)) if n > 0 else np.ones_like(self.u)

    def gap(self, values: Array) -> Array:
        """Return ``E[values (1 - exp(-h))]`` without cancellation at small t; ``values [N]``."""
        above = self._nodes.p[self._last :] @ values[self._last :]
        return _times(self._rise, self._p * values[self._band]) + above

    def mean(self, order: int, *values: Array) -> list[Array]:
        """Return ``E[values h^order exp(-h)]`` for each of ``values [N]``; order >= 1."""
        kernel = self._kernel(order)
        return [_times(kernel, self._p * v[self._band]) for v in values]

    def _kernel(self, order: int) -> Array:
        if order not in self._kernels:
            self._kernels[order] = self._kernel(order - 1) * self._h
        return np.asarray(self._kernels[order])

    def peak(self, log_w: float) -> Array:
        """Return ``h exp(-h)`` at a point whose log-weight is ``log_w``."""
        h = self._wall(log_w)
        return np.asarray(h * np.exp(-h))

    def rise(self, log_w: float) -> Array:
        """Return ``1 - exp(-h)`` at a point whose log-weight is ``log_w``."""
        return np.asarray(-np.expm1(-self._wall(log_w)))

    def drop(self, low: float, high: float) -> Array:
        """Return ``exp(-h_low) - exp(-h_high)`` at these log-weights, ``low < high``, without cancellation."""
        return np.asarray(np.exp(-self._wall(low)) * np.expm1(self._wall(high) * np.expm1(low - high))) * -1.0

    def _wall(self, log_w: float) -> Array:
        """Return h at a point whose log-weight is ``log_w``, capped at ``exp(HIGH + WIDE * STEP)``."""
        return np.asarray(np.exp(np.minimum(self.u + log_w, HIGH + WIDE * STEP)))


def _times(matrix: Array, vector: Array) -> Array:
    """Multiply matrix and vector on one thread: BLAS would start several, which takes milliseconds if busy."""
    return np.asarray(np.einsum("ij,j->i", matrix, vector))


def slices(nodes: Nodes, k: int) -> Iterator[Slice | ProductSlice]:
    """Yield the slices that matter for k >= 2 samples, from small t to large; a single one in several dimensions.

    Args:
        nodes: the posterior.
        k: number of samples.
    """
    if nodes.dim > 1:
        yield ProductSlice(nodes, k)
        return
    few = len(nodes.p) <= FEW
    size = WIDE if few else CHUNK
    width = STEP * size
    start, end = -LOW - np.log(ANCHOR) - float(nodes.log_w[-1]), HIGH - float(nodes.log_w[0])
    first = min(0, int(np.floor(np.log(ANCHOR / k) / width)))
    for i in range(first, int(np.ceil((end - start) / width))):
        part = nodes.kept.get(i)
        if part is None:
            u = start + i * width + STEP * np.arange(size)
            part = Slice(nodes, u[: 1 + int(np.searchsorted(u, end))])  # beyond, powers of t would magnify rounding
            if few:
                nodes.kept[i] = part
        yield part
        if k > 2 and (k - 2) * part.log_m[-1] < NEGLIGIBLE:
            return


def integrate(nodes: Nodes, k: int, integrand: Callable[[Any], tuple[Array, ...]]) -> Array:
    """Return trapezoid sums over u of the integrands ``[m]``, functions of a :class:`Slice` or a ``ProductSlice``."""
    return np.asarray(sum(s.step * np.array([part.sum() for part in integrand(s)]) for s in slices(nodes, k)))


def difference_to_exp(log_factor: Array, factor: Array, kt: Array) -> Array:
    """Return ``factor - exp(-kt)`` without cancellation where both are near 1; ``log_factor`` is read only there."""
    near = np.minimum(kt, 1.0)
    close = np.exp(-near) * np.expm1(np.where(kt < 1, log_factor + near, 0.0))
    return np.asarray(np.where(kt < 1, close, factor - np.exp(-kt)))
