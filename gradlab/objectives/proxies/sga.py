"""Stochastic Gumbel annealing: a relaxed random choice between rounding down and rounding up.

Equation (Yang et al. 2020), with d = mean - floor(mean) and temperature tau::

    y = floor(mean) + w,   w = sigmoid((atanh(d)/tau - atanh(1 - d)/tau + g)/tau),   g ~ Logistic(0, 1)

which is the two-way Gumbel softmax with logits ``-atanh(d)/tau`` (down) and ``-atanh(1 - d)/tau`` (up), since the
difference of two Gumbels is logistic.

Approximates: rounding, as tau goes to 0.
With: the derivative of the relaxed choice, which is correct; its variance over a cell grows as tau falls.
Biased when: never, for the bound of its own forward pass, which depends on tau.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.objectives.proxies._base import Proxy

# Distances to an integer are clamped to this value, because atanh is unbounded (as in the authors' code): at tau = 1
# the mean of y is then still 0.01 away from the integer. Integers themselves are left unchanged.
EDGE = 1e-5


@dataclass(frozen=True)
class GumbelAnnealing(Proxy):
    """A relaxed random choice between the two neighbouring integers.

    Args:
        temperature: tau, above 0 and at most 1. Yang et al. anneal it, starting from 1/2.

    Raises:
        GradlabError: if the temperature is out of range.
    """

    temperature: float = 0.5
    name: ClassVar[str] = "sga"

    def __post_init__(self) -> None:
        if not (isinstance(self.temperature, (int, float)) and 0 < self.temperature <= 1):
            raise GradlabError(f"temperature of sga is {self.temperature!r}: give a number above 0 and at most 1")

    def at(self, value: float) -> GumbelAnnealing:
        """Return the proxy with another temperature."""
        return GumbelAnnealing(value)

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """Return the relaxed choice; the logistic g is ``logit(noise + 1/2)``."""
        down = torch.floor(mean).detach()
        above = mean - down
        d = above.clamp(EDGE, 1 - EDGE)
        odds = (torch.atanh(d) - torch.atanh(1 - d)) / self.temperature
        up = torch.sigmoid((odds + torch.logit(noise + 0.5)) / self.temperature)
        return down + torch.where(above == 0, 0.0, up)
