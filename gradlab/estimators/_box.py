"""What estimators share on draws of one latent under the unit box: weights, slopes, and the weights at the walls.

Under the box the gradient by its centre has a closed form for each estimator, a few passes over the same arrays:
``Estimator.on_box``. It is the surrogate's gradient without autograd; the tests hold one against the other.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

# Nats that log w may vary by before "all weights less this one" loses more digits than it may.
NO_CANCELLATION = 5.0


class BoxDraws:
    """Draws of k samples, weighed.

    Args:
        weight: ``[C, k]`` w up to a common factor, which cancels.
        slope: ``[C, k]`` d log w/dy.
        ends: w at the upper and at the lower wall, over the same factor.
        span: nats that log w varies by over the box.
    """

    def __init__(self, weight: Tensor, slope: Tensor, ends: tuple[float, float], span: float) -> None:
        self.weight, self.slope, self.ends, self._span = weight, slope, ends, span

    @cached_property
    def _total(self) -> Tensor:
        return self._sum(self.weight)

    def _sum(self, values: Tensor) -> Tensor:
        """``[C]`` over the samples; a product with ones takes half the time of a sum over a short axis."""
        return values @ torch.ones_like(values[0]) if values.shape[1] < 32 else values.sum(1)

    @cached_property
    def _others(self) -> Tensor:
        """``[C, k]`` the sum of the other weights; from sums before and after where a difference would lose digits."""
        if self._span <= NO_CANCELLATION:
            return torch.sub(self._total[:, None], self.weight).clamp_(min=0) if self.weight.shape[1] > 1 else self.zero
        before = torch.zeros_like(self.weight)
        torch.cumsum(self.weight[:, :-1], 1, out=before[:, 1:])
        after = torch.zeros_like(self.weight)
        torch.cumsum(self.weight.flip(1)[:, :-1], 1, out=after[:, 1:])
        return before.add_(after.flip(1))

    @property
    def zero(self) -> Tensor:
        """``[C, 1]`` zeros."""
        return torch.zeros_like(self.weight[:, :1])

    @cached_property
    def nothing(self) -> Tensor:
        """``[C]``: estimators that multiply a score are 0 in every draw, because the score of the box is."""
        return self.zero[:, 0]

    @cached_property
    def linear(self) -> Tensor:
        """``[C]`` ``sum_i w~_i g_i``."""
        return self._sum(self.weight * self.slope).div_(self._total)

    @cached_property
    def squared(self) -> Tensor:
        """``[C]`` ``sum_i w~_i^2 g_i``; weights are normalised before they are squared, or they might underflow."""
        share = self.weight / self._total[:, None]
        return share.square_().mul_(self.slope).sum(1)

    @cached_property
    def boundary(self) -> Tensor:
        """``[C]`` ``sum_i w~_i(y_i = upper wall) - w~_i(y_i = lower wall)``."""
        upper, lower = self.ends
        high = torch.add(self._others, upper).reciprocal_().mul_(upper)
        low = torch.add(self._others, lower).reciprocal_().mul_(lower)
        return high.sub_(low).sum(1)

    @cached_property
    def moved(self) -> Tensor:
        """``[C]`` ``sum_i L^(y_i = upper wall) - L^(y_i = lower wall)``."""
        upper, lower = self.ends
        if self._span <= NO_CANCELLATION:
            return torch.add(self._others, lower).reciprocal_().mul_(upper - lower).log1p_().sum(1)
        return torch.add(self._others, upper).log_().sub_(torch.add(self._others, lower).log_()).sum(1)
