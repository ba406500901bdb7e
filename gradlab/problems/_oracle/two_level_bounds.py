"""Quadrature over the two noises of :class:`gradlab.problems.TwoLevel`: the numbers behind its exact answers.

Pairs are independent, so that k of them are k samples of one weight ``w(u, v)`` on the unit square. Where all y meet
all z (MIX, DMS) nothing is independent, but *given the samples of one latent* the others are: with ``z_1 .. z_l`` fixed

    sum_ij w(y_i, z_j) = sum_i s(y_i),     s(y) = sum_j w(y, z_j),

so that k samples of ``s`` remain, and the identities of ``integrals`` serve for any k. Over the fixed
ones (the fewer of the two, at most ``FEW``) goes a tensor rule, each unordered set once.

Accuracy: 1e-9 nats and 1e-8 relative (tested). The given samples get one Gauss-Legendre rule, in which nothing is a
step any more; the others get panels on which log w varies by ``VARIATION`` nats at most, which resolve ``exp(-t w)``.
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


def smooth(variation: float, m: int) -> tuple[Array, Array]:
    """The same for each of m samples of ``log (w_1 + w_2 + ...)``, which has no steps: one Gauss-Legendre rule.

    Raises:
        NotExact: the sets of m points are too many.
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
    inner = np.array([moments.bound(c.nodes, k) for c in columns])
    slopes = np.zeros(len(v)) if wrt is None else np.array([moments.linear(c.nodes, c.values, k)[0] for c in columns])
    return _case(1.0, p_v, inner, slopes)


def bound(cases: Iterable[Weighted], k: int) -> float:
    """The mean over cases of ``E log 1/k sum_i s_i``, nats."""
    return float(sum(case.p * moments.bound(case.nodes, k) for case in cases))


def linear(cases: Iterable[Weighted], k: int) -> tuple[float, float]:
    """Mean and variance of ``sum_i s~_i value_i`` over the cases too."""
    cases = list(cases)
    p = np.array([case.p for case in cases])
    found = np.array([moments.linear(case.nodes, case.values, k) for case in cases])
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
        "log w varies by more than the exact answers resolve over the two noises: "
        "widen y_std, likelihood_std or prior_std"
    )
