"""The control: the linear-Gaussian model under a Normal posterior, whose support is fixed.

noise ~ N(0, 1) --(mean + std noise)--> y --> log w(y) = log p(x, y) - log q(y; mean, std)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import SupportsIndex

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

NVIL = not_exact(
    "no exact moments of nvil: its baselines are learned from the draws before, so that a draw has a variance "
    "only given those; measure it on draws, or ask for vimco or score"
)
RADIUS = 10.0  # standard deviations; the mass beyond is 2e-23, times the weights w~ <= 1 of any k


class NormalGaussian(OneLatent):
    """``y ~ N(mean, std^2)`` and the model of :class:`BoxGaussian`.

    Args:
        mean: of the posterior; ``wrt="phi"`` means the same parameter.
        std: of the posterior.
        x: observation.
        slope: of the decoder.
        offset: of the decoder.
        likelihood_std: standard deviation of x given y.
        prior_std: standard deviation of the prior.
        dim: coordinates, all with these parameters; parameters of the posterior belong to the first one.

    Raises:
        GradlabError: a parameter is not finite, a standard deviation is not above 0, dim is below 1, or the likelihood
            is too narrow to be resolved.
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
        """Lay out the quadrature, once."""
        self.mean = check_real("mean", mean)
        self.std = check_std("std", std)
        self.dim = whole("dim", dim, 1, "coordinates")
        self.model = LinearGaussian(x, slope, offset, likelihood_std, prior_std)
        nodes = adaptive(self._evaluate, -RADIUS, RADIUS, lambda e: np.exp(-0.5 * e**2), panels=32)
        self.nodes = replace(nodes, dim=self.dim)

    @property
    def posterior(self) -> Normal:
        """N(mean, std^2)."""
        return Normal(torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.std, dtype=torch.float64))

    @property
    def parameters(self) -> dict[str, float]:
        """``phi`` and ``mean`` (the same), ``std``, and the generative parameters."""
        return {"phi": self.mean, "mean": self.mean, "std": self.std, **self.model.parameters}

    def _evaluate(self, noise: Array) -> tuple[Array, Array]:
        """``log w`` and its derivative by the noise, at base noise of any shape."""
        y = self.mean + self.std * noise
        log_q = -0.5 * noise**2 - np.log(self.std) - 0.5 * np.log(2 * np.pi)
        return self.model.log_joint(y) - log_q, self.std * self.model.path(y) + noise

    def exact_limit(self) -> float:
        """Return ``log p(x)``, nats."""
        return self.dim * self.model.evidence()

    def exact_wake_gradient(self, wrt: str = "phi") -> float:
        """Return the limit of the wake-phi gradient.

        With ``p(y|x) = N(m, v)`` it is ``(m - mean)/std^2`` for the mean and ``(v + (m - mean)^2)/std^3 - 1/std`` for
        std.

        Raises:
            GradlabError: ``wrt`` is not an inference parameter.
        """
        if self.check_wrt(wrt) in GENERATIVE:
            raise GradlabError(f"wake-phi is of the posterior, and {wrt!r} is of the model: give 'mean' or 'std'")
        m, v = self.model.true_posterior()
        if wrt == "std":
            return (v + (m - self.mean) ** 2) / self.std**3 - 1 / self.std
        return (m - self.mean) / self.std**2

    def slopes(self, wrt: str = "phi") -> tuple[Array, Array]:
        """Return ``d log w/d wrt`` at the nodes, with and without the score of the posterior.

        With ``y = mean + std noise``, ``dy/dmean = 1`` and ``dy/dstd = noise``. Through the sample alone log q has
        slope ``-noise/std``; at noise held fixed it is ``-log std + const``.
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
        # There is no wall to put back, and parameters of the posterior have no path through the prior.
        squared = ("dreg", "dreg-squared", "gdreg", "dreg-boundary")
        return table | dict.fromkeys(squared, lambda k: moments.squared(nodes, path, k))

    def _score(self, noise: Array, wrt: str) -> Array:
        """``d log q/d wrt`` at y held fixed."""
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
        self, noise: Tensor, overrides: Mapping[str, Tensor] = NO_OVERRIDES, *, walls: bool = False
    ) -> LogTerms:
        """Evaluate log-weights ``[B, K, 1]``, with the score of q apart from its path; see :meth:`Problem.log_terms`.

        Raises:
            GradlabError: as for :meth:`Problem.log_terms`, or both ``phi`` and ``mean`` are overridden.
        """
        if "phi" in overrides and "mean" in overrides:
            raise GradlabError("overrides hold both 'phi' and 'mean', which are the same parameter: give one of them")
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
        """The measure-valued pairs of the live parameters: of the mean, of the std, or of both where none is live."""
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
