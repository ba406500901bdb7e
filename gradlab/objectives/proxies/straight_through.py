"""Straight-through estimator: round, and differentiate as if rounding were the identity.

Equation (Bengio et al. 2013; Theis et al. 2017)::

    y = round(mean),   dy/dmean := 1

Approximates: the slope that the loss would have if rounding were the identity. Training and test use the same forward
pass (if the codec rounds to integers, and not around a predicted mean), whose derivative is 0 almost everywhere.
With: no noise: every draw gives the same gradient.
Biased when: always, for the derivative of its own forward pass.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gradlab.objectives.proxies._base import Proxy


class StraightThrough(Proxy):
    """Rounding in the forward pass, the identity in the backward pass."""

    name: ClassVar[str] = "straight-through"
    forward_moves: ClassVar[bool] = False
    path_is_true: ClassVar[bool] = False

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """Return ``round(mean)``, expanded to the shape of the noise, with the derivative 1."""
        fixed = mean.detach()
        return (mean + (torch.round(fixed) - fixed)).expand(torch.broadcast_shapes(mean.shape, noise.shape))
