"""One P-frame of scale-space flow (Agustsson et al. 2020), with k samples of the residual's latent.

.. code-block:: none

        x, x_ref --> motion_encoder --> m + u --> motion_decoder --> warp of x_ref = x_pred      log p(m | z_m) p(z_m)
                                          |
        x - x_pred --> res_encoder --> y --> y + u_1..k --+--> res_decoder --> x_hat_1..k        log p(x | y_i)
                                       |                  |    (also reads m; + x_pred)
                                       |                  +--> p(y_i | z)                        log p(y_i | z)
                                       +--> hyper_encoder --> z + u --> its two decoders         log p(z)

The latent y of the residual has k samples, as in an image codec. The motion and the z of both hyperpriors are drawn
once and shared by all samples, like z in MS-NIC-MIX. Each noisy sample is both scored and decoded, whereas CompressAI's
own forward pass scores a noisy latent and decodes a rounded one (straight-through).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import torch
from compressai.models.video import ScaleSpaceFlow
from torch import Tensor, nn

from gradlab.codecs.entropy import Bottleneck, Conditional
from gradlab.codecs.precision import run_transform, without_autocast
from gradlab.codecs.shared import (
    check_channels,
    check_input,
    fold,
    initialise,
    log_likelihood,
    noise_like,
    rows_of,
    unfold,
)
from gradlab.errors import GradlabError
from gradlab.noise import uniform
from gradlab.objectives.proxies import Proxy, get_proxy
from gradlab.objectives.terms import LogTerms, Tap
from gradlab.runtime.display import shown, table
from gradlab.validation import whole

if TYPE_CHECKING:
    from jaxtyping import Float

NAME = "ssf2020"
"""Name of this codec in settings. It is not in ``CODECS``, which holds image codecs only."""
CHANNELS = (128, 192)
PARTS = ("img", "res", "motion")


@shown
class Frame(NamedTuple):
    """A P-frame after quantisation, as a bitstream would represent it.

    Attributes:
        x_hat: decoded frame, not clamped to [0, 1].
        residual_bits: -log2 of the likelihoods of the residual's rounded latents, in bits per frame.
        motion_bits: -log2 of the likelihoods of the motion's rounded latents, in bits per frame.
    """

    x_hat: Float[Tensor, "batch 3 height width"]
    residual_bits: Float[Tensor, " batch"]
    motion_bits: Float[Tensor, " batch"]


class PFrame(ScaleSpaceFlow):
    """P-frame codec: CompressAI's ``ssf2020``, restricted to coding the last frame of a video given the previous frame.

    Rates are likelihoods; no bitstream is written. The reference is the given previous frame, and its own coding is not
    part of the terms. (CompressAI also stops gradients at the reference.)

    Gradients come from autograd through CompressAI's modules. In addition to the bounds that ``Codec`` describes, the
    QReLU that clamps the scales to [0, 255] has a surrogate gradient, which is smaller than the derivative near both
    ends.

    Args:
        n: number of channels inside the encoders and decoders. CompressAI uses 128; its state dicts fit the default
            sizes.
        m: number of channels of each latent. CompressAI uses 192.

    Example:
        >>> import torch
        >>> from gradlab.codecs import video
        >>> codec = video.build(channels=(4, 4))
        >>> terms, x_hat = codec.log_terms(torch.rand(1, 2, 3, 128, 128), lam=0.01, k=3)
        >>> tuple(terms.log_py.shape), tuple(x_hat.shape)
        ((1, 3, 1), (1, 3, 3, 128, 128))

    Source:
        E. Agustsson et al., "Scale-space flow for end-to-end optimized video compression" (2020).
    """

    channel_names = ("N", "M")
    downsampling_factor = 2 ** (4 + 3)  # pixels per position of z along one axis
    direct_y = True
    has_z = False  # no z of which several samples can be drawn

    def __init__(self, n: int = CHANNELS[0], m: int = CHANNELS[1]) -> None:
        super().__init__()
        self.channels = (n, m)
        self.precision = "float32"
        if (n, m) != CHANNELS:
            # CompressAI's constructor does not take numbers of channels, but the classes of its parts do.
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

    def extra_repr(self) -> str:
        """Describe the codec in the first line of torch's tree of modules."""
        return f"channels={self.channels}, precision={self.precision!r}"

    def _repr_html_(self) -> str:
        return table(type(self).__name__, {"name": NAME, **rows_of(self)})

    def log_terms(
        self,
        video: Float[Tensor, "batch frames 3 height width"],
        lam: float,
        k: SupportsIndex = 1,
        l: SupportsIndex = 1,
        generator: torch.Generator | None = None,
        proxy: str | Proxy = "noise",
    ) -> tuple[LogTerms, Float[Tensor, "batch k 3 height width"]]:
        """Sample the latents and compute the log-weight of the last frame of each video, factor by factor.

        Args:
            video: videos in [0, 1] with at least two frames. Height and width must be multiples of
                ``downsampling_factor``.
            lam: R-D trade-off parameter lambda, for an MSE on the 0-255 scale.
            k: number of samples of the residual's y.
            l: must be 1.
            generator: generator of the noise, on the device of ``video``. Noise is drawn for the motion, its z, the
                residual's y and its z, in this order.
            proxy: proxy for rounding the residual's y (see ``gradlab.objectives.proxies``); the other latents always
                get additive noise.

        Returns:
            The terms in nats, and the decoded samples ``[batch, k, 3, height, width]``, not clamped to [0, 1].
            ``log_lik`` and ``log_py`` belong to the samples of the residual; ``log_pz`` covers the latents that are
            drawn once: the z of the residual, the motion and its z.

        Raises:
            GradlabError: the video has fewer than two frames, its shape, dtype or device does not fit the codec, ``k``
                is below 1, ``l`` is not 1, or the proxy is unknown.

        Example:
            >>> import torch
            >>> from gradlab.codecs import video
            >>> codec = video.build(channels=(4, 4))
            >>> terms, _ = codec.log_terms(torch.rand(1, 2, 3, 128, 128), lam=0.01)
            >>> tuple(terms.log_pz.shape)
            (1, 1, 1)
        """
        x, x_ref = self._last_two(video)
        rounding = get_proxy(proxy)
        k, l = whole("k", k, 1, "samples of y"), whole("l", l)
        if l != 1:
            raise GradlabError(f"l is {l}, but a P-frame takes exactly one sample of z: set l to 1")
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
    def rounded(self, video: Float[Tensor, "batch frames 3 height width"]) -> Frame:
        """Code the last frame of each video with its latents rounded about their means, like CompressAI's
        ``encode_inter``.

        Args:
            video: videos in [0, 1] with at least two frames. Height and width must be multiples of
                ``downsampling_factor``.

        Returns:
            The decoded frames and their rates.

        Raises:
            GradlabError: the video has fewer than two frames, or its shape, dtype or device does not fit the codec.

        Example:
            >>> import torch
            >>> from gradlab.codecs import video
            >>> codec = video.build(channels=(4, 4))
            >>> codec.finish()
            >>> frame = codec.rounded(torch.rand(1, 2, 3, 128, 128))
            >>> tuple(frame.x_hat.shape), tuple(frame.residual_bits.shape)
            ((1, 3, 128, 128), (1,))
        """
        x, x_ref = self._last_two(video)
        m_hat, motion_bits = self._rounded(self.motion_hyperprior, self.motion_encoder(torch.cat((x, x_ref), dim=1)))
        x_pred = self.forward_prediction(x_ref, self.motion_decoder(m_hat))
        y_hat, residual_bits = self._rounded(self.res_hyperprior, self.res_encoder(x - x_pred))
        return Frame(x_pred + self.res_decoder(torch.cat((y_hat, m_hat), dim=1)), residual_bits, motion_bits)

    def groups(self) -> dict[str, nn.Module]:
        """Return the module groups by name: the five of Table 3 for the residual, and the motion model.

        The keyframe model is not used and belongs to no group.

        Example:
            >>> from gradlab.codecs import video
            >>> list(video.build(channels=(4, 4)).groups())
            ['y infer', 'y gen', 'z infer', 'z gen', 'z prior', 'motion']
        """
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
        """Solve for the quantiles by bisection; call this once after training. z is rounded about their medians.

        Example:
            >>> from gradlab.codecs import video
            >>> codec = video.build(channels=(4, 4))
            >>> codec.finish()
        """
        for part in PARTS:
            getattr(self, f"{part}_hyperprior").update(force=True, update_quantiles=True)

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        return run_transform(module, x, self.precision)

    def _log_py(self, hyperprior: Any, y: Tensor, z: Tensor) -> Tensor:
        """Compute log p(y_i | z), ``[B, k]``, of samples ``y [B, k, ...]`` and ``z [B, ...]``."""
        scales, means = (self._run(getattr(hyperprior, f"hyper_decoder_{part}"), z) for part in ("scale", "mean"))
        mass = hyperprior.gaussian_conditional.likelihood(y, scales[:, None], means[:, None])
        return mass.log().sum(dim=(2, 3, 4))

    def _rounded(self, hyperprior: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """Round y about its mean; return it with the bits of y and z per frame."""
        z_hat = hyperprior.entropy_bottleneck.rounded(hyperprior.hyper_encoder(y))
        y_hat = hyperprior.gaussian_conditional.quantize(y, "dequantize", hyperprior.hyper_decoder_mean(z_hat))
        log_p = self._log_py(hyperprior, y_hat[:, None], z_hat) + _log_pz(hyperprior, z_hat)
        return y_hat, -log_p[:, 0] / math.log(2)

    def _last_two(self, video: Tensor) -> tuple[Tensor, Tensor]:
        if video.ndim != 5 or video.shape[2] != 3:
            raise GradlabError(f"the video has shape {tuple(video.shape)}: give [batch, frames, 3, height, width]")
        if video.shape[1] < 2:
            raise GradlabError("the video has one frame, but a P-frame needs a previous frame: give at least two")
        check_input(self, video, "frames", "crop them")
        return video[:, -1], video[:, -2]


class _QReLU(torch.autograd.Function):
    """CompressAI's QReLU (8 bits, beta 100) with the same value and gradient, but without masks that synchronise the
    device."""

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
    """Build a P-frame codec with random weights.

    Args:
        channels: ``(N, M)``. CompressAI's ``ssf2020`` has (128, 192).
        seed: seed of the initial weights. The global generator is not modified.

    Returns:
        The codec.

    Raises:
        GradlabError: ``channels`` does not hold two positive integers.

    Example:
        >>> from gradlab.codecs import video
        >>> video.build(channels=(4, 4)).downsampling_factor
        128
    """
    return initialise(PFrame, check_channels(NAME, channels, PFrame.channel_names), seed)


def _log_pz(hyperprior: Any, z: Tensor) -> Tensor:
    """Compute log p(z), ``[B, 1]``, of ``z [B, ...]``."""
    return hyperprior.entropy_bottleneck.likelihood(z).log().sum(dim=(1, 2, 3))[:, None]
