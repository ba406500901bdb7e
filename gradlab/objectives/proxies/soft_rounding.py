"""Soft rounding: a smooth staircase before the noise, its inverse in the mean after it.

Equation (Agustsson & Theis 2020), with r the distance to the centre of the cell, ``y - floor(y) - 1/2``::

    s(y) = floor(y) + 1/2 + tanh(alpha r) / (2 tanh(alpha/2))
    y = s(mean) + u,   u ~ U(-1/2, 1/2);   the decoder reads  E[v | s(v) + u = y] = s^-1(y - 1/2) + 1/2

Approximates: rounding, by universal quantization of ``s(mean)``; as alpha grows s becomes the staircase, as alpha goes
to 0 it becomes the identity and the proxy additive noise.
With: the derivative of the smooth staircase, which is right; over a cell its variance grows without
bound in alpha.
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
    """``s(mean) + u``, of which the decoder reads the conditional mean.

    Args:
        alpha: steepness, from 0.001 (the identity) to 14 (beyond, the inverse has no digits left in float32).

    Raises:
        GradlabError: alpha is out of that range.
    """

    alpha: float = 5.0
    name: ClassVar[str] = "soft-rounding"

    def __post_init__(self) -> None:
        if not (isinstance(self.alpha, (int, float)) and GENTLEST <= self.alpha <= STEEPEST):
            raise GradlabError(
                f"alpha of soft rounding is {self.alpha!r}: give a number from {GENTLEST:g} to {STEEPEST:g}"
            )

    def at(self, value: float) -> SoftRounding:
        """Another steepness."""
        return SoftRounding(value)

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """``s(mean) + noise``."""
        return self.staircase(mean) + noise

    def decode(self, latent: Tensor) -> Tensor:
        """``E[v | s(v) + u = latent]`` for a flat law of v."""
        return self.inverse(latent - 0.5) + 0.5

    def staircase(self, y: Tensor) -> Tensor:
        """s(y)."""
        centre = torch.floor(y) + 0.5
        return centre + torch.tanh(self.alpha * (y - centre)) / (2 * math.tanh(self.alpha / 2))

    def inverse(self, s: Tensor) -> Tensor:
        """y of s(y)."""
        centre = torch.floor(s) + 0.5
        # On the edge of a cell the argument is tanh(alpha/2); rounding must not carry it to 1.
        largest = math.tanh(self.alpha / 2)
        inner = (2 * largest * (s - centre)).clamp(-largest, largest)
        return centre + torch.atanh(inner) / self.alpha
