"""Define problems under the unit box, ``y ~ U(phi - 1/2, phi + 1/2)``: additive uniform noise.

    noise ~ U(-1/2, 1/2) --(+ phi)--> y --> log w(y) = log p(x, y),   log q = 0

The score of this posterior is 0 and its support moves with phi, so ``dL_k/dphi`` is a difference between the values at
the two walls. The theory is in ``docs/theory/box.md``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, SupportsIndex

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

if TYPE_CHECKING:
    from jaxtyping import Float

SCALE = (1.0, -1.0)  # signs of the walls phi + 1/2 and phi - 1/2


class BoxOracle(OneLatent):
    """Compute the exact answers that need only log w and its derivative on the box.

    Attributes:
        phi: centre of the box.
        ends: log w at the lower and at the upper wall, in nats (one coordinate).
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
        """Return ``log w`` and ``d log w/dy`` in nats, at points of any shape."""

    def slopes(self) -> tuple[Array, Array]:
        """Return ``d log w/dphi`` at the quadrature nodes with and without the score, which is 0 here.

        Returns:
            The same array ``[N]`` twice, in nats per unit of phi.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxProblem(lambda y: -2 * y, phi=0.0)
            >>> with_score, without_score = problem.slopes()
            >>> float(with_score.min()), float(without_score.max())
            (-2.0, -2.0)
        """
        return self._slopes, self._slopes

    @cached_property
    def _slopes(self) -> Array:
        return self._evaluate(self.nodes.y)[1]

    @property
    def posterior(self) -> Box:
        """The box U(phi - 1/2, phi + 1/2)."""
        return Box(torch.tensor(self.phi, dtype=torch.float64))

    def exact_gradient(self, k: SupportsIndex, wrt: str = "phi") -> float:
        """Return ``dL_k/d wrt``.

        The gradient for phi uses the boundary form, which needs no derivative of log w.

        Args:
            k: number of samples.
            wrt: one of ``parameters``.

        Returns:
            The derivative in nats per unit of ``wrt``.

        Raises:
            GradlabError: if ``k`` is not an integer of at least 1, or ``wrt`` is not one of ``parameters``.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxProblem(lambda y: -(y**2), phi=0.3)
            >>> round(problem.exact_gradient(2), 7)
            -0.5507595
        """
        if self.check_wrt(wrt) == "phi":
            return moments.boundary_gradient(self.nodes, *self.ends, check_k(k))
        return super().exact_gradient(k, wrt)

    def boundary_term(self, k: SupportsIndex) -> float:
        """Return ``E[pathwise] - E[DReG]``, the boundary term that the derivation of DReG drops.

        It equals ``sum_i E[w~_i(y_i = phi + 1/2) - w~_i(y_i = phi - 1/2)]``.

        Args:
            k: number of samples.

        Returns:
            The difference in nats per unit of phi.

        Raises:
            GradlabError: if ``k`` is not an integer of at least 1.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxProblem(lambda y: -(y**2), phi=0.3)
            >>> round(problem.boundary_term(2), 4)
            -0.2932
        """
        return moments.boundary_term(self.nodes, *self.ends, check_k(k))

    def weight_density(self, y: Array, k: SupportsIndex) -> Array:
        """Return ``k E[w~_1 | y_1 = y]`` at points y.

        It is the density, relative to the box, of a sample drawn by its normalised weight. Its difference between the
        two walls is ``boundary_term``.

        Args:
            y: points ``[N]``.
            k: number of samples.

        Returns:
            Relative densities ``[N]``.

        Raises:
            NotExact: if the problem has several dimensions.
            GradlabError: if ``k`` is not an integer of at least 1.

        Example:
            >>> import numpy as np
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxProblem(lambda y: -(y**2), phi=0.3)
            >>> lower, upper = problem.weight_density(np.array([-0.2, 0.8]), k=2)
            >>> round(float(upper - lower), 4)
            -0.2932
        """
        self._one_dimension()
        return moments.weight_density(self.nodes, self._evaluate(np.asarray(y, dtype=float))[0], check_k(k))

    def wall_flux(self, k: SupportsIndex) -> tuple[float, float]:
        """Return the flux through the walls phi - 1/2 and phi + 1/2.

        The gradient of the bound with respect to phi is the flux through the upper wall minus the flux through the
        lower.

        Args:
            k: number of samples.

        Returns:
            Flux through the lower and the upper wall, in nats per unit of phi.

        Raises:
            NotExact: if the problem has several dimensions.
            GradlabError: if ``k`` is not an integer of at least 1.

        Example:
            >>> import gradlab as gl
            >>> lower, upper = gl.problems.BoxProblem(lambda y: -(y**2), phi=0.3).wall_flux(2)
            >>> round(upper - lower, 4)
            -0.5508
        """
        self._one_dimension()
        low, high = (moments.flux(self.nodes, end, check_k(k)) for end in self.ends)
        return low, high

    def _one_dimension(self) -> None:
        if self.dim > 1:
            raise NotExact(f"the flux through the walls is known in one dimension, not in {self.dim}: use dim=1")

    def exact_wake_gradient(self, wrt: str = "phi") -> float:
        """Raise ``NotExact``: the wake-phi objective of a box is minus infinity.

        A box does not cover the true posterior, so ``E_p(y|x) log q`` is -inf and has no gradient.

        Args:
            wrt: ignored.

        Raises:
            NotExact: always.
        """
        raise NotExact(
            "the wake-phi objective E_p(y|x) log q is -inf for a box, which does not cover the true posterior: "
            "use NormalGaussian"
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
        """The range of log w over the box, in nats (one dimension)."""
        values = (*self.ends, float(self.nodes.log_w[0]), float(self.nodes.log_w[-1]))
        return max(values) - min(values)

    @abstractmethod
    def log_weights(self, words: Array) -> tuple[Array, Array, float]:
        """Evaluate log-weights and slopes of samples at the problem's phi, without an autograd graph (one dimension).

        Args:
            words: integers that encode the noise (see ``gradlab.noise.words``), of any shape.

        Returns:
            log w minus a constant (in newly allocated memory) and d log w/dy, both in the shape of ``words``, and the
            constant; in nats.
        """

    def draw_noise(
        self,
        draws: SupportsIndex,
        k: SupportsIndex,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Float[Tensor, "draws k *dim"]:
        """Draw the base noise of the box.

        One-dimensional noise on the CPU comes from ``gradlab.noise.words``, which is several times as fast as torch.

        Args:
            draws: number of independent draws.
            k: samples per draw.
            generator: random stream; None draws from the global generator of torch.
            dtype: floating-point type of the noise.

        Returns:
            Noise ``[draws, k]``, or ``[draws, k, dim]`` if there are several dimensions.

        Raises:
            GradlabError: if ``draws`` or ``k`` is below 1.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0)
            >>> noise = problem.draw_noise(1000, k=2, generator=torch.Generator().manual_seed(0))
            >>> noise.shape, bool(noise.abs().max() <= 0.5)
            (torch.Size([1000, 2]), True)
        """
        draws, k = whole("draws", draws, 1), check_k(k)
        elsewhere = generator is not None and (generator.device.type != "cpu" or isinstance(generator, noise.Rows))
        if self.dim > 1 or dtype not in noise.WORDS or elsewhere:
            return super().draw_noise(draws, k, generator, dtype)
        blocks = [noise.from_words(words).T for words in noise.words(draws, k, generator, dtype)]
        return torch.from_numpy(np.concatenate(blocks))

    def log_terms(
        self,
        noise: Float[Tensor, "batch k *dim"],
        overrides: Mapping[str, Tensor] = NO_OVERRIDES,
        *,
        walls: bool = False,
    ) -> LogTerms:
        """Evaluate the log-weights of B draws of K samples; see :meth:`Problem.log_terms`.

        Args:
            noise: base noise ``[B, K]`` from ``draw_noise``.
            overrides: parameter name -> ``[B]``, the value of that parameter in each draw.
            walls: whether to evaluate the log-weight at the two walls too.

        Returns:
            Terms ``[B, K, 1]`` in nats.

        Raises:
            GradlabError: if ``noise`` is not ``[B, K]``, or an override is unknown or not ``[B]``.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0)
            >>> terms = problem.log_terms(problem.draw_noise(5, k=2), walls=True)
            >>> terms.walls.log_w.shape
            torch.Size([5, 2, 2])
        """
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
        """Return the terms without walls."""

    @abstractmethod
    def _moved(self, terms: LogTerms, points: Tensor, values: Values) -> Tensor:
        """Return log-weights ``[B, K, 2]`` with the first coordinate of each sample at ``points [B or 1, 1, 2]``."""


class BoxProblem(BoxOracle):
    """A problem with any differentiable log-weight under the unit box.

    Args:
        log_w: elementwise torch function that maps ``y`` (any shape; float64 for the exact answers) to nats.
        phi: centre of the box.

    Raises:
        GradlabError: if phi is not finite, log w is not bounded on the box, or ``log_w`` does not keep the shape of y.

    Example:
        >>> import gradlab as gl
        >>> problem = gl.problems.BoxProblem(lambda y: -(y**2), phi=0.3)
        >>> round(problem.exact_gradient(2), 7)
        -0.5507595
    """

    def __init__(self, log_w: Callable[[Tensor], Tensor], phi: float) -> None:
        """Evaluate log w on the box once."""
        self.log_w = log_w
        self.phi = check_real("phi", phi)
        self._prepare()

    @property
    def parameters(self) -> dict[str, float]:
        """The only parameter, ``phi``."""
        return {"phi": self.phi}

    def _evaluate(self, y: Array) -> tuple[Array, Array]:
        log_w, slope = value_and_slope(self._elementwise, torch.tensor(y, dtype=torch.float64))
        return log_w.numpy().copy(), slope.numpy()

    def _elementwise(self, y: Tensor) -> Tensor:
        log_w = self.log_w(y)
        if not isinstance(log_w, Tensor) or log_w.shape != y.shape or log_w.dtype != y.dtype:
            raise GradlabError(
                f"log_w does not return a {y.dtype} tensor of the shape of y, {tuple(y.shape)}: make it elementwise"
            )
        return log_w

    def log_weights(self, words: Array) -> tuple[Array, Array, float]:
        """Evaluate log-weights, and their slopes by autograd; see :meth:`BoxOracle.log_weights`.

        Args:
            words: integers that encode the noise (see ``gradlab.noise.words``), of any shape.

        Returns:
            log w minus a constant, d log w/dy, and the constant, in nats.

        Example:
            >>> import numpy as np
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxProblem(lambda y: -(y**2), phi=0.3)
            >>> log_w, slope, constant = problem.log_weights(np.zeros((1, 1), np.int64))
            >>> round(log_w.item() + constant, 4), round(slope.item(), 4)
            (-0.09, -0.6)
        """
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
    """The linear-Gaussian model under the unit box.

    ``log w(y) = log N(x; slope y + offset, likelihood_std^2) + log N(y; 0, prior_std^2)`` with
    ``y ~ U(phi - 1/2, phi + 1/2)``.

    Args:
        phi: centre of the box.
        x: observation.
        slope: slope of the decoder.
        offset: offset of the decoder.
        likelihood_std: standard deviation of x given y.
        prior_std: standard deviation of the prior.
        dim: number of coordinates. All have these parameters; ``wrt="phi"`` means the centre of the first one.

    Raises:
        GradlabError: if a parameter is not finite, a standard deviation is not above 0, dim is below 1, or the
            likelihood is too narrow for the quadrature to resolve.

    Example:
        >>> import gradlab as gl
        >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
        >>> round(problem.exact_bound(1), 4), round(problem.exact_bound(8), 4), round(problem.exact_limit(), 4)
        (-2.3781, -2.171, -2.1493)
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
        """Compute the quadrature nodes once."""
        self.phi = check_real("phi", phi)
        self.dim = whole("dim", dim, 1, "coordinates")
        self.model = LinearGaussian(x, slope, offset, likelihood_std, prior_std)
        self._prepare()

    @property
    def parameters(self) -> dict[str, float]:
        """The centre ``phi`` and the parameters of the model."""
        return {"phi": self.phi, **self.model.parameters}

    def _evaluate(self, y: Array) -> tuple[Array, Array]:
        return self.model.log_joint(y), self.model.path(y)

    def log_weights(self, words: Array) -> tuple[Array, Array, float]:
        """Evaluate log-weights as a parabola in the noise, relative to phi; see :meth:`BoxOracle.log_weights`.

        Args:
            words: integers that encode the noise (see ``gradlab.noise.words``), of any shape.

        Returns:
            log w minus a constant, d log w/dy, and the constant, in nats.

        Example:
            >>> import numpy as np
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
            >>> log_w, slope, constant = problem.log_weights(np.zeros((1, 1), np.int64))
            >>> round(log_w.item() + constant, 4), round(slope.item(), 4)
            (-2.1697, 2.5)
        """
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
