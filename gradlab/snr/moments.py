"""Compute streaming moments: float64, mergeable, pure functions over NamedTuple state.

Sums are of *centred* powers (Welford 1962; Chan, Golub & LeVeque 1983; Pebay 2008, SAND2008-6212), never
``E[g^2] - E[g]^2``, so the variance keeps its digits even if the mean is 1e8 standard deviations. Methods return a new
state and leave their arguments unchanged. NaN and Inf in a batch propagate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.runtime.display import shown

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


def _centred(batch: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return mean ``[*shape]`` and deviations ``[n, *shape]`` of a batch of draws, in float64 by two passes."""
    if batch.ndim == 0 or batch.shape[1:] != shape:
        raise GradlabError(
            f"a batch of shape {tuple(batch.shape)} does not fit statistics of shape {tuple(shape)}: "
            "give the draws along the first axis"
        )
    if batch.is_complex():
        raise GradlabError("the batch is complex: give real and imaginary parts separately")
    values = batch.detach().to(torch.float64)
    mean = values.mean(0)
    deviations = values - mean
    # The second pass removes the rounding of the first mean, which matters when the mean dominates.
    rest = deviations.mean(0)
    return mean + rest, deviations - rest


def _check_same(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise GradlabError(
            f"moments of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be merged: give moments of one shape"
        )


def _ratio(numerator: Tensor, count: int) -> Tensor:
    return numerator / count if count > 0 else torch.full_like(numerator, math.nan)


@shown
class Moments(NamedTuple):
    """Count, mean and centred sum of squares of a statistic of any shape.

    Attributes:
        count: number of draws.
        mean: mean ``[*shape]``, float64.
        m2: sum of squared deviations from the mean ``[*shape]``, float64.

    Example:
        >>> import torch
        >>> import gradlab as gl
        >>> state = gl.snr.Moments.init().update(torch.tensor([1.0, 2.0, 3.0]))
        >>> state = state.merge(gl.snr.Moments.init().update(torch.tensor([6.0])))
        >>> state.count, state.mean.item(), round(state.variance().item(), 4)
        (4, 3.0, 4.6667)
    """

    count: int  # type: ignore[assignment]  # shadows tuple.count
    mean: Tensor
    m2: Tensor

    @classmethod
    def init(cls, shape: tuple[int, ...] = (), device: str | torch.device | None = None) -> Moments:
        """Return the state before any draw.

        Args:
            shape: shape of the statistic.
            device: where to keep the state.
        """
        zero = torch.zeros(shape, dtype=torch.float64, device=device)
        return cls(0, zero, zero.clone())

    def update(self, batch: Shaped[Tensor, "draws ..."]) -> Moments:
        """Return the state after a batch of draws (Chan, Golub & LeVeque 1983).

        Args:
            batch: draws ``[n, *shape]``.

        Raises:
            GradlabError: if the batch has another shape or is complex.
        """
        mean, deviations = _centred(batch, self.mean.shape)
        if len(batch) == 0:
            return self
        return self.merge(Moments(len(batch), mean, deviations.square().sum(0)))

    def merge(self, other: Moments) -> Moments:
        """Return the state of both sets of draws together (Chan, Golub & LeVeque 1983).

        Args:
            other: the state of other draws of the same statistic.

        Raises:
            GradlabError: if the states have different shapes.
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

    def variance(self, ddof: int = 1) -> Float[Tensor, "*shape"]:
        """Return the variance ``[*shape]``; NaN with ``ddof`` draws or fewer."""
        return _ratio(self.m2, self.count - ddof)


@shown
class HigherMoments(NamedTuple):
    """Count, mean and centred sums of powers 2 to 4, for the standard errors of variance and SNR.

    Attributes:
        count: number of draws.
        mean: mean ``[*shape]``, float64.
        m2: sum of squared deviations ``[*shape]``.
        m3: sum of their third powers ``[*shape]``.
        m4: sum of their fourth powers ``[*shape]``.

    Example:
        >>> import torch
        >>> import gradlab as gl
        >>> state = gl.snr.HigherMoments.init().update(torch.tensor([1.0, 2.0, 3.0, 6.0]))
        >>> round(state.mean_se().item(), 4), round(state.snr().item(), 4), round(state.snr_se().item(), 4)
        (1.0801, 1.3887, 0.3632)
    """

    count: int  # type: ignore[assignment]  # shadows tuple.count
    mean: Tensor
    m2: Tensor
    m3: Tensor
    m4: Tensor

    @classmethod
    def init(cls, shape: tuple[int, ...] = (), device: str | torch.device | None = None) -> HigherMoments:
        """Return the state before any draw.

        Args:
            shape: shape of the statistic.
            device: where to keep the state.
        """
        zero = torch.zeros(shape, dtype=torch.float64, device=device)
        return cls(0, zero, zero.clone(), zero.clone(), zero.clone())

    def update(self, batch: Shaped[Tensor, "draws ..."]) -> HigherMoments:
        """Return the state after a batch of draws.

        Args:
            batch: draws ``[n, *shape]``.

        Raises:
            GradlabError: if the batch has another shape or is complex.
        """
        mean, deviations = _centred(batch, self.mean.shape)
        if len(batch) == 0:
            return self
        squares = deviations.square()
        chunk = HigherMoments(len(batch), mean, squares.sum(0), (squares * deviations).sum(0), squares.square().sum(0))
        return self.merge(chunk)

    def merge(self, other: HigherMoments) -> HigherMoments:
        """Return the state of both sets of draws together (Pebay 2008, eqs. 2.1, III.1 at p = 3, 4).

        Args:
            other: the state of other draws of the same statistic.

        Raises:
            GradlabError: if the states have different shapes.
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
        """Return the state of all parts together, in one pass instead of one ``merge`` per part.

        Args:
            parts: states of the same statistic.

        Raises:
            GradlabError: if there are no parts, or the states have different shapes.
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
        mean = means[0] + (counts * (means - means[0])).sum(0) / n  # relative to one of them, to lose no digits
        d = means - mean
        d2 = d.square()
        return cls(
            n,
            mean,
            (m2 + counts * d2).sum(0),
            (m3 + 3 * d * m2 + counts * d2 * d).sum(0),
            (m4 + 4 * d * m3 + 6 * d2 * m2 + counts * d2.square()).sum(0),
        )

    def variance(self, ddof: int = 1) -> Float[Tensor, "*shape"]:
        """Return the variance ``[*shape]``; NaN with ``ddof`` draws or fewer."""
        return _ratio(self.m2, self.count - ddof)

    def mean_se(self) -> Float[Tensor, "*shape"]:
        """Return the standard error of the mean ``[*shape]``."""
        return _ratio(self.variance(), self.count).sqrt()

    def variance_se(self) -> Float[Tensor, "*shape"]:
        """Return the standard error of the variance ``[*shape]``.

        It is ``sqrt((m4 - s^4) / n)`` with the fourth central moment m4.
        """
        spread = _ratio(self.m4, self.count) - _ratio(self.m2, self.count).square()
        # Negative only through rounding: E[d^4] >= E[d^2]^2.
        return _ratio(spread.clamp(min=0), self.count).sqrt() if self.count > 1 else torch.full_like(self.m2, math.nan)

    def snr(self) -> Float[Tensor, "*shape"]:
        """Return |mean| / std ``[*shape]``; inf if the variance is 0, NaN if the mean is 0 too."""
        return self.mean.abs() / self.variance().sqrt()

    def snr_se(self) -> Float[Tensor, "*shape"]:
        """Return the standard error of ``snr`` ``[*shape]`` by the delta method; NaN if the variance is 0.

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
