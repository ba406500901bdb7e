"""Quadrature over the two noises of :class:`gradlab.problems.TwoLevel`: the numbers behind its exact answers.

Pairs are independent, so that k of them are k samples of one weight ``w(u, v)`` on the unit square. Where all y meet
all z (MIX, DMS) nothing is independent, but *given the samples of one latent* the others are: with ``z_1 .. z_l`` fixed

    sum_ij w(y_i, z_j) = sum_i s(y_i),     s(y) = sum_j w(y, z_j),

so that k samples of ``s`` remain, and the identities of :mod:`gradlab.problems.sweep` serve for any k. Over the fixed
ones (the fewer of the two, at most ``FEW``) goes a tensor rule, each unordered set once.

Accuracy: 1e-9 nats and 1e-8 relative (tested). The given samples get one Gauss-Legendre rule, in which nothing is a
step any more; the others get panels on which log w varies by at most ``VARIATION`` nats, where ``exp(-t w)`` is resolved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb, factorial, log, pi
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, roots_legendre

from gradlab.errors import GradlabError, NotExact
from gradlab.problems import oracle
from gradlab.problems.quadrature import ORDER, VARIATION, Array, Nodes

FEW = 3  # samples that go into the tensor rule
SETS = 20_000  # sets of them: half a minute
NODES = 1_000_000  # on the square


@dataclass(frozen=True)
class Hierarchy:
    """``log p(x|y) + log p(y|z) + log p(z)`` in nats as a function of the noises u of y and v of z, and derivatives.

    Attributes: as the arguments of :class:`gradlab.problems.TwoLevel`.
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

    def place(self, u: Array, v: Array) -> tuple[Array, Array]:
        """``(y, z)``."""
        y = self.phi + u
        return y, self.a * (self.phi if self.direct_y else y) + self.b + v

    def log_w(self, u: Array, v: Array) -> Array:
        """The log-weight, of the shape that u and v broadcast to."""
        y, z = self.place(u, v)
        x_error = (self.x - self.slope * y - self.offset) / self.likelihood_std
        y_error = (y - self.c * z - self.d) / self.y_std
        constant = 1.5 * log(2 * pi) + log(self.likelihood_std) + log(self.y_std) + log(self.prior_std)
        return np.asarray(-0.5 * (x_error**2 + y_error**2 + (z / self.prior_std) ** 2) - constant)

    def slopes(self, u: Array, v: Array) -> tuple[Array, Array]:
        """``d log w/dy`` at fixed z and ``d log w/dz`` at fixed y."""
        y, z = self.place(u, v)
        residual = (y - self.c * z - self.d) / self.y_std**2
        by_y = self.slope * (self.x - self.slope * y - self.offset) / self.likelihood_std**2 - residual
        return by_y, self.c * residual - z / self.prior_std**2

    def by(self, wrt: str, u: Array, v: Array) -> Array:
        """``d log w/d wrt`` with the noises held fixed: the pathwise gradient of one draw."""
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
        """Upper bounds on how far log w varies along u and along v, nats; its slopes are steepest at a corner."""
        corner = np.array([-0.5, 0.5])
        by_y, by_z = self.slopes(corner[:, None], corner)
        along_u = by_y if self.direct_y else by_y + self.a * by_z
        return float(np.abs(along_u).max()), float(np.abs(by_z).max())

    def evidence(self) -> float:
        """``log p(x)``, nats."""
        mean = self.slope * self.d + self.offset
        variance = self.likelihood_std**2 + self.slope**2 * (self.y_std**2 + (self.c * self.prior_std) ** 2)
        return -0.5 * (self.x - mean) ** 2 / variance - 0.5 * log(2 * pi * variance)


class Weighted(NamedTuple):
    """Samples of one weight, with something to average.

    Attributes:
        p: probability of this case.
        nodes: the weight ``[N]``.
        values: ``[N]`` in the order of the nodes.
    """

    p: float
    nodes: Nodes
    values: Array


def panels(variation: float) -> tuple[Array, Array]:
    """Points and probabilities on (-1/2, 1/2) that resolve ``exp(-t w)`` where log w varies by ``variation`` nats.

    Raises:
        GradlabError: it varies too much.
    """
    count = max(1, int(np.ceil(variation / VARIATION)))
    if count * ORDER > NODES:
        raise _too_narrow()
    x, w = roots_legendre(ORDER)
    points = (np.arange(count)[:, None] + 0.5 + 0.5 * x) / count - 0.5
    return points.ravel(), np.tile(w / (2 * count), count)


def smooth(variation: float) -> tuple[Array, Array]:
    """The same for ``log (w_1 + w_2 + ...)``, which has no steps: one Gauss-Legendre rule."""
    x, w = roots_legendre(10 + int(np.ceil(1.6 * min(variation, NODES))))
    return 0.5 * x, 0.5 * w


def pairs(model: Hierarchy, k: int, wrt: str | None = None) -> Weighted:
    """k independent pairs (y_i, z_i); ``values`` are ``d log w/d wrt``.

    At k = 1 all that is averaged is a polynomial of degree at most 4 in each noise, and one panel is exact.

    Raises:
        GradlabError: log w varies too much.
    """
    along_u, along_v = model.variation() if k > 1 else (0.0, 0.0)
    (u, p_u), (v, p_v) = panels(along_u), panels(along_v)
    if len(u) * len(v) > NODES:
        raise _too_narrow()
    return _case(1.0, np.outer(p_u, p_v), model.log_w(u[:, None], v), _values(model, wrt, u[:, None], v))


def shared(model: Hierarchy, k: int, l: int, wrt: str | None = None) -> Iterator[Weighted]:
    """k samples of y with each of l samples of z: cases whose ``nodes`` are the sum over the fewer of the two.

    The other, ``max(k, l)`` samples, are independent in each case.

    Raises:
        NotExact: k and l are both above ``FEW``, or the sets of given samples are too many.
        GradlabError: log w varies too much.
    """
    m = min(k, l)
    if m > FEW:
        raise NotExact(f"ms-nic-dms is exact where k or l is at most {FEW}, but k = {k} and l = {l}: lower one of them")
    along_u, along_v = model.variation()
    given_is_z = l <= k
    (given, p_given), (rest, p_rest) = (
        smooth(along_v if given_is_z else along_u),
        panels(along_u if given_is_z else along_v),
    )
    if comb(len(given) + m - 1, m) > SETS or len(given) * len(rest) > NODES:
        raise NotExact(
            f"log w varies too much for {m} samples of a latent to be averaged exactly: lower k or l, or widen y_std, "
            "likelihood_std or prior_std"
        )
    u, v = (rest[:, None], given) if given_is_z else (given, rest[:, None])
    log_w, values = model.log_w(u, v), _values(model, wrt, u, v)
    for chosen in combinations_with_replacement(range(len(given)), m):
        index = list(chosen)
        orders = factorial(m) / np.prod([factorial(index.count(i)) for i in set(index)])
        log_s = logsumexp(log_w[:, index], axis=1)
        inside = np.exp(log_w[:, index] - log_s[:, None])  # the weight of each given sample in s
        p = float(orders * np.prod(p_given[index]))
        yield _case(p, p_rest, log_s, (inside * values[:, index]).sum(1))


def nested(model: Hierarchy, k: int, wrt: str | None = None) -> Weighted:
    """Eq. 14 as samples of z with the weight ``p(z) exp(E log 1/k sum_i p(x|y_i) p(y_i|z))``.

    Raises:
        GradlabError: log w varies too much.
    """
    along_u, along_v = model.variation()
    (u, p_u), (v, p_v) = panels(along_u), panels(along_v)
    if len(u) * len(v) > NODES:
        raise _too_narrow()
    log_w, values = model.log_w(u[:, None], v), _values(model, wrt, u[:, None], v)
    columns = [_case(1.0, p_u, log_w[:, j], values[:, j]) for j in range(len(v))]
    inner = np.array([oracle.bound(c.nodes, k) for c in columns])
    slopes = np.zeros(len(v)) if wrt is None else np.array([oracle.linear(c.nodes, c.values, k)[0] for c in columns])
    return _case(1.0, p_v, inner, slopes)


def bound(cases: list[Weighted], k: int) -> float:
    """The mean over cases of ``E log 1/k sum_i s_i``, nats."""
    return float(sum(case.p * oracle.bound(case.nodes, k) for case in cases))


def linear(cases: list[Weighted], k: int) -> tuple[float, float]:
    """Mean and variance of ``sum_i s~_i value_i`` over the cases too."""
    p = np.array([case.p for case in cases])
    found = np.array([oracle.linear(case.nodes, case.values, k) for case in cases])
    mean = float(p @ found[:, 0])
    return mean, float(p @ (found[:, 1] + (found[:, 0] - mean) ** 2))


def _values(model: Hierarchy, wrt: str | None, u: Array, v: Array) -> Array:
    return 0.0 * (u + v) if wrt is None else model.by(wrt, u, v)


def _case(p: float, mass: Array, log_w: Array, values: Array) -> Weighted:
    mass, log_w, values = mass.ravel(), log_w.ravel(), values.ravel()
    order = np.argsort(log_w, kind="stable")
    return Weighted(p, Nodes(np.arange(len(mass))[order].astype(float), mass[order], log_w[order]), values[order])


def _too_narrow() -> GradlabError:
    return GradlabError(
        "log w varies by more over the two noises than the exact answers resolve: widen y_std, likelihood_std or prior_std"
    )
