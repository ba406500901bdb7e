"""Define the paper's first example of how the box differs from a Normal: an expectation (section 2.2, eqs. 7-8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from scipy.integrate import quad
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.problems.base import check_real, value_and_slope
from gradlab.runtime.display import shown
from gradlab.validation import checked

if TYPE_CHECKING:
    from jaxtyping import Float


@shown
@checked
class BoxExpectation:
    """The expectation ``E f(x)`` under ``x ~ U(theta - 1/2, theta + 1/2)``.

    Samples are ``x = theta + noise`` with noise from U(-1/2, 1/2).

    Args:
        f: elementwise torch function that keeps shape and dtype.
        theta: centre of the box.

    Raises:
        GradlabError: if theta is not finite, or ``f`` is not finite on the box or does not keep the shape.

    Example:
        >>> import gradlab as gl
        >>> gl.problems.BoxExpectation(lambda x: x**2, theta=0.5).exact_gradient()
        1.0
    """

    def __init__(self, f: Callable[[Tensor], Tensor], theta: float) -> None:
        """Evaluate f at the ends and the centre once."""
        self.f = f
        self.theta = check_real("theta", theta)
        self._evaluate(self.theta + torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64))

    def _evaluate(self, x: Tensor) -> Tensor:
        value = self.f(x)
        if not isinstance(value, Tensor) or value.shape != x.shape:
            raise GradlabError(f"f does not return a tensor of the shape of x, {tuple(x.shape)}: make it elementwise")
        if not torch.isfinite(value).all():
            raise GradlabError(
                f"f is not finite on the box around theta = {self.theta:.6g}: give an f that is bounded there"
            )
        return value

    def exact_value(self) -> float:
        """Return ``E f(x)``, by adaptive Gauss-Kronrod quadrature.

        Returns:
            The expectation.

        Example:
            >>> import gradlab as gl
            >>> round(gl.problems.BoxExpectation(lambda x: x**2, theta=0.5).exact_value(), 4)
            0.3333
        """

        def integrand(x: float) -> float:
            return float(self._evaluate(torch.tensor(x, dtype=torch.float64)))

        value, _ = quad(integrand, self.theta - 0.5, self.theta + 0.5, epsabs=1e-13, epsrel=1e-12, limit=200)
        return float(value)

    def exact_gradient(self) -> float:
        """Return ``d/dtheta E f(x) = f(theta + 1/2) - f(theta - 1/2)``.

        Returns:
            The derivative per unit of theta.
        """
        low, high = self._evaluate(self.theta + torch.tensor([-0.5, 0.5], dtype=torch.float64)).tolist()
        return float(high - low)

    def pathwise(self, noise: Float[Tensor, "*draws"]) -> Float[Tensor, "*draws"]:
        """Return the pathwise estimate ``f'(theta + noise)`` of each draw, which is unbiased (eq. 7).

        Args:
            noise: noise ``[draws]`` from U(-1/2, 1/2).

        Returns:
            Estimates ``[draws]``.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxExpectation(lambda x: x**2, theta=0.5)
            >>> problem.pathwise(torch.tensor([-0.5, 0.0, 0.5])).tolist()
            [0.0, 1.0, 2.0]
        """
        return value_and_slope(self._evaluate, (self.theta + _dense(noise)).detach())[1]

    def score(self, noise: Float[Tensor, "*draws"]) -> Float[Tensor, "*draws"]:
        """Return the score-function estimate ``f(x) d log p(x; theta)/dtheta`` of each draw (eq. 8).

        It is 0 for any f, and therefore biased unless ``exact_gradient`` is 0: it omits the walls, from which the whole
        gradient arises.

        Args:
            noise: noise ``[draws]`` from U(-1/2, 1/2).

        Returns:
            Zeros ``[draws]``.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxExpectation(lambda x: x**2, theta=0.5)
            >>> problem.score(torch.tensor([-0.5, 0.0, 0.5])).tolist()
            [0.0, 0.0, 0.0]
        """
        return torch.zeros_like(self._evaluate(self.theta + _dense(noise)))


def _dense(noise: Tensor) -> Tensor:
    if not noise.is_floating_point() or noise.is_meta or noise.layout != torch.strided:
        raise GradlabError(f"noise is a {noise.dtype} tensor on {noise.device}: give dense floats")
    return noise
