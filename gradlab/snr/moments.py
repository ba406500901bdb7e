"""Streaming moments: float64, mergeable, pure functions over NamedTuple state.

Sums are of *centred* powers (Welford 1962; Chan, Golub & LeVeque 1983; Pebay 2008, SAND2008-6212), never
``E[g^2] - E[g]^2``, so that a mean of 1e8 standard deviations costs no digits of the variance.
Methods return a new state and leave their arguments unchanged; NaN and Inf in a batch propagate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.runtime.display import shown


def _centred(batch: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Mean ``[*shape]`` and deviations ``[n, *shape]`` of a batch of draws, float64, by two passes."""
    if batch.ndim == 0 or batch.shape[1:] != shape:
        raise GradlabError(
            f"a batch of shape {tuple(batch.shape)} does not fit statistics of shape {tuple(shape)}: "
            "give it the draws along the first axis"
        )
    if batch.is_complex():
        raise GradlabError("moments of complex numbers are not defined here: give real and imaginary parts apart")
    values = batch.detach().to(torch.float64)
    mean = values.mean(0)
    deviations = values - mean
    # The second pass removes the rounding of the first mean, which matters when the mean dominates.
    rest = deviations.mean(0)
    return mean + rest, deviations - rest


def _check_same(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise GradlabError(
            f"moments of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be merged: record one statistic in both"
        )


def _ratio(numerator: Tensor, count: int) -> Tensor:
    return numerator / count if count > 0 else torch.full_like(numerator, math.nan)


@shown
class Moments(NamedTuple):
    """Count, mean and centred sum of squares of a statistic of any shape.

    Attributes:
        count: number of draws.
        mean: ``[*shape]`` float64.
        m2: ``[*shape]`` float64, sum of squared deviations from the mean.
    """

    count: int  # type: ignore[assignment]  # shadows tuple.count
    mean: Tensor
    m2: Tensor

    @classmethod
    def init(cls, shape: tuple[int, ...] = (), device: str | torch.device | None = None) -> Moments:
        """Return the state before any draw."""
        zero = torch.zeros(shape, dtype=torch.float64, device=device)
        return cls(0, zero, zero.clone())

    def update(self, batch: Tensor) -> Moments:
        """Return the state after a batch of draws ``[n, *shape]`` (Chan).

        Raises:
            GradlabError: a batch of another shape.
        """
        mean, deviations = _centred(batch, self.mean.shape)
        if len(batch) == 0:
            return self
        return self.merge(Moments(len(batch), mean, deviations.square().sum(0)))

    def merge(self, other: Moments) -> Moments:
        """Return the state of both sets of draws together (Chan).

        Raises:
            GradlabError: states of different shapes.
        """
        _check_same(self.mean, other.mean)
        if self.count == 0:
            return other
        if other.count == 0:
            return self
        n = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            n,
            self.mean + delta * (other.count / n),
            self.m2 + other.m2 + delta.square() * (self.count * other.count / n),
        )

    def variance(self, ddof: int = 1) -> Tensor:
        """``[*shape]`` variance; NaN with ``ddof`` draws or fewer."""
        return _ratio(self.m2, self.count - ddof)


@shown
class HigherMoments(NamedTuple):
    """Count, mean and centred sums of powers 2 to 4, as the standard errors of variance and SNR need them.

    Attributes:
        count: number of draws.
        mean: ``[*shape]`` float64.
        m2: ``[*shape]`` sum of squared deviations.
        m3: ``[*shape]`` sum of their third powers.
        m4: ``[*shape]`` sum of their fourth powers.
    """

    count: int  # type: ignore[assignment]  # shadows tuple.count
    mean: Tensor
    m2: Tensor
    m3: Tensor
    m4: Tensor

    @classmethod
    def init(cls, shape: tuple[int, ...] = (), device: str | torch.device | None = None) -> HigherMoments:
        """Return the state before any draw."""
        zero = torch.zeros(shape, dtype=torch.float64, device=device)
        return cls(0, zero, zero.clone(), zero.clone(), zero.clone())

    def update(self, batch: Tensor) -> HigherMoments:
        """Return the state after a batch of draws ``[n, *shape]``.

        Raises:
            GradlabError: a batch of another shape.
        """
        mean, deviations = _centred(batch, self.mean.shape)
        if len(batch) == 0:
            return self
        squares = deviations.square()
        chunk = HigherMoments(len(batch), mean, squares.sum(0), (squares * deviations).sum(0), squares.square().sum(0))
        return self.merge(chunk)

    def merge(self, other: HigherMoments) -> HigherMoments:
        """Return the state of both sets of draws together (Pebay 2008, eqs. 2.1, III.1 at p = 3, 4).

        Raises:
            GradlabError: states of different shapes.
        """
        _check_same(self.mean, other.mean)
        if self.count == 0:
            return other
        if other.count == 0:
            return self
        n_a, n_b = self.count, other.count
        n = n_a + n_b
        a, b = n_a / n, n_b / n
        delta = other.mean - self.mean
        d2 = delta.square()
        m2 = self.m2 + other.m2 + d2 * (n_a * b)
        m3 = self.m3 + other.m3 + d2 * delta * (n_a * b * (a - b)) + 3 * delta * (a * other.m2 - b * self.m2)
        m4 = (
            self.m4
            + other.m4
            + d2.square() * (n_a * b * (a * a - a * b + b * b))
            + 6 * d2 * (a * a * other.m2 + b * b * self.m2)
            + 4 * delta * (a * other.m3 - b * self.m3)
        )
        return HigherMoments(n, self.mean + delta * b, m2, m3, m4)

    @classmethod
    def pooled(cls, parts: Sequence[HigherMoments]) -> HigherMoments:
        """Return the state of all parts together, in one pass instead of one ``merge`` for each.

        Raises:
            GradlabError: no parts, or states of different shapes.
        """
        if not parts:
            raise GradlabError("there are no moments to pool: give at least one state")
        for part in parts:
            _check_same(parts[0].mean, part.mean)
        n = sum(part.count for part in parts)
        if n == 0:
            return parts[0]
        means, m2, m3, m4 = (torch.stack(column) for column in zip(*(part[1:] for part in parts), strict=True))
        counts = torch.tensor([float(part.count) for part in parts], dtype=torch.float64, device=means.device)
        counts = counts.reshape(-1, *[1] * (means.ndim - 1))
        mean = means[0] + (counts * (means - means[0])).sum(0) / n  # from one of them, which costs no digits
        d = means - mean
        d2 = d.square()
        return cls(
            n,
            mean,
            (m2 + counts * d2).sum(0),
            (m3 + 3 * d * m2 + counts * d2 * d).sum(0),
            (m4 + 4 * d * m3 + 6 * d2 * m2 + counts * d2.square()).sum(0),
        )

    def variance(self, ddof: int = 1) -> Tensor:
        """``[*shape]`` variance; NaN with ``ddof`` draws or fewer."""
        return _ratio(self.m2, self.count - ddof)

    def mean_se(self) -> Tensor:
        """``[*shape]`` standard error of the mean."""
        return _ratio(self.variance(), self.count).sqrt()

    def variance_se(self) -> Tensor:
        """``[*shape]`` standard error of the variance, ``sqrt((m4 - s^4) / n)`` with m4 the fourth central moment."""
        spread = _ratio(self.m4, self.count) - _ratio(self.m2, self.count).square()
        # Not negative but for rounding: E[d^4] >= E[d^2]^2.
        return _ratio(spread.clamp(min=0), self.count).sqrt() if self.count > 1 else torch.full_like(self.m2, math.nan)

    def snr(self) -> Tensor:
        """``[*shape]`` |mean| / std; inf where the variance is 0, NaN where the mean is 0 too."""
        return self.mean.abs() / self.variance().sqrt()

    def snr_se(self) -> Tensor:
        """``[*shape]`` standard error of ``snr`` by the delta method, NaN where the variance is 0.

        The influence of one draw with standardised value u on |mean|/std = r is ``sign(mean) u - r (u^2 - 1) / 2``,
        whose variance is ``1 - sign(mean) r skewness + r^2 (kurtosis - 1) / 4``.
        """
        n = self.count
        s2 = _ratio(self.m2, n)
        skewness = _ratio(self.m3, n) / s2.pow(1.5)
        kurtosis = _ratio(self.m4, n) / s2.square()
        r = self.snr()
        spread = 1 - self.mean.sign() * r * skewness + r.square() * (kurtosis - 1) / 4
        return _ratio(spread.clamp(min=0), n).sqrt()
