"""Problems whose latent is drawn by a proxy of rounding: straight-through, soft rounding, Gumbel annealing and others.

    mean phi --(proxy, noise ~ U(-1/2, 1/2))--> y --> log p(y)
                                                +---(proxy.decode)--> log p(x | .),   log q = 0

The objective is the proxy's forward pass with log q = 0, so that a bias is a bias of the derivative. It is a bound on
log p(x) only where y has the density 1 on a box (``noise``, ``universal``). For the difference between the forward pass
and the rounding of a codec at test time see :meth:`RoundedGaussian.exact_gap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsIndex

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


class RoundedGaussian(OneLatent):
    """``log N(x; slope decode(y) + offset, likelihood_std^2) + log N(y; 0, prior_std^2)``, y drawn by a proxy from phi.

    For the proxies ``noise`` and ``universal`` it is equal to :class:`BoxGaussian`.

    Args:
        phi: the mean that a codec rounds.
        x: observation.
        proxy: name from ``gradlab.objectives.proxies.PROXIES``, or a ``Proxy`` with other parameters.
        slope: of the decoder.
        offset: of the decoder.
        likelihood_std: standard deviation of x given what the decoder reads.
        prior_std: standard deviation of the prior.

    Raises:
        GradlabError: unknown proxy, a parameter that is not finite, a standard deviation that is not above 0, or
            log-weights too steep to be resolved.
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
        """Lay out the quadrature over the base noise, once."""
        self.phi = check_real("phi", phi)
        self.proxy = get_proxy(proxy)
        self.model = LinearGaussian(x, slope, offset, likelihood_std, prior_std)
        self.nodes = adaptive(self._evaluate, -0.5, 0.5, np.ones_like, panels=7)

    @property
    def posterior(self) -> Quantized:
        """The law of y, with the properties of the proxy."""
        return Quantized(torch.tensor(self.phi, dtype=torch.float64), self.proxy)

    @property
    def parameters(self) -> dict[str, float]:
        """``phi`` and the generative parameters."""
        return {"phi": self.phi, **self.model.parameters}

    def log_terms(
        self, noise: Tensor, overrides: Mapping[str, Tensor] = NO_OVERRIDES, *, walls: bool = False
    ) -> LogTerms:
        """Evaluate log-weights ``[B, K, 1]``; see :meth:`Problem.log_terms`.

        Raises:
            GradlabError: as for :meth:`Problem.log_terms`, or ``walls`` is set, since a proxy has none.
        """
        if walls:
            raise GradlabError(f"proxy {self.proxy.name!r} has no walls to look at: use BoxGaussian for the unit box")
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
        """Return ``d exact_bound(k) / d wrt``; for phi it is 0 where the forward pass does not depend on phi.

        Raises:
            NotExact: for phi, where the derivative of the forward pass is not the one of autograd.
            GradlabError: as for :meth:`Problem.exact_gradient`.
        """
        if self.check_wrt(wrt) == "phi" and not self.proxy.path_is_true:
            check_k(k)
            if self.proxy.forward_moves:
                raise NotExact(f"what proxy {self.proxy.name!r} trains has a derivative that autograd does not know")
            return 0.0
        return super().exact_gradient(k, wrt)

    def rounded(self) -> float:
        """Return ``log w(round(phi))``, nats: minus the loss of a codec that rounds, as at test time."""
        return float(self.model.log_joint(np.round(np.array(self.phi))))

    def exact_gap(self, k: SupportsIndex = 1) -> float:
        """Return ``exact_bound(k) - rounded()``, nats: the difference between training and test.

        ``universal`` can be used at test time too and then has no gap; minus this value (k = 1) is the cost of its
        dither.
        """
        return self.exact_bound(k) - self.rounded()

    def _moments(self, wrt: str) -> dict[str, Moments]:
        if wrt == "phi":
            return zero_score_moments(self.nodes, self._slope_by_phi())
        slope = self._generative(wrt)
        return dict.fromkeys(("pathwise", "stl"), lambda k: moments.linear(self.nodes, slope, k))

    def _latent(self, noise: Array | Tensor, mean: Tensor) -> Tensor:
        """The latent; ``mean + noise`` for a proxy with the law of the box, since quadrature cannot cross jumps."""
        u = torch.as_tensor(noise, dtype=torch.float64)
        return mean + u if self.proxy.box else self.proxy.sample(mean, u)

    def _log_w(self, y: Tensor) -> Tensor:
        values = self.model.parameters
        return self.model.log_lik(self.proxy.decode(y), values) + self.model.log_prior(y, values)

    def _evaluate(self, noise: Array) -> tuple[Array, Array]:
        """``log w`` and its derivative by the base noise."""
        mean = torch.tensor(self.phi, dtype=torch.float64)
        u = torch.tensor(noise, dtype=torch.float64)
        log_w, slope = value_and_slope(lambda u: self._log_w(self._latent(u, mean)), u)
        # At the two ends of the logistic the chain rule meets 0 times infinity, where the derivative is 0.
        ends = np.abs(noise) == 0.5
        return log_w.numpy(), np.where(ends & ~np.isfinite(slope.numpy()), 0.0, slope.numpy())

    def _slope_by_phi(self) -> Array:
        """Autograd's ``d log w/d phi`` at the nodes."""
        phi = torch.full(self.nodes.y.shape, self.phi, dtype=torch.float64)
        _, slope = value_and_slope(lambda phi: self._log_w(self._latent(self.nodes.y, phi)), phi)
        return np.asarray(slope.numpy())

    def _generative(self, wrt: str) -> Array:
        """``d log w/d wrt`` at the nodes: parameters of the decoder depend on its input, the prior's on the latent."""
        y = self._latent(self.nodes.y, torch.tensor(self.phi, dtype=torch.float64))
        argument = y if wrt == "prior_std" else self.proxy.decode(y)
        return self.model.generative(argument.numpy(), wrt)
