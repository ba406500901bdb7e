"""Define the Gaussian model on which Rainforth et al. (2018) showed that the inference SNR falls as 1/sqrt(K).

z ~ N(mu, I), x | z ~ N(z, I), q(z | x) = N(A x + b, (2/3) I), D = 20. The optimum is mu* = mean of x, A* = I/2,
b* = mu*/2. Small Gaussian noise is added to every parameter, so that there is a gradient to estimate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, SupportsIndex

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.noise import normal, stream
from gradlab.objectives.posteriors import Normal
from gradlab.objectives.terms import LogTerms, Tap
from gradlab.runtime.display import shown
from gradlab.validation import real, whole

if TYPE_CHECKING:
    from jaxtyping import Float

# A variance, as in the paper, not a standard deviation.
Q_VARIANCE = 2 / 3


@shown
class RainforthModel:
    """The model, its data and its perturbed parameters, in float64.

    Args:
        data: number of data points (Rainforth et al. use 1024; the scaling does not depend on it).
        dim: D.
        perturbation: standard deviation of the noise that is added to each parameter at the optimum.
        seed: seed of the data and the perturbation.

    Attributes:
        x: data ``[N, D]``.
        a: parameter ``[D, D]``.
        b: parameter ``[D]``.
        mu: parameter ``[D]``.

    Raises:
        GradlabError: if there is less than one data point or dimension, or the perturbation is negative.

    Example:
        >>> from gradlab.problems.rainforth import RainforthModel
        >>> model = RainforthModel(data=4, dim=3)
        >>> model.x.shape, model.exact_gradient_single()["b"].shape
        (torch.Size([4, 3]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        data: SupportsIndex = 16,
        dim: SupportsIndex = 20,
        perturbation: float = 0.01,
        seed: SupportsIndex = 0,
    ) -> None:
        data, dim, seed = whole("data", data, 1, "points"), whole("dim", dim, 1), whole("seed", seed)
        if real("perturbation", perturbation) < 0:
            raise GradlabError(f"perturbation is {perturbation}: give a number of at least 0")
        self._arguments: dict[str, object] = {"data": data, "dim": dim, "perturbation": perturbation, "seed": seed}
        generator = stream(seed, "rainforth")
        mu = normal((dim,), generator, torch.float64)
        self.x = mu + math.sqrt(2) * normal((data, dim), generator, torch.float64)
        best = self.x.mean(dim=0)
        moved = perturbation * normal((dim + 2, dim), generator, torch.float64)
        self.a = 0.5 * torch.eye(dim, dtype=torch.float64) + moved[:dim]
        self.b = best / 2 + moved[dim]
        self.mu = best + moved[dim + 1]

    def _repr_arguments_(self) -> dict[str, object]:
        return self._arguments

    def log_terms(
        self,
        noise: Float[Tensor, "draws points k dim"],
        b: Float[Tensor, "draws points dim"],
        mu: Float[Tensor, "draws points dim"],
    ) -> LogTerms:
        """Evaluate the log-weights of every data point in every draw.

        Args:
            noise: standard normal noise ``[draws, N, K, D]``.
            b: parameter of q, one copy for each draw and data point, ``[draws, N, D]``.
            mu: parameter of the prior, ``[draws, N, D]``.

        Returns:
            Terms with a batch of draws x N, of which log_lik, log_py and log_q are ``[draws N, K, 1]`` in nats.
        """
        center = (self.x @ self.a.T)[None] + b  # [draws, N, D]
        q = Normal(center[:, :, None], torch.tensor(math.sqrt(Q_VARIANCE), dtype=noise.dtype))
        z = q.sample(noise).flatten(0, 1)  # [draws N, K, D]
        z_lik, z_py, z_q = (z.view_as(z) for _ in range(3))
        draws, points = noise.shape[:2]
        unflat = z_q.unflatten(0, (draws, points))
        std_normal = Normal(torch.zeros((), dtype=noise.dtype), torch.ones((), dtype=noise.dtype))
        x = self.x.repeat(draws, 1)[:, None]
        prior_mean = mu.flatten(0, 1)[:, None]
        return LogTerms(
            log_lik=std_normal.log_prob(x - z_lik).sum(dim=2, keepdim=True),
            log_py=std_normal.log_prob(z_py - prior_mean).sum(dim=2, keepdim=True),
            log_q=q.detached().log_prob(unflat).flatten(0, 1).sum(dim=2, keepdim=True),
            samples=(z, None),
            scores=(q.log_prob(z.detach().unflatten(0, (draws, points))).flatten(0, 1).sum(dim=2, keepdim=True),),
            taps=(Tap(z_lik, "y", "lik"), Tap(z_py, "y", "py"), Tap(z_q, "y", "q")),
        )

    def exact_gradient_single(self) -> dict[str, Tensor]:
        """Return the exact gradients of the ELBO (K = 1) of each data point.

        With m = A x + b they are x + mu - 2m for b and m - mu for mu.

        Returns:
            Parameter name -> gradients ``[N, D]``.
        """
        m = self.x @ self.a.T + self.b
        return {"b": self.x + self.mu - 2 * m, "mu": m - self.mu}

    def exact_variance_single(self) -> dict[str, float]:
        """Return the variance of each coordinate of one pathwise draw at K = 1.

        With s^2 = 2/3 it is 4 s^2 for b and s^2 for mu.
        """
        return {"b": 4 * Q_VARIANCE, "mu": Q_VARIANCE}
