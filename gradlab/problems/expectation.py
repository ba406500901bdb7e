"""The paper's first example of how the box differs from a Normal: an expectation (section 2.2, eqs. 7-8)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.integrate import quad
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.problems.base import check_real, value_and_slope
from gradlab.runtime.display import shown
from gradlab.validation import checked


@shown
@checked
class BoxExpectation:
    """``E f(x)`` under ``x ~ U(theta - 1/2, theta + 1/2)``, with ``x = theta + noise`` and noise of U(-1/2, 1/2).

    Args:
        f: elementwise torch function, any shape -> the same shape and dtype.
        theta: centre of the box.

    Raises:
        GradlabError: theta is not finite, or f is not finite on the box or does not keep the shape.

    Example:
        >>> import gradlab as gl
        >>> gl.problems.BoxExpectation(lambda x: x**2, theta=0.5).exact_gradient()
        1.0
    """

    def __init__(self, f: Callable[[Tensor], Tensor], theta: float) -> None:
        """Evaluate f at the ends and the centre, once."""
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
        """Return ``E f(x)``, by adaptive Gauss-Kronrod quadrature."""

        def integrand(x: float) -> float:
            return float(self._evaluate(torch.tensor(x, dtype=torch.float64)))

        value, _ = quad(integrand, self.theta - 0.5, self.theta + 0.5, epsabs=1e-13, epsrel=1e-12, limit=200)
        return float(value)

    def exact_gradient(self) -> float:
        """Return ``d/dtheta E f(x) = f(theta + 1/2) - f(theta - 1/2)``."""
        low, high = self._evaluate(self.theta + torch.tensor([-0.5, 0.5], dtype=torch.float64)).tolist()
        return float(high - low)

    def pathwise(self, noise: Tensor) -> Tensor:
        """Return the pathwise estimate ``f'(theta + noise)`` of each draw ``[draws]`` (eq. 7): unbiased."""
        return value_and_slope(self._evaluate, (self.theta + _dense(noise)).detach())[1]

    def score(self, noise: Tensor) -> Tensor:
        """Return the score-function estimate ``f(x) d log p(x; theta)/dtheta`` of each draw ``[draws]`` (eq. 8).

        It is 0 for any f, hence biased wherever ``exact_gradient`` is not 0: it omits the walls, where the whole
        gradient arises.
        """
        return torch.zeros_like(self._evaluate(self.theta + _dense(noise)))


def _dense(noise: Tensor) -> Tensor:
    if not noise.is_floating_point() or noise.is_meta or noise.layout != torch.strided:
        raise GradlabError(f"noise is a {noise.dtype} tensor on {noise.device}: give dense floats")
    return noise
