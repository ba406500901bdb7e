"""Define posteriors that declare their properties.

Five properties determine which gradient estimators are correct for a posterior q(.; phi):

``support_moves``
    the support depends on phi, so that integrating by parts or differentiating under the integral leaves a boundary
    term (paper section 2, Property I);
``score_is_zero``
    d log q(y; phi)/dphi = 0 wherever q > 0 (paper section 2, Property II);
``walls_known``
    the posterior provides that boundary, so that an estimator can add the term;
``derivative_known``
    the posterior provides dq/dphi as a difference of two densities, so that an estimator needs no derivative of log w;
``path_is_true``
    autograd's derivative of a sample is correct in expectation (not so for straight-through rounding).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch
from scipy.special import erf, erfc, gammainccinv, gammaincinv
from torch import Tensor

from gradlab.objectives.proxies import Proxy
from gradlab.objectives.terms import Walls
from gradlab.runtime.display import arguments, shown

if TYPE_CHECKING:
    from jaxtyping import Float

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Posterior(Protocol):
    """Interface of posteriors for objectives, estimators and problems.

    Example:
        >>> import torch
        >>> from gradlab.objectives.posteriors import Normal
        >>> q = Normal(mean=torch.tensor(1.0), std=torch.tensor(2.0))
        >>> q.sample(torch.tensor([0.0, 1.0])).tolist()
        [1.0, 3.0]
        >>> q.support_moves, q.score_is_zero
        (False, False)
    """

    support_moves: ClassVar[bool]
    score_is_zero: ClassVar[bool]
    walls_known: ClassVar[bool]
    derivative_known: ClassVar[bool]
    base: ClassVar[str]

    @property
    def path_is_true(self) -> bool:
        """Whether autograd's derivative of ``sample`` is correct in expectation."""

    def sample(self, noise: Tensor) -> Tensor:
        """Transform base noise to samples.

        Args:
            noise: base noise of any shape that broadcasts with the parameters.
        """

    def log_prob(self, y: Tensor) -> Tensor:
        """Return the elementwise log density at ``y``, in nats."""

    def detached(self) -> Posterior:
        """Return the posterior with detached parameters, which leaves only the path through a sample."""


class _Declared:
    """Shows next to the parameters of a posterior what it declares."""

    def _repr_rows_(self) -> dict[str, object]:
        declared = ("support_moves", "score_is_zero", "walls_known", "derivative_known", "path_is_true")
        return {**arguments(self), **{name: getattr(self, name) for name in declared}}


@shown
@dataclass(frozen=True, eq=False)
class Box(_Declared):
    """The unit box U(center - 1/2, center + 1/2) in every coordinate: additive uniform noise (Balle et al. 2017).

    Attributes:
        center: centre of the box; broadcasts with the noise.

    Example:
        >>> import torch
        >>> from gradlab.objectives.posteriors import Box
        >>> Box(torch.tensor(2.0)).sample(torch.tensor([-0.5, 0.25])).tolist()
        [1.5, 2.25]
    """

    center: Tensor
    support_moves: ClassVar[bool] = True
    score_is_zero: ClassVar[bool] = True
    walls_known: ClassVar[bool] = True
    derivative_known: ClassVar[bool] = True
    path_is_true: ClassVar[bool] = True
    base: ClassVar[str] = "uniform"

    def sample(self, noise: Tensor) -> Tensor:
        """Return center + noise, for noise from U(-1/2, 1/2)."""
        return self.center + noise

    def log_prob(self, y: Tensor) -> Tensor:
        """Return 0, the log density on the support; samples never leave it, so no mask is applied."""
        return torch.zeros_like(y)

    def detached(self) -> Box:
        """Return the box with a detached centre."""
        return Box(self.center.detach())

    def walls(
        self, y: Float[Tensor, "batch k dim"], log_w: Callable[[Tensor], Tensor], coordinates: Tensor | None = None
    ) -> Walls:
        """Evaluate log w with one coordinate of each sample moved to either wall, in D dimensions.

        Args:
            y: samples ``[B, K, D]``, which the centre broadcasts with.
            log_w: function ``[..., D]`` -> ``[...]`` in nats.
            coordinates: ``[C]`` or ``[B, C]``, distinct coordinates to move, drawn uniformly and independently of y.
                The scale D / C accounts for the coordinates left out. All coordinates by default.

        Returns:
            ``M = 2 C`` points, the upper walls of the chosen coordinates, followed by the lower ones.

        Example:
            >>> import torch
            >>> from gradlab.objectives.posteriors import Box
            >>> q = Box(torch.zeros(3))
            >>> walls = q.walls(torch.zeros(2, 4, 3), lambda y: -y.square().sum(-1))
            >>> walls.log_w.shape
            torch.Size([2, 4, 6])
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
    """A latent drawn by a proxy of rounding (``gradlab.objectives.proxies``), with log q set to 0 as in a codec.

    Its score is dropped, so an estimator that replaces a score by a path is as wrong as on the box; therefore
    ``support_moves`` is True.

    Attributes:
        mean: the mean that the proxy rounds.
        proxy: the proxy of rounding.
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
        """Whether autograd's derivative of a sample is correct in expectation, as declared by the proxy."""
        return self.proxy.path_is_true

    def sample(self, noise: Tensor) -> Tensor:
        """Draw the latent that the prior evaluates, from noise of U(-1/2, 1/2)."""
        return self.proxy.sample(self.mean, noise)

    def log_prob(self, y: Tensor) -> Tensor:
        """Return 0: no bits-back credit for the noise."""
        return torch.zeros_like(y)

    def detached(self) -> Quantized:
        """Return the posterior with a detached mean."""
        return Quantized(self.mean.detach(), self.proxy)


@shown
@dataclass(frozen=True, eq=False)
class Normal(_Declared):
    """The Normal N(mean, std^2) in every coordinate: the control, whose support is fixed.

    Attributes:
        mean: mean; broadcasts with the noise.
        std: standard deviation; broadcasts with the noise.

    Example:
        >>> import torch
        >>> from gradlab.objectives.posteriors import Normal
        >>> q = Normal(mean=torch.tensor(1.0), std=torch.tensor(2.0))
        >>> round(q.log_prob(torch.tensor(1.0)).item(), 4)
        -1.6121
    """

    mean: Tensor
    std: Tensor
    support_moves: ClassVar[bool] = False
    score_is_zero: ClassVar[bool] = False
    walls_known: ClassVar[bool] = False
    derivative_known: ClassVar[bool] = True
    path_is_true: ClassVar[bool] = True
    base: ClassVar[str] = "normal"

    def sample(self, noise: Tensor) -> Tensor:
        """Return mean + std * noise, for noise from N(0, 1)."""
        return self.mean + self.std * noise

    def log_prob(self, y: Tensor) -> Tensor:
        """Return the elementwise log N(y; mean, std^2), in nats."""
        return log_normal(y, self.mean, self.std)

    def detached(self) -> Normal:
        """Return the Normal with detached parameters."""
        return Normal(self.mean.detach(), self.std.detach())

    def mean_pair(self, noise: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return a Weibull pair with ``dE[f]/dmean = E[f(plus) - f(minus)] / (std sqrt(2 pi))``.

        The points are ``mean +- std sqrt(-2 ln U)`` with U = Phi(noise). Source: Mohamed et al. 2020, table 1.

        Args:
            noise: standard normal noise of any shape.

        Returns:
            The points plus and minus, detached, each in the shape of ``noise``.
        """
        distance = self.std.detach() * torch.sqrt(-2 * torch.special.log_ndtr(noise))
        return self.mean.detach() + distance, self.mean.detach() - distance

    def std_pair(self, noise: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return a double-sided Maxwell and a Normal point with ``dE[f]/dstd = E[f(plus) - f(minus)] / std``.

        Both use the same noise, the first through its quantile function, so they are comonotone. Source: Mohamed et al.
        2020, table 1.

        Args:
            noise: standard normal noise of any shape.

        Returns:
            The points plus and minus, detached, each in the shape of ``noise``.
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
    """Return the elementwise log N(x; mean, std^2), in nats."""
    std = torch.as_tensor(std, dtype=x.dtype, device=x.device)
    return -0.5 * ((x - mean) / std) ** 2 - torch.log(std) - LOG_SQRT_2PI
