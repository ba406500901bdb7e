"""Problems under the unit box, ``y ~ U(phi - 1/2, phi + 1/2)``: additive uniform noise.

    noise ~ U(-1/2, 1/2) --(+ phi)--> y --> log w(y) = log p(x, y),   log q = 0

The score of this posterior is 0 and its support moves with phi, hence ``dL_k/dphi`` is a difference at the walls. For
the theory see ``docs/theory/box.md``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from gradlab import kernels, noise
from gradlab.errors import GradlabError, NotExact
from gradlab.objectives.posteriors import Box
from gradlab.objectives.terms import LogTerms, Tap, Walls
from gradlab.problems._oracle import leave_one_out, moments
from gradlab.problems._oracle.quadrature import Array, adaptive
from gradlab.problems.base import NO_OVERRIDES, Values, check_k, check_real, value_and_slope
from gradlab.problems.linear_gaussian import GENERATIVE, LinearGaussian, generative_moments, per_coordinate
from gradlab.problems.one_latent import Moments, OneLatent, in_one_dimension, zero_score_moments
from gradlab.validation import whole

SCALE = (1.0, -1.0)  # of the walls phi + 1/2 and phi - 1/2


class BoxOracle(OneLatent):
    """The exact answers that need only log w and its derivative on the box.

    Attributes:
        phi: centre of the box.
        ends: log w at the lower and at the upper wall, nats (one coordinate).
    """

    phi: float
    ends: tuple[float, float]

    def _prepare(self) -> None:
        low, high = self.phi - 0.5, self.phi + 0.5
        self.nodes = replace(adaptive(self._evaluate, low, high, np.ones_like, panels=7), dim=self.dim)
        ends = self._evaluate(np.array([low, high]))[0]
        self.ends = float(ends[0]), float(ends[1])

    @abstractmethod
    def _evaluate(self, y: Array) -> tuple[Array, Array]:
        """``log w`` and ``d log w/dy`` at points of any shape, nats."""

    def slopes(self) -> tuple[Array, Array]:
        """Return ``d log w/dphi`` at the nodes with and without the score, which is 0 here."""
        return self._slopes, self._slopes

    @cached_property
    def _slopes(self) -> Array:
        return self._evaluate(self.nodes.y)[1]

    @property
    def posterior(self) -> Box:
        """U(phi - 1/2, phi + 1/2)."""
        return Box(torch.tensor(self.phi, dtype=torch.float64))

    def exact_gradient(self, k: SupportsIndex, wrt: str = "phi") -> float:
        """Return ``dL_k/d wrt``; for phi the boundary form, which needs no derivative of log w."""
        if self.check_wrt(wrt) == "phi":
            return moments.boundary_gradient(self.nodes, *self.ends, check_k(k))
        return super().exact_gradient(k, wrt)

    def boundary_term(self, k: SupportsIndex) -> float:
        """Return ``E[pathwise] - E[DReG]``, the boundary term that the derivation of DReG drops.

        It is ``sum_i E[w~_i(y_i = phi + 1/2) - w~_i(y_i = phi - 1/2)]``.
        """
        return moments.boundary_term(self.nodes, *self.ends, check_k(k))

    def weight_density(self, y: Array, k: SupportsIndex) -> Array:
        """Return ``k E[w~_1 | y_1 = y]`` at points ``y [N]``; its difference at the walls is ``boundary_term``.

        Raises:
            NotExact: several dimensions.
        """
        self._one_dimension()
        return moments.weight_density(self.nodes, self._evaluate(np.asarray(y, dtype=float))[0], check_k(k))

    def wall_flux(self, k: SupportsIndex) -> tuple[float, float]:
        """Return the flux through the walls phi - 1/2 and phi + 1/2, nats per unit of phi.

        The gradient is the difference of the two.

        Raises:
            NotExact: several dimensions.
        """
        self._one_dimension()
        low, high = (moments.flux(self.nodes, end, check_k(k)) for end in self.ends)
        return low, high

    def _one_dimension(self) -> None:
        if self.dim > 1:
            raise NotExact(f"the flux through the walls of {self.dim} dimensions is not drawn: take dim=1")

    def exact_wake_gradient(self, wrt: str = "phi") -> float:
        """Raise ``NotExact``: ``E_p(y|x) log q`` is -inf, because the box does not cover the true posterior.

        Raises:
            NotExact: always.
        """
        raise NotExact(
            "the wake-phi objective E_p(y|x) log q is -inf for a box, which does not cover the true posterior, so that "
            "it has no gradient: use NormalGaussian"
        )

    def _moments(self, wrt: str) -> dict[str, Moments]:
        nodes, ends, slope = self.nodes, self.ends, self._slopes
        table = zero_score_moments(nodes, slope)
        if self.dim > 1:
            return table | {name: in_one_dimension(name, self.dim) for name in ("dreg-boundary", "measure-valued")}
        return table | {
            "dreg-boundary": lambda k: leave_one_out.dreg_boundary(nodes, slope, *ends, k),
            "measure-valued": lambda k: leave_one_out.measure_valued(nodes, *ends, k),
        }

    @property
    def span(self) -> float:
        """The range of log w over the box, nats (one dimension)."""
        values = (*self.ends, float(self.nodes.log_w[0]), float(self.nodes.log_w[-1]))
        return max(values) - min(values)

    @abstractmethod
    def log_weights(self, words: Array) -> tuple[Array, Array, float]:
        """Evaluate log-weights and slopes of samples at the problem's phi, without a graph (one dimension).

        Args:
            words: integers that noise is made of (``noise.words``), of any shape.

        Returns:
            Of that shape log w less a constant, in newly allocated memory, and d log w/dy; and the constant, nats.
        """

    def draw_noise(
        self,
        draws: SupportsIndex,
        k: SupportsIndex,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Draw base noise from ``noise.words`` in one dimension on the CPU; see :meth:`Problem.draw_noise`."""
        draws, k = whole("draws", draws, 1), check_k(k)
        elsewhere = generator is not None and (generator.device.type != "cpu" or isinstance(generator, noise.Rows))
        if self.dim > 1 or dtype not in noise.WORDS or elsewhere:
            return super().draw_noise(draws, k, generator, dtype)
        blocks = [noise.from_words(words).T for words in noise.words(draws, k, generator, dtype)]
        return torch.from_numpy(np.concatenate(blocks))

    def log_terms(
        self, noise: Tensor, overrides: Mapping[str, Tensor] = NO_OVERRIDES, *, walls: bool = False
    ) -> LogTerms:
        """Evaluate log-weights ``[B, K, 1]``; see :meth:`Problem.log_terms`."""
        values = self._values(noise, overrides)
        q = Box(per_coordinate(values["phi"], noise))
        terms = self._terms(q, noise, values)
        if not walls:
            return terms
        center = q.center.reshape(-1, 1, 1) if self.dim == 1 else q.center[..., :1]  # [B or 1, 1, 1]
        scale = torch.tensor(SCALE, dtype=noise.dtype, device=noise.device)
        log_w = self._moved(terms, (center + 0.5 * scale).detach(), values)
        return replace(terms, walls=Walls(log_w, scale, center if "phi" in overrides else None))

    @abstractmethod
    def _terms(self, q: Box, noise: Tensor, values: Values) -> LogTerms:
        """The terms without walls."""

    @abstractmethod
    def _moved(self, terms: LogTerms, points: Tensor, values: Values) -> Tensor:
        """``[B, K, 2]`` log-weights with the first coordinate of each sample at points ``[B or 1, 1, 2]``."""


class BoxProblem(BoxOracle):
    """Any differentiable log-weight under the unit box.

    Args:
        log_w: elementwise torch function, ``y`` (any shape, float64 where exact answers are computed) -> nats.
        phi: centre of the box.

    Raises:
        GradlabError: phi is not finite, or log w is not bounded on the box or does not keep the shape of y.

    Example:
        >>> import gradlab as gl
        >>> problem = gl.problems.BoxProblem(lambda y: -(y**2), phi=0.3)
        >>> round(problem.exact_gradient(2), 7)
        -0.5507595
    """

    def __init__(self, log_w: Callable[[Tensor], Tensor], phi: float) -> None:
        """Evaluate log w on the box, once."""
        self.log_w = log_w
        self.phi = check_real("phi", phi)
        self._prepare()

    @property
    def parameters(self) -> dict[str, float]:
        """``phi``."""
        return {"phi": self.phi}

    def _evaluate(self, y: Array) -> tuple[Array, Array]:
        log_w, slope = value_and_slope(self._elementwise, torch.tensor(y, dtype=torch.float64))
        return log_w.numpy().copy(), slope.numpy()

    def _elementwise(self, y: Tensor) -> Tensor:
        log_w = self.log_w(y)
        if not isinstance(log_w, Tensor) or log_w.shape != y.shape or log_w.dtype != y.dtype:
            raise GradlabError(
                f"log_w must return a {y.dtype} tensor of the shape of y, {tuple(y.shape)}: make it elementwise"
            )
        return log_w

    def log_weights(self, words: Array) -> tuple[Array, Array, float]:
        """Evaluate log-weights and, by autograd, slopes; see :meth:`BoxOracle.log_weights`."""
        log_w, slope = value_and_slope(self._elementwise, torch.from_numpy(noise.from_words(words)) + self.phi)
        top = float(self.nodes.log_w[-1])
        return (log_w - top).numpy(), slope.numpy(), top

    def _terms(self, q: Box, noise: Tensor, values: Values) -> LogTerms:
        y = q.sample(noise)
        lik = y.view_as(y)
        return LogTerms(
            log_lik=self._elementwise(lik)[..., None],
            samples=(y, None),
            taps=(Tap(lik, "y", "lik"),),
            prior_paths=(),
        )

    def _moved(self, terms: LogTerms, points: Tensor, values: Values) -> Tensor:
        return self._elementwise(points).expand(*terms.shape[:2], -1)


class BoxGaussian(BoxOracle):
    """``log w(y) = log N(x; slope y + offset, likelihood_std^2) + log N(y; 0, prior_std^2)`` under the unit box.

    Args:
        phi: centre of the box.
        x: observation.
        slope: of the decoder.
        offset: of the decoder.
        likelihood_std: standard deviation of x given y.
        prior_std: standard deviation of the prior.
        dim: coordinates, all with these parameters; ``phi`` belongs to the first one.

    Raises:
        GradlabError: a parameter is not finite, a standard deviation is not above 0, dim is below 1, or the likelihood
            is too narrow to be resolved.
    """

    def __init__(
        self,
        phi: float,
        x: float,
        slope: float = 1.0,
        offset: float = 0.0,
        likelihood_std: float = 1.0,
        prior_std: float = 1.0,
        dim: SupportsIndex = 1,
    ) -> None:
        """Lay out the quadrature, once."""
        self.phi = check_real("phi", phi)
        self.dim = whole("dim", dim, 1, "coordinates")
        self.model = LinearGaussian(x, slope, offset, likelihood_std, prior_std)
        self._prepare()

    @property
    def parameters(self) -> dict[str, float]:
        """``phi`` and the generative parameters."""
        return {"phi": self.phi, **self.model.parameters}

    def _evaluate(self, y: Array) -> tuple[Array, Array]:
        return self.model.log_joint(y), self.model.path(y)

    def log_weights(self, words: Array) -> tuple[Array, Array, float]:
        """Evaluate a parabola in the noise, less its value at phi; see :meth:`BoxOracle.log_weights`."""
        m, unit = self.model, noise.unit(words)
        slope, curvature = float(m.path(self.phi)), -((m.slope / m.likelihood_std) ** 2) - m.prior_std**-2  # type: ignore[arg-type]
        log_w, slopes = (np.empty(words.shape, unit.dtype) for _ in range(2))
        of = type(unit)
        kernels.parabola(words.ravel(), unit, of(slope), of(0.5 * curvature), log_w.ravel(), slopes.ravel())
        return log_w, slopes, float(m.log_joint(self.phi))  # type: ignore[arg-type]

    def _moments(self, wrt: str) -> dict[str, Moments]:
        if wrt not in GENERATIVE:
            return super()._moments(wrt)
        y = self.nodes.y
        return generative_moments(self.nodes, y, self.model.path(y), self.model, wrt)

    def _terms(self, q: Box, noise: Tensor, values: Values) -> LogTerms:
        return self.model.log_terms(q, noise, values)

    def _moved(self, terms: LogTerms, points: Tensor, values: Values) -> Tensor:
        return self.model.moved(terms, points, values)
