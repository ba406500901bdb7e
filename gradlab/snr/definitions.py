"""The signal-to-noise ratio of a group of gradients, defined once.

Pure functions. A group is a set of scalar parameters whose gradients were drawn T times with the weights and the
minibatch frozen; ``mean`` and ``m2`` are Welford's, each scalar's mean and sum of squared deviations,
of any shape, float64.
A group spread over several tensors is the ``merge`` of their tallies, so that nothing is ever concatenated.

An SNR says nothing about bias: quote it with the bias, or say of which estimator it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from gradlab.errors import GradlabError

FEWEST_BLOCKS = 8
"""A standard error from fewer block values than this is not shown."""

FLOOR = 1.5
"""Parameters whose mean is within this many standard errors of zero are taken as noise by ``replicate``."""


class Tally(NamedTuple):
    """What the SNR of a group is made of; sums over scalar parameters, so tallies of parts add up.

    Attributes:
        draws: T.
        parameters: number of scalars.
        live: number of scalars with a standard deviation above 0 over the draws.
        ratio: sum over live scalars of |mean| / std.
        signal: sum over live scalars of mean^2.
        mean_square: sum over all scalars of mean^2.
        trace: tr S, the sum of the variances (T - 1 in the denominator).
    """

    draws: int
    parameters: int
    live: int
    ratio: float
    signal: float
    mean_square: float
    trace: float


def tally(mean: Tensor, m2: Tensor, draws: int, mask: Tensor | None = None) -> Tally:
    """Tally one tensor of scalars ``[*shape]`` over ``draws`` draws; ``mask``: count only where it is not 0.

    Raises:
        GradlabError: shapes that differ.
    """
    if mean.shape != m2.shape or (mask is not None and mask.shape != mean.shape):
        raise GradlabError(f"mean {tuple(mean.shape)}, m2 {tuple(m2.shape)} and mask must have one shape")
    if mask is not None:
        mean, m2 = mean[mask != 0], m2[mask != 0]
    norm = float(mean.square().sum())
    if draws < 2:  # no standard deviation: nothing is known of who is dead
        return Tally(draws, mean.numel(), mean.numel(), math.nan, norm, norm, math.nan)
    alive = m2 > 0
    variance = m2 / (draws - 1)
    ratio = torch.where(alive, mean.abs() / variance.sqrt(), 0.0)
    signal = torch.where(alive, mean, 0.0).square()
    return Tally(
        draws,
        mean.numel(),
        int(alive.sum()),
        float(ratio.sum()),
        float(signal.sum()),
        norm,
        float(variance.sum()),
    )


def merge(parts: Iterable[Tally]) -> Tally:
    """The tally of a group from those of its tensors (over the same draws).

    Raises:
        GradlabError: no parts, or parts over different numbers of draws.
    """
    found = list(parts)
    if not found:
        raise GradlabError("a group without tensors has no SNR: give it at least one")
    if len({t.draws for t in found}) > 1:
        raise GradlabError(f"tallies over {sorted({t.draws for t in found})} draws: merge those of the same draws")
    sums = [math.fsum(column) for column in zip(*(t[3:] for t in found), strict=True)]
    return Tally(found[0].draws, sum(t.parameters for t in found), sum(t.live for t in found), *sums)


def snr(group: Tally) -> float:
    """Mean over the live scalars of |mean| / std; NaN where none is live or with one draw."""
    return group.ratio / group.live if group.live else math.nan


def dead(group: Tally) -> int:
    """How many scalars never moved over all draws; they are left out of ``snr``."""
    return group.parameters - group.live


def noise_floor(draws: int) -> float:
    """What ``snr`` shows for parameters whose true mean is 0: about E|N(0, 1/T)| = sqrt(2 / (pi T))."""
    return math.sqrt(2 / (math.pi * draws)) if draws > 0 else math.nan


def snr_corrected(group: Tally) -> float:
    """``sqrt(max(0, (|mean|^2 - tr S / T) / tr S))`` over the live scalars; NaN where none is live."""
    if not group.live or not group.trace > 0:
        return math.nan
    return math.sqrt(max(0.0, (group.signal - group.trace / group.draws) / group.trace))


def mean_norm(group: Tally) -> float:
    """Euclidean norm of the mean gradient, dead scalars included."""
    return math.sqrt(group.mean_square)


def variance_trace(group: Tally) -> float:
    """tr S: the sum of the variances of all scalars; NaN with one draw."""
    return group.trace


def replicate(mean: Tensor, m2: Tensor, draws: int, block_mean: Tensor, block_m2: Tensor, block: int) -> float:
    r"""Blow one block of draws up to a replicate of sqrt(T) * sum_j |mean_j| / std_j; only its spread has a meaning.

    *Why not the SNR of each block?* A block of b draws has its own, higher floor sqrt(2 / (pi b)) and, for small b,
    the heavy tails of a t-statistic; a parameter that stands clear of the noise over T draws drowns in it over b.
    The delta method errs the other way: it takes |.| as linear and is 1.66 times too wide at the floor. Here the block
    gives the noise, with all correlations between parameters, and the draws before it give the place where it acts:

        c_j = sqrt(n) mean_j / s_j,  put to 0 where |c_j| < 1.5 (``FLOOR``)
        z_j = sqrt(n b / (n + b)) (block mean_j - mean_j) / s_j       (Helmert's innovation: variance 1, no memory)
        v_j = sqrt(b (f + 2) / (f - b)) (S_j / (b s_j^2) - 1), f = n + b - 1      (S_j: what the block adds to m2_j)
        X   = sum_j  |c_j + z_j| - |c_j|  -  |mean_j| / s_j * v_j / 2

    s_j is the standard deviation *after* the block (internal studentisation, hence bounded; the factor of v_j makes its
    variance 2 for normal draws, as S_j / (f s_j^2) is Beta-distributed). The standard deviation of X is that of sqrt(T)
    times the sum of |mean| / std, to about 10 % for one parameter at any c, with any correlation of the parameters.
    (The exception: means of 1 to 3 standard errors whose noise cancels between parameters; X does not know them well
    enough to see the cancellation and is too wide.) X is free of b and nearly of n, so blocks may grow with the run.

    Args:
        mean: ``[*shape]``, ``m2`` likewise, of the ``draws`` draws before the block.
        draws: n >= 2.
        block_mean: ``[*shape]``, ``block_m2`` likewise, of the block's own ``block`` draws.
        block: b >= 1.
    """
    n, b = draws, block
    delta = block_mean - mean
    added = block_m2 + delta.square() * (n * b / (n + b))
    variance = (m2 + added) / (n + b - 1)
    alive = variance > 0
    inverse = torch.where(alive, variance.rsqrt(), 0.0)
    ratio = mean * inverse
    # c beyond 8 changes nothing (|c + z| is linear there) and would only cost digits.
    c = torch.nn.functional.hardshrink(ratio * math.sqrt(n), FLOOR).clamp(-8.0, 8.0)
    z = delta * inverse * math.sqrt(n * b / (n + b))
    widen = math.sqrt(b * (n + b + 1) / (n - 1))
    v = torch.where(alive, widen * (added * inverse.square() / b - 1), 0.0)
    return float(((c + z).abs() - c.abs() - ratio.abs() * v / 2).sum())


class Spread(NamedTuple):
    """Streaming spread of replicates, by squared successive differences (von Neumann), so that a slow drift cancels.

    Attributes:
        last: the replicates of the latest block, one per entity ``[E]``, or None before the first.
        pairs: number of differences by octave of the draws, the newest three octaves only.
        squares: ``[E]`` sums of squared differences by octave.
    """

    last: Tensor | None = None
    pairs: dict[int, int] = {}  # noqa: RUF012  (never changed in place)
    squares: dict[int, Tensor] = {}  # noqa: RUF012

    def update(self, values: Tensor, draws: int) -> Spread:
        """After one more block, its replicates ``values`` ``[E]``, recorded on top of ``draws`` draws."""
        if self.last is None:
            return Spread(values, self.pairs, self.squares)
        octave = draws.bit_length()
        # Older blocks knew too little of where each parameter stands: forget them once newer ones are there.
        pairs = {o: p for o, p in self.pairs.items() if o > octave - 3}
        squares = {o: s for o, s in self.squares.items() if o > octave - 3}
        step = (values - self.last).square()
        pairs[octave] = pairs.get(octave, 0) + 1
        squares[octave] = squares[octave] + step if octave in squares else step
        return Spread(values, pairs, squares)

    def merge(self, other: Spread, draws: int) -> Spread:
        """Of two recorders with ``draws`` draws together; differences are never taken across them."""
        octave = draws.bit_length()
        pairs = sum(self.pairs.values()) + sum(other.pairs.values())
        if pairs == 0:
            return Spread()
        squares = torch.stack([*self.squares.values(), *other.squares.values()]).sum(0)
        return Spread(None, {octave: pairs}, {octave: squares})

    def standard_error(self, entity: int, live: int, draws: int) -> float:
        """Standard error of the SNR of one entity over ``draws`` draws; NaN below 8 blocks or with nothing live."""
        pairs = sum(self.pairs.values())
        if pairs < FEWEST_BLOCKS - 1 or live == 0 or draws < 4:
            return math.nan
        variance = math.fsum(float(s[entity]) for s in self.squares.values()) / (2 * pairs)
        # std is itself estimated: mean/std follows a t-distribution, wider by (T - 1) / (T - 3).
        return math.sqrt(variance / draws * (draws - 1) / (draws - 3)) / live
