"""Integrate over the two noises of :class:`gradlab.problems.TwoLevel`.

Pairs are independent, so k of them are k samples of one weight ``w(u, v)`` on the unit square. If all y are combined
with all z (MIX, DMS), nothing is independent, but *given the samples of one latent* the others are: with ``z_1 .. z_l``
fixed

    sum_ij w(y_i, z_j) = sum_i s(y_i),     s(y) = sum_j w(y, z_j),

which leaves k samples of ``s``, and the identities of ``integrals`` apply for any k. The given samples (the fewer of
the two, at most ``FEW``) are integrated by a tensor rule that visits each unordered set once.

Accuracy (tested): 1e-9 nats and 1e-8 relative. The given samples get one Gauss-Legendre rule, since their integrand is
smooth. The others get panels on which log w varies by at most ``VARIATION`` nats, which resolve ``exp(-t w)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations_with_replacement
from math import comb, factorial
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, roots_legendre

from gradlab.errors import GradlabError, NotExact
from gradlab.problems._oracle import moments
from gradlab.problems._oracle.quadrature import ORDER, VARIATION, Array, Nodes
from gradlab.problems._oracle.two_level_model import Hierarchy

FEW = 3  # samples that go into the tensor rule
SETS = 20_000  # sets of them: half a minute
POINTS = 1000  # of each
NODES = 1_000_000  # on the square


class Weighted(NamedTuple):
    """Samples of one weight, with values to average.

    Attributes:
        p: probability of these given samples.
        nodes: the weight ``[N]``.
        values: values ``[N]`` in the order of the nodes.
    """

    p: float
    nodes: Nodes
    values: Array


def panels(variation: float) -> tuple[Array, Array]:
    """Return points and probabilities on (-1/2, 1/2) that resolve ``exp(-t w)`` for this range of log w, in nats.

    Raises:
        GradlabError: if log w varies too much.
    """
    count = max(1, int(np.ceil(variation / VARIATION)))
    if count * ORDER > NODES:
        raise _too_narrow()
    x, w = roots_legendre(ORDER)
    points = (np.arange(count)[:, None] + 0.5 + 0.5 * x) / count - 0.5
    return points.ravel(), np.tile(w / (2 * count), count)


def smooth(variation: float, m: int) -> tuple[Array, Array]:
    """Return points and probabilities for each of m given samples: one Gauss-Legendre rule.

    Raises:
        NotExact: if there are too many sets of m points.
    """
    count = 10 + int(np.ceil(0.8 * variation))
    if count > POINTS or comb(count + m - 1, m) > SETS:
        raise NotExact(
            f"log w varies too much for {m} samples of a latent to be averaged exactly: lower k or l, or widen y_std, "
            "likelihood_std or prior_std"
        )
    x, w = roots_legendre(count)
    return 0.5 * x, 0.5 * w


def pairs(model: Hierarchy, k: int, wrt: str | None = None) -> Weighted:
    """Return k independent pairs (y_i, z_i); ``values`` are ``d log w/d wrt``.

    At k = 1 the integrand is a polynomial of degree at most 4 in each noise, for which one panel is exact.

    Raises:
        GradlabError: if log w varies too much.
    """
    (u, p_u), (v, p_v) = _grid(*model.variation()) if k > 1 else _grid(0.0, 0.0)
    return _case(1.0, np.outer(p_u, p_v), model.log_w(u[:, None], v), _values(model, wrt, u[:, None], v))


def shared(model: Hierarchy, k: int, l: int, wrt: str | None = None) -> Iterator[Weighted]:
    """Yield k samples of y with each of l samples of z, for each set of given samples (those of which there are fewer).

    The other ``max(k, l)`` samples are independent in each case, with weights that are sums over the given ones.

    Raises:
        NotExact: if k and l are both above ``FEW``, or there are too many sets of given samples.
        GradlabError: if log w varies too much.
    """
    m = min(k, l)
    if m > FEW:
        raise NotExact(
            f"k is {k} and l is {l}, but ms-nic-dms is exact only if one is at most {FEW}: lower one of them"
        )
    along_u, along_v = model.variation()
    given_is_z = l <= k
    given, p_given = smooth(along_v if given_is_z else along_u, m)
    rest, p_rest = panels(along_u if given_is_z else along_v)
    if len(given) * len(rest) > NODES:
        raise _too_narrow()
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
    """Return eq. 14 as samples of z with the weight ``p(z) exp(E log 1/k sum_i p(x|y_i) p(y_i|z))``.

    Raises:
        GradlabError: if log w varies too much.
    """
    (u, p_u), (v, p_v) = _grid(*model.variation())
    log_w, values = model.log_w(u[:, None], v), _values(model, wrt, u[:, None], v)
    columns = [_case(1.0, p_u, log_w[:, j], values[:, j]) for j in range(len(v))]
    inner = np.array([moments.bound(c.nodes, k) for c in columns])
    slopes = np.zeros(len(v)) if wrt is None else np.array([moments.linear(c.nodes, c.values, k)[0] for c in columns])
    return _case(1.0, p_v, inner, slopes)


def bound(cases: Iterable[Weighted], k: int) -> float:
    """Return the mean over cases of ``E log 1/k sum_i s_i``, nats."""
    return float(sum(case.p * moments.bound(case.nodes, k) for case in cases))


def linear(cases: Iterable[Weighted], k: int) -> tuple[float, float]:
    """Return mean and variance of ``sum_i s~_i value_i`` over samples and cases."""
    cases = list(cases)
    p = np.array([case.p for case in cases])
    means, variances = np.array([moments.linear(case.nodes, case.values, k) for case in cases]).T
    mean = float(p @ means)
    return mean, float(p @ (variances + (means - mean) ** 2))


def _grid(along_u: float, along_v: float) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return panels along u and along v for these variations of log w."""
    by_u, by_v = panels(along_u), panels(along_v)
    if len(by_u[0]) * len(by_v[0]) > NODES:
        raise _too_narrow()
    return by_u, by_v


def _values(model: Hierarchy, wrt: str | None, u: Array, v: Array) -> Array:
    return 0.0 * (u + v) if wrt is None else model.by(wrt, u, v)


def _case(p: float, mass: Array, log_w: Array, values: Array) -> Weighted:
    mass, log_w, values = mass.ravel(), log_w.ravel(), values.ravel()
    order = np.argsort(log_w, kind="stable")
    return Weighted(p, Nodes(np.arange(len(mass))[order].astype(float), mass[order], log_w[order]), values[order])


def _too_narrow() -> GradlabError:
    return GradlabError(
        "log w varies by more than the exact answers resolve over the two noises: "
        "widen y_std, likelihood_std or prior_std"
    )
