"""Define the linear-Gaussian model of the box, Normal and rounded problems, and its log-weights under a posterior.

y ~ N(0, prior_std^2) --(slope, offset)--> x ~ N(slope y + offset, likelihood_std^2)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log, pi

import numpy as np
import torch
from torch import Tensor

from gradlab.objectives.posteriors import Box, Normal, log_normal
from gradlab.objectives.terms import LogTerms, PriorPath, Tap
from gradlab.problems._oracle import moments
from gradlab.problems._oracle.quadrature import Array, Nodes
from gradlab.problems._oracle.vimco import check_vimco
from gradlab.problems.base import Values, check_parameters, widened
from gradlab.problems.one_latent import Moments, in_one_dimension

GENERATIVE = ("prior_std", "slope", "offset", "likelihood_std")
WEIGHTED = (
    "pathwise", "score", "stl", "dreg", "dreg-squared", "gdreg", "nvil", "rws", "dreg-boundary", "measure-valued"
)  # fmt: skip


@dataclass(frozen=True)
class LinearGaussian:
    """The model ``log p(x|y) + log p(y)`` and its derivatives, in nats.

    Attributes:
        x: the observation.
        slope: slope of the decoder.
        offset: offset of the decoder.
        likelihood_std: standard deviation of x given y.
        prior_std: standard deviation of y.

    Raises:
        GradlabError: if a number is not finite, or a standard deviation is not above 0.
    """

    x: float
    slope: float
    offset: float
    likelihood_std: float
    prior_std: float

    def __post_init__(self) -> None:
        check_parameters(self)

    @property
    def parameters(self) -> dict[str, float]:
        """The generative parameters by name."""
        return {name: getattr(self, name) for name in GENERATIVE}

    def log_joint(self, y: Array) -> Array:
        """Return ``log p(x, y)``, shaped like ``y``."""
        residual = (self.x - self.slope * y - self.offset) / self.likelihood_std
        constant = log(2 * pi) + log(self.likelihood_std) + log(self.prior_std)
        return -0.5 * residual**2 - 0.5 * (y / self.prior_std) ** 2 - constant

    def path(self, y: Array) -> Array:
        """Return ``d log p(x, y)/dy``."""
        residual = (self.x - self.slope * y - self.offset) / self.likelihood_std**2
        return self.slope * residual - y / self.prior_std**2

    def path_of_likelihood(self, y: Array) -> Array:
        """Return ``d log p(x|y)/dy``."""
        return self.slope * (self.x - self.slope * y - self.offset) / self.likelihood_std**2

    def generative(self, y: Array, wrt: str) -> Array:
        """Return ``d log p(x, y)/d wrt`` at fixed y, for one of ``GENERATIVE``."""
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
        """Return mean and variance of ``p(y|x)``, which is Normal."""
        precision = (self.slope / self.likelihood_std) ** 2 + 1 / self.prior_std**2
        return self.slope * (self.x - self.offset) / self.likelihood_std**2 / precision, 1 / precision

    def evidence(self) -> float:
        """Return ``log p(x)``, nats."""
        variance = self.likelihood_std**2 + (self.slope * self.prior_std) ** 2
        return -0.5 * (self.x - self.offset) ** 2 / variance - 0.5 * log(2 * pi * variance)

    def log_lik(self, y: Tensor, values: Values) -> Tensor:
        """Return ``log p(x|y)`` elementwise, at parameters that broadcast with ``y``."""
        mean = values["slope"] * y + values["offset"]
        return log_normal(y.new_tensor(self.x), mean, values["likelihood_std"])

    def log_prior(self, y: Tensor, values: Values) -> Tensor:
        """Return ``log p(y)`` elementwise, at parameters that broadcast with ``y``."""
        return log_normal(y, 0.0, values["prior_std"])

    def log_terms(self, q: Box | Normal, noise: Tensor, values: Values) -> LogTerms:
        """Evaluate the log-weights ``[B, K, 1]`` of samples of q; those of several coordinates add up.

        Args:
            q: the posterior, whose parameters broadcast with ``noise``.
            noise: base noise ``[B, K]`` or ``[B, K, D]``.
            values: parameters that broadcast with ``noise``.
        """
        y = q.sample(noise)
        paths = self.prior_paths(y, values)
        lik, py, path = y.view_as(y), y.view_as(y), y.view_as(y)
        terms = LogTerms(
            log_lik=_total(self.log_lik(lik, values)),
            log_py=_total(self.log_prior(py, values)),
            samples=(y, None),
            taps=(Tap(lik, "y", "lik"), Tap(py, "y", "py")),
            prior_paths=paths,
        )
        if q.score_is_zero:
            return terms
        return replace(
            terms,
            log_q=_total(q.detached().log_prob(path)),
            scores=(_total(q.log_prob(y.detach())),),
            taps=(*terms.taps, Tap(path, "y", "q")),
        )

    def moved(self, terms: LogTerms, points: Tensor, values: Values, q: Normal | None = None) -> Tensor:
        """Return the log-weights ``[B, K, M]`` with the first coordinate of each sample moved.

        Args:
            terms: the terms of the samples, from ``log_terms``.
            points: values of the first coordinate, ``[B or 1, K or 1, M]``.
            values: parameters, as in ``log_terms``.
            q: posterior of the first coordinate, which broadcasts with ``points``; None if ``log q = 0``.
        """
        (y, _), shape = terms.samples, terms.shape
        assert y is not None
        if y.ndim == 2:
            return self._log_w(points, widened(values), q).expand(*shape[:2], -1)
        before = self._log_w(y[..., :1].detach(), values, q).detach()
        return terms.log_w().detach() - before + self._log_w(points, values, q)

    def _log_w(self, y: Tensor, values: Values, q: Normal | None) -> Tensor:
        joint = self.log_lik(y, values) + self.log_prior(y, values)
        return joint if q is None else joint - q.log_prob(y)

    def prior_paths(self, y: Tensor, values: Values) -> tuple[PriorPath, ...]:
        """Return the path ``T(e; prior_std) = prior_std e`` through the samples, if ``prior_std`` is live.

        ``y`` is then changed to require a gradient, since the estimators that read the path differentiate with respect
        to y.
        """
        std = values["prior_std"]
        if not isinstance(std, Tensor) or not std.requires_grad:
            return ()
        fixed = y.detach()
        y.requires_grad_()
        return (PriorPath(std * (fixed / std.detach()), _total(log_normal(fixed, 0.0, std))),)


def per_coordinate(value: Tensor | float, noise: Tensor) -> Tensor:
    """Return a posterior parameter in the type of ``noise [B, K]``; as ``[B or 1, 1, D]`` for ``[B, K, D]``."""
    value = torch.as_tensor(value, dtype=noise.dtype, device=noise.device)
    return value.expand(1, 1, noise.shape[-1]) if noise.ndim == 3 and value.ndim == 0 else value


def generative_moments(nodes: Nodes, y: Array, path: Array, model: LinearGaussian, wrt: str) -> dict[str, Moments]:
    """Tabulate the exact moments for a generative parameter: all estimators keep ``sum w~_i d log w_i/d wrt``.

    Only ``gdreg`` differs, for the parameter of the prior: it is ``sum_i [(w~_i - w~_i^2) d_y log w_i
    - w~_i d_y (log p(y_i) - log q(y_i))] y_i / prior_std`` (Bauer & Mnih 2021), in which
    ``d_y log w - d_y (log p(y) - log q)`` is ``d_y log p(x|y)``.

    Args:
        nodes: the posterior ``[N]``.
        y: the samples at the nodes ``[N]``.
        path: ``d log w/dy`` at the nodes ``[N]``, at fixed parameters of q.
        model: the model.
        wrt: one of ``GENERATIVE``.
    """
    slope = model.generative(y, wrt)

    def weighted(k: int) -> tuple[float, float]:
        return moments.shared(nodes, slope, k)

    table: dict[str, Moments] = dict.fromkeys(WEIGHTED, weighted) | {"vimco": lambda k: weighted(check_vimco(k))}
    if wrt == "prior_std" and nodes.dim > 1:
        table["gdreg"] = in_one_dimension("gdreg by prior_std", nodes.dim)
    elif wrt == "prior_std":
        moves = y / model.prior_std
        table["gdreg"] = lambda k: moments.mixed(nodes, model.path_of_likelihood(y) * moves, -path * moves, k)
    return table


def _total(values: Tensor) -> Tensor:
    """Return ``[B, K]``, or the sum over coordinates of ``[B, K, D]``, as ``[B, K, 1]``."""
    return values[..., None] if values.ndim == 2 else values.sum(dim=-1, keepdim=True)
