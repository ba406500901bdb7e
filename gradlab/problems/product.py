"""The integrals of :mod:`gradlab.problems.sweep` in D dimensions, for a product of D equal coordinates.

There ``log w = l(y_1) + R``, with R the sum of D - 1 independent copies of ``l(y)``, and the gradient is that of the
first coordinate. Convolving D - 1 times is a power in Fourier space, and ``exp(-t w)`` is known there too, so that no
law is ever put on a grid: with ``s = alpha + i omega``, ``u = log t`` and ``h = exp(u + log w)``

    E[a(y_1) h^n exp(-h)]     = 1/(2 pi) int Gamma(n - s) exp(s u) E[a exp(s l)] E[exp(s l)]^(D-1) d omega,  alpha < n
    E[a(y_1) (1 - exp(-h))]   = the same with Gamma(1 - s)/s, 0 < alpha < 1
    -E[a(y_1) exp(-h)]        = the same with Gamma(1 - s)/s, alpha < 0.

One inverse FFT gives it at all u. The line ``Re s = alpha`` (exponential tilting) is laid through the saddle point at
the u where ``1 - M`` is ``1/k``: rounding is then relative to the part of the law of log w that k samples reach,
however far in its tail. Few samples also see its lower tail, and get a second line there. Gamma falls like
``exp(-pi omega/2)``, so that a step of 0.1 in u is exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len
from scipy.special import gammaln, loggamma

from gradlab.problems.quadrature import Array, Nodes

Complex = NDArray[np.complex128]

STEP = 0.1
DIGITS = 36.0  # exp(-DIGITS) is dropped
NEGLIGIBLE = -80.0  # log of a power of M from which on the integrals are over
FEW = 64  # samples up to which the lower tail of log w matters
LOWER = 6.0  # -log M where the second line is laid
FADED = -50.0  # log of a characteristic function that counts as 0
MANY = 64  # coordinates from which on it is worth looking for where it has
BLOCK = 128  # frequencies that share one table of exponentials
STEEPEST = 60.0  # tilts that are looked at
MARGIN = 0.15  # of a tilt to the pole of Gamma: closer, the periods of the FFT get long


class ProductSlice:
    """Expectations over one sample of a product under ``exp(-t w)``, at all u that matter for k >= 2 samples.

    Offers what :class:`gradlab.problems.sweep.Slice` does. ``values [N]`` are functions of the first coordinate.
    """

    def __init__(self, nodes: Nodes, k: int) -> None:
        """Lays out u and computes M."""
        self._nodes = nodes
        up = np.geomspace(1e-7, 0.97, 160)
        bound = gammaln(1 - up) - np.log(up) + self._cumulant(up)  # log (1 - M) <= up u + bound, for each
        self._upper = float(np.max((-np.log(k) - bound) / up))
        start = float(np.max((-DIGITS - np.log(k) - bound) / up))
        down = np.geomspace(1e-7, STEEPEST, 160)
        bound = self._cumulant(-down) + down * np.log(down / np.e)  # log M <= -down u + bound
        self._lower = float(np.min((bound + LOWER) / down))
        end = float(np.min((bound + min(1 - NEGLIGIBLE / max(k - 2, 1), DIGITS)) / down))
        self.u = start + STEP * np.arange(int(np.ceil((end - start) / STEP)) + 1)
        middle = 0.5 * (self._upper + max(self._upper, self._lower))
        self._split = int(np.searchsorted(self.u, middle)) if k <= FEW else len(self.u)
        left, right = self._inverse(0, lambda line: line.others(0))
        with np.errstate(divide="ignore"):
            self.log_m = np.concatenate([np.log1p(-np.clip(left, 0, 1)), np.log(np.clip(-right, 0, 1))])
        over = np.flatnonzero((self.log_m < NEGLIGIBLE / max(k - 2, 1)) & (k > 2))
        if len(over):  # beyond, rounding is magnified by the tilt
            self.u, self.log_m = self.u[: over[0]], self.log_m[: over[0]]

    def m(self, n: int) -> Array:
        """``M(t)^n``, for n >= 0."""
        return np.asarray(np.exp(n * self.log_m)) if n > 0 else np.ones_like(self.u)

    def mean(self, order: int, *values: Array) -> list[Array]:
        """``E[values h^order exp(-h)]`` for each of ``values [N]``; order >= 1."""
        parts = self._inverse(order, lambda line: line.others(1) * line.transforms[1:], values)
        return list(np.concatenate(parts, axis=-1))

    def pair(self, order: int, values: Array) -> Array:
        """``E[values(y_1) values(y_2) h^order exp(-h)]``, of two coordinates."""
        return np.concatenate(self._inverse(order, lambda line: line.others(2) * line.transforms[1] ** 2, (values,)))

    def peak(self, log_w: float) -> Array:
        """``E[h exp(-h)]`` with the first coordinate at a point whose log-weight is ``log_w``."""
        return np.concatenate(self._inverse(1, lambda line: line.others(1) * line.point(log_w)))

    def drop(self, low: float, high: float) -> Array:
        """``E[exp(-h_low) - exp(-h_high)]`` with the first coordinate at points of these log-weights."""
        parts = self._inverse(0, lambda line: line.others(1) * (line.point(high) - line.point(low)))
        return np.concatenate(parts)

    def _inverse(
        self, order: int, transform: Callable[[Line], Complex], values: tuple[Array, ...] = ()
    ) -> tuple[Array, Array]:
        """What has this transform ``[..., omega]``, at the u before and after the split; -M for 1 - M after it."""
        parts = []
        for u, centre in ((self.u[: self._split], self._upper), (self.u[self._split :], self._lower)):
            if len(u):
                tilt, size = self._plan(order, u, centre, upper=centre == self._upper)
                line = Line(self._nodes, order, tilt, size, float(self._cumulant(np.array([tilt]))[0]), values)
                parts.append(line.at(u, transform(line)))
            else:
                parts.append(parts[0][..., :0])
        return parts[0], parts[1]

    def _cumulant(self, tilt: Array) -> Array:
        """``log E[w^tilt]`` of the whole product, ``[tilts]``."""
        exponents = tilt[:, None] * self._nodes.log_w
        top = exponents.max(1)
        return np.asarray(self._nodes.dim * (top + np.log(np.exp(exponents - top[:, None]) @ self._nodes.p)))

    def _plan(self, order: int, u: Array, centre: float, upper: bool) -> tuple[float, int]:
        """The tilt of a line, and how many points in u an FFT needs so that its periods do not overlap."""
        pole = max(order, 1)
        tilts = np.concatenate([
            -np.geomspace(STEEPEST, 1e-7, 120), np.geomspace(1e-7, pole - MARGIN, 120), [pole - MARGIN / 10]
        ])  # fmt: skip
        if order == 0:
            tilts = tilts[tilts > 0] if upper else tilts[tilts < 0]
        bound = gammaln(pole - tilts) + self._cumulant(tilts) - (0.0 if order else np.log(np.abs(tilts)))
        best = int(np.argmin((bound + tilts * centre)[tilts <= pole - MARGIN]))
        best = min(max(best, 1), len(tilts) - 2)
        tilt, floor = float(tilts[best]), float(bound[best]) - DIGITS - 4
        # exp(-tilt u) F(u) is below exp(floor) outside (left, right).
        left = float(np.max((floor - bound[best + 1 :]) / (tilts[best + 1 :] - tilt)))
        right = float(np.min((bound[:best] - floor) / (tilt - tilts[:best])))
        if tilt > 0:  # F is at most of order 1
            right = min(right, -floor / tilt)
        elif order == 0:
            left = max(left, -floor / tilt)
        width = max(u[-1] - left, right - u[0], u[-1] - u[0])
        return tilt, int(next_fast_len(int(np.ceil(width / STEP)) + 2, real=True))


class Line:
    """Transforms along ``Re s = tilt`` of functions of one coordinate, and the way back to u.

    ``E[exp(tilt l)]`` and, so that phases stay small, the mean of l under that tilt are taken out.

    Attributes:
        transforms: ``[1 + m, omega]``, of 1 and of each of m ``values``: ``E[values exp(s l)]``.
    """

    def __init__(
        self, nodes: Nodes, order: int, tilt: float, size: int, cumulant: float, values: tuple[Array, ...]
    ) -> None:
        """Evaluates the transforms at the frequencies of an FFT of ``size`` points, ``STEP`` apart in u."""
        self._dim, self._tilt, self._size, self._cumulant = nodes.dim, tilt, size, cumulant
        tilted = nodes.p * np.exp(tilt * nodes.log_w - cumulant / nodes.dim)
        self._middle = float(tilted @ nodes.log_w)
        centred = nodes.log_w - self._middle
        spacing = 2 * np.pi / (size * STEP)
        count = min(size // 2 + 1, _reach(spacing, centred, tilted, nodes.dim))
        self.transforms = _transform(spacing, count, centred, np.stack([tilted, *(tilted * v for v in values)]))
        self._omega = spacing * np.arange(count)
        self._s = tilt + 1j * self._omega
        self._kernel = np.exp(loggamma(max(order, 1) - self._s)) / (1.0 if order else self._s)

    def others(self, known: int) -> Complex:
        """Transform of all coordinates but ``known``, ``[omega]``."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.exp((self._dim - known) * np.log(self.transforms[0])))

    def point(self, log_w: float) -> Complex:
        """Transform of a coordinate at a point whose log-weight is ``log_w``, ``[omega]``."""
        size = self._cumulant / self._dim - self._tilt * self._middle
        return np.asarray(np.exp(self._s * (log_w - self._middle) - size))

    def at(self, u: Array, transform: Complex) -> Array:
        """The functions of u, which is equally spaced, from their transforms ``[..., omega]``."""
        phase = np.exp(1j * self._omega * (u[0] + self._dim * self._middle))
        back = irfft(self._kernel * phase * transform, self._size)[..., : len(u)] / STEP
        return np.asarray(back * np.exp(self._tilt * u + self._cumulant))


def _transform(spacing: float, count: int, centred: Array, columns: Array) -> Complex:
    """``sum_i columns_i exp(i omega centred_i)`` for each of ``columns [m, N]``, at ``omega = spacing * range(count)``.

    Frequencies are a block and a place in it, so that one table of exponentials serves all blocks.
    """
    table = np.exp(1j * spacing * np.arange(BLOCK) * centred[:, None])
    blocks = np.exp(1j * spacing * BLOCK * np.arange(-(-count // BLOCK))[:, None] * centred)
    found = [((blocks * column) @ table).ravel()[:count] for column in columns]
    return np.stack(found)


def _reach(spacing: float, centred: Array, p: Array, dim: int) -> int:
    """How many frequencies count: none where the power of the characteristic function has faded.

    Its size changes by at most the standard deviation per unit of frequency, so that a coarse look is enough.
    """
    std = float(np.sqrt(p @ centred**2))
    highest = np.pi / STEP
    if dim < MANY or std == 0:
        return int(highest / spacing) + 2
    coarse = max(0.02 / std, spacing)
    count = int(highest / coarse) + 2
    size = np.minimum(np.abs(_transform(coarse, count, centred, p[None])[0]) + 0.5 * coarse * std, 1.0)
    alive = np.flatnonzero((dim - 2) * np.log(size) > FADED)
    return int((alive[-1] + 1) * coarse / spacing) + 2
