"""Define ``LogTerms``: the log-weight of each image, factor by factor, in nats.

Stop-gradients are explicit, because they are the only thing in which estimators differ. A log-weight depends on the
inference parameters phi in two ways: through the reparameterised samples (the *path*), in every term, and explicitly
through ``log q(sample; phi)`` (the *score*), which ``scores`` holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.runtime.display import brief, counted, shown
from gradlab.validation import real, whole

if TYPE_CHECKING:
    from jaxtyping import Float

Latent = Literal["y", "z"]
Term = Literal["lik", "py", "pz", "q"]


@shown
class Tap(NamedTuple):
    """The place where a sample enters a term, at which an estimator may rescale the gradient.

    Attributes:
        value: the view of the sample that this term alone reads, ``[B, K, ...]`` for y or ``[B, L, ...]`` for z.
        latent: the latent that was sampled, ``"y"`` or ``"z"``.
        term: the term that reads the sample.
    """

    value: Tensor
    latent: Latent
    term: Term


@shown
class Walls(NamedTuple):
    """Points at which the derivative of a posterior is concentrated if it is not taken under the integral sign.

    ``d/dphi E_q[f] = sum_i E[sum_m scale_m * f(sample i moved to point m)]``. For the unit box the points are the two
    walls of each coordinate, with scale +1 and -1; for a smooth density they are the pairs of a measure-valued
    derivative. The points of sample i may depend on the noise of that sample, which its own term integrates out, but
    not on the noise of any other sample. Only for one latent (L = 1), or for pairs that are moved together.

    Attributes:
        log_w: ``[B, K, M]``, the log-weight of sample i if it were at point m, in nats.
        scale: signed weights that broadcast to ``[B, K, M]``.
        moves: the live parameter that moves point m, broadcastable to ``[B, K, M]``; None if no parameter is live.
        boundary: whether the points lie on the boundary of the support, where a second reparameterisation drops them;
            False for a fixed support.
    """

    log_w: Float[Tensor, "batch k m"]
    scale: Tensor
    moves: Tensor | None = None
    boundary: bool = True


@shown
class PriorPath(NamedTuple):
    """The path of a live prior whose samples are ``T(e; theta)`` of base noise e, with y regarded as such a sample.

    Attributes:
        value: ``T(stop(T^-1(y; theta)); theta)``, which has the shape and the values of y and the gradient dT/dtheta at
            fixed noise.
        log_p: ``[B, K, 1]``, log p(stop(y); theta): the explicit dependence on theta, with the values of the term that
            contains it.
    """

    value: Tensor
    log_p: Float[Tensor, "batch k one"]


@shown
@dataclass(frozen=True, eq=False)
class LogTerms:
    """Log-weights by factor, in nats, broadcastable to ``[B, K, L]`` (batch, samples of y, samples of z).

    Attributes:
        log_lik: ``[B, K, 1]``, log p(x | y_i).
        log_py: ``[B, K, L]``, log p(y_i | z_j). With one latent it is the prior, ``[B, K, 1]``.
        log_pz: ``[B, 1, L]``, log p(z_j); ``[B, K, 1]`` if z_i was drawn from y_i (*paired*); 0 without z.
        log_q: log q of the samples, 0 for the unit box. If ``scores`` is given, its parameters are detached, so that it
            carries only the path through the samples.
        pixels: number of image pixels, which converts nats into bits per pixel.
        samples: ``(y, z)``, for statistics.
        scores: log q of each *detached* sample at live parameters, one entry per latent, with the values of ``log_q``.
            If empty, ``log_q`` carries score and path together.
        taps: places where samples enter terms. Estimators that rescale the path (``score``, ``dreg``) need them.
        walls: points at which the derivative of the posterior is concentrated. Estimators that add the boundary or move
            samples need them; None if they are not evaluated or not known.
        prior_paths: paths of the live parameters of ``log_py`` (one latent); ``()`` if no parameter is live. None if
            they are not known, so that ``gdreg`` raises an error.
        rate_weight: weight of the rate, ``log_py + log_pz - log_q``, in each log-weight and in ``walls``. The
            objectives are bounds only if it is 1 (see ``annealed``).

    Raises:
        GradlabError: if a term does not have three axes or the terms do not broadcast to ``[B, K, L]``, ``pixels`` is
            below 1, or ``rate_weight`` is negative or not finite.

    Example:
        >>> import torch
        >>> import gradlab as gl
        >>> log_lik = torch.tensor([[[-1.0], [-3.0]]])  # one image, two samples
        >>> terms = gl.LogTerms(log_lik, log_py=torch.tensor([[[-0.5], [-0.5]]]))
        >>> terms.shape
        (1, 2, 1)
        >>> terms.log_w().flatten().tolist()
        [-1.5, -3.5]
    """

    log_lik: Float[Tensor, "#batch #k #l"]
    log_py: Float[Tensor, "#batch #k #l"] | Float[Tensor, ""] | float = 0.0
    log_pz: Float[Tensor, "#batch #k #l"] | Float[Tensor, ""] | float = 0.0
    log_q: Float[Tensor, "#batch #k #l"] | Float[Tensor, ""] | float = 0.0
    pixels: int = 1
    samples: tuple[Tensor | None, Tensor | None] = (None, None)
    scores: tuple[Tensor, ...] = ()
    taps: tuple[Tap, ...] = ()
    walls: Walls | None = None
    prior_paths: tuple[PriorPath, ...] | None = None
    rate_weight: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", whole("pixels", self.pixels, 1, "image pixels"))
        object.__setattr__(self, "rate_weight", real("rate_weight", self.rate_weight))
        for name in ("log_lik", "log_py", "log_pz", "log_q"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.ndim not in (0, 3):
                raise GradlabError(
                    f"{name} has shape {tuple(value.shape)}: give three axes, [batch, k, l] (size 1 if constant)"
                )
        if not isinstance(self.log_lik, Tensor) or self.log_lik.ndim != 3:
            raise GradlabError("log_lik is not a tensor with three axes: give a tensor of shape [batch, k, 1]")
        if self.rate_weight < 0:
            raise GradlabError(f"rate_weight is {self.rate_weight}: give a number of at least 0")
        try:
            self.shape  # noqa: B018  (raises if the terms do not broadcast)
        except RuntimeError as error:
            raise GradlabError(f"the terms do not broadcast to one [batch, k, l]: {error}") from None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape ``(B, K, L)`` that the terms broadcast to."""
        values = (self.log_lik, self.log_py, self.log_pz, self.log_q)
        b, k, l = torch.broadcast_shapes(*(v.shape for v in values if isinstance(v, Tensor)))
        return b, k, l

    def _factors(self) -> dict[str, Tensor | float]:
        """The factors that are not 0 everywhere by definition."""
        values = {name: getattr(self, name) for name in ("log_lik", "log_py", "log_pz", "log_q")}
        return {name: value for name, value in values.items() if isinstance(value, Tensor) or value}

    def _repr_line_(self) -> str:
        parts = [counted(len(self.taps), "tap")] * bool(self.taps) + ["walls"] * (self.walls is not None)
        at = "" if self.log_lik.device.type == "cpu" else f" on {self.log_lik.device}"
        return f"{list(self.shape)}{at} of {', '.join([*self._factors(), *parts])}"

    def _repr_rows_(self) -> dict[str, object]:
        return {
            "shape": f"{list(self.shape)}, [images, samples of y, samples of z]",
            **self._factors(),
            "pixels": self.pixels,
            "samples": self.samples,
            "scores": self.scores,
            "taps": ", ".join(f"{tap.latent} in {tap.term}" for tap in self.taps) or "none",
            "walls": "none" if self.walls is None else brief(self.walls.log_w),
            "rate_weight": self.rate_weight,
        }

    @property
    def paired(self) -> bool:
        """Whether z_i was drawn from y_i, so that the K samples are pairs and not an outer product."""
        return isinstance(self.log_pz, Tensor) and self.log_pz.ndim == 3 and self.log_pz.shape[1] > 1

    def score_terms(self) -> Tensor | float:
        """Return the sum of ``scores`` minus its own value: 0, with the gradient of the score.

        Returns:
            Zeros that broadcast to ``[B, K, L]``, or the number 0 if there are no scores.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> score = torch.zeros(1, 2, 1, requires_grad=True)
            >>> terms = gl.LogTerms(torch.zeros(1, 2, 1), scores=(3 * score,))
            >>> terms.score_terms().sum().backward()
            >>> score.grad.flatten().tolist()
            [3.0, 3.0]
        """
        return sum((s - s.detach() for s in self.scores), start=0.0)

    def log_w(self, score: bool = True) -> Float[Tensor, "batch k l"]:
        """Return the log-weights.

        Args:
            score: False drops the explicit dependence of log q on its parameters.

        Returns:
            Log-weights ``[B, K, L]`` in nats.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> terms = gl.LogTerms(torch.full((1, 2, 1), -1.0), log_py=torch.full((1, 2, 1), -2.0))
            >>> terms.log_w().flatten().tolist()
            [-3.0, -3.0]
        """
        rate = self.log_py + self.log_pz - self.log_q
        if score:
            rate = rate - self.score_terms()
        return (self.log_lik + (rate if self.rate_weight == 1 else self.rate_weight * rate)).expand(self.shape)

    def annealed(self, rate_weight: float) -> LogTerms:
        """Return the same terms with the rate multiplied by a weight.

        KL annealing and soft free bits do so (paper section 4.2).

        Args:
            rate_weight: weight of the rate, at least 0; see :func:`~gradlab.objectives.kl_annealing`.

        Returns:
            Terms with that weight.

        Raises:
            GradlabError: if the weight is negative, or the walls of the terms were evaluated with another weight.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> terms = gl.LogTerms(torch.full((1, 2, 1), -1.0), log_py=torch.full((1, 2, 1), -2.0))
            >>> terms.annealed(0.5).log_w().flatten().tolist()
            [-2.0, -2.0]
        """
        if self.walls is not None and rate_weight != self.rate_weight:
            raise GradlabError(
                f"the walls of these terms were evaluated with rate_weight {self.rate_weight}: leave walls out, or "
                "evaluate them again"
            )
        return replace(self, rate_weight=rate_weight)

    def without_scores(self) -> LogTerms:
        """Return the same terms without the explicit dependence of log q on its parameters (Roeder et al. 2017).

        Returns:
            Terms whose ``scores`` are empty.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.NormalGaussian(mean=0.3, std=1.0, x=1.0)
            >>> terms = problem.log_terms(problem.draw_noise(5, k=2))
            >>> len(terms.scores), len(terms.without_scores().scores)
            (1, 0)
        """
        return replace(self, scores=())
