"""Define problems whose latent is drawn by a proxy of rounding, e.g. straight-through or soft rounding.

    mean phi --(proxy, noise ~ U(-1/2, 1/2))--> y --> log p(y)
                                                +---(proxy.decode)--> log p(x | .),   log q = 0

The objective is the forward pass of the proxy with log q = 0, so a bias is a bias of the derivative. It is a bound on
log p(x) only if y has density 1 on a box (``noise``, ``universal``). :meth:`RoundedGaussian.exact_gap` is the
difference between this forward pass and the rounding of a codec at test time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from gradlab.errors import GradlabError, NotExact
from gradlab.objectives.posteriors import Quantized
from gradlab.objectives.proxies import Proxy, get_proxy
from gradlab.objectives.terms import LogTerms, Tap
from gradlab.problems._oracle import moments
from gradlab.problems._oracle.quadrature import Array, adaptive
from gradlab.problems.base import NO_OVERRIDES, check_k, check_real, value_and_slope
from gradlab.problems.linear_gaussian import LinearGaussian
from gradlab.problems.one_latent import Moments, OneLatent, zero_score_moments

if TYPE_CHECKING:
    from jaxtyping import Float


class RoundedGaussian(OneLatent):
    """The linear-Gaussian model with a latent y that a proxy of rounding draws from phi.

    ``log w = log N(x; slope decode(y) + offset, likelihood_std^2) + log N(y; 0, prior_std^2)``. With the proxies
    ``noise`` and ``universal`` it equals :class:`BoxGaussian`.

    Args:
        phi: the mean that a codec rounds.
        x: observation.
        proxy: name from ``PROXIES``, or a ``Proxy`` with other parameters.
        slope: slope of the decoder.
        offset: offset of the decoder.
        likelihood_std: standard deviation of x given the input of the decoder.
        prior_std: standard deviation of the prior.

    Raises:
        GradlabError: if the proxy is unknown, a parameter is not finite, a standard deviation is not above 0, or the
            log-weights are too steep for the quadrature to resolve.

    Example:
        >>> import gradlab as gl
        >>> problem = gl.problems.RoundedGaussian(phi=0.3, x=1.0, proxy="soft-rounding:8")
        >>> round(problem.exact_bound(1), 4), round(problem.rounded(), 4), round(problem.exact_gap(), 4)
        (-2.357, -2.3379, -0.0192)
    """

    def __init__(
        self,
        phi: float,
        x: float,
        proxy: str | Proxy = "noise",
        slope: float = 1.0,
        offset: float = 0.0,
        likelihood_std: float = 1.0,
        prior_std: float = 1.0,
    ) -> None:
        """Compute the quadrature nodes over the base noise once."""
        self.phi = check_real("phi", phi)
        self.proxy = get_proxy(proxy)
        self.model = LinearGaussian(x, slope, offset, likelihood_std, prior_std)
        self.nodes = adaptive(self._evaluate, -0.5, 0.5, np.ones_like, panels=7)

    @property
    def posterior(self) -> Quantized:
        """The distribution of y, with the properties of the proxy."""
        return Quantized(torch.tensor(self.phi, dtype=torch.float64), self.proxy)

    @property
    def parameters(self) -> dict[str, float]:
        """The mean ``phi`` and the parameters of the model."""
        return {"phi": self.phi, **self.model.parameters}

    def log_terms(
        self,
        noise: Float[Tensor, "batch k"],
        overrides: Mapping[str, Tensor] = NO_OVERRIDES,
        *,
        walls: bool = False,
    ) -> LogTerms:
        """Evaluate the log-weights of B draws of K samples; see :meth:`Problem.log_terms`.

        Args:
            noise: base noise ``[B, K]`` from ``draw_noise``.
            overrides: parameter name -> ``[B]``, the value of that parameter in each draw.
            walls: must be False, because a proxy has no walls.

        Returns:
            Terms ``[B, K, 1]`` in nats.

        Raises:
            GradlabError: if ``noise`` is not ``[B, K]``, an override is unknown or not ``[B]``, or ``walls`` is set.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.RoundedGaussian(phi=0.3, x=1.0, proxy="sga")
            >>> problem.log_terms(problem.draw_noise(5, k=2)).shape
            (5, 2, 1)
        """
        if walls:
            raise GradlabError(f"walls is True, but proxy {self.proxy.name!r} has no walls: use BoxGaussian")
        values = self._values(noise, overrides)
        mean = torch.as_tensor(values["phi"], dtype=noise.dtype, device=noise.device)
        y = self.proxy.sample(mean, noise)
        lik, py = y.view_as(y), y.view_as(y)
        return LogTerms(
            log_lik=self.model.log_lik(self.proxy.decode(lik), values)[..., None],
            log_py=self.model.log_prior(py, values)[..., None],
            samples=(y, None),
            taps=(Tap(lik, "y", "lik"), Tap(py, "y", "py")),
        )

    def exact_gradient(self, k: SupportsIndex, wrt: str = "phi") -> float:
        """Return the derivative of ``exact_bound(k)``; for phi it is 0 if the forward pass does not depend on phi.

        Args:
            k: number of samples.
            wrt: one of ``parameters``.

        Returns:
            The derivative in nats per unit of ``wrt``.

        Raises:
            NotExact: for phi, if autograd does not compute the derivative of the forward pass.
            GradlabError: if ``k`` is not an integer of at least 1, or ``wrt`` is not one of ``parameters``.

        Example:
            >>> import gradlab as gl
            >>> gl.problems.RoundedGaussian(phi=0.3, x=1.0, proxy="straight-through").exact_gradient(1)
            0.0
        """
        if self.check_wrt(wrt) == "phi" and not self.proxy.path_is_true:
            check_k(k)
            if self.proxy.forward_moves:
                raise NotExact(
                    f"autograd does not compute the derivative of the forward pass of proxy {self.proxy.name!r}: "
                    "estimate it by finite differences of exact_bound"
                )
            return 0.0
        return super().exact_gradient(k, wrt)

    def rounded(self) -> float:
        """Return ``log w(round(phi))``: minus the loss of a codec that rounds at test time.

        Returns:
            The log-weight in nats.
        """
        return float(self.model.log_joint(np.round(np.array(self.phi))))

    def exact_gap(self, k: SupportsIndex = 1) -> float:
        """Return ``exact_bound(k) - rounded()``, the difference between training and test.

        ``universal`` can be used at test time too, and then has no gap; minus this value (at k = 1) is the cost of its
        dither.

        Args:
            k: number of samples.

        Returns:
            The difference in nats.

        Raises:
            GradlabError: if ``k`` is not an integer of at least 1.
        """
        return self.exact_bound(k) - self.rounded()

    def _moments(self, wrt: str) -> dict[str, Moments]:
        if wrt == "phi":
            return zero_score_moments(self.nodes, self._slope_by_phi())
        slope = self._generative(wrt)
        return dict.fromkeys(("pathwise", "stl"), lambda k: moments.linear(self.nodes, slope, k))

    def _latent(self, noise: Array | Tensor, mean: Tensor) -> Tensor:
        """Return the latent.

        For a proxy with the distribution of the box it is ``mean + noise``, since quadrature cannot cross jumps.
        """
        u = torch.as_tensor(noise, dtype=torch.float64)
        return mean + u if self.proxy.box else self.proxy.sample(mean, u)

    def _log_w(self, y: Tensor) -> Tensor:
        values = self.model.parameters
        return self.model.log_lik(self.proxy.decode(y), values) + self.model.log_prior(y, values)

    def _evaluate(self, noise: Array) -> tuple[Array, Array]:
        """Return ``log w`` and its derivative with respect to the base noise."""
        mean = torch.tensor(self.phi, dtype=torch.float64)
        u = torch.tensor(noise, dtype=torch.float64)
        log_w, slope = value_and_slope(lambda u: self._log_w(self._latent(u, mean)), u)
        # At the two ends of the logistic the chain rule gives 0 times infinity; the derivative there is 0.
        ends = np.abs(noise) == 0.5
        return log_w.numpy(), np.where(ends & ~np.isfinite(slope.numpy()), 0.0, slope.numpy())

    def _slope_by_phi(self) -> Array:
        """Return autograd's ``d log w/d phi`` at the quadrature nodes."""
        phi = torch.full(self.nodes.y.shape, self.phi, dtype=torch.float64)
        _, slope = value_and_slope(lambda phi: self._log_w(self._latent(self.nodes.y, phi)), phi)
        return np.asarray(slope.numpy())

    def _generative(self, wrt: str) -> Array:
        """Return ``d log w/d wrt`` at the nodes: for the decoder at its input, for the prior at the latent."""
        y = self._latent(self.nodes.y, torch.tensor(self.phi, dtype=torch.float64))
        argument = y if wrt == "prior_std" else self.proxy.decode(y)
        return self.model.generative(argument.numpy(), wrt)
