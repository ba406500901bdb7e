"""The training loss of a codec as a frozen record, used for training, recording and cost measurement."""

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
from gradlab.runtime.display import shown
from gradlab.validation import check_fields, whole

if TYPE_CHECKING:
    from jaxtyping import Float

    from gradlab.codecs.base import Codec
    from gradlab.codecs.video import PFrame


@shown
class LossParts(NamedTuple):
    """A loss with its rate and distortion, as scalar tensors on the device of the codec.

    Attributes:
        loss: loss in bits per pixel, averaged over images, with its autograd graph.
        bpp: rate in bits per pixel, averaged over images and samples, detached; float64 if the device supports it.
        mse: mean squared error on the 0-255 scale, averaged in the same way.
    """

    loss: Float[Tensor, ""]
    bpp: Float[Tensor, ""]
    mse: Float[Tensor, ""]


@shown
@dataclass(frozen=True)
class Loss:
    """Training loss of a codec: minus an estimator's surrogate of an objective, in bits per pixel.

    The loss is in bits per pixel whatever the scale of the objective, so learning rates, gradient clipping and gradient
    variances have the same meaning at every crop size.

    Args:
        objective: name of the objective, one of ``gl.OBJECTIVES``.
        estimator: name of the gradient estimator, one of ``gl.ESTIMATORS``.
        weighting: ``"joint"`` for the paper's equations 12 to 17, or ``"per-term"`` for the listing in its Appendix
            A.5.
        scale: unit of the log-weights inside the softmax: ``"nats"`` as in the equations, or ``"bpp"`` as in the
            listing.
        k: number of samples of y.
        l: number of samples of z.
        proxy: proxy for rounding y, by name (``"sga:0.25"``) or as an object (see ``gradlab.objectives.proxies``).
        allow_biased: accept estimators whose requirements the unit box does not meet, such as DReG, and proxies whose
            gradient is not the derivative of their forward pass, such as straight-through.

    Raises:
        GradlabError: a name is unknown, ``k`` or ``l`` is below 1 or not supported by the objective, or the estimator
            is undefined for codecs, or biased while ``allow_biased`` is False.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> loss = gl.Loss("ms-nic-mix", k=5)
        >>> loss(codec, torch.rand(2, 3, 32, 48), lam=0.015).backward()
        >>> codec.g_a[0].weight.grad is not None
        True
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
        """A short label for folder names, for example ``"ms-nic-mix-pathwise-k5"``."""
        return f"{self.objective}-{self.estimator}-k{self.k}"

    def __call__(
        self,
        codec: Codec | PFrame,
        x: Float[Tensor, "batch *frames 3 height width"],
        lam: float,
        generator: torch.Generator | None = None,
        *,
        encoded: Float[Tensor, "batch channels rows columns"] | None = None,
    ) -> Float[Tensor, ""]:
        """Compute the loss in bits per pixel, averaged over images.

        Args:
            codec: codec to evaluate.
            x: images ``[batch, 3, height, width]`` in [0, 1], or videos ``[batch, frames, 3, height, width]`` for a
                P-frame codec.
            lam: R-D trade-off parameter lambda, for an MSE on the 0-255 scale.
            generator: generator of the noise, on the device of ``x``.
            encoded: ``codec.encode(x)``, if it is already computed.

        Returns:
            The loss as a scalar tensor.

        Raises:
            GradlabError: see ``log_terms`` of the codec; also if the objective does not support the terms.
        """
        return self.parts(codec, x, lam, generator, encoded=encoded).loss

    def parts(
        self,
        codec: Codec | PFrame,
        x: Float[Tensor, "batch *frames 3 height width"],
        lam: float,
        generator: torch.Generator | None = None,
        *,
        encoded: Float[Tensor, "batch channels rows columns"] | None = None,
    ) -> LossParts:
        """Compute the loss with its rate and distortion, without copying anything to the host.

        Args:
            codec: codec to evaluate.
            x: images ``[batch, 3, height, width]`` in [0, 1], or videos ``[batch, frames, 3, height, width]`` for a
                P-frame codec.
            lam: R-D trade-off parameter lambda, for an MSE on the 0-255 scale.
            generator: generator of the noise, on the device of ``x``.
            encoded: ``codec.encode(x)``, if it is already computed.

        Returns:
            The loss, the rate in bits per pixel and the MSE on the 0-255 scale.

        Raises:
            GradlabError: see ``log_terms`` of the codec; also if the objective does not support the terms.

        Example:
            With one sample the loss is the R-D cost:

            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> loss, bpp, mse = gl.Loss().parts(codec, torch.rand(2, 3, 32, 48), lam=0.01)
            >>> abs(loss.item() - (bpp + 0.01 * mse).item()) < 1e-3
            True
        """
        shared = {} if encoded is None else {"encoded": encoded}
        terms, _ = codec.log_terms(x, lam, self.k, self.l, generator, self.proxy, **shared)
        per_pixel = math.log(2) * terms.pixels
        with torch.no_grad():
            bpp = _double(torch.as_tensor(terms.log_py + terms.log_pz).mean()) / -per_pixel
            mse = _double(terms.log_lik.mean()) / (-per_pixel * lam)
        return LossParts(self.of(terms), bpp, mse)

    def of(self, terms: LogTerms) -> Float[Tensor, ""]:
        """Compute the loss of given terms in bits per pixel, averaged over images.

        Args:
            terms: log-weights from ``log_terms`` of a codec.

        Returns:
            The loss as a scalar tensor.

        Raises:
            GradlabError: the objective does not support the terms.

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> terms, _ = codec.log_terms(torch.rand(2, 3, 32, 48), lam=0.01, k=5)
            >>> gl.Loss("ms-nic-mix", k=5).of(terms).ndim
            0
        """
        # SurrogateLoss marks values that are not bounds; training needs a plain tensor.
        value = get_estimator(self.estimator)(terms, self.objective, self.weighting, self.scale).as_subclass(Tensor)
        return -value.mean() / (1.0 if self.scale == "bpp" else math.log(2) * terms.pixels)

    def check(self, *, has_z: bool, direct_y: bool) -> None:
        """Raise an error if a codec cannot draw the numbers of samples of this loss.

        Args:
            has_z: whether the codec can draw several samples of z.
            direct_y: whether h_a reads the mean of y. Otherwise each z is drawn from its own y.

        Raises:
            GradlabError: ``l`` is above 1 for a codec without z or without direct-y, or the objective does not support
                pairs of y and z.

        Example:
            >>> import gradlab as gl
            >>> gl.Loss("ms-nic-dms", k=3, l=3).check(has_z=False, direct_y=True)
            Traceback (most recent call last):
            ...
            gradlab.errors.GradlabError: l is 3, but this codec draws at most one sample of z: set l to 1
        """
        if self.l > 1 and not has_z:
            raise GradlabError(f"l is {self.l}, but this codec draws at most one sample of z: set l to 1")
        if self.l > 1 and not direct_y:
            raise GradlabError(f"l is {self.l}, but without direct-y each z is drawn from its own y: set l to 1")
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
        """Validate the objective with terms of the shapes that a codec returns."""
        k, l, zeros = min(self.k, 2), min(self.l, 2), torch.zeros  # two samples represent any larger number
        z = zeros(1, k, 1) if paired else zeros(1, 1, l)
        terms = LogTerms(zeros(1, k, 1), zeros(1, k, 1 if paired else l), z)
        get_objective(self.objective).validate(terms, self.weighting, self.scale)


@shown
@dataclass(frozen=True)
class PlainLoss:
    """Training loss of a plain autoencoder: lambda times the MSE of g_s(g_a(x)), without noise, rate or rounding.

    It has the interface of ``Loss``; the generator is ignored.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> loss = gl.codecs.PlainLoss()
        >>> loss(codec, torch.rand(2, 3, 32, 48), lam=0.015).backward()
        >>> codec.h_a[0].weight.grad is None
        True

    Source:
        Appendix A.10 of the paper.
    """

    label = "plain"
    k = l = 1
    proxy = "noise"

    def __call__(
        self,
        codec: Codec | PFrame,
        x: Float[Tensor, "batch 3 height width"],
        lam: float,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Compute the loss, averaged over images.

        Args:
            codec: codec to evaluate.
            x: images in [0, 1].
            lam: R-D trade-off parameter lambda, for an MSE on the 0-255 scale.
            generator: ignored.

        Returns:
            The loss as a scalar tensor.
        """
        return self.parts(codec, x, lam, generator).loss

    def parts(
        self,
        codec: Codec | PFrame,
        x: Float[Tensor, "batch 3 height width"],
        lam: float,
        generator: torch.Generator | None = None,
    ) -> LossParts:
        """Compute the loss with its MSE and a rate of 0.

        Args:
            codec: codec to evaluate.
            x: images in [0, 1].
            lam: R-D trade-off parameter lambda, for an MSE on the 0-255 scale.
            generator: ignored.

        Returns:
            The loss, a rate of 0 and the MSE on the 0-255 scale.

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> parts = gl.codecs.PlainLoss().parts(codec, torch.rand(2, 3, 32, 48), lam=0.015)
            >>> float(parts.bpp)
            0.0
        """
        loss = lam * ((255 * (x - codec.decode(codec.encode(x)))) ** 2).mean()
        value = _double(loss.detach())
        return LossParts(loss, torch.zeros_like(value), value / lam)

    def check(self, *, has_z: bool, direct_y: bool) -> None:
        """Accept every image codec, because all of them have both transforms.

        Args:
            has_z: ignored.
            direct_y: ignored.

        Example:
            >>> import gradlab as gl
            >>> gl.codecs.PlainLoss().check(has_z=False, direct_y=True)
        """


def _double(value: Tensor) -> Tensor:
    """Convert a tensor to float64 if its device supports it."""
    return value if value.device.type == "mps" else value.double()
