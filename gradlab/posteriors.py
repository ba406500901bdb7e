"""Posteriors that say of themselves what an estimator needs to know.

Three facts decide which gradient estimators are right for a posterior q(.; phi), and each posterior states them:

``support_moves``
    its support depends on phi, so that integrating by parts or differentiating under the integral leaves a term at the
    boundary (paper section 2, Property I);
``score_is_zero``
    d log q(y; phi)/dphi = 0 wherever q > 0 (paper section 2, Property II);
``walls_known``
    it can say where that boundary is, so that an estimator can put the term back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Posterior(Protocol):
    """What objectives, estimators and problems ask of a posterior."""

    support_moves: ClassVar[bool]
    score_is_zero: ClassVar[bool]
    walls_known: ClassVar[bool]
    base: ClassVar[str]

    def sample(self, noise: Tensor) -> Tensor:
        """Samples from base noise of any shape that broadcasts with the parameters."""

    def log_prob(self, y: Tensor) -> Tensor:
        """Elementwise log density at ``y``, nats."""

    def detached(self) -> Posterior:
        """The same posterior with its parameters detached (only the path through a sample is left)."""


@dataclass(frozen=True, eq=False)
class Box:
    """U(center - 1/2, center + 1/2) in every coordinate: additive uniform noise (Balle et al. 2017)."""

    center: Tensor
    support_moves: ClassVar[bool] = True
    score_is_zero: ClassVar[bool] = True
    walls_known: ClassVar[bool] = True
    base: ClassVar[str] = "uniform"

    def sample(self, noise: Tensor) -> Tensor:
        """center + noise, noise of U(-1/2, 1/2)."""
        return self.center + noise

    def log_prob(self, y: Tensor) -> Tensor:
        """0 on the support. Samples of this box are never off it, so no mask is applied."""
        return torch.zeros_like(y)

    def detached(self) -> Box:
        """The box with its centre detached."""
        return Box(self.center.detach())


@dataclass(frozen=True, eq=False)
class Normal:
    """N(mean, std^2) in every coordinate: the control, whose support is fixed."""

    mean: Tensor
    std: Tensor
    support_moves: ClassVar[bool] = False
    score_is_zero: ClassVar[bool] = False
    walls_known: ClassVar[bool] = False
    base: ClassVar[str] = "normal"

    def sample(self, noise: Tensor) -> Tensor:
        """Mean + std * noise, noise of N(0, 1)."""
        return self.mean + self.std * noise

    def log_prob(self, y: Tensor) -> Tensor:
        """Elementwise log N(y; mean, std^2), nats."""
        return log_normal(y, self.mean, self.std)

    def detached(self) -> Normal:
        """The Normal with both parameters detached."""
        return Normal(self.mean.detach(), self.std.detach())


def log_normal(x: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """Elementwise log N(x; mean, std^2), nats."""
    std = torch.as_tensor(std, dtype=x.dtype, device=x.device)
    return -0.5 * ((x - mean) / std) ** 2 - torch.log(std) - LOG_SQRT_2PI
