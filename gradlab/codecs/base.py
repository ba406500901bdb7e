"""The base class of all image codecs: gradlab's forward pass around CompressAI's transforms and entropy models.

A subclass supplies its parts: ``g_a``, ``g_s``, the hyperprior, p(y | z) and the rounding of y. Drawing, scoring and
decoding samples is implemented here once. Each noisy sample of y is scored, read by the context model and decoded.
CompressAI's own forward of ``mbt2018`` and ``cheng2020`` draws two samples, which an importance weight must not mix.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, SupportsIndex

import torch
from compressai.models import CompressionModel
from torch import Tensor, nn

from gradlab.codecs.entropy import Bottleneck
from gradlab.codecs.precision import run_transform
from gradlab.codecs.shared import check_input, fold, log_likelihood, noise_like, unfold
from gradlab.errors import GradlabError
from gradlab.noise import uniform
from gradlab.objectives.proxies import Proxy, get_proxy
from gradlab.objectives.terms import LogTerms, Tap
from gradlab.validation import checked, whole


class Latents(NamedTuple):
    """Latents of images, before and after quantisation, and the information content of the quantised latents.

    Attributes:
        y: ``[B, M, h, w]``; z: ``[B, N, h', w']``, None where the model has none; y_hat, z_hat: the same, quantised:
            as the bitstream holds them (``codec.latents``) or by universal quantization (``codec.universal``).
        y_bits: ``[B]`` -log2 of the likelihood of y_hat given z_hat; z_bits: ``[B]`` of z_hat, 0 without z.
    """

    y: Tensor
    z: Tensor | None
    y_hat: Tensor
    z_hat: Tensor | None
    y_bits: Tensor
    z_bits: Tensor


class Codec(CompressionModel):
    """An image codec of CompressAI with gradlab's forward pass: noise is injected, and y is scored as it was drawn.

    As the first base of a model, before CompressAI's class, it replaces ``forward`` and keeps the parameters, their
    order and their state-dict keys.

    Gradients come from autograd through CompressAI's modules. They equal the derivatives except at CompressAI's bounds
    (scales at 0.11, likelihoods at 1e-9, the parameters of GDN): below a bound the value is constant, but a gradient
    that would lift the argument back above it passes, so that training can leave the bound.

    Args:
        channels: CompressAI's own arguments, in the order of ``channel_names``.
        direct_y: feed the mean y to h_a (Balle et al. 2018); False is the paper's 2-level VAE, which feeds the sample.

    Attributes:
        hyper_input: what h_a reads at test time without direct-y: the quantised y (``"rounded"``: round(y), since the
            mean that y is rounded about is not known before z) or y itself (``"mean"``).
        precision: of the transforms, ``"float32"``, ``"tf32"`` or ``"bf16"`` (``gradlab.codecs.precision``). Latents,
            noise, likelihoods and distortion are in the type of the weights, also under a user's autocast.
    """

    channel_names: ClassVar[tuple[str, ...]] = ("N", "M")
    has_z: ClassVar[bool] = True
    g_a: nn.Module
    g_s: nn.Module
    entropy_bottleneck: Bottleneck
    downsampling_factor: int  # pixels per position of the coarsest latent, along one axis

    def __init__(self, *channels: int, direct_y: bool = True) -> None:
        super().__init__(*channels)
        self.entropy_bottleneck = Bottleneck(self.entropy_bottleneck.channels)
        self.direct_y = direct_y
        self.hyper_input = "rounded"
        self.precision = "float32"

    @classmethod
    @abstractmethod
    def channels_of(cls, state: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Infer the channels from a state dict with the keys of this model."""

    @abstractmethod
    def groups(self) -> dict[str, nn.Module]:
        """Return the groups of Table 3. The bottleneck's ``quantiles`` are not part of the model's likelihood."""

    @abstractmethod
    def _hyper(self, y: Tensor) -> Tensor | None:
        """``[N, ...]`` z before noise from what h_a reads, without its abs; None where the model has no z."""

    @abstractmethod
    def _log_prior(self, y: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor | float, tuple[Tap, ...]]:
        """``log_py`` and ``log_pz`` of samples ``y [B, k, ...]``, ``z [B, l, ...]``, and the taps of z."""

    @abstractmethod
    def _rounded(self, y: Tensor, z_hat: Tensor | None) -> Tensor:
        """Round y as the bitstream does."""

    def encode(self, x: Tensor) -> Tensor:
        """Compute the mean of y, ``g_a(x)``: ``[B, M, h, w]`` in the type of ``x [B, 3, H, W]``.

        Raises:
            GradlabError: images of a wrong shape, type or device.
        """
        self._check(x)
        return run_transform(self.g_a, x, self.precision)

    def decode(self, y: Tensor) -> Tensor:
        """Decode a latent to an image, ``g_s(y)``: ``[B, 3, H, W]`` in the type of ``y``, not clamped."""
        return run_transform(self.g_s, y, self.precision)

    @abstractmethod
    def likelihoods(self, y_hat: Tensor, z_hat: Tensor | None) -> dict[str, Tensor]:
        """Compute the probability mass of each element of ``"y"`` and, where the model has one, of ``"z"``.

        Args:
            y_hat: ``[B, M, h, w]``, rounded, dithered or noisy.
            z_hat: ``[B, N, h', w']``, or None without z.
        """

    @checked
    def log_terms(
        self,
        x: Tensor,
        lam: float,
        k: SupportsIndex = 1,
        l: SupportsIndex = 1,
        generator: torch.Generator | None = None,
        proxy: str | Proxy = "noise",
        *,
        encoded: Tensor | None = None,
    ) -> tuple[LogTerms, Tensor]:
        """Compute the log-weight of each image, factor by factor; noise is injected in train and eval mode alike.

        Args:
            x: ``[B, 3, H, W]`` images in [0, 1]; H and W multiples of ``downsampling_factor``.
            lam: the R-D trade-off lambda, on the 0-255 scale.
            k: samples of y; the encoder runs once for all of them.
            l: samples of z; must be 1 without z, and without direct-y, where each z is drawn from its own y.
            generator: of the noise, on the device of ``x``. z's noise is drawn after y's.
            proxy: replaces rounding of y (``gradlab.objectives.proxies``); z keeps additive noise. Proxies round to
                integers, also where the codec rounds about a predicted mean at test time.
            encoded: ``codec.encode(x)``, if already computed: draws that differ in noise alone can share it, with
                ``backward(retain_graph=True)``.

        Returns:
            The terms in nats (log_lik = -ln 2 H W lam MSE_255), and ``x_hat [B, k, 3, H, W]``, not clamped. The
            context model reads a sample y_i through the tap of log p(y_i | z_j).

        Raises:
            GradlabError: images of a wrong shape, k or l below 1, l > 1 without z or without direct-y, unknown proxy,
                weights of 16 bits.
        """
        k, l = whole("k", k, 1, "samples of y"), whole("l", l, 1, "samples of z")
        self._check(x, l)
        rounding = get_proxy(proxy)
        b, _, height, width = x.shape
        y_mean = self.encode(x) if encoded is None else encoded
        y = rounding.sample(y_mean[:, None], uniform((b, k, *y_mean.shape[1:]), generator, y_mean.dtype, x.device))
        # Without direct-y h_a reads the sample before any tap: an estimator rescales each path of z_i once.
        z_mean = self._hyper(y_mean if self.direct_y else fold(y))
        z = None
        if z_mean is not None:
            z_mean = unfold(z_mean, b)
            z = z_mean + uniform((b, l if self.direct_y else k, *z_mean.shape[2:]), generator, y_mean.dtype, x.device)
        y_lik, y_py = y.view_as(y), y.view_as(y)
        x_hat = unfold(self.decode(fold(rounding.decode(y_lik))), b)
        log_py, log_pz, z_taps = self._log_prior(y_py, z)
        terms = LogTerms(
            log_lik=log_likelihood(x, x_hat, lam),
            log_py=log_py,
            log_pz=log_pz,
            pixels=height * width,
            samples=(y, z),
            taps=(Tap(y_lik, "y", "lik"), Tap(y_py, "y", "py"), *z_taps),
        )
        return terms, x_hat

    @checked
    @torch.no_grad()
    def latents(self, x: Tensor, encoded: Tensor | None = None) -> Latents:
        """Compute the latents without noise, and quantised as in the bitstream.

        Args:
            x: ``[B, 3, H, W]`` in [0, 1], H and W multiples of ``downsampling_factor``.
            encoded: ``g_a(x)``, if already computed.
        """
        self._check(x)
        y, z, y_hat, z_hat = self._quantised(x, encoded)
        return Latents(y, z, y_hat, z_hat, *self.bits(y_hat, z_hat))

    @checked
    @torch.no_grad()
    def universal(self, x: Tensor, generator: torch.Generator | None = None) -> Latents:
        """Quantise y and z universally (Agustsson and Theis 2020): y_hat = round(y - u) + u, u ~ U(-1/2, 1/2).

        With the dither u shared by encoder and decoder, y_hat is distributed as y plus additive noise. There is
        no bitstream; the bits are the information content of y_hat and z_hat themselves.

        Args:
            x: ``[B, 3, H, W]`` in [0, 1], H and W multiples of ``downsampling_factor``.
            generator: of the dither, on the device of ``x``; y's is drawn first.
        """
        self._check(x)
        y = self.encode(x)
        y_hat = dithered(y, generator)
        z = self._hyper(y if self.direct_y or self.hyper_input == "mean" else y_hat)
        z_hat = None if z is None else dithered(z, generator)
        return Latents(y, z, y_hat, z_hat, *self.bits(y_hat, z_hat))

    def bits(self, y_hat: Tensor, z_hat: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute ``[B]`` bits, -log2 of the likelihoods, of y_hat given z_hat and of z_hat (0 without z)."""
        bits = {name: -mass.log2().sum(dim=(1, 2, 3)) for name, mass in self.likelihoods(y_hat, z_hat).items()}
        return bits["y"], bits.get("z", torch.zeros_like(bits["y"]))

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Run CompressAI's interface: noise in train mode, in eval mode the rounding of ``compress``."""
        if self.training:
            y = self.encode(x)
            y_hat = y + noise_like(y)
            z = self._hyper(y if self.direct_y else y_hat)
            z_hat = None if z is None else z + noise_like(z)
        else:
            _, _, y_hat, z_hat = self._quantised(x)
        return {"x_hat": self.decode(y_hat), "likelihoods": self.likelihoods(y_hat, z_hat)}

    def finish(self) -> None:
        """Solve the quantiles by bisection and build the coder's tables; call it once after training."""
        self.update(force=True, update_quantiles=True)

    def _quantised(
        self, x: Tensor, encoded: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        y = self.encode(x) if encoded is None else encoded
        z = self._hyper(self._read_by_h_a(y))
        z_hat = None if z is None else self.entropy_bottleneck.rounded(z)
        return y, z, self._rounded(y, z_hat), z_hat

    def _read_by_h_a(self, y: Tensor) -> Tensor:
        return y if self.direct_y or self.hyper_input == "mean" else torch.round(y)

    def _check(self, x: Tensor, l: int = 1) -> None:
        if x.ndim != 4 or x.shape[1] != 3:
            raise GradlabError(f"images have shape {tuple(x.shape)}: give [batch, 3, height, width]")
        check_input(self, x, "images", "crop or pad them")
        if l > 1 and not self.has_z:
            raise GradlabError(f"l = {l} samples of z, but this codec has no z: l must be 1")
        if l > 1 and not self.direct_y:
            raise GradlabError(f"l = {l} without direct-y: each z is drawn from its own y, so l must be 1")


def dithered(t: Tensor, generator: torch.Generator | None) -> Tensor:
    """Quantise by round(t - u) + u, with u ~ U(-1/2, 1/2) of the generator."""
    u = noise_like(t, generator)
    return torch.round(t - u) + u
