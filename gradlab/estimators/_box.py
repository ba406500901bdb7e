"""Closed forms that estimators share on draws of one latent under the unit box.

On the box the gradient of each estimator with respect to the centre takes a few passes over the same weights and slopes
(``Estimator.on_box``): it is the gradient of the surrogate without autograd. The tests compare the two.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradlab import kernels

Array = NDArray[np.floating[Any]]

# Up to this range of log w, in nats, "all weights minus this one" keeps enough digits.
NO_CANCELLATION = 5.0
# Number of factors multiplied before taking their logarithm, within that range: e^40 fits in a float32.
GROUP = 8


class BoxDraws:
    """Weights and slopes of draws of k samples, with the samples along the first axis; sums are computed on demand.

    Args:
        weight: ``[k, C]``, w up to a common factor, which cancels; float64 or float32.
        slope: ``[k, C]``, d log w/dy.
        ends: w at the upper and at the lower wall, up to the same factor.
        span: range of log w over the box, in nats.
    """

    def __init__(self, weight: Array, slope: Array, ends: tuple[float, float], span: float) -> None:
        self.weight, self.slope, self._span = weight, slope, span
        self._ends = tuple(weight.dtype.type(end) for end in ends)

    @property
    def zero(self) -> Array:
        """Zeros ``[C]``: the score of the box is 0, and so is every estimator that multiplies a score."""
        return np.zeros_like(self.weight[0])

    @property
    def linear(self) -> Array:
        """``[C]`` ``sum_i w~_i g_i``."""
        return self._sums[1]

    @cached_property
    def squared(self) -> Array:
        """``[C]`` ``sum_i w~_i^2 g_i``."""
        gradient = self.zero
        kernels.squared(self.weight, self.slope, self._sums[0], gradient)
        return gradient

    @property
    def boundary(self) -> Array:
        """``[C]`` ``sum_i w~_i(y_i = upper wall) - w~_i(y_i = lower wall)``."""
        return self._walls[0]

    @property
    def moved(self) -> Array:
        """``[C]`` ``sum_i L^(y_i = upper wall) - L^(y_i = lower wall)``."""
        return self._walls[1]

    @cached_property
    def _sums(self) -> tuple[Array, Array]:
        total, gradient = self.zero, self.zero
        kernels.linear(self.weight, self.slope, total, gradient)
        return total, gradient

    @cached_property
    def _walls(self) -> tuple[Array, Array]:
        near = self._span <= NO_CANCELLATION
        groups = -(-len(self.weight) // GROUP) if near else len(self.weight)
        boundary, factors = self.zero, np.ones((groups, self.weight.shape[1]), self.weight.dtype)
        kernels.walls(self.weight, self._sums[0], self._ends, near, boundary, factors)
        return boundary, np.log(factors, out=factors).sum(0)
