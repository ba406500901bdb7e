"""``LogTerms``: the log-weight of each image, factor by factor, in nats.

Stop-gradients are explicit, because estimators differ in nothing else. A log-weight depends on the inference
parameters phi in two ways: through the reparameterised samples (the *path*), in every term, and explicitly through
``log q(sample; phi)`` (the *score*), which ``scores`` holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.runtime.display import brief, counted, shown
from gradlab.validation import real, whole

Latent = Literal["y", "z"]
Term = Literal["lik", "py", "pz", "q"]


@shown
class Tap(NamedTuple):
    """The place where a sample enters a term, at which an estimator may rescale the gradient.

    Attributes:
        value: the view of the sample, ``[B, K, ...]`` (y) or ``[B, L, ...]`` (z), that this term alone reads.
        latent: which sample it is.
        term: which term reads it.
    """

    value: Tensor
    latent: Latent
    term: Term


@shown
class Walls(NamedTuple):
    """Points at which a posterior's derivative sits if it is not taken under the integral sign.

    ``d/dphi E_q[f] = sum_i E[sum_m scale_m * f(sample i moved to point m)]``: for the unit box the two walls of each
    coordinate with scale +1 and -1; for a smooth density the pairs of a measure-valued derivative. The points of
    sample i may depend on its own noise, which its own term integrates out, and on no other. Only for one latent
    (L = 1), or for pairs that are moved together.

    Attributes:
        log_w: ``[B, K, M]`` log-weight of sample i if it were at point m, nats.
        scale: signed weights, broadcastable to ``[B, K, M]``.
        moves: the live parameter of point m, broadcastable to ``[B, K, M]``; None if none is live.
        boundary: whether the points lie on the boundary of the support, where a second reparameterisation drops them;
            False for a fixed support.
    """

    log_w: Tensor
    scale: Tensor
    moves: Tensor | None = None
    boundary: bool = True


@shown
class PriorPath(NamedTuple):
    """The path of a live prior, whose samples are ``T(e; theta)`` of base noise e, with y taken as one of them.

    Attributes:
        value: ``T(stop(T^-1(y; theta)); theta)``, shaped and valued like y, whose gradient is dT/dtheta at fixed noise.
        log_p: ``[B, K, 1]`` log p(stop(y); theta): the explicit dependence, values as in the term that holds it.
    """

    value: Tensor
    log_p: Tensor


@shown
@dataclass(frozen=True, eq=False)
class LogTerms:
    """Log-weights by factor, in nats, broadcastable to ``[B, K, L]``.

    Attributes:
        log_lik: ``[B, K, 1]`` log p(x | y_i).
        log_py: ``[B, K, L]`` log p(y_i | z_j); for one latent the prior ``[B, K, 1]``.
        log_pz: ``[B, 1, L]`` log p(z_j); ``[B, K, 1]`` when z_i was drawn from y_i (*paired*); 0 without z.
        log_q: log q of the samples, 0 for the unit box. Where ``scores`` is given, its parameters are detached, so that
            it carries only the path through the samples.
        pixels: image pixels, which turn nats into bits per pixel.
        samples: ``(y, z)``, for statistics.
        scores: log q of each *detached* sample at live parameters, one entry per latent; values as in ``log_q``.
            Empty: ``log_q`` carries score and path together.
        taps: where samples enter terms; needed by estimators that rescale the path (``score``, ``dreg``).
        walls: needed by estimators that add the boundary or move samples; None if not evaluated or not known.
        prior_paths: paths of the live parameters of ``log_py`` (one latent); ``()`` if none is live. None if not known,
            so that ``gdreg`` refuses.
        rate_weight: weight of the rate, ``log_py + log_pz - log_q``, in a log-weight and in ``walls``; unless it is 1
            the objectives are no bounds (see ``annealed``).

    Raises:
        GradlabError: a term that is not ``[B, K, L]``-shaped or holds NaN.
    """

    log_lik: Tensor
    log_py: Tensor | float = 0.0
    log_pz: Tensor | float = 0.0
    log_q: Tensor | float = 0.0
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
                    f"{name} has shape {tuple(value.shape)}: give it three axes, [batch, k, l] (size 1 if constant)"
                )
        if not isinstance(self.log_lik, Tensor) or self.log_lik.ndim != 3:
            raise GradlabError("log_lik must be a tensor of shape [batch, k, 1]")
        if self.rate_weight < 0:
            raise GradlabError(f"rate_weight is {self.rate_weight}: give a number of at least 0")
        try:
            self.shape  # noqa: B018  (raises if the terms do not broadcast)
        except RuntimeError as error:
            raise GradlabError(f"the terms do not broadcast to one [batch, k, l]: {error}") from None

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(B, K, L)``."""
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
        """Sum of ``scores`` minus its own value: 0, with the gradient of the score."""
        return sum((s - s.detach() for s in self.scores), start=0.0)

    def log_w(self, score: bool = True) -> Tensor:
        """``[B, K, L]`` log-weights, nats; ``score=False`` drops the explicit dependence of log q on its parameters."""
        rate = self.log_py + self.log_pz - self.log_q
        if score:
            rate = rate - self.score_terms()
        return (self.log_lik + (rate if self.rate_weight == 1 else self.rate_weight * rate)).expand(self.shape)

    def annealed(self, rate_weight: float) -> LogTerms:
        """The same terms with the rate multiplied by a weight: KL annealing, soft free bits (paper section 4.2).

        Raises:
            GradlabError: a weight below 0, or terms whose walls were evaluated with another weight.
        """
        if self.walls is not None and rate_weight != self.rate_weight:
            raise GradlabError(
                "the walls of these terms hold another rate_weight: leave walls out, or evaluate them anew"
            )
        return replace(self, rate_weight=rate_weight)

    def without_scores(self) -> LogTerms:
        """The same terms with the explicit dependence of log q on its parameters dropped (Roeder et al. 2017)."""
        return replace(self, scores=())
