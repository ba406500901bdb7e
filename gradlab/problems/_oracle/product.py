"""Compute the integrals of ``integrals`` in D dimensions, for a product of D identical coordinates.

``log w`` is a sum over independent coordinates, so its distribution is a power in Fourier space. One inverse FFT gives
the expectations at all u, along lines ``Re s = tilt`` through saddle points. See ``docs/theory/oracle.md``, "Many
dimensions". A step of 0.1 in u is exact up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len
from scipy.special import gammaln, loggamma

from gradlab.problems._oracle.quadrature import Array, Nodes

Complex = NDArray[np.complex128]

STEP = 0.1
DIGITS = 36.0  # exp(-DIGITS) is dropped
NEGLIGIBLE = -80.0  # log of a power of M from which on the integrals are over
GROWTH = 9.0  # log of how much rounding may grow from the saddle point of a line on
FADED = -50.0  # log of a characteristic function that counts as 0
PROBES = 200  # frequencies at which the characteristic function is probed
FAINT = 1e-24  # share of a node under a tilt that is dropped
BLOCK = 128  # frequencies that share one table of exponentials
STEEPEST = 60.0  # largest tilt that is tried
MARGIN = 0.15  # distance of a tilt from the pole of Gamma: closer to it, the periods of the FFT get long

# The transform of the required expectation, from those of one coordinate.
Transform = Callable[["Line"], Complex]


class ProductSlice:
    """Expectations over one sample of a product under ``exp(-t w)``, at all u that matter for k >= 2 samples.

    The interface is that of ``integrals.Slice``. ``values [N]`` are functions of the first coordinate.
    """

    def __init__(self, nodes: Nodes, k: int) -> None:
        """Lay out u and compute M."""
        self._nodes, self.step = nodes, STEP
        self._bounds: dict[int, tuple[Array, Array]] = {}
        up = np.geomspace(1e-7, 0.97, 160)
        bound = gammaln(1 - up) - np.log(up) + self._cumulant(up)  # log (1 - M) <= up u + bound, for each
        self._centre = float(np.max((-np.log(k) - bound) / up))
        start = float(np.max((-DIGITS - np.log(k) - bound) / up))
        down = np.geomspace(1e-7, STEEPEST, 160)
        bound = self._cumulant(-down) + down * np.log(down / np.e)  # log M <= -down u + bound
        end = float(np.min((bound + min(1 - NEGLIGIBLE / max(k - 2, 1), DIGITS)) / down))
        self.u = start + STEP * np.arange(int(np.ceil((end - start) / STEP)) + 1)
        parts = self._inverse(0, lambda line: line.others(0))
        with np.errstate(divide="ignore"):
            logs = [np.log1p(-np.clip(v, 0, 1)) if tilt > 0 else np.log(np.clip(-v, 0, 1)) for tilt, v in parts]
        self.log_m = np.concatenate(logs)
        over = np.flatnonzero((self.log_m < NEGLIGIBLE / max(k - 2, 1)) & (k > 2))
        if len(over):
            self.u, self.log_m = self.u[: over[0]], self.log_m[: over[0]]

    def m(self, n: int) -> Array:
        """Return ``M(t)^n``, for n >= 0."""
        return np.asarray(np.exp(n * self.log_m)) if n > 0 else np.ones_like(self.u)

    def mean(self, order: int, *values: Array) -> list[Array]:
        """Return ``E[values h^order exp(-h)]`` for each of ``values [N]``; order >= 1."""
        return list(self._joined(order, lambda line: line.others(1) * line.transforms[1:], values))

    def pair(self, order: int, values: Array) -> Array:
        """Return ``E[values(y_1) values(y_2) h^order exp(-h)]``, of two coordinates."""
        return self._joined(order, lambda line: line.others(2) * line.transforms[1] ** 2, (values,))

    def peak(self, log_w: float) -> Array:
        """Return ``E[h exp(-h)]`` with the first coordinate at a point whose log-weight is ``log_w``."""
        return self._joined(1, lambda line: line.others(1) * line.point(log_w))

    def drop(self, low: float, high: float) -> Array:
        """Return ``E[exp(-h_low) - exp(-h_high)]`` with the first coordinate at these log-weights."""
        return self._joined(0, lambda line: line.others(1) * (line.point(high) - line.point(low)))

    def _joined(self, order: int, transform: Transform, values: tuple[Array, ...] = ()) -> Array:
        return np.concatenate([part for _, part in self._inverse(order, transform, values)], axis=-1)

    def _inverse(self, order: int, transform: Transform, values: tuple[Array, ...] = ()) -> list[tuple[float, Array]]:
        """Return the functions of u with this transform ``[..., omega]``, in pieces of u, each with its tilt.

        To the right of a saddle point rounding errors grow like ``exp(tilt u)``, so the next piece starts in time.
        """
        parts, first, centre = [], 0, self._centre
        while first < len(self.u):
            tilt, tilts, bound = self._saddle(order, centre)
            last = len(self.u)
            if tilt > 0:
                last = min(last, max(first + 1, int(np.searchsorted(self.u, centre + GROWTH / tilt))))
            u = self.u[first:last]
            size = _points(u, order, tilt, tilts, bound)
            line = Line(self._nodes, order, tilt, size, float(self._cumulant(np.array([tilt]))[0]), values)
            parts.append((tilt, line.at(u, transform(line))))
            first, centre = last, float(u[-1] + STEP)
        return parts

    def _cumulant(self, tilt: Array) -> Array:
        """Return ``log E[w^tilt]`` of the whole product, ``[tilts]``."""
        exponents = tilt[:, None] * self._nodes.log_w
        top = exponents.max(1)
        return np.asarray(self._nodes.dim * (top + np.log(np.exp(exponents - top[:, None]) @ self._nodes.p)))

    def _saddle(self, order: int, centre: float) -> tuple[float, Array, Array]:
        """Return the tilt whose bound ``exp(tilt u + bound)`` is least at ``centre``, all tilts, and their bounds.

        At order 0 these are tilts of ``1 - M`` (positive) or of M (negative), whichever is smaller at ``centre``.
        """
        pole = max(order, 1)
        if order not in self._bounds:
            tilts = np.concatenate([
                -np.geomspace(STEEPEST, 1e-7, 120), np.geomspace(1e-7, pole - MARGIN, 120), [pole - MARGIN / 10]
            ])  # fmt: skip
            bound = gammaln(pole - tilts) + self._cumulant(tilts) - (0.0 if order else np.log(np.abs(tilts)))
            self._bounds[order] = tilts, bound
        tilts, bound = self._bounds[order]
        at = np.where(tilts <= pole - MARGIN, bound + tilts * centre, np.inf)
        if order == 0:
            # A tilt near 0 would make the periods of the FFT long, and is not needed for GROWTH.
            at[np.abs(tilts) < min(GROWTH / float(np.ptp(self.u)), 0.5)] = np.inf
        tilt = float(tilts[np.argmin(at)])
        kept = tilts * tilt > 0 if order == 0 else np.full(len(tilts), True)
        return tilt, tilts[kept], bound[kept]


def _points(u: Array, order: int, tilt: float, tilts: Array, bound: Array) -> int:
    """Return the number of points in u that an FFT needs so that its periods do not overlap on ``u``."""
    best = int(np.searchsorted(tilts, tilt))
    floor = float(bound[best]) - DIGITS - 4  # log of a negligible value of exp(-tilt u) F(u)
    left = np.max((floor - bound[best + 1 :]) / (tilts[best + 1 :] - tilt), initial=-np.inf)
    right = np.min((bound[:best] - floor) / (tilt - tilts[:best]), initial=np.inf)
    if tilt > 0:  # F is at most of order 1
        right = min(right, -floor / tilt)
    elif order == 0:
        left = max(left, -floor / tilt)
    width = max(u[-1] - left, right - u[0], u[-1] - u[0])
    return int(next_fast_len(int(np.ceil(width / STEP)) + 2, real=True))


class Line:
    """Transforms along ``Re s = tilt`` of functions of one coordinate, and their inverse in u.

    ``E[exp(tilt l)]`` and the mean of l under that tilt are factored out, so that phases stay small.

    Attributes:
        transforms: ``[1 + m, omega]``, the transforms ``E[values exp(s l)]`` of 1 and of each of m ``values``.
    """

    def __init__(
        self, nodes: Nodes, order: int, tilt: float, size: int, cumulant: float, values: tuple[Array, ...]
    ) -> None:
        """Evaluate the transforms at the frequencies of an FFT of ``size`` points, ``STEP`` apart in u."""
        self._dim, self._tilt, self._size, self._cumulant = nodes.dim, tilt, size, cumulant
        tilted = nodes.p * np.exp(tilt * nodes.log_w - cumulant / nodes.dim)
        kept = tilted > FAINT
        tilted, log_w, values = tilted[kept], nodes.log_w[kept], tuple(v[kept] for v in values)
        self._middle = float(tilted @ log_w)
        centred = log_w - self._middle
        spacing = 2 * np.pi / (size * STEP)
        count = min(size // 2 + 1, _reach(spacing, centred, tilted, nodes.dim))
        self.transforms = _transform(spacing, count, centred, np.stack([tilted, *(tilted * v for v in values)]))
        self._omega = spacing * np.arange(count)
        self._s = tilt + 1j * self._omega
        self._kernel = np.exp(loggamma(max(order, 1) - self._s)) / (1.0 if order else self._s)

    def others(self, excluded: int) -> Complex:
        """Return the transform of all coordinates but ``excluded`` of them, ``[omega]``."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.exp((self._dim - excluded) * np.log(self.transforms[0])))

    def point(self, log_w: float) -> Complex:
        """Return the transform of a coordinate at a point whose log-weight is ``log_w``, ``[omega]``."""
        size = self._cumulant / self._dim - self._tilt * self._middle
        return np.asarray(np.exp(self._s * (log_w - self._middle) - size))

    def at(self, u: Array, transform: Complex) -> Array:
        """Return the functions at equally spaced u, from their transforms ``[..., omega]``."""
        phase = np.exp(1j * self._omega * (u[0] + self._dim * self._middle))
        back = irfft(self._kernel * phase * transform, self._size)[..., : len(u)] / STEP
        return np.asarray(back * np.exp(self._tilt * u + self._cumulant))


def _transform(spacing: float, count: int, centred: Array, columns: Array) -> Complex:
    """Return ``sum_i columns_i exp(i omega centred_i)`` for ``columns [m, N]``, at ``omega = spacing * range(count)``.

    Frequencies are split into blocks, so that one table of exponentials serves all blocks.
    """
    table = np.exp(1j * spacing * np.arange(BLOCK) * centred[:, None])
    blocks = np.exp(1j * spacing * BLOCK * np.arange(-(-count // BLOCK))[:, None] * centred)
    return np.stack([((blocks * column) @ table).ravel()[:count] for column in columns])


def _reach(spacing: float, centred: Array, p: Array, dim: int) -> int:
    """Return the number of frequencies at which the power of the characteristic function is not negligible.

    l is smooth and not constant on any interval, so its characteristic function, once small, stays small.
    """
    highest, std = np.pi / STEP, float(np.sqrt(p @ centred**2))
    if dim < 3 or std * highest < 1:
        return int(highest / spacing) + 2
    probes = np.geomspace(1e-4 / std, highest, PROBES)
    size = np.abs(np.exp(1j * probes[:, None] * centred) @ p)
    alive = np.flatnonzero((dim - 2) * np.log(np.minimum(size, 1.0)) > FADED)
    return int(probes[min(alive[-1] + 2, PROBES - 1)] / spacing) + 2
