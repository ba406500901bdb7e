"""The linear-Gaussian model that the box and the Normal posterior are tried on.

y ~ N(0, prior_std^2) --(slope, offset)--> x ~ N(slope y + offset, likelihood_std^2)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, pi

import numpy as np
from torch import Tensor

from gradlab.objectives.posteriors import log_normal
from gradlab.objectives.terms import PriorPath
from gradlab.problems._oracle import moments
from gradlab.problems._oracle.quadrature import Array, Nodes
from gradlab.problems._oracle.vimco import check_vimco
from gradlab.problems.base import Moments, check_real, check_std, in_one_dimension

GENERATIVE = ("prior_std", "slope", "offset", "likelihood_std")
WEIGHTED = (
    "pathwise", "score", "stl", "dreg", "dreg-squared", "gdreg", "nvil", "rws", "dreg-boundary", "measure-valued"
)  # fmt: skip


@dataclass(frozen=True)
class LinearGaussian:
    """``log p(x|y) + log p(y)`` and its derivatives, in nats.

    Attributes:
        x: the observation.
        slope: of the decoder.
        offset: of the decoder.
        likelihood_std: standard deviation of x given y.
        prior_std: standard deviation of y.
    """

    x: float
    slope: float
    offset: float
    likelihood_std: float
    prior_std: float

    @classmethod
    def checked(cls, x: float, slope: float, offset: float, likelihood_std: float, prior_std: float) -> LinearGaussian:
        """The model, of numbers that a user gave.

        Raises:
            GradlabError: one is not finite, or a standard deviation is not above 0.
        """
        return cls(
            x=check_real("x", x),
            slope=check_real("slope", slope),
            offset=check_real("offset", offset),
            likelihood_std=check_std("likelihood_std", likelihood_std),
            prior_std=check_std("prior_std", prior_std),
        )

    @property
    def parameters(self) -> dict[str, float]:
        """The generative parameters by name."""
        return {name: getattr(self, name) for name in GENERATIVE}

    def log_joint(self, y: Array) -> Array:
        """``log p(x, y)``, the shape of ``y``."""
        residual = (self.x - self.slope * y - self.offset) / self.likelihood_std
        constant = log(2 * pi) + log(self.likelihood_std) + log(self.prior_std)
        return -0.5 * residual**2 - 0.5 * (y / self.prior_std) ** 2 - constant

    def path(self, y: Array) -> Array:
        """``d log p(x, y)/dy``."""
        residual = (self.x - self.slope * y - self.offset) / self.likelihood_std**2
        return self.slope * residual - y / self.prior_std**2

    def path_of_likelihood(self, y: Array) -> Array:
        """``d log p(x|y)/dy``."""
        return self.slope * (self.x - self.slope * y - self.offset) / self.likelihood_std**2

    def generative(self, y: Array, wrt: str) -> Array:
        """``d log p(x, y)/d wrt`` at fixed y, for one of ``GENERATIVE``."""
        residual = self.x - self.slope * y - self.offset
        variance = self.likelihood_std**2
        if wrt == "prior_std":
            return y**2 / self.prior_std**3 - 1 / self.prior_std
        if wrt == "slope":
            return residual * y / variance
        if wrt == "offset":
            return residual / variance
        return np.asarray(residual**2 / self.likelihood_std**3 - 1 / self.likelihood_std)

    def true_posterior(self) -> tuple[float, float]:
        """Mean and variance of ``p(y|x)``, which is Normal."""
        precision = (self.slope / self.likelihood_std) ** 2 + 1 / self.prior_std**2
        return self.slope * (self.x - self.offset) / self.likelihood_std**2 / precision, 1 / precision

    def evidence(self) -> float:
        """``log p(x)``, nats."""
        variance = self.likelihood_std**2 + (self.slope * self.prior_std) ** 2
        return -0.5 * (self.x - self.offset) ** 2 / variance - 0.5 * log(2 * pi * variance)

    def log_lik(self, y: Tensor, parameters: Mapping[str, Tensor | float]) -> Tensor:
        """``log p(x|y)`` elementwise, at parameters that broadcast with ``y``."""
        mean = parameters["slope"] * y + parameters["offset"]
        return log_normal(y.new_tensor(self.x), mean, parameters["likelihood_std"])

    def log_prior(self, y: Tensor, parameters: Mapping[str, Tensor | float]) -> Tensor:
        """``log p(y)`` elementwise, at parameters that broadcast with ``y``."""
        return log_normal(y, 0.0, parameters["prior_std"])

    def prior_paths(self, y: Tensor, parameters: Mapping[str, Tensor | float]) -> tuple[PriorPath, ...]:
        """The path ``T(e; prior_std) = prior_std e`` through the samples, where ``prior_std`` is live.

        ``y [B, K]`` is then made to require a gradient, since the estimators that read the path differentiate by y.
        """
        std = parameters["prior_std"]
        if not isinstance(std, Tensor) or not std.requires_grad:
            return ()
        fixed = y.detach()
        y.requires_grad_()
        value = std * (fixed / std.detach())
        return (PriorPath(value, log_normal(fixed, 0.0, std)[..., None]),)


def generative_moments(nodes: Nodes, y: Array, path: Array, model: LinearGaussian, wrt: str) -> dict[str, Moments]:
    """Exact moments by a generative parameter: estimators keep ``sum w~_i d log w_i/d wrt``.

    They differ in how the inference parameters are treated, all but ``gdreg`` by the parameter of the prior: there
    ``sum_i [(w~_i - w~_i^2) d_y log w_i - w~_i d_y (log p(y_i) - log q(y_i))] y_i / prior_std`` (Bauer & Mnih 2021),
    in which ``d_y log w - d_y (log p(y) - log q)`` is ``d_y log p(x|y)``.

    Args:
        nodes: the posterior ``[N]``.
        y: the samples there ``[N]``.
        path: ``d log w/dy`` there ``[N]``, log q at fixed parameters.
        model: the model.
        wrt: one of ``GENERATIVE``.
    """
    a = model.generative(y, wrt)
    known: dict[str, Moments] = {name: lambda k: moments.shared(nodes, a, k) for name in WEIGHTED}
    known["vimco"] = lambda k: moments.shared(nodes, a, check_vimco(k))
    if wrt == "prior_std" and nodes.dim > 1:
        known["gdreg"] = in_one_dimension("gdreg by prior_std", nodes.dim)
    elif wrt == "prior_std":
        moves = y / model.prior_std
        known["gdreg"] = lambda k: moments.mixed(nodes, model.path_of_likelihood(y) * moves, -path * moves, k)
    return known
