"""Define the linear-Gaussian hierarchy x <- y <- z as plain formulas; see ``docs/theory/hierarchy.md``."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import numpy as np

from gradlab.problems._oracle.quadrature import Array
from gradlab.problems.base import check_parameters

GROUPS: dict[str, tuple[str, ...]] = {
    "y infer": ("phi",),
    "y gen": ("slope", "offset", "likelihood_std"),
    "z infer": ("a", "b"),
    "z gen": ("c", "d", "y_std"),
    "z prior": ("prior_std",),
}
"""The five groups of Table 3."""


@dataclass(frozen=True)
class Hierarchy:
    """``log p(x|y) + log p(y|z) + log p(z)`` in nats as a function of the noises u of y and v of z, with derivatives.

    The fields are the arguments of :class:`gradlab.problems.TwoLevel`.

    Raises:
        GradlabError: if a number is not finite, or a standard deviation is not above 0.
    """

    phi: float
    x: float
    a: float
    b: float
    c: float
    d: float
    y_std: float
    likelihood_std: float
    prior_std: float
    slope: float
    offset: float
    direct_y: bool

    def __post_init__(self) -> None:
        check_parameters(self)

    def place(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Return ``(y, z)``."""
        y = self.phi + u
        return y, self.a * (self.phi if self.direct_y else y) + self.b + v

    def log_w(self, u: Array, v: Array) -> Array:
        """Return the log-weight, of the shape that u and v broadcast to."""
        y, z = self.place(u, v)
        x_error = (self.x - self.slope * y - self.offset) / self.likelihood_std
        y_error = (y - self.c * z - self.d) / self.y_std
        constant = 1.5 * log(2 * pi) + log(self.likelihood_std) + log(self.y_std) + log(self.prior_std)
        return np.asarray(-0.5 * (x_error**2 + y_error**2 + (z / self.prior_std) ** 2) - constant)

    def slopes(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Return ``d log w/dy`` at fixed z and ``d log w/dz`` at fixed y."""
        y, z = self.place(u, v)
        residual = (y - self.c * z - self.d) / self.y_std**2
        by_y = self.slope * (self.x - self.slope * y - self.offset) / self.likelihood_std**2 - residual
        return by_y, self.c * residual - z / self.prior_std**2

    def by(self, wrt: str, u: Array, v: Array) -> Array:
        """Return ``d log w/d wrt`` at fixed noises: the pathwise gradient of one draw."""
        y, z = self.place(u, v)
        x_error, y_error = self.x - self.slope * y - self.offset, y - self.c * z - self.d
        if wrt in ("phi", "a", "b"):
            by_y, by_z = self.slopes(u, v)
            # Either way h_a reads something that moves with phi: the mean or the sample.
            return {"phi": by_y + self.a * by_z, "a": by_z * (self.phi if self.direct_y else y), "b": by_z}[wrt]
        value = {
            "c": y_error * z / self.y_std**2,
            "d": y_error / self.y_std**2,
            "y_std": y_error**2 / self.y_std**3 - 1 / self.y_std,
            "slope": x_error * y / self.likelihood_std**2,
            "offset": x_error / self.likelihood_std**2,
            "likelihood_std": x_error**2 / self.likelihood_std**3 - 1 / self.likelihood_std,
            "prior_std": z**2 / self.prior_std**3 - 1 / self.prior_std,
        }[wrt]
        return value + 0.0 * (u + v)

    def variation(self) -> tuple[float, float]:
        """Return upper bounds on the range of log w along u and along v, nats; it is steepest at a corner."""
        corner = np.array([-0.5, 0.5])
        by_y, by_z = self.slopes(corner[:, None], corner)
        along_u = by_y if self.direct_y else by_y + self.a * by_z
        return float(np.abs(along_u).max()), float(np.abs(by_z).max())

    def evidence(self) -> float:
        """Return ``log p(x)``, nats."""
        mean = self.slope * self.d + self.offset
        variance = self.likelihood_std**2 + self.slope**2 * (self.y_std**2 + (self.c * self.prior_std) ** 2)
        return -0.5 * (self.x - mean) ** 2 / variance - 0.5 * log(2 * pi * variance)
