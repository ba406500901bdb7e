"""Define the signal-to-noise ratio of a group of gradients, as pure functions.

A group is a set of scalar parameters whose gradients were drawn T times with frozen weights and a frozen minibatch.
``mean`` and ``m2`` are the mean and the sum of squared deviations (Welford) of each scalar, of any shape, float64. The
tally of a group of several tensors is the ``merge`` of their tallies, so nothing is concatenated.

An SNR does not measure bias: quote it together with the bias, or name the estimator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from jaxtyping import Float

FEWEST_BLOCKS = 8
"""Fewest block values from which a standard error is computed."""

FLOOR = 1.5
"""``replicate`` takes parameters whose mean is within this many standard errors of zero as noise."""


class Tally(NamedTuple):
    """Sums over the scalar parameters of a group from which its SNR follows; the tallies of parts add up.

    Attributes:
        draws: T.
        parameters: number of scalars.
        live: number of scalars with a standard deviation above 0 over the draws.
        ratio: sum of |mean| / std over live scalars.
        signal: sum of mean^2 over live scalars.
        mean_square: sum of mean^2 over all scalars.
        trace: tr S, the sum of the variances (with T - 1 in the denominator).
    """

    draws: int
    parameters: int
    live: int
    ratio: float
    signal: float
    mean_square: float
    trace: float


def tally(mean: Float[Tensor, "*shape"], m2: Float[Tensor, "*shape"], draws: int, mask: Tensor | None = None) -> Tally:
    """Tally one tensor of scalars over ``draws`` draws.

    Args:
        mean: means, of any shape.
        m2: sums of squared deviations, of the same shape.
        draws: T.
        mask: mask of the same shape; scalars where it is 0 are not counted.

    Returns:
        The sums.

    Raises:
        GradlabError: if the shapes differ.

    Example:
        >>> import torch
        >>> from gradlab.snr.definitions import snr, tally
        >>> mean, m2 = torch.tensor([1.0, 3.0]).double(), torch.tensor([9.0, 9.0]).double()
        >>> snr(tally(mean, m2, draws=10))  # standard deviation 1
        2.0
    """
    if mean.shape != m2.shape or (mask is not None and mask.shape != mean.shape):
        raise GradlabError(
            f"mean has shape {tuple(mean.shape)} and m2 {tuple(m2.shape)}: give mean, m2 and mask one shape"
        )
    if mask is not None:
        mean, m2 = mean[mask != 0], m2[mask != 0]
    norm = float(mean.square().sum())
    if draws < 2:  # without a standard deviation no scalar is known to be dead
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
    """Add up the tallies of a group's tensors over the same draws.

    Args:
        parts: the tallies.

    Returns:
        The tally of the group.

    Raises:
        GradlabError: if there are no parts, or they have different numbers of draws.
    """
    tallies = list(parts)
    if not tallies:
        raise GradlabError("a group has no tensors, and so no SNR: give at least one")
    draws = sorted({t.draws for t in tallies})
    if len(draws) > 1:
        raise GradlabError(f"the tallies have different numbers of draws, {draws}: merge tallies of the same draws")
    sums = [math.fsum(column) for column in zip(*(t[3:] for t in tallies), strict=True)]
    return Tally(draws[0], sum(t.parameters for t in tallies), sum(t.live for t in tallies), *sums)


def snr(group: Tally) -> float:
    """Return the mean of |mean| / std over the live scalars; NaN if none is live or there is only one draw."""
    return group.ratio / group.live if group.live else math.nan


def dead(group: Tally) -> int:
    """Return the number of scalars that were equal in all draws; ``snr`` leaves them out."""
    return group.parameters - group.live


def noise_floor(draws: int) -> float:
    """Return the expected ``snr`` of parameters whose true mean is 0.

    It is about E|N(0, 1/T)| = sqrt(2 / (pi T)).

    Args:
        draws: T.

    Returns:
        The noise floor; NaN without draws.

    Example:
        >>> from gradlab.snr.definitions import noise_floor
        >>> round(noise_floor(20), 2)
        0.18
    """
    return math.sqrt(2 / (math.pi * draws)) if draws > 0 else math.nan


def snr_corrected(group: Tally) -> float:
    """Return ``sqrt(max(0, (|mean|^2 - tr S / T) / tr S))`` over the live scalars; NaN if none is live."""
    if not group.live or not group.trace > 0:
        return math.nan
    return math.sqrt(max(0.0, (group.signal - group.trace / group.draws) / group.trace))


def mean_norm(group: Tally) -> float:
    """Return the Euclidean norm of the mean gradient, dead scalars included."""
    return math.sqrt(group.mean_square)


def variance_trace(group: Tally) -> float:
    """Return tr S, the sum of the variances of all scalars; NaN with one draw."""
    return group.trace


def replicate(
    mean: Float[Tensor, "*shape"],
    m2: Float[Tensor, "*shape"],
    draws: int,
    block_mean: Float[Tensor, "*shape"],
    block_m2: Float[Tensor, "*shape"],
    block: int,
) -> float:
    """Scale one block of draws up to a replicate of sqrt(T) * sum_j |mean_j| / std_j.

    Only the spread of the replicates is meaningful: it equals the spread of the sum, for any correlation of the
    parameters. The block provides the noise, and the draws before it provide the means to which the noise is added.
    Equation ``replicate`` in docs/theory/snr.md explains why.

    Args:
        mean: means of the draws before the block, of any shape.
        m2: their sums of squared deviations.
        draws: their number, at least 2.
        block_mean: means of the draws in the block.
        block_m2: their sums of squared deviations.
        block: their number, at least 1.

    Returns:
        The replicate.
    """
    n, b = draws, block
    delta = block_mean - mean
    added = block_m2 + delta.square() * (n * b / (n + b))
    variance = (m2 + added) / (n + b - 1)
    alive = variance > 0
    inverse = torch.where(alive, variance.rsqrt(), 0.0)
    ratio = mean * inverse
    # Values of c beyond 8 change nothing (|c + z| is linear there) and would only cost digits.
    c = torch.nn.functional.hardshrink(ratio * math.sqrt(n), FLOOR).clamp(-8.0, 8.0)
    z = delta * inverse * math.sqrt(n * b / (n + b))
    widen = math.sqrt(b * (n + b + 1) / (n - 1))
    v = torch.where(alive, widen * (added * inverse.square() / b - 1), 0.0)
    return float(((c + z).abs() - c.abs() - ratio.abs() * v / 2).sum())


class Spread(NamedTuple):
    """The streaming spread of replicates by squared successive differences (von Neumann), which cancels a slow drift.

    Attributes:
        last: the replicates of the latest block, one per entity ``[E]``; None before the first block.
        pairs: number of differences in each octave of the draws, for the newest three octaves.
        squares: sums of squared differences ``[E]`` in each octave.
    """

    last: Tensor | None = None
    pairs: dict[int, int] = {}  # noqa: RUF012  (never changed in place)
    squares: dict[int, Tensor] = {}  # noqa: RUF012

    def update(self, values: Float[Tensor, " entities"], draws: int) -> Spread:
        """Return the spread after the replicates ``values`` ``[E]`` of a block that follows ``draws`` draws."""
        if self.last is None:
            return Spread(values, self.pairs, self.squares)
        octave = draws.bit_length()
        # Older blocks used means that were too inaccurate: forget them once there are newer ones.
        pairs = {o: p for o, p in self.pairs.items() if o > octave - 3}
        squares = {o: s for o, s in self.squares.items() if o > octave - 3}
        step = (values - self.last).square()
        pairs[octave] = pairs.get(octave, 0) + 1
        squares[octave] = squares[octave] + step if octave in squares else step
        return Spread(values, pairs, squares)

    def merge(self, other: Spread, draws: int) -> Spread:
        """Return the spread of two recorders with ``draws`` draws in total; no difference is taken between the two."""
        octave = draws.bit_length()
        pairs = sum(self.pairs.values()) + sum(other.pairs.values())
        if pairs == 0:
            return Spread()
        squares = torch.stack([*self.squares.values(), *other.squares.values()]).sum(0)
        return Spread(None, {octave: pairs}, {octave: squares})

    def standard_error(self, entity: int, live: int, draws: int) -> float:
        """Return the standard error of the SNR of one entity; NaN below 8 blocks or if no scalar is live."""
        pairs = sum(self.pairs.values())
        if pairs < FEWEST_BLOCKS - 1 or live == 0 or draws < 4:
            return math.nan
        variance = math.fsum(float(s[entity]) for s in self.squares.values()) / (2 * pairs)
        # The std is estimated too: mean/std follows a t-distribution, wider by (T - 1) / (T - 3).
        return math.sqrt(variance / draws * (draws - 1) / (draws - 3)) / live
