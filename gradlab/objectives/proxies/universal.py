"""Universal quantization, y = round(mean - u) + u with a dither u that encoder and decoder share.

Equation (Ziv 1985; Agustsson & Theis 2020)::

    y = round(mean - u) + u,   u ~ U(-1/2, 1/2),   dy/dmean := 1

Approximates: nothing: y is distributed as ``mean + U(-1/2, 1/2)``. Unlike additive noise it can be transmitted, since
``round(mean - u)`` is an integer, so training and test agree.
With: the derivative of a straight-through estimator, which is correct in expectation here. Mean and distribution of the
gradient equal those of additive noise, and each draw equals the draw of additive noise with the noise ``y - mean``.
Biased when: never, for the bound under the unit box.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gradlab.objectives.proxies._base import Proxy


class UniversalQuantization(Proxy):
    """The latent ``round(mean - u) + u``."""

    name: ClassVar[str] = "universal"
    box: ClassVar[bool] = True

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """Return ``round(mean - noise) + noise``, with the derivative 1."""
        fixed = mean.detach()
        return mean + (torch.round(fixed - noise) + noise - fixed)
