"""The paper's first example of why the box is not a Normal: an expectation under it (section 2.2, eqs. 7-8)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.integrate import quad
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.problems.base import check_real
from gradlab.validation import checked_class


class BoxExpectation:
    """``E f(x)`` under ``x ~ U(theta - 1/2, theta + 1/2)``, with ``x = theta + noise`` and noise of U(-1/2, 1/2).

    Args:
        f: elementwise torch function, any shape -> the same shape and dtype.
        theta: centre of the box.

    Raises:
        GradlabError: theta is not finite, or f is not finite on the box or does not keep the shape.
    """

    def __init__(self, f: Callable[[Tensor], Tensor], theta: float) -> None:
        """Evaluates f at the ends and the centre, once."""
        self.f = f
        self.theta = check_real("theta", theta)
        self._evaluate(self.theta + torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64))

    def _evaluate(self, x: Tensor) -> Tensor:
        value = self.f(x)
        if not isinstance(value, Tensor) or value.shape != x.shape:
            raise GradlabError(f"f must return a tensor of the shape of x, {tuple(x.shape)}: make it elementwise")
        if not torch.isfinite(value).all():
            raise GradlabError(
                f"f is not finite on the box around theta = {self.theta:.6g}: give an f that is bounded there"
            )
        return value

    def exact_value(self) -> float:
        """``E f(x)``, by adaptive Gauss-Kronrod quadrature."""

        def integrand(x: float) -> float:
            return float(self._evaluate(torch.tensor(x, dtype=torch.float64)))

        value, _ = quad(integrand, self.theta - 0.5, self.theta + 0.5, epsabs=1e-13, epsrel=1e-12, limit=200)
        return float(value)

    def exact_gradient(self) -> float:
        """``d/dtheta E f(x) = f(theta + 1/2) - f(theta - 1/2)``."""
        low, high = self._evaluate(self.theta + torch.tensor([-0.5, 0.5], dtype=torch.float64)).tolist()
        return float(high - low)

    def pathwise(self, noise: Tensor) -> Tensor:
        """The pathwise estimate ``f'(theta + noise)`` of each draw ``[draws]`` (eq. 7): unbiased."""
        x = (self.theta + _dense(noise)).detach().requires_grad_()
        with torch.enable_grad():
            value = self._evaluate(x)
        if not value.requires_grad:  # constant
            return torch.zeros_like(noise)
        (slope,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
        return torch.zeros_like(noise) if slope is None else slope

    def score(self, noise: Tensor) -> Tensor:
        """The score-function estimate ``f(x) d log p(x; theta)/dtheta`` of each draw ``[draws]`` (eq. 8).

        It is 0 on the support, whatever f is: wrong wherever ``exact_gradient`` is not 0, because the walls, where all
        of the gradient sits, are left out.
        """
        return torch.zeros_like(self._evaluate(self.theta + _dense(noise)))


def _dense(noise: Tensor) -> Tensor:
    if not noise.is_floating_point() or noise.is_meta or noise.layout != torch.strided:
        raise GradlabError(f"noise is a {noise.dtype} tensor on {noise.device}: give dense floats")
    return noise


checked_class(BoxExpectation)
