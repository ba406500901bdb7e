"""Universal quantization, y = round(mean - u) + u with a dither u that the decoder shares.

Equation (Ziv 1985; Agustsson & Theis 2020)::

    y = round(mean - u) + u,   u ~ U(-1/2, 1/2),   dy/dmean := 1

Approximates: nothing: y is distributed as ``mean + U(-1/2, 1/2)``, and unlike noise it can be transmitted, since
``round(mean - u)`` is an integer. Training and test then agree.
With: the derivative of a straight-through estimator, which is right here in expectation: mean and law of the gradient
are those of additive noise, draw for draw with the noise ``y - mean``.
Biased when: never, for the bound under the unit box.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gradlab.objectives.proxies._base import Proxy


class UniversalQuantization(Proxy):
    """``round(mean - u) + u``."""

    name: ClassVar[str] = "universal"
    box: ClassVar[bool] = True

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """``round(mean - noise) + noise``, with the derivative 1."""
        fixed = mean.detach()
        return mean + (torch.round(fixed - noise) + noise - fixed)
