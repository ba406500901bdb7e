"""Soft rounding: a smooth staircase before the noise, and the conditional mean after it.

Equation (Agustsson & Theis 2020), with r the distance to the centre of the cell, ``y - floor(y) - 1/2``::

    s(y) = floor(y) + 1/2 + tanh(alpha r) / (2 tanh(alpha/2))
    y = s(mean) + u,   u ~ U(-1/2, 1/2);   the decoder reads  E[v | s(v) + u = y] = s^-1(y - 1/2) + 1/2

Approximates: rounding, by universal quantization of ``s(mean)``. As alpha grows, s becomes the staircase; as alpha goes
to 0, s becomes the identity and the proxy becomes additive noise.
With: the derivative of the smooth staircase, which is correct; its variance over a cell grows without bound in alpha.
Biased when: never, for the bound of its own forward pass, which depends on alpha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.objectives.proxies._base import Proxy

GENTLEST, STEEPEST = 1e-3, 14.0


@dataclass(frozen=True)
class SoftRounding(Proxy):
    """The latent ``s(mean) + u``, of which the decoder reads the conditional mean.

    Args:
        alpha: steepness, from 0.001 (the identity) to 14 (the inverse has no digits left in float32 beyond).

    Raises:
        GradlabError: if alpha is out of range.
    """

    alpha: float = 5.0
    name: ClassVar[str] = "soft-rounding"

    def __post_init__(self) -> None:
        if not (isinstance(self.alpha, (int, float)) and GENTLEST <= self.alpha <= STEEPEST):
            raise GradlabError(
                f"alpha of soft rounding is {self.alpha!r}: give a number from {GENTLEST:g} to {STEEPEST:g}"
            )

    def at(self, value: float) -> SoftRounding:
        """Return the proxy with another steepness."""
        return SoftRounding(value)

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """Return ``s(mean) + noise``."""
        return self.staircase(mean) + noise

    def decode(self, latent: Tensor) -> Tensor:
        """Return ``E[v | s(v) + u = latent]`` for a uniform distribution of v."""
        return self.inverse(latent - 0.5) + 0.5

    def staircase(self, y: Tensor) -> Tensor:
        """Return s(y)."""
        centre = torch.floor(y) + 0.5
        return centre + torch.tanh(self.alpha * (y - centre)) / (2 * math.tanh(self.alpha / 2))

    def inverse(self, s: Tensor) -> Tensor:
        """Return the y for which s(y) is ``s``."""
        centre = torch.floor(s) + 0.5
        # At the edge of a cell the argument is tanh(alpha/2); a rounding error must not move it to 1.
        largest = math.tanh(self.alpha / 2)
        inner = (2 * largest * (s - centre)).clamp(-largest, largest)
        return centre + torch.atanh(inner) / self.alpha
