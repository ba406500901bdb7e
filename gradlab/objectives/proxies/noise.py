"""Additive uniform noise, y = mean + u: the proxy that the paper and most codecs train with.

Equation (Balle et al. 2017; paper eq. 1)::

    y = mean + u,   u ~ U(-1/2, 1/2),   dy/dmean = 1

Approximates: rounding. The rounding error has the same size but is not noise: a rounded latent near 0 is 0 (paper
section A.8.3).
With: the posterior of a variational autoencoder, the unit box.
Biased when: never, for the bound under that posterior.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gradlab.objectives.proxies._base import Proxy


class AdditiveNoise(Proxy):
    """The latent ``mean + u``."""

    name: ClassVar[str] = "noise"
    box: ClassVar[bool] = True

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """Return ``mean + noise``."""
        return mean + noise
