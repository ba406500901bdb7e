"""Stochastic Gumbel annealing: a relaxed random choice between rounding down and rounding up.

Equation (Yang et al. 2020), with d = mean - floor(mean) and temperature tau::

    y = floor(mean) + w,   w = sigmoid((atanh(d)/tau - atanh(1 - d)/tau + g)/tau),   g ~ Logistic(0, 1)

which is the two-way Gumbel softmax with logits ``-atanh(d)/tau`` (down) and ``-atanh(1 - d)/tau`` (up): the difference
of two Gumbels is logistic.

Approximates: rounding, as tau goes to 0.
With: the derivative of the relaxed choice, which is right; its variance grows as tau falls.
Biased when: never, for the bound of its own forward pass, which depends on tau.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.proxies._base import Proxy

EDGE = 1e-5  # closer than this to an integer the choice is made: atanh is unbounded there (as in the authors' code)


@dataclass(frozen=True)
class GumbelAnnealing(Proxy):
    """A relaxed choice between the two neighbouring integers.

    Args:
        temperature: tau, above 0 and at most 1; Yang et al. anneal it down from 1/2.

    Raises:
        GradlabError: temperature is out of that range.
    """

    temperature: float = 0.5
    name: ClassVar[str] = "sga"

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 1:
            raise GradlabError(f"temperature of sga is {self.temperature}: give one above 0 and at most 1")

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """The relaxed choice; the logistic g is ``logit(noise + 1/2)``."""
        down = torch.floor(mean).detach()
        d = (mean - down).clamp(EDGE, 1 - EDGE)
        g = torch.logit(noise + 0.5)
        return down + torch.sigmoid(((torch.atanh(d) - torch.atanh(1 - d)) / self.temperature + g) / self.temperature)
