"""The control: the same linear-Gaussian model under a Normal posterior, whose support is fixed.

noise ~ N(0, 1) --(mean + std noise)--> y --> log w(y) = log p(x, y) - log q(y; mean, std)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gradlab.errors import GradlabError, NotExact
from gradlab.objectives.posteriors import Normal
from gradlab.objectives.terms import LogTerms, Tap, Walls
from gradlab.problems import product_terms
from gradlab.problems._oracle import measure_valued, moments
from gradlab.problems._oracle.quadrature import Array, Nodes, adaptive
from gradlab.problems._oracle.vimco import check_vimco, vimco_variance
from gradlab.problems.base import (
    NO_OVERRIDES,
    Moments,
    Problem,
    check_dim,
    check_k,
    check_real,
    check_std,
    in_one_dimension,
)
from gradlab.problems.linear_gaussian import GENERATIVE, LinearGaussian, generative_moments

RADIUS = 10.0  # standard deviations; the mass beyond is 2e-23, times the weights w~ <= 1 of any k


class NormalGaussian(Problem):
    """``y ~ N(mean, std^2)`` and the model of :class:`BoxGaussian`.

    Args:
        mean: of the posterior; ``wrt="phi"`` is another name for it.
        std: of the posterior.
        x: observation.
        slope: of the decoder.
        offset: of the decoder.
        likelihood_std: standard deviation of x given y.
        prior_std: standard deviation of the prior.
        dim: coordinates, all with these parameters; ``wrt`` of the posterior is the first one's.

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
        dim: int = 1,
    ) -> None:
        """Lays out the quadrature, once."""
        self.mean = check_real("mean", mean)
        self.std = check_std("std", std)
        self.dim = check_dim(dim)
        self.model = LinearGaussian.checked(x, slope, offset, likelihood_std, prior_std)
        nodes = adaptive(self._evaluate, -RADIUS, RADIUS, lambda e: np.exp(-0.5 * e**2), panels=32)
        self._nodes = replace(nodes, dim=self.dim)

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

    def exact_bound(self, k: int) -> float:
        """``E log (1/k sum_i w_i)``, nats."""
        return moments.bound(self._nodes, check_k(k))

    def exact_gradient(self, k: int, wrt: str = "phi") -> float:
        """``dL_k/d wrt``: the mean of the pathwise estimator, which is unbiased on a fixed support."""
        return self.exact_moments("pathwise", k, wrt)[0]

    def exact_limit(self) -> float:
        """``log p(x)``, nats."""
        return self.dim * self.model.evidence()

    def exact_concentration(self, k: int) -> float:
        """``E sum_i w~_i^2``; see :meth:`Problem.exact_concentration`."""
        return moments.concentration(self._nodes, check_k(k))

    def exact_wake_gradient(self, wrt: str = "phi") -> float:
        """``(m - mean)/std^2`` by the mean, ``(v + (m - mean)^2)/std^3 - 1/std`` by std, with ``p(y|x) = N(m, v)``.

        Raises:
            GradlabError: ``wrt`` is not an inference parameter.
        """
        if self.check_wrt(wrt) in GENERATIVE:
            raise GradlabError(f"wake-phi is of the posterior, and {wrt!r} is of the model: give 'mean' or 'std'")
        m, v = self.model.true_posterior()
        if wrt == "std":
            return (v + (m - self.mean) ** 2) / self.std**3 - 1 / self.std
        return (m - self.mean) / self.std**2

    @property
    def nodes(self) -> Nodes:
        """The quadrature over the base noise: points, probabilities and log-weights of one coordinate."""
        return self._nodes

    def slopes(self, wrt: str = "phi") -> tuple[Array, Array]:
        """``d log w/d wrt`` at the nodes, with and without the score of the posterior.

        With ``y = mean + std noise``, ``dy/dmean = 1`` and ``dy/dstd = noise``. Through the sample alone log q has
        slope ``-noise/std``; at noise held fixed it is ``-log std + const``.
        """
        noise = self._nodes.y
        by_std = wrt == "std"
        jacobian = noise if by_std else np.ones_like(noise)
        joint = self.model.path(self.mean + self.std * noise)
        return joint * jacobian + (1 / self.std if by_std else 0.0), (joint + noise / self.std) * jacobian

    def _moments(self, wrt: str) -> dict[str, Moments]:
        nodes, noise = self._nodes, self._nodes.y
        if wrt in GENERATIVE:
            y = self.mean + self.std * noise
            return generative_moments(nodes, y, self.model.path(y) + noise / self.std, self.model, wrt)
        total, path = self.slopes(wrt)
        score = self._score(noise, wrt)
        known: dict[str, Moments] = {
            "pathwise": lambda k: moments.linear(nodes, total, k),
            "stl": lambda k: moments.linear(nodes, path, k),
            "score": lambda k: moments.score(nodes, score, total, k),
            "rws": lambda k: moments.linear(nodes, score, k),
            "vimco": lambda k: self._vimco(k, wrt),
            "nvil": lambda k: self._nvil(),
            "measure-valued": lambda k: self._measure_valued(k, wrt),
        }
        if self.dim > 1:
            known |= {name: in_one_dimension(name, self.dim) for name in ("score", "vimco", "measure-valued")}
        # No wall to put back, and by the posterior's own parameters no path through the prior's.
        squared = ("dreg", "dreg-squared", "gdreg", "dreg-boundary")
        return known | {name: lambda k: moments.squared(nodes, path, k) for name in squared}

    def _score(self, noise: Array, wrt: str) -> Array:
        """``d log q/d wrt`` at y held fixed."""
        return (noise**2 - 1 if wrt == "std" else noise) / self.std

    def _vimco(self, k: int, wrt: str) -> tuple[float, float]:
        mean = self.exact_gradient(check_vimco(k), wrt)
        return mean, vimco_variance(lambda e: (self._evaluate(e)[0], self._score(e, wrt)), k, mean)

    def _nvil(self) -> tuple[float, float]:
        raise NotExact(
            "no exact moments of nvil: its baselines are learned from the draws before, so that a draw has a variance "
            "only given those; measure it on draws, or ask for vimco or score"
        )

    def _measure_valued(self, k: int, wrt: str) -> tuple[float, float]:
        mean = self.exact_gradient(k, wrt)
        return mean, measure_valued.variance(
            self._evaluate, lambda e: self._score(e, wrt), self.std, wrt == "std", k, mean
        )

    def log_terms(
        self, noise: Tensor, overrides: Mapping[str, Tensor] = NO_OVERRIDES, *, walls: bool = False
    ) -> LogTerms:
        """Log-weights ``[B, K, 1]``, with the score of q apart from its path; see :meth:`Problem.log_terms`."""
        if "phi" in overrides and "mean" in overrides:
            raise GradlabError("overrides hold both 'phi' and 'mean', which are the same parameter: give one of them")
        values = self._values(noise, overrides)
        mean = values["phi"] if "phi" in overrides else values["mean"]
        if self.dim > 1:
            live = frozenset(overrides)
            return product_terms.normal_terms(self.model, values | {"mean": mean}, noise, walls, live)
        q = Normal(*(torch.as_tensor(v, dtype=noise.dtype, device=noise.device) for v in (mean, values["std"])))
        y = q.sample(noise)
        paths = self.model.prior_paths(y, values)
        lik, py, own = y.view_as(y), y.view_as(y), y.view_as(y)
        return LogTerms(
            log_lik=self.model.log_lik(lik, values)[..., None],
            log_py=self.model.log_prior(py, values)[..., None],
            log_q=q.detached().log_prob(own)[..., None],
            samples=(y, None),
            scores=(q.log_prob(y.detach())[..., None],),
            taps=(Tap(lik, "y", "lik"), Tap(py, "y", "py"), Tap(own, "y", "q")),
            walls=self._pairs(noise, q, values, overrides) if walls else None,
            prior_paths=paths,
        )

    def _pairs(
        self, noise: Tensor, q: Normal, values: Mapping[str, Tensor | float], overrides: Mapping[str, Tensor]
    ) -> Walls:
        """The measure-valued pairs of the live parameters: of the mean, of the std, or of both where none is live."""
        fixed = q.detached()
        measure_valued = []
        if "std" not in overrides or len(overrides) > 1:
            measure_valued.append((q.mean_pair(noise), 1 / (math.sqrt(2 * math.pi) * fixed.std), q.mean))
        if "std" in overrides or not overrides:
            measure_valued.append((q.std_pair(noise), 1 / fixed.std, q.std))
        y = torch.stack([point for points, _, _ in measure_valued for point in points], dim=-1)
        wide = {n: v[..., None] if isinstance(v, Tensor) else v for n, v in values.items()}
        at = Normal(fixed.mean[..., None], fixed.std[..., None])
        log_w = self.model.log_lik(y, wide) + self.model.log_prior(y, wide) - at.log_prob(y)
        scale = [sign * c.expand_as(noise) for _, c, _ in measure_valued for sign in (1, -1)]
        moves = [live.expand_as(noise) for _, _, live in measure_valued for _ in range(2)]
        return Walls(log_w, torch.stack(scale, dim=-1), torch.stack(moves, dim=-1), boundary=False)
