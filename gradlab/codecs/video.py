"""One P-frame of scale-space flow (Agustsson et al. 2020), with k samples of the residual's latent.

.. code-block:: none

        x, x_ref --> motion_encoder --> m + u --> motion_decoder --> warp of x_ref = x_pred      log p(m | z_m) p(z_m)
                                          |
        x - x_pred --> res_encoder --> y --> y + u_1..k --+--> res_decoder --> x_hat_1..k        log p(x | y_i)
                                       |                  |    (reads m too; + x_pred)
                                       |                  +--> p(y_i | z)                        log p(y_i | z)
                                       +--> hyper_encoder --> z + u --> its two decoders         log p(z)

What is uncertain about the residual is multi-sampled as y is in an image codec; the motion and the z of both
hyperpriors are drawn once and shared, as z is in MS-NIC-MIX. One noisy sample is drawn of each, scored and decoded;
CompressAI's own forward decodes a rounded one (straight-through) and scores a noisy one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from compressai.models.video import ScaleSpaceFlow
from torch import Tensor, nn

from gradlab.codecs.base import fold, unfold
from gradlab.codecs.entropy import Bottleneck, Conditional
from gradlab.codecs.precision import check_weights, full, transformed
from gradlab.errors import GradlabError
from gradlab.noise import uniform
from gradlab.objectives.proxies import Proxy, get_proxy
from gradlab.objectives.terms import LogTerms, Tap

NAME = "ssf2020"
"""The name of this codec in settings; ``CODECS`` holds image codecs."""
CHANNELS = (128, 192)
PARTS = ("img", "res", "motion")


class Frame(NamedTuple):
    """A P-frame as the bitstream would hold it.

    Attributes:
        x_hat: ``[B, 3, H, W]``, not clamped.
        residual_bits: ``[B]`` -log2 of the likelihoods of the residual's rounded latents; motion_bits: of the motion's.
    """

    x_hat: Tensor
    residual_bits: Tensor
    motion_bits: Tensor


class PFrame(ScaleSpaceFlow):
    """CompressAI's ``ssf2020``, whose last frame is coded given the frame before it; rates are likelihoods.

    Gradients are those of autograd through CompressAI's modules; besides the bounds that ``Codec`` names, the QReLU
    that clamps the scales to [0, 255] passes a gradient of its own shape, smaller than the derivative near either end.

    The reference is the frame before as it is given: how that was coded itself is no part of these terms (CompressAI,
    too, stops gradients there).

    Args:
        n: channels inside the encoders and decoders; 128 in CompressAI, whose state dicts fit then.
        m: channels of every latent; 192 in CompressAI.
    """

    downsampling_factor = 2 ** (4 + 3)  # pixels per position of a z, along one axis
    direct_y = True

    def __init__(self, n: int = CHANNELS[0], m: int = CHANNELS[1]) -> None:
        super().__init__()
        self.precision = "float32"
        if (n, m) != CHANNELS:
            # CompressAI's constructor takes no widths, but the classes of its parts do.
            for part, inputs, latents, outputs in (("img", 3, m, 3), ("res", 3, 2 * m, 3), ("motion", 6, m, 3)):
                encoder, decoder = f"{part}_encoder", f"{part}_decoder"
                setattr(self, encoder, type(getattr(self, encoder))(inputs, n, m))
                setattr(self, decoder, type(getattr(self, decoder))(outputs, latents, n))
                setattr(self, f"{part}_hyperprior", type(self.img_hyperprior)(m, m))
        for part in PARTS:
            hyperprior = getattr(self, f"{part}_hyperprior")
            hyperprior.entropy_bottleneck = Bottleneck(hyperprior.entropy_bottleneck.channels)
            hyperprior.gaussian_conditional = Conditional(None)
            for layer in (1, 2, 3):
                setattr(hyperprior.hyper_decoder_scale, f"qrelu{layer}", _QReLU.apply)

    def log_terms(
        self,
        video: Tensor,
        lam: float,
        k: int = 1,
        l: int = 1,
        generator: torch.Generator | None = None,
        proxy: str | Proxy = "noise",
    ) -> tuple[LogTerms, Tensor]:
        """The log-weight of the last frame of each video, factor by factor.

        Args:
            video: ``[B, T, 3, H, W]`` frames in [0, 1], T at least 2; H and W multiples of ``downsampling_factor``.
            lam: the R-D trade-off lambda, on the 0-255 scale.
            k: samples of the residual's y.
            l: must be 1.
            generator: of the noise, on the device of ``video``: of the motion, its z, the residual's y, its z.
            proxy: what stands in for rounding the residual's y (``objectives.proxies``); all else keeps additive noise.

        Returns:
            The terms in nats: ``log_lik`` and ``log_py`` of the residual's k samples, ``log_pz`` of everything that is
            drawn once (the residual's z, the motion and its z); and ``x_hat [B, k, 3, H, W]``, not clamped.

        Raises:
            GradlabError: a video of one frame or of another shape, k below 1, l other than 1, unknown proxy.
        """
        x, x_ref = self._last_two(video)
        rounding = get_proxy(proxy)
        if k < 1 or l != 1:
            raise GradlabError(f"k = {k}, l = {l}: a P-frame takes at least one sample of y and exactly one of z")
        m_mean = self._run(self.motion_encoder, torch.cat((x, x_ref), dim=1))
        m = m_mean + _noise(m_mean, generator)
        m_z = self._run(self.motion_hyperprior.hyper_encoder, m_mean)
        log_motion = sum(self._log_mass(self.motion_hyperprior, m[:, None], m_z + _noise(m_z, generator)), start=0.0)
        motion = self._run(self.motion_decoder, m)
        with full(x.device):
            x_pred = self.forward_prediction(x_ref, motion)
        y_mean = self._run(self.res_encoder, x - x_pred)
        u = uniform((len(x), k, *y_mean.shape[1:]), generator, y_mean.dtype, x.device)
        y = rounding.sample(y_mean[:, None], u)
        z_mean = self._run(self.res_hyperprior.hyper_encoder, y_mean)
        z = z_mean[:, None] + uniform((len(x), 1, *z_mean.shape[1:]), generator, z_mean.dtype, x.device)
        y_lik, y_py, z_py, z_pz = (t.view_as(t) for t in (y, y, z, z))
        read = torch.cat((rounding.decode(y_lik), m[:, None].expand(-1, k, -1, -1, -1)), dim=2)
        x_hat = x_pred[:, None] + unfold(self._run(self.res_decoder, fold(read)), len(x))
        log_py, _ = self._log_mass(self.res_hyperprior, y_py, z_py[:, 0])
        log_pz = self.res_hyperprior.entropy_bottleneck.likelihood(z_pz[:, 0]).log().sum(dim=(1, 2, 3))
        mse = ((255 * (x[:, None] - x_hat)) ** 2).mean(dim=(2, 3, 4))
        pixels = x.shape[2] * x.shape[3]
        terms = LogTerms(
            log_lik=(-math.log(2) * pixels * lam * mse)[:, :, None],
            log_py=log_py[:, :, None],
            log_pz=(log_pz[:, None] + log_motion)[:, :, None],
            pixels=pixels,
            samples=(y, z),
            taps=(Tap(y_lik, "y", "lik"), Tap(y_py, "y", "py"), Tap(z_py, "z", "py"), Tap(z_pz, "z", "pz")),
        )
        return terms, x_hat

    @torch.no_grad()
    def rounded(self, video: Tensor) -> Frame:
        """The last frame with its latents rounded about their means, as CompressAI's ``encode_inter`` codes it.

        Args:
            video: as for ``log_terms``.

        Raises:
            GradlabError: as for ``log_terms``.
        """
        x, x_ref = self._last_two(video)
        m_hat, motion_bits = self._rounded(self.motion_hyperprior, self.motion_encoder(torch.cat((x, x_ref), dim=1)))
        x_pred = self.forward_prediction(x_ref, self.motion_decoder(m_hat))
        y_hat, residual_bits = self._rounded(self.res_hyperprior, self.res_encoder(x - x_pred))
        return Frame(x_pred + self.res_decoder(torch.cat((y_hat, m_hat), dim=1)), residual_bits, motion_bits)

    def groups(self) -> dict[str, nn.Module]:
        """Table 3's five groups of the residual, and all that is for the motion; the keyframe's parts are not used."""
        hyperprior: Any = self.res_hyperprior
        return {
            "y infer": self.res_encoder,
            "y gen": self.res_decoder,
            "z infer": hyperprior.hyper_encoder,
            "z gen": nn.ModuleDict({n: getattr(hyperprior, f"hyper_decoder_{n}") for n in ("mean", "scale")}),
            "z prior": hyperprior.entropy_bottleneck,
            "motion": nn.ModuleDict(
                {n: getattr(self, f"motion_{n}") for n in ("encoder", "decoder", "hyperprior")},
            ),
        }

    def finish(self) -> None:
        """After training: solve the quantiles, about whose medians every z is rounded, by bisection."""
        for part in PARTS:
            getattr(self, f"{part}_hyperprior").update(force=True, update_quantiles=True)

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        return transformed(module, x, self.precision)

    def _log_mass(self, hyperprior: Any, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, k]`` log p(y_i | z) of samples ``y [B, k, ...]`` and ``[B, 1]`` log p(z) of ``z [B, ...]``."""
        scales, means = (self._run(getattr(hyperprior, f"hyper_decoder_{part}"), z) for part in ("scale", "mean"))
        y_mass = hyperprior.gaussian_conditional.likelihood(y, scales[:, None], means[:, None])
        z_mass = hyperprior.entropy_bottleneck.likelihood(z)
        return y_mass.log().sum(dim=(2, 3, 4)), z_mass.log().sum(dim=(1, 2, 3))[:, None]

    def _rounded(self, hyperprior: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """y rounded about its mean, and ``[B]`` bits of it and of the rounded z."""
        z_hat = hyperprior.entropy_bottleneck.rounded(hyperprior.hyper_encoder(y))
        y_hat = hyperprior.gaussian_conditional.quantize(y, "dequantize", hyperprior.hyper_decoder_mean(z_hat))
        log_py, log_pz = self._log_mass(hyperprior, y_hat[:, None], z_hat)
        return y_hat, -(log_py + log_pz)[:, 0] / math.log(2)

    def _last_two(self, video: Tensor) -> tuple[Tensor, Tensor]:
        if video.ndim != 5 or video.shape[2] != 3:
            raise GradlabError(f"the video has shape {tuple(video.shape)}: give [batch, frames, 3, height, width]")
        weight = next(self.parameters())
        check_weights(weight)
        if video.dtype != weight.dtype or video.device != weight.device:
            raise GradlabError(
                f"frames are {video.dtype} on {video.device} and the codec is {weight.dtype} on {weight.device}: "
                "move one there"
            )
        if video.shape[1] < 2:
            raise GradlabError("the video has one frame: a P-frame needs the frame before it, so give at least two")
        f = self.downsampling_factor
        if video.shape[3] % f or video.shape[4] % f:
            raise GradlabError(
                f"frames are {video.shape[3]} x {video.shape[4]}: height and width must be multiples of {f}; crop them"
            )
        return video[:, -1], video[:, -2]


class _QReLU(torch.autograd.Function):
    """CompressAI's QReLU (8 bits, beta 100), value and gradient, without the host synchronisation of its masks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0, max=255)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        outside = torch.exp(-(0.9943258522851727**100) * torch.abs(2.0 * x / 255 - 1) ** 100) * gradient
        return torch.where((x < 0) | (x > 255), outside, gradient)


def check_channels(channels: Sequence[int]) -> None:
    """Refuse what ``build`` does not take.

    Raises:
        GradlabError: channels that are not two positive integers.
    """
    if len(channels) != 2 or any(int(c) != c or c < 1 for c in channels):
        raise GradlabError(f"channels of {NAME} are {tuple(channels)}: give two positive integers (N, M)")


def build(channels: Sequence[int] = CHANNELS, seed: int = 0) -> PFrame:
    """A P-frame codec with freshly drawn weights.

    Args:
        channels: ``(N, M)``; CompressAI's ``ssf2020`` has (128, 192).
        seed: of the initial weights; the global generator is left as it was.

    Raises:
        GradlabError: channels that are not two positive integers.
    """
    check_channels(channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PFrame(*(int(c) for c in channels))


def _noise(t: Tensor, generator: torch.Generator | None) -> Tensor:
    return uniform(tuple(t.shape), generator, t.dtype, t.device)
