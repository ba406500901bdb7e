"""Define the control: the linear-Gaussian model under a Normal posterior, whose support is fixed.

noise ~ N(0, 1) --(mean + std noise)--> y --> log w(y) = log p(x, y) - log q(y; mean, std)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.objectives.posteriors import Normal
from gradlab.objectives.terms import LogTerms, Walls
from gradlab.problems._oracle import measure_valued, moments
from gradlab.problems._oracle.quadrature import Array, adaptive
from gradlab.problems._oracle.vimco import check_vimco, vimco_variance
from gradlab.problems.base import NO_OVERRIDES, Values, check_real, check_std
from gradlab.problems.linear_gaussian import GENERATIVE, LinearGaussian, generative_moments, per_coordinate
from gradlab.problems.one_latent import Moments, OneLatent, in_one_dimension, not_exact
from gradlab.validation import whole

if TYPE_CHECKING:
    from jaxtyping import Float

NVIL = not_exact(
    "no exact moments of nvil: its baselines are learned from earlier draws, so the variance of a draw depends on "
    "them; estimate it from draws, or use vimco or score"
)
RADIUS = 10.0  # standard deviations; the mass beyond is 2e-23, and normalised weights are at most 1 for any k


class NormalGaussian(OneLatent):
    """The linear-Gaussian model of :class:`BoxGaussian` under the posterior ``y ~ N(mean, std^2)``.

    Args:
        mean: mean of the posterior; ``wrt="phi"`` means the same parameter.
        std: standard deviation of the posterior.
        x: observation.
        slope: slope of the decoder.
        offset: offset of the decoder.
        likelihood_std: standard deviation of x given y.
        prior_std: standard deviation of the prior.
        dim: number of coordinates. All have these parameters; gradients with respect to a parameter of the posterior
            are taken for the first one.

    Raises:
        GradlabError: if a parameter is not finite, a standard deviation is not above 0, dim is below 1, or the
            likelihood is too narrow for the quadrature to resolve.

    Example:
        >>> import gradlab as gl
        >>> problem = gl.problems.NormalGaussian(mean=0.3, std=0.5, x=1.0, likelihood_std=0.5)
        >>> round(problem.exact_bound(8), 4), round(problem.exact_limit(), 4)
        (-1.5149, -1.4305)
    """

    def __init__(
        self,
        mean: float,
        std: float,
        x: float,
        slope: float = 1.0,
        offset: float = 0.0,
        likelihood_std: float = 1.0,
        prior_std: float = 1.0,
        dim: SupportsIndex = 1,
    ) -> None:
        """Compute the quadrature nodes once."""
        self.mean = check_real("mean", mean)
        self.std = check_std("std", std)
        self.dim = whole("dim", dim, 1, "coordinates")
        self.model = LinearGaussian(x, slope, offset, likelihood_std, prior_std)
        nodes = adaptive(self._evaluate, -RADIUS, RADIUS, lambda e: np.exp(-0.5 * e**2), panels=32)
        self.nodes = replace(nodes, dim=self.dim)

    @property
    def posterior(self) -> Normal:
        """The posterior N(mean, std^2)."""
        return Normal(torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.std, dtype=torch.float64))

    @property
    def parameters(self) -> dict[str, float]:
        """The posterior parameters ``phi`` and ``mean`` (the same one) and ``std``, and the parameters of the model."""
        return {"phi": self.mean, "mean": self.mean, "std": self.std, **self.model.parameters}

    def _evaluate(self, noise: Array) -> tuple[Array, Array]:
        """Return ``log w`` and its derivative with respect to the noise, at base noise of any shape."""
        y = self.mean + self.std * noise
        log_q = -0.5 * noise**2 - np.log(self.std) - 0.5 * np.log(2 * np.pi)
        return self.model.log_joint(y) - log_q, self.std * self.model.path(y) + noise

    def exact_limit(self) -> float:
        """Return the log evidence ``log p(x)``, the limit of the bound as k grows.

        Returns:
            The log evidence in nats.

        Example:
            >>> import gradlab as gl
            >>> round(gl.problems.NormalGaussian(mean=0.3, std=0.5, x=1.0).exact_limit(), 4)
            -1.5155
        """
        return self.dim * self.model.evidence()

    def exact_wake_gradient(self, wrt: str = "phi") -> float:
        """Return the limit of the wake-phi gradient as k grows.

        With ``p(y|x) = N(m, v)`` it is ``(m - mean)/std^2`` for the mean and ``(v + (m - mean)^2)/std^3 - 1/std`` for
        the standard deviation. Source: Bornschein & Bengio 2015.

        Args:
            wrt: ``"phi"``, ``"mean"`` or ``"std"``.

        Returns:
            The gradient in nats per unit of ``wrt``.

        Raises:
            GradlabError: if ``wrt`` is not an inference parameter.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.NormalGaussian(mean=0.3, std=1.0, x=1.0)
            >>> round(problem.exact_wake_gradient("std"), 4)
            -0.46
        """
        if self.check_wrt(wrt) in GENERATIVE:
            raise GradlabError(
                f"wrt is {wrt!r}, a parameter of the model, but wake-phi trains the posterior: give 'mean' or 'std'"
            )
        m, v = self.model.true_posterior()
        if wrt == "std":
            return (v + (m - self.mean) ** 2) / self.std**3 - 1 / self.std
        return (m - self.mean) / self.std**2

    def slopes(self, wrt: str = "phi") -> tuple[Array, Array]:
        """Return ``d log w/d wrt`` at the quadrature nodes, with and without the score of the posterior.

        With ``y = mean + std noise``, ``dy/dmean = 1`` and ``dy/dstd = noise``. Through the sample alone, log q has the
        slope ``-noise/std``; at fixed noise it equals ``-log std`` plus a constant.

        Args:
            wrt: ``"phi"``, ``"mean"`` or ``"std"``.

        Returns:
            Two arrays ``[N]`` in nats per unit of ``wrt``, the total derivative and the derivative through the sample
            only.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.NormalGaussian(mean=0.3, std=1.0, x=1.0)
            >>> total, path = problem.slopes("std")
            >>> total.shape == path.shape == problem.nodes.y.shape
            True
        """
        noise = self.nodes.y
        by_std = wrt == "std"
        jacobian = noise if by_std else np.ones_like(noise)
        joint = self.model.path(self.mean + self.std * noise)
        return joint * jacobian + (1 / self.std if by_std else 0.0), (joint + noise / self.std) * jacobian

    def _moments(self, wrt: str) -> dict[str, Moments]:
        nodes, noise = self.nodes, self.nodes.y
        if wrt in GENERATIVE:
            y = self.mean + self.std * noise
            return generative_moments(nodes, y, self.model.path(y) + noise / self.std, self.model, wrt)
        total, path = self.slopes(wrt)
        score = self._score(noise, wrt)
        table: dict[str, Moments] = {
            "pathwise": lambda k: moments.linear(nodes, total, k),
            "stl": lambda k: moments.linear(nodes, path, k),
            "score": lambda k: moments.score(nodes, score, total, k),
            "rws": lambda k: moments.linear(nodes, score, k),
            "vimco": lambda k: self._vimco(k, wrt),
            "nvil": NVIL,
            "measure-valued": lambda k: self._measure_valued(k, wrt),
        }
        if self.dim > 1:
            table |= {name: in_one_dimension(name, self.dim) for name in ("score", "vimco", "measure-valued")}
        # A Normal has no walls to add back, and the parameters of the posterior have no path through the prior.
        squared = ("dreg", "dreg-squared", "gdreg", "dreg-boundary")
        return table | dict.fromkeys(squared, lambda k: moments.squared(nodes, path, k))

    def _score(self, noise: Array, wrt: str) -> Array:
        """Return ``d log q/d wrt`` at fixed y."""
        return (noise**2 - 1 if wrt == "std" else noise) / self.std

    def _vimco(self, k: int, wrt: str) -> tuple[float, float]:
        mean = self.exact_gradient(check_vimco(k), wrt)
        return mean, vimco_variance(lambda e: (self._evaluate(e)[0], self._score(e, wrt)), k, mean)

    def _measure_valued(self, k: int, wrt: str) -> tuple[float, float]:
        mean = self.exact_gradient(k, wrt)
        return mean, measure_valued.variance(
            self._evaluate, lambda e: self._score(e, wrt), self.std, wrt == "std", k, mean
        )

    def log_terms(
        self,
        noise: Float[Tensor, "batch k *dim"],
        overrides: Mapping[str, Tensor] = NO_OVERRIDES,
        *,
        walls: bool = False,
    ) -> LogTerms:
        """Evaluate the log-weights of B draws of K samples, with the score of q kept apart from its path.

        Args:
            noise: base noise ``[B, K]`` from ``draw_noise``.
            overrides: parameter name -> ``[B]``, the value of that parameter in each draw.
            walls: whether to evaluate the log-weight at the points of the measure-valued derivative too.

        Returns:
            Terms ``[B, K, 1]`` in nats; see :meth:`Problem.log_terms`.

        Raises:
            GradlabError: if ``noise`` is not ``[B, K]``, an override is unknown or not ``[B]``, or both ``phi`` and
                ``mean`` are overridden.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.NormalGaussian(mean=0.3, std=1.0, x=1.0)
            >>> terms = problem.log_terms(problem.draw_noise(5, k=2))
            >>> terms.shape, len(terms.scores)
            ((5, 2, 1), 1)
        """
        if "phi" in overrides and "mean" in overrides:
            raise GradlabError("overrides has both 'phi' and 'mean', which are the same parameter: give only one")
        values = self._values(noise, overrides)
        mean = values["phi"] if "phi" in overrides else values["mean"]
        q = Normal(per_coordinate(mean, noise), per_coordinate(values["std"], noise))
        terms = self.model.log_terms(q, noise, values)
        if not walls:
            return terms
        if self.dim > 1:  # the first coordinate
            q, noise = Normal(q.mean[..., 0], q.std[..., 0]), noise[..., 0]
        return replace(terms, walls=self._pairs(terms, q, noise, values, live=overrides.keys()))

    def _pairs(self, terms: LogTerms, q: Normal, noise: Tensor, values: Values, live: Collection[str]) -> Walls:
        """Return the measure-valued pairs of the live parameters: the mean, the std, or both if neither is live."""
        fixed = q.detached()
        pairs = []
        if "std" not in live or len(live) > 1:
            pairs.append((q.mean_pair(noise), 1 / (math.sqrt(2 * math.pi) * fixed.std), q.mean))
        if "std" in live or not live:
            pairs.append((q.std_pair(noise), 1 / fixed.std, q.std))
        points = torch.stack([point for pair, _, _ in pairs for point in pair], dim=-1)
        log_w = self.model.moved(terms, points, values, Normal(fixed.mean[..., None], fixed.std[..., None]))
        scale = [sign * c.expand_as(noise) for _, c, _ in pairs for sign in (1, -1)]
        moves = [parameter.expand_as(noise) for _, _, parameter in pairs for _ in range(2)]
        return Walls(log_w, torch.stack(scale, dim=-1), torch.stack(moves, dim=-1), boundary=False)
