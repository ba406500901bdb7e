"""What estimators share on draws of one latent under the unit box: weights, slopes, and the weights at the walls.

Under the box the gradient by its centre has a closed form for each estimator, a few passes over the same arrays:
``Estimator.on_box``. It is the surrogate's gradient without autograd; the tests hold one against the other.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

# Nats that log w may vary by before "all weights less this one" loses more digits than it may.
NO_CANCELLATION = 5.0
# Factors in a row before their logarithm is taken, where log w varies by no more than that: e^40 is a float32.
GROUP = 8


class BoxDraws:
    """Draws of k samples, weighed; samples along the first axis, float64 or float32. Sums are made when asked for.

    Args:
        weight: ``[k, C]`` w up to a common factor, which cancels.
        slope: ``[k, C]`` d log w/dy.
        ends: w at the upper and at the lower wall, over the same factor.
        span: nats that log w varies by over the box.
    """

    def __init__(self, weight: Array, slope: Array, ends: tuple[float, float], span: float) -> None:
        self.weight, self.slope, self._span = weight, slope, span
        self._upper, self._lower = (weight.dtype.type(end) for end in ends)

    @property
    def nothing(self) -> Array:
        """``[C]``: estimators that multiply a score are 0 in every draw, because the score of the box is."""
        return np.zeros_like(self.weight[0])

    @property
    def linear(self) -> Array:
        """``[C]`` ``sum_i w~_i g_i``."""
        return self._sums[1]

    @cached_property
    def squared(self) -> Array:
        """``[C]`` ``sum_i w~_i^2 g_i``."""
        found = self.nothing
        loops().squared(self.weight, self.slope, self._sums[0], found)
        return found

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
        total, found = self.nothing, self.nothing
        loops().linear(self.weight, self.slope, total, found)
        return total, found

    @cached_property
    def _walls(self) -> tuple[Array, Array]:
        near = self._span <= NO_CANCELLATION
        groups = -(-len(self.weight) // GROUP) if near else len(self.weight)
        boundary, factors = self.nothing, np.ones((groups, self.weight.shape[1]), self.weight.dtype)
        loops().walls(self.weight, self._sums[0], self._upper, self._lower, near, boundary, factors)
        return boundary, np.log(factors, out=factors).sum(0)


def loops() -> Any:
    """The compiled loops, which take half a second to import."""
    from gradlab import kernels

    return kernels
