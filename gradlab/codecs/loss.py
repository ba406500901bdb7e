"""The training loss of a codec as one frozen record, used by training, recording and cost measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.estimators import get_estimator
from gradlab.objectives import get_objective
from gradlab.objectives.posteriors import Quantized
from gradlab.objectives.proxies import Proxy, get_proxy
from gradlab.objectives.terms import LogTerms
from gradlab.validation import check_fields, whole

if TYPE_CHECKING:
    from gradlab.codecs.base import Codec
    from gradlab.codecs.video import PFrame


class LossParts(NamedTuple):
    """A loss with its rate and distortion, scalars on the device of the codec.

    Attributes:
        loss: bits per pixel, averaged over images, with a graph.
        bpp: rate in bits per pixel, averaged over images and samples, float64, detached.
        mse: on the 0-255 scale, averaged alike.
    """

    loss: Tensor
    bpp: Tensor
    mse: Tensor


@dataclass(frozen=True)
class Loss:
    """The training loss: minus an estimator's surrogate of an objective, in bits per pixel.

    The loss is in bits per pixel whatever the scale of the objective, so that learning rates, clipping and gradient
    variances mean the same at every crop size.

    Args:
        objective: one of ``gl.OBJECTIVES``.
        estimator: one of ``gl.ESTIMATORS``.
        weighting: ``"joint"`` (paper eqs. 12-17) or ``"per-term"`` (the listing of Appendix A.5).
        scale: unit of the log-weights in the softmax, ``"nats"`` (the equations) or ``"bpp"`` (the listing).
        k: samples of y.
        l: samples of z.
        proxy: replaces rounding of y, by name (``"sga:0.25"``) or as an object (``objectives.proxies``).
        allow_biased: needed by estimators whose requirement the unit box breaks (DReG), and by proxies whose derivative
            is not that of their forward pass (straight-through).

    Raises:
        GradlabError: an unknown name; k or l below 1, or a number of samples that the objective does not take; an
            estimator that is undefined for a codec, or biased without ``allow_biased``.

    Example::

        loss = gl.Loss("ms-nic-mix", k=5)
        loss(codec, x, lam=0.015).backward()
    """

    objective: str = "elbo"
    estimator: str = "pathwise"
    weighting: str = "joint"
    scale: str = "bpp"
    k: int = 1
    l: int = 1
    proxy: str | Proxy = "noise"
    allow_biased: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("k", "l"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1, "samples"))
        self._check_estimator()
        self._check_samples(paired=False)

    @property
    def label(self) -> str:
        """A short label that can name a folder, e.g. ``"ms-nic-mix-pathwise-k5"``."""
        return f"{self.objective}-{self.estimator}-k{self.k}"

    def __call__(
        self,
        codec: Codec | PFrame,
        x: Tensor,
        lam: float,
        generator: torch.Generator | None = None,
        *,
        encoded: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss, a scalar in bits per pixel, averaged over images.

        Args:
            codec: the model.
            x: ``[B, 3, H, W]`` images in [0, 1]; videos ``[B, T, 3, H, W]`` for a P-frame.
            lam: lambda of the R-D cost, MSE on the 0-255 scale.
            generator: of the noise, on the device of ``x``.
            encoded: ``codec.encode(x)``, if already computed.

        Raises:
            GradlabError: as for ``log_terms`` of the codec, or terms that the objective is not defined for.
        """
        return self.parts(codec, x, lam, generator, encoded=encoded).loss

    def parts(
        self,
        codec: Codec | PFrame,
        x: Tensor,
        lam: float,
        generator: torch.Generator | None = None,
        *,
        encoded: Tensor | None = None,
    ) -> LossParts:
        """Compute the loss with its rate and distortion; arguments as for a call. Nothing is copied to the host."""
        shared = {} if encoded is None else {"encoded": encoded}
        terms, _ = codec.log_terms(x, lam, self.k, self.l, generator, self.proxy, **shared)
        per_pixel = math.log(2) * terms.pixels
        with torch.no_grad():
            bpp = _double(torch.as_tensor(terms.log_py + terms.log_pz).mean()) / -per_pixel
            mse = _double(terms.log_lik.mean()) / (-per_pixel * lam)
        return LossParts(self.of(terms), bpp, mse)

    def of(self, terms: LogTerms) -> Tensor:
        """Compute the loss of given terms, a scalar in bits per pixel, averaged over images."""
        # As a plain tensor: SurrogateLoss marks values that are not bounds, which is irrelevant to training.
        value = get_estimator(self.estimator)(terms, self.objective, self.weighting, self.scale).as_subclass(Tensor)
        return -value.mean() / (1.0 if self.scale == "bpp" else math.log(2) * terms.pixels)

    def check(self, *, has_z: bool, direct_y: bool) -> None:
        """Refuse numbers of samples that a codec cannot draw.

        Args:
            has_z: whether the codec has a latent z of which several samples are taken.
            direct_y: whether h_a reads the mean of y; without, each z is drawn from its own y.

        Raises:
            GradlabError: l > 1 without z or without direct-y, or an objective that does not take pairs.
        """
        if self.l > 1 and not has_z:
            raise GradlabError(f"l is {self.l}, but this codec takes one sample of z at most: set l = 1")
        if self.l > 1 and not direct_y:
            raise GradlabError(f"l is {self.l} without direct-y, where each z is drawn from its own y: set l = 1")
        self._check_samples(paired=not direct_y)

    def _check_estimator(self) -> None:
        posterior, method = Quantized(torch.zeros(()), get_proxy(self.proxy)), get_estimator(self.estimator)
        lacking = method.undefined(posterior, self.k)
        if lacking:
            raise GradlabError(
                f"estimator {self.estimator!r} is undefined for a codec at k = {self.k}: it needs "
                f"{' and '.join(lacking)}; train with another"
            )
        missing = method.unmet(posterior, self.k)
        if missing and not self.allow_biased:
            where = "the unit box" if self.proxy == "noise" else f"proxy {self.proxy!r}"
            raise GradlabError(
                f"estimator {self.estimator!r} is biased for {where}: it needs {' and '.join(missing)}; "
                "train with another, or with allow_biased=True"
            )

    def _check_samples(self, paired: bool) -> None:
        """Validate the objective on terms of the shapes that a codec will give it."""
        k, l, zeros = min(self.k, 2), min(self.l, 2), torch.zeros  # two stand for several
        z = zeros(1, k, 1) if paired else zeros(1, 1, l)
        terms = LogTerms(zeros(1, k, 1), zeros(1, k, 1 if paired else l), z)
        get_objective(self.objective).validate(terms, self.weighting, self.scale)


@dataclass(frozen=True)
class PlainLoss:
    """The loss of a plain autoencoder: lambda times the MSE of ``g_s(g_a(x))``, without noise, rate or rounding.

    Source: Appendix A.10 of the paper. It is called like ``Loss``; the generator is ignored.
    """

    label = "plain"
    k = l = 1
    proxy = "noise"

    def __call__(
        self, codec: Codec | PFrame, x: Tensor, lam: float, generator: torch.Generator | None = None
    ) -> Tensor:
        """Compute the loss, a scalar, averaged over images ``x [B, 3, H, W]``."""
        return self.parts(codec, x, lam, generator).loss

    def parts(
        self, codec: Codec | PFrame, x: Tensor, lam: float, generator: torch.Generator | None = None
    ) -> LossParts:
        """Compute the loss with its MSE and a rate of 0."""
        loss = lam * ((255 * (x - codec.decode(codec.encode(x)))) ** 2).mean()
        value = _double(loss.detach())
        return LossParts(loss, torch.zeros_like(value), value / lam)

    def check(self, *, has_z: bool, direct_y: bool) -> None:
        """Accept every image codec: all have both transforms."""


def _double(value: Tensor) -> Tensor:
    """Convert to float64 where the device supports it."""
    return value if value.device.type == "mps" else value.double()
