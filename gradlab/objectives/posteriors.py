"""Posteriors that declare their properties.

Five properties decide which gradient estimators are right for a posterior q(.; phi):

``support_moves``
    the support depends on phi, so that integrating by parts or differentiating under the integral leaves a boundary
    term (paper section 2, Property I);
``score_is_zero``
    d log q(y; phi)/dphi = 0 wherever q > 0 (paper section 2, Property II);
``walls_known``
    the posterior gives that boundary, so that an estimator can add the term;
``derivative_known``
    the posterior gives dq/dphi as a difference of two densities, so that an estimator needs no derivative of log w;
``path_is_true``
    autograd's derivative of a sample is its derivative in expectation (not so for straight-through rounding).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from scipy.special import erf, erfc, gammainccinv, gammaincinv
from torch import Tensor

from gradlab.objectives.proxies import Proxy
from gradlab.objectives.terms import Walls
from gradlab.runtime.display import arguments, shown

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Posterior(Protocol):
    """Interface of posteriors for objectives, estimators and problems."""

    support_moves: ClassVar[bool]
    score_is_zero: ClassVar[bool]
    walls_known: ClassVar[bool]
    derivative_known: ClassVar[bool]
    base: ClassVar[str]

    @property
    def path_is_true(self) -> bool:
        """Whether autograd's derivative of ``sample`` is right in expectation."""

    def sample(self, noise: Tensor) -> Tensor:
        """Transform base noise, of any shape that broadcasts with the parameters, to samples."""

    def log_prob(self, y: Tensor) -> Tensor:
        """Elementwise log density at ``y``, nats."""

    def detached(self) -> Posterior:
        """Return the posterior with detached parameters, so that only the path through a sample is left."""


class _Declared:
    """Shows next to the parameters of a posterior what it declares."""

    def _repr_rows_(self) -> dict[str, object]:
        declared = ("support_moves", "score_is_zero", "walls_known", "derivative_known", "path_is_true")
        return {**arguments(self), **{name: getattr(self, name) for name in declared}}


@shown
@dataclass(frozen=True, eq=False)
class Box(_Declared):
    """U(center - 1/2, center + 1/2) in every coordinate: additive uniform noise (Balle et al. 2017)."""

    center: Tensor
    support_moves: ClassVar[bool] = True
    score_is_zero: ClassVar[bool] = True
    walls_known: ClassVar[bool] = True
    derivative_known: ClassVar[bool] = True
    path_is_true: ClassVar[bool] = True
    base: ClassVar[str] = "uniform"

    def sample(self, noise: Tensor) -> Tensor:
        """center + noise, noise of U(-1/2, 1/2)."""
        return self.center + noise

    def log_prob(self, y: Tensor) -> Tensor:
        """0, the log density on the support; samples never leave it, so no mask is applied."""
        return torch.zeros_like(y)

    def detached(self) -> Box:
        """Return the box with a detached centre."""
        return Box(self.center.detach())

    def walls(self, y: Tensor, log_w: Callable[[Tensor], Tensor], coordinates: Tensor | None = None) -> Walls:
        """Evaluate log w with one coordinate of each sample moved to either wall, in D dimensions.

        Args:
            y: ``[B, K, D]`` samples; the centre broadcasts with them.
            log_w: ``[..., D]`` -> ``[...]``, nats.
            coordinates: ``[C]`` or ``[B, C]`` distinct coordinates to move, drawn uniformly and independently of y;
                the scale D / C makes up for the others. All coordinates by default.

        Returns:
            ``M = 2 C`` points: the upper walls of the chosen coordinates, then the lower ones.
        """
        draws, k, d = y.shape
        chosen = torch.arange(d, device=y.device) if coordinates is None else coordinates
        c = chosen.shape[-1]
        index = chosen.reshape(-1, 1, c).expand(draws, k, c)
        moves = self.center.expand_as(y).gather(2, index)
        half = torch.tensor([0.5, -0.5], dtype=y.dtype, device=y.device)
        ends = moves.detach()[:, :, None, :] + half[:, None]  # [B, K, 2, C]
        points = y.detach()[:, :, None, None, :].expand(draws, k, 2, c, d)
        points = points.scatter(4, index[:, :, None, :, None].expand(draws, k, 2, c, 1), ends[..., None])
        return Walls(
            log_w=log_w(points).reshape(draws, k, 2 * c),
            scale=(2 * half * d / c).repeat_interleave(c),
            moves=torch.cat([moves, moves], dim=2),
        )


@shown
@dataclass(frozen=True, eq=False)
class Quantized(_Declared):
    """A latent drawn by a proxy of rounding (``gradlab.objectives.proxies``), with log q set to 0, as in a codec.

    Its score is dropped, so that estimators that replace a score by a path are as wrong as on the box: hence
    ``support_moves``.
    """

    mean: Tensor
    proxy: Proxy
    support_moves: ClassVar[bool] = True
    score_is_zero: ClassVar[bool] = True
    walls_known: ClassVar[bool] = False
    derivative_known: ClassVar[bool] = False
    base: ClassVar[str] = "uniform"

    @property
    def path_is_true(self) -> bool:
        """The property of the proxy."""
        return self.proxy.path_is_true

    def sample(self, noise: Tensor) -> Tensor:
        """Draw the latent that the prior scores, from noise of U(-1/2, 1/2)."""
        return self.proxy.sample(self.mean, noise)

    def log_prob(self, y: Tensor) -> Tensor:
        """0: no bits-back credit for the noise."""
        return torch.zeros_like(y)

    def detached(self) -> Quantized:
        """Return the posterior with a detached mean."""
        return Quantized(self.mean.detach(), self.proxy)


@shown
@dataclass(frozen=True, eq=False)
class Normal(_Declared):
    """N(mean, std^2) in every coordinate: the control, whose support is fixed."""

    mean: Tensor
    std: Tensor
    support_moves: ClassVar[bool] = False
    score_is_zero: ClassVar[bool] = False
    walls_known: ClassVar[bool] = False
    derivative_known: ClassVar[bool] = True
    path_is_true: ClassVar[bool] = True
    base: ClassVar[str] = "normal"

    def sample(self, noise: Tensor) -> Tensor:
        """Mean + std * noise, noise of N(0, 1)."""
        return self.mean + self.std * noise

    def log_prob(self, y: Tensor) -> Tensor:
        """Elementwise log N(y; mean, std^2), nats."""
        return log_normal(y, self.mean, self.std)

    def detached(self) -> Normal:
        """Return the Normal with detached parameters."""
        return Normal(self.mean.detach(), self.std.detach())

    def mean_pair(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Weibull pair: ``dE[f]/dmean = E[f(plus) - f(minus)] / (std sqrt(2 pi))`` (Mohamed et al. 2020, table 1).

        ``mean +- std sqrt(-2 ln U)`` with U = Phi(noise), detached, each the shape of ``noise``.
        """
        distance = self.std.detach() * torch.sqrt(-2 * torch.special.log_ndtr(noise))
        return self.mean.detach() + distance, self.mean.detach() - distance

    def std_pair(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return double-sided Maxwell and Normal: ``dE[f]/dstd = E[f(plus) - f(minus)] / std`` (the same table).

        Both use the same noise, the first through its quantile function, so that they are comonotone; detached.
        """
        magnitude = np.abs(noise.detach().double().cpu().numpy())
        # |M| has the chi distribution with 3 degrees of freedom, |noise| with 1: equate the probability of the smaller
        # tail, so that neither end loses digits.
        inner = gammaincinv(1.5, erf(magnitude / math.sqrt(2)))
        outer = gammainccinv(1.5, erfc(magnitude / math.sqrt(2)))
        maxwell = torch.as_tensor(np.sqrt(2 * np.where(magnitude < 1, inner, outer))).to(noise)
        mean, std = self.mean.detach(), self.std.detach()
        return mean + std * torch.copysign(maxwell, noise), mean + std * noise


def log_normal(x: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """Elementwise log N(x; mean, std^2), nats."""
    std = torch.as_tensor(std, dtype=x.dtype, device=x.device)
    return -0.5 * ((x - mean) / std) ** 2 - torch.log(std) - LOG_SQRT_2PI
