"""One P-frame of scale-space flow (Agustsson et al. 2020), with k samples of the residual's latent.

.. code-block:: none

        x, x_ref --> motion_encoder --> m + u --> motion_decoder --> warp of x_ref = x_pred      log p(m | z_m) p(z_m)
                                          |
        x - x_pred --> res_encoder --> y --> y + u_1..k --+--> res_decoder --> x_hat_1..k        log p(x | y_i)
                                       |                  |    (reads m too; + x_pred)
                                       |                  +--> p(y_i | z)                        log p(y_i | z)
                                       +--> hyper_encoder --> z + u --> its two decoders         log p(z)

The residual's latent y has k samples, as in an image codec; the motion and the z of both hyperpriors are drawn once
and shared, as z is in MS-NIC-MIX. Each noisy sample is both scored and decoded; CompressAI's own forward decodes a
rounded latent (straight-through) and scores a noisy one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

import torch
from compressai.models.video import ScaleSpaceFlow
from torch import Tensor, nn

from gradlab.codecs.entropy import Bottleneck, Conditional
from gradlab.codecs.precision import run_transform, without_autocast
from gradlab.codecs.shared import check_channels, check_input, fold, initialise, log_likelihood, noise_like, unfold
from gradlab.errors import GradlabError
from gradlab.noise import uniform
from gradlab.objectives.proxies import Proxy, get_proxy
from gradlab.objectives.terms import LogTerms, Tap
from gradlab.validation import whole

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
    """CompressAI's ``ssf2020``, restricted to coding the last frame given the frame before it; rates are likelihoods.

    Gradients come from autograd through CompressAI's modules. In addition to the bounds that ``Codec`` names, the QReLU
    that clamps the scales to [0, 255] has a surrogate gradient, smaller than the derivative near either end.

    The reference is the given previous frame; its own coding is not part of these terms (CompressAI also stops
    gradients there).

    Args:
        n: channels inside the encoders and decoders; 128 in CompressAI, whose state dicts fit then.
        m: channels of every latent; 192 in CompressAI.
    """

    channel_names = ("N", "M")
    downsampling_factor = 2 ** (4 + 3)  # pixels per position of a z, along one axis
    direct_y = True
    has_z = False  # of which several samples are taken

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
        k: SupportsIndex = 1,
        l: SupportsIndex = 1,
        generator: torch.Generator | None = None,
        proxy: str | Proxy = "noise",
    ) -> tuple[LogTerms, Tensor]:
        """Compute the log-weight of the last frame of each video, factor by factor.

        Args:
            video: ``[B, T, 3, H, W]`` frames in [0, 1], T at least 2; H and W multiples of ``downsampling_factor``.
            lam: the R-D trade-off lambda, on the 0-255 scale.
            k: samples of the residual's y.
            l: must be 1.
            generator: of the noise, on the device of ``video``: of the motion, its z, the residual's y, its z.
            proxy: replaces rounding of the residual's y (``objectives.proxies``); other latents keep additive noise.

        Returns:
            The terms in nats: ``log_lik`` and ``log_py`` of the residual's k samples, ``log_pz`` of the latents that
            are drawn once (the residual's z, the motion and its z); and ``x_hat [B, k, 3, H, W]``, not clamped.

        Raises:
            GradlabError: a video of one frame or of another shape, k below 1, l other than 1, unknown proxy.
        """
        x, x_ref = self._last_two(video)
        rounding = get_proxy(proxy)
        k, l = whole("k", k, 1, "samples of y"), whole("l", l)
        if l != 1:
            raise GradlabError(f"k = {k}, l = {l}: a P-frame takes at least one sample of y and exactly one of z")
        m_mean = self._run(self.motion_encoder, torch.cat((x, x_ref), dim=1))
        m = m_mean + noise_like(m_mean, generator)
        m_z_mean = self._run(self.motion_hyperprior.hyper_encoder, m_mean)
        m_z = m_z_mean + noise_like(m_z_mean, generator)
        log_motion = self._log_py(self.motion_hyperprior, m[:, None], m_z) + _log_pz(self.motion_hyperprior, m_z)
        motion = self._run(self.motion_decoder, m)
        with without_autocast(x.device):
            x_pred = self.forward_prediction(x_ref, motion)
        y_mean = self._run(self.res_encoder, x - x_pred)
        u = uniform((len(x), k, *y_mean.shape[1:]), generator, y_mean.dtype, x.device)
        y = rounding.sample(y_mean[:, None], u)
        z_mean = self._run(self.res_hyperprior.hyper_encoder, y_mean)
        z = (z_mean + noise_like(z_mean, generator))[:, None]
        y_lik, y_py, z_py, z_pz = (t.view_as(t) for t in (y, y, z, z))
        read = torch.cat((rounding.decode(y_lik), m[:, None].expand(-1, k, -1, -1, -1)), dim=2)
        x_hat = x_pred[:, None] + unfold(self._run(self.res_decoder, fold(read)), len(x))
        log_py = self._log_py(self.res_hyperprior, y_py, z_py[:, 0])
        log_pz = _log_pz(self.res_hyperprior, z_pz[:, 0])
        terms = LogTerms(
            log_lik=log_likelihood(x, x_hat, lam),
            log_py=log_py[:, :, None],
            log_pz=(log_pz + log_motion)[:, :, None],
            pixels=x.shape[2] * x.shape[3],
            samples=(y, z),
            taps=(Tap(y_lik, "y", "lik"), Tap(y_py, "y", "py"), Tap(z_py, "z", "py"), Tap(z_pz, "z", "pz")),
        )
        return terms, x_hat

    @torch.no_grad()
    def rounded(self, video: Tensor) -> Frame:
        """Code the last frame with its latents rounded about their means, as CompressAI's ``encode_inter`` does.

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
        """Return Table 3's five groups for the residual, and the motion model; the keyframe model is not used."""
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
        """Solve the quantiles, about whose medians z is rounded, by bisection; call it once after training."""
        for part in PARTS:
            getattr(self, f"{part}_hyperprior").update(force=True, update_quantiles=True)

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        return run_transform(module, x, self.precision)

    def _log_py(self, hyperprior: Any, y: Tensor, z: Tensor) -> Tensor:
        """``[B, k]`` log p(y_i | z) of samples ``y [B, k, ...]`` and ``z [B, ...]``."""
        scales, means = (self._run(getattr(hyperprior, f"hyper_decoder_{part}"), z) for part in ("scale", "mean"))
        mass = hyperprior.gaussian_conditional.likelihood(y, scales[:, None], means[:, None])
        return mass.log().sum(dim=(2, 3, 4))

    def _rounded(self, hyperprior: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """Round y about its mean; return it and the ``[B]`` bits of y and z."""
        z_hat = hyperprior.entropy_bottleneck.rounded(hyperprior.hyper_encoder(y))
        y_hat = hyperprior.gaussian_conditional.quantize(y, "dequantize", hyperprior.hyper_decoder_mean(z_hat))
        log_p = self._log_py(hyperprior, y_hat[:, None], z_hat) + _log_pz(hyperprior, z_hat)
        return y_hat, -log_p[:, 0] / math.log(2)

    def _last_two(self, video: Tensor) -> tuple[Tensor, Tensor]:
        if video.ndim != 5 or video.shape[2] != 3:
            raise GradlabError(f"the video has shape {tuple(video.shape)}: give [batch, frames, 3, height, width]")
        if video.shape[1] < 2:
            raise GradlabError("the video has one frame: a P-frame needs the frame before it, so give at least two")
        check_input(self, video, "frames", "crop them")
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


def build(channels: SupportsIndex | Iterable[SupportsIndex] = CHANNELS, seed: SupportsIndex = 0) -> PFrame:
    """Build a P-frame codec with freshly drawn weights.

    Args:
        channels: ``(N, M)``; CompressAI's ``ssf2020`` has (128, 192).
        seed: of the initial weights; the global generator is left as it was.

    Raises:
        GradlabError: channels that are not two positive integers.
    """
    return initialise(PFrame, check_channels(NAME, channels, PFrame.channel_names), seed)


def _log_pz(hyperprior: Any, z: Tensor) -> Tensor:
    """``[B, 1]`` log p(z) of ``z [B, ...]``."""
    return hyperprior.entropy_bottleneck.likelihood(z).log().sum(dim=(1, 2, 3))[:, None]
