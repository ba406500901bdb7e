"""The integrals of :mod:`gradlab.problems.sweep` in D dimensions, for a product of D equal coordinates.

There ``log w = l(y_1) + R``, with R the sum of D - 1 independent copies of ``l(y)``, and the gradient is that of the
first coordinate. Convolving D - 1 times is a power in Fourier space, and ``exp(-t w)`` is known there too, so that no
law is ever put on a grid: with ``s = alpha + i omega``, ``u = log t`` and ``h = exp(u + log w)``

    E[a(y_1) h^n exp(-h)]     = 1/(2 pi) int Gamma(n - s) exp(s u) E[a exp(s l)] E[exp(s l)]^(D-1) d omega,  alpha < n
    E[a(y_1) (1 - exp(-h))]   = the same with Gamma(1 - s)/s, 0 < alpha < 1.

One inverse FFT gives it at all u. The line ``Re s = alpha`` (exponential tilting) is laid through the saddle point at
the u where ``1 - M`` is ``1/k``: rounding is then relative to the part of the law of log w that k samples reach,
however far in its tail. Gamma falls like ``exp(-pi omega/2)``, so that a step of 0.1 in u is exact to rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len
from scipy.special import gammaln, loggamma

from gradlab.problems.quadrature import Array, Nodes

Complex = NDArray[np.complex128]

STEP = 0.1
DIGITS = 36.0  # exp(-DIGITS) is dropped
NEGLIGIBLE = -80.0  # log of a power of M from which on the integrals are over
FADED = -50.0  # log of a characteristic function that counts as 0
BLOCK = 2**20  # entries of one block of exponentials
TILTS = 160


class ProductSlice:
    """Expectations over one sample of a product under ``exp(-t w)``, at all u that matter for k >= 2 samples.

    Offers what :class:`gradlab.problems.sweep.Slice` does. ``values [N]`` are functions of the first coordinate.
    """

    step = STEP

    def __init__(self, nodes: Nodes, k: int) -> None:
        """Lays out u and computes ``1 - M``."""
        self._nodes, self._k = nodes, k
        self._log_k = float(np.log(k))
        low = np.geomspace(1e-7, 0.97, TILTS)
        bound = gammaln(1 - low) - np.log(low) + self._cumulant(low)  # gap(u) <= exp(low u + bound), for every low
        self._centre = float(np.max((-self._log_k - bound) / low))
        start = float(np.max((-DIGITS - self._log_k - bound) / low))
        high = np.geomspace(1e-7, 60.0, TILTS)
        enough = 80 / (k - 2) if k > 2 else DIGITS
        end = float(np.min((self._cumulant(-high) + high * np.log(high / np.e) + min(enough + 1, DIGITS)) / high))
        self.u = start + STEP * np.arange(int(np.ceil((end - start) / STEP)) + 1)
        with np.errstate(divide="ignore"):
            log_m = np.log1p(-self._gap())
        over = np.flatnonzero((log_m < NEGLIGIBLE / max(k - 2, 1)) & (k > 2))
        kept = int(over[0]) if len(over) else len(self.u)  # beyond, rounding is magnified by the tilt
        self.u, self.log_m = self.u[:kept], log_m[:kept]

    def m(self, n: int) -> Array:
        """``M(t)^n``, for n >= 0."""
        return np.asarray(np.exp(n * self.log_m)) if n > 0 else np.ones_like(self.u)

    def mean(self, order: int, *values: Array) -> list[Array]:
        """``E[values h^order exp(-h)]`` for each of ``values [N]``; order >= 1."""
        line = self._line(order, values)
        return [line.at(self.u, line.others(1) * t) for t in line.transforms[1:]]

    def pair(self, order: int, values: Array) -> Array:
        """``E[values(y_1) values(y_2) h^order exp(-h)]``, of two coordinates."""
        line = self._line(order, (values,))
        return line.at(self.u, line.others(2) * line.transforms[1] ** 2)

    def peak(self, log_w: float) -> Array:
        """``E[h exp(-h)]`` with the first coordinate at a point whose log-weight is ``log_w``."""
        line = self._line(1)
        return line.at(self.u, line.others(1) * line.point(log_w))

    def drop(self, low: float, high: float) -> Array:
        """``E[exp(-h_low) - exp(-h_high)]`` with the first coordinate at points of these log-weights."""
        line = self._line(0)
        return line.at(self.u, line.others(1) * (line.point(high) - line.point(low)))

    def _gap(self) -> Array:
        """``1 - M``."""
        line = self._line(0)
        return np.clip(line.at(self.u, line.others(0)), 0.0, 1.0)

    def _cumulant(self, tilt: Array) -> Array:
        """``log E[w^tilt]`` of the whole product."""
        exponents = tilt[:, None] * self._nodes.log_w
        top = exponents.max(1)
        return np.asarray(self._nodes.dim * (top + np.log(np.exp(exponents - top[:, None]) @ self._nodes.p)))

    def _line(self, order: int, values: tuple[Array, ...] = ()) -> _Line:
        tilt, size = self._plan(order)
        return _Line(self._nodes, order, tilt, size, float(self._cumulant(np.array([tilt]))[0]), values)

    def _plan(self, order: int) -> tuple[float, int]:
        """The tilt of this order, and how many points of u an FFT needs for its periods not to overlap."""
        pole = max(order, 1)
        below = np.geomspace(1e-7, 0.97 * pole, TILTS)
        bound = gammaln(pole - below) + self._cumulant(below) - (0.0 if order else np.log(below))
        best = int(np.argmin(bound + below * self._centre))
        tilt = float(below[best])
        floor = float(bound[best]) - DIGITS - 4  # log of what is negligible of exp(-tilt u) F(u)
        more, less = below[best + 1 :], below[:best]
        if best + 1 == len(below):
            more, bound = np.append(more, 0.985 * pole), np.append(bound, 0.0)
            bound[-1:] = gammaln(0.015 * pole) + self._cumulant(more[-1:]) - (0.0 if order else np.log(more[-1]))
        left = float(np.max((floor - bound[best + 1 :]) / (more - tilt)))
        right = [-floor / tilt]  # F is at most of order 1
        if best:
            right.append(float(np.min((bound[:best] - floor) / (tilt - less))))
        width = max(self.u[-1] - left, min(right) - self.u[0], self.u[-1] - self.u[0])
        return tilt, int(next_fast_len(int(np.ceil(width / STEP)) + 2, real=True))


class _Line:
    """Transforms along ``Re s = tilt`` of functions of one coordinate, and the way back to u.

    ``E[exp(tilt l)]`` and, so that phases stay small, the mean of l under that tilt are taken out.

    Attributes:
        transforms: of 1 and of each of ``values``: ``E[values exp(s l)]``.
    """

    def __init__(
        self, nodes: Nodes, order: int, tilt: float, size: int, cumulant: float, values: tuple[Array, ...]
    ) -> None:
        """Evaluates the transforms at ``size`` frequencies that belong to a step of ``STEP`` in u."""
        self._dim, self._tilt, self._size, self._cumulant = nodes.dim, tilt, size, cumulant
        tilted = nodes.p * np.exp(tilt * nodes.log_w - cumulant / nodes.dim)
        self._middle = float(tilted @ nodes.log_w)
        centred = nodes.log_w - self._middle
        columns = np.stack([tilted, *(tilted * v for v in values)], axis=1)
        omega = 2 * np.pi / (size * STEP) * np.arange(size // 2 + 1)
        self._omega = omega[: _reach(omega, centred, tilted, nodes.dim)]
        self._s = tilt + 1j * self._omega
        self.transforms = _transform(self._omega, centred, columns)
        self._kernel = np.exp(loggamma(max(order, 1) - self._s)) / (1.0 if order else self._s)

    def others(self, known: int) -> Complex:
        """Transform of all coordinates but ``known``."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.exp((self._dim - known) * np.log(self.transforms[0])))

    def point(self, log_w: float) -> Complex:
        """Transform of a coordinate at a point whose log-weight is ``log_w``."""
        size = self._cumulant / self._dim - self._tilt * self._middle
        return np.asarray(np.exp(self._s * (log_w - self._middle) - size))

    def at(self, u: Array, transform: Complex) -> Array:
        """The function of u, which is equally spaced, from its transform."""
        phase = np.exp(1j * self._omega * (u[0] + self._dim * self._middle))
        back = np.asarray(irfft(self._kernel * phase * transform, self._size)[: len(u)]) / STEP
        return back * np.exp(self._tilt * u + self._cumulant)


def _reach(omega: Array, centred: Array, p: Array, dim: int) -> int:
    """How many of the frequencies count: none where a power of the characteristic function has faded."""
    spread = float(np.ptp(centred))
    if len(omega) * len(p) < 2 * BLOCK or spread == 0 or dim < 3:
        return len(omega)
    coarse = np.arange(0.0, omega[-1] + 0.3 / spread, 0.3 / spread)  # finer than its size can change
    if len(coarse) > len(omega):
        return len(omega)
    (one,) = _transform(coarse, centred, p[:, None])
    with np.errstate(divide="ignore"):
        alive = np.flatnonzero((dim - 2) * np.log(np.abs(one)) > FADED)
    return min(len(omega), int(np.searchsorted(omega, coarse[min(int(alive[-1]) + 2, len(coarse) - 1)])) + 1)


def _transform(omega: Array, centred: Array, columns: Array) -> list[Complex]:
    """``sum_i columns_i exp(i omega centred_i)`` for each column ``[N, m]``, over ``omega``."""
    parts = []
    size = max(1, BLOCK // len(centred))
    for start in range(0, len(omega), size):
        phase = omega[start : start + size, None] * centred
        parts.append(np.cos(phase) @ columns + 1j * (np.sin(phase) @ columns))
    return list(np.concatenate(parts).T)
