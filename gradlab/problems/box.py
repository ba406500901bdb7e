"""Problems whose posterior is the unit box, ``y ~ U(phi - 1/2, phi + 1/2)``: additive uniform noise.

    noise ~ U(-1/2, 1/2) --(+ phi)--> y --> log w(y) = log p(x, y),   log q = 0

The score of this posterior is 0 and its support moves with phi, hence ``dL_k/dphi`` is a difference at the walls.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gradlab import noise
from gradlab.errors import GradlabError, NotExact
from gradlab.objectives.posteriors import Box
from gradlab.objectives.terms import LogTerms, Tap, Walls
from gradlab.problems import product_terms
from gradlab.problems._oracle import leave_one_out, moments
from gradlab.problems._oracle.quadrature import Array, Nodes, adaptive
from gradlab.problems._oracle.vimco import check_vimco
from gradlab.problems.base import (
    NO_OVERRIDES,
    Moments,
    Problem,
    check_dim,
    check_k,
    check_real,
    in_one_dimension,
)
from gradlab.problems.linear_gaussian import GENERATIVE, LinearGaussian, generative_moments

SCALE = (1.0, -1.0)  # of the walls phi + 1/2 and phi - 1/2


class BoxOracle(Problem):
    """The exact answers that need nothing but log w and its derivative on the box."""

    phi: float
    _nodes: Nodes
    _ends: tuple[float, float]

    def _prepare(self) -> None:
        low, high = self.phi - 0.5, self.phi + 0.5
        self._nodes = replace(adaptive(self._evaluate, low, high, np.ones_like, panels=7), dim=self.dim)
        ends = self._evaluate(np.array([low, high]))[0]
        self._ends = float(ends[0]), float(ends[1])

    @abstractmethod
    def _evaluate(self, y: Array) -> tuple[Array, Array]:
        """``log w`` and ``d log w/dy`` at points of any shape, nats."""

    @property
    def nodes(self) -> Nodes:
        """The quadrature of the box: points, probabilities and log-weights of one coordinate."""
        return self._nodes

    def slopes(self) -> tuple[Array, Array]:
        """``d log w/dphi`` at the nodes, with and without the score of the posterior, which is 0 here."""
        return self._slopes, self._slopes

    @cached_property
    def _slopes(self) -> Array:
        return self._evaluate(self._nodes.y)[1]

    @property
    def posterior(self) -> Box:
        """U(phi - 1/2, phi + 1/2)."""
        return Box(torch.tensor(self.phi, dtype=torch.float64))

    def exact_bound(self, k: int) -> float:
        """``E log (1/k sum_i w_i)``, nats."""
        return moments.bound(self._nodes, check_k(k))

    def exact_gradient(self, k: int, wrt: str = "phi") -> float:
        """``dL_k/d wrt``; for phi the boundary form, which needs no derivative of log w."""
        if self.check_wrt(wrt) == "phi":
            return moments.boundary_gradient(self._nodes, *self._ends, check_k(k))
        return self.exact_moments("pathwise", k, wrt)[0]

    def exact_limit(self) -> float:
        """The log evidence *inside the box*, nats: the box does not cover the true posterior."""
        return self._nodes.log_mean_weight()

    def boundary_term(self, k: int) -> float:
        """``E[pathwise] - E[DReG]``: the boundary term that the derivation of DReG drops.

        It is ``sum_i E[w~_i(y_i = phi + 1/2) - w~_i(y_i = phi - 1/2)]``.
        """
        return moments.boundary_term(self._nodes, *self._ends, check_k(k))

    def weight_density(self, y: Array, k: int) -> Array:
        """``k E[w~_1 | y_1 = y]`` at points ``y [N]`` of the box; its difference at the walls is ``boundary_term``.

        Raises:
            NotExact: several dimensions.
        """
        self._one_dimension()
        return moments.weight_density(self._nodes, self._evaluate(np.asarray(y, dtype=float))[0], check_k(k))

    def wall_flux(self, k: int) -> tuple[float, float]:
        """What flows through the walls phi - 1/2 and phi + 1/2, nats per unit of phi; the gradient is the difference.

        Raises:
            NotExact: several dimensions.
        """
        self._one_dimension()
        low, high = (moments.flux(self._nodes, end, check_k(k)) for end in self._ends)
        return low, high

    def _one_dimension(self) -> None:
        if self.dim > 1:
            raise NotExact(f"the flux through the walls of {self.dim} dimensions is not drawn: take dim=1")

    def exact_concentration(self, k: int) -> float:
        """``E sum_i w~_i^2``; see :meth:`Problem.exact_concentration`."""
        return moments.concentration(self._nodes, check_k(k))

    def exact_wake_gradient(self, wrt: str = "phi") -> float:
        """Does not exist: ``E_p(y|x) log q`` is -inf, because the box does not cover the true posterior.

        Raises:
            NotExact: always.
        """
        raise NotExact(
            "the wake-phi objective E_p(y|x) log q is -inf for a box, which does not cover the true posterior, so that "
            "it has no gradient: use NormalGaussian"
        )

    def _moments(self, wrt: str) -> dict[str, Moments]:
        nodes, ends = self._nodes, self._ends
        g, _ = self.slopes()
        known: dict[str, Moments] = {name: lambda k: moments.linear(nodes, g, k) for name in ("pathwise", "stl")}
        known |= {name: lambda k: moments.squared(nodes, g, k) for name in ("dreg", "dreg-squared", "gdreg")}
        # The score of the box is 0: stl drops nothing, and everything that multiplies a score is 0 in every draw.
        known |= {name: lambda k: (0.0, 0.0) for name in ("score", "nvil", "rws")}
        known["vimco"] = _vimco
        if self.dim > 1:
            return known | {name: in_one_dimension(name, self.dim) for name in ("dreg-boundary", "measure-valued")}
        known["dreg-boundary"] = lambda k: leave_one_out.dreg_boundary(nodes, g, *ends, k)
        known["measure-valued"] = lambda k: leave_one_out.measure_valued(nodes, *ends, k)
        return known

    @property
    def ends(self) -> tuple[float, float]:
        """log w at the lower and at the upper wall, nats (one dimension)."""
        return self._ends

    @property
    def span(self) -> float:
        """Nats that log w varies by over the box (one dimension)."""
        values = (*self._ends, float(self._nodes.log_w[0]), float(self._nodes.log_w[-1]))
        return max(values) - min(values)

    @abstractmethod
    def weigh(self, words: Array) -> tuple[Array, Array, float]:
        """Log-weights and slopes of samples at the problem's own phi, without a graph (one dimension).

        Args:
            words: integers that noise is made of (``noise.words``), of any shape.

        Returns:
            Of that shape log w less a constant, in memory of its own, and d log w/dy; and that constant, nats.
        """

    def draw_noise(
        self, draws: int, k: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """See :meth:`Problem.draw_noise`; in one dimension on the CPU it is made of ``noise.words``."""
        elsewhere = generator is not None and (generator.device.type != "cpu" or isinstance(generator, noise.Rows))
        if self.dim > 1 or draws < 1 or k < 1 or dtype not in noise.WORDS or elsewhere:
            return super().draw_noise(draws, k, generator, dtype)
        blocks = [noise.from_words(words).T for words in noise.words(draws, k, generator, dtype)]
        return torch.from_numpy(np.concatenate(blocks))

    def _sample(self, base: Tensor, phi: Tensor | float) -> tuple[Tensor, Tensor]:
        """``y [B, K]`` and the two walls ``[B or 1, 1, 2]``."""
        center = torch.as_tensor(phi, dtype=base.dtype, device=base.device)
        offsets = torch.tensor([0.5, -0.5], dtype=base.dtype, device=base.device)
        return Box(center).sample(base), center.reshape(-1, 1, 1) + offsets

    def _walls(self, log_w: Tensor, base: Tensor, phi: Tensor | float) -> Walls:
        draws, k = base.shape
        scale = torch.tensor(SCALE, dtype=base.dtype, device=base.device)
        return Walls(log_w.expand(draws, k, 2), scale, phi[..., None] if isinstance(phi, Tensor) else None)


def _vimco(k: int) -> tuple[float, float]:
    check_vimco(k)
    return 0.0, 0.0


class BoxProblem(BoxOracle):
    """Any differentiable log-weight under the unit box.

    Args:
        log_w: elementwise torch function, ``y`` (any shape, float64 where exact answers are computed) -> nats.
        phi: centre of the box.

    Raises:
        GradlabError: phi is not finite, or log w is not bounded on the box or does not keep the shape of y.
    """

    def __init__(self, log_w: Callable[[Tensor], Tensor], phi: float) -> None:
        """Evaluates log w on the box, once."""
        self.log_w = log_w
        self.phi = check_real("phi", phi)
        self._prepare()

    @property
    def parameters(self) -> dict[str, float]:
        """``phi``."""
        return {"phi": self.phi}

    def _evaluate(self, y: Array) -> tuple[Array, Array]:
        point = torch.tensor(y, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            log_w = self._elementwise(point)
        if not log_w.requires_grad:  # constant in y
            return log_w.numpy().copy(), np.zeros_like(y)
        (slope,) = torch.autograd.grad(log_w.sum(), point, allow_unused=True)
        return log_w.detach().numpy(), np.zeros_like(y) if slope is None else slope.numpy()

    def _elementwise(self, y: Tensor) -> Tensor:
        log_w = self.log_w(y)
        if not isinstance(log_w, Tensor) or log_w.shape != y.shape or log_w.dtype != y.dtype:
            raise GradlabError(
                f"log_w must return a {y.dtype} tensor of the shape of y, {tuple(y.shape)}: make it elementwise"
            )
        return log_w

    def weigh(self, words: Array) -> tuple[Array, Array, float]:
        """See :meth:`BoxOracle.weigh`; the slope is autograd's."""
        y = (torch.from_numpy(noise.from_words(words)) + self.phi).requires_grad_()
        with torch.enable_grad():
            log_w = self._elementwise(y)
            total = log_w.sum()
        top = float(self._nodes.log_w[-1])
        slope = torch.autograd.grad(total, y, allow_unused=True)[0] if total.requires_grad else None
        return (log_w.detach() - top).numpy(), (torch.zeros_like(y) if slope is None else slope).detach().numpy(), top

    def log_terms(
        self, noise: Tensor, overrides: Mapping[str, Tensor] = NO_OVERRIDES, *, walls: bool = False
    ) -> LogTerms:
        """Log-weights ``[B, K, 1]``, all in ``log_lik``; see :meth:`Problem.log_terms`."""
        phi = self._values(noise, overrides)["phi"]
        y, ends = self._sample(noise, phi)
        lik = y.view_as(y)
        return LogTerms(
            log_lik=self._elementwise(lik)[..., None],
            samples=(y, None),
            taps=(Tap(lik, "y", "lik"),),
            walls=self._walls(self._elementwise(ends), noise, phi) if walls else None,
            prior_paths=(),
        )


class BoxGaussian(BoxOracle):
    """``log w(y) = log N(x; slope y + offset, likelihood_std^2) + log N(y; 0, prior_std^2)`` under the unit box.

    Args:
        phi: centre of the box.
        x: observation.
        slope: of the decoder.
        offset: of the decoder.
        likelihood_std: standard deviation of x given y.
        prior_std: standard deviation of the prior.
        dim: coordinates, all with these parameters; ``wrt="phi"`` is the first one's.

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
        dim: int = 1,
    ) -> None:
        """Lays out the quadrature, once."""
        self.phi = check_real("phi", phi)
        self.dim = check_dim(dim)
        self.model = LinearGaussian.checked(x, slope, offset, likelihood_std, prior_std)
        self._prepare()

    @property
    def parameters(self) -> dict[str, float]:
        """``phi`` and the generative parameters."""
        return {"phi": self.phi, **self.model.parameters}

    def _evaluate(self, y: Array) -> tuple[Array, Array]:
        return self.model.log_joint(y), self.model.path(y)

    def weigh(self, words: Array) -> tuple[Array, Array, float]:
        """See :meth:`BoxOracle.weigh`: a parabola in the noise, less its value at phi."""
        from gradlab import kernels

        m, unit = self.model, noise.unit(words)
        slope, curvature = float(m.path(self.phi)), -((m.slope / m.likelihood_std) ** 2) - m.prior_std**-2  # type: ignore[arg-type]
        log_w, slopes = (np.empty(words.shape, unit.dtype) for _ in range(2))
        of = type(unit)
        kernels.parabola(words.ravel(), unit, of(slope), of(0.5 * curvature), log_w.ravel(), slopes.ravel())
        return log_w, slopes, float(m.log_joint(self.phi))  # type: ignore[arg-type]

    def _moments(self, wrt: str) -> dict[str, Moments]:
        if wrt not in GENERATIVE:
            return super()._moments(wrt)
        y = self._nodes.y
        return generative_moments(self._nodes, y, self.model.path(y), self.model, wrt)

    def log_terms(
        self, noise: Tensor, overrides: Mapping[str, Tensor] = NO_OVERRIDES, *, walls: bool = False
    ) -> LogTerms:
        """Log-weights ``[B, K, 1]``; see :meth:`Problem.log_terms`."""
        if self.dim > 1:
            return product_terms.box_terms(self.model, self._values(noise, overrides), noise, walls)
        values = self._values(noise, overrides)
        y, ends = self._sample(noise, values["phi"])
        paths = self.model.prior_paths(y, values)
        lik, py = y.view_as(y), y.view_as(y)
        at_walls = None
        if walls:
            wide = {n: v[..., None] if isinstance(v, Tensor) else v for n, v in values.items()}
            log_w = self.model.log_lik(ends, wide) + self.model.log_prior(ends, wide)
            at_walls = self._walls(log_w, noise, values["phi"])
        return LogTerms(
            log_lik=self.model.log_lik(lik, values)[..., None],
            log_py=self.model.log_prior(py, values)[..., None],
            samples=(y, None),
            taps=(Tap(lik, "y", "lik"), Tap(py, "y", "py")),
            walls=at_walls,
            prior_paths=paths,
        )
