"""The scale hyperprior of Balle et al. 2018, with k samples of y, l of z, and the direct-y switch.

.. code-block:: none

         x --> g_a --> y --+--> y + u_1..k --+--> g_s --> x_hat_1..k         log p(x | y_i)
                           |                 |
        direct-y: y        |                 +--> p(y_i | z_j) <--+          log p(y_i | z_j)
        2-level:  y + u_i  +--> h_a(|.|) --> z --> z + u_1..l ----+--> h_s
                                                        |
                                                        +--> p(z_j)          log p(z_j)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from compressai.layers import GDN
from compressai.models import ScaleHyperprior
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from gradlab.codecs.entropy import Bottleneck, Conditional
from gradlab.errors import GradlabError
from gradlab.noise import uniform
from gradlab.terms import LogTerms, Tap

HYPER_INPUTS = ("rounded", "mean")


class Latents(NamedTuple):
    """The latents of images without noise, and the information content of the rounded ones.

    Attributes:
        y: ``[B, M, h, w]``; z: ``[B, N, h', w']``; y_hat, z_hat: the same, rounded as for the bitstream.
        y_bits: ``[B]`` estimated bits of y_hat given z_hat; z_bits: ``[B]`` of z_hat.
    """

    y: Tensor
    z: Tensor
    y_hat: Tensor
    z_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor


class Hyperprior(ScaleHyperprior):
    """CompressAI's ``ScaleHyperprior``, whose forward is ours: noise injected, y scored as it was drawn.

    Args:
        n: channels N of the transforms and of z.
        m: channels M of y.
        direct_y: feed the mean y to h_a (Balle et al. 2018); False is the paper's 2-level VAE, which feeds the sample.

    Attributes:
        hyper_input: what h_a reads at test time without direct-y: ``"rounded"``, h_a(|round(y)|), or ``"mean"``,
            h_a(|y|).
    """

    def __init__(self, n: int, m: int, direct_y: bool = True) -> None:
        super().__init__(n, m)
        self.entropy_bottleneck = Bottleneck(n)
        self.gaussian_conditional = Conditional(None)
        self.direct_y = direct_y
        self.hyper_input = "rounded"

    def log_terms(
        self, x: Tensor, lam: float, k: int = 1, l: int = 1, generator: torch.Generator | None = None
    ) -> tuple[LogTerms, Tensor]:
        """The log-weight of each image, factor by factor; noise is injected whatever train/eval says.

        Args:
            x: ``[B, 3, H, W]`` images in [0, 1]; H and W multiples of ``downsampling_factor``.
            lam: the R-D trade-off lambda, on the 0-255 scale.
            k: samples of y; the encoder runs once for all of them.
            l: samples of z; must be 1 without direct-y, where each z is drawn from its own y.
            generator: of the noise, on the device of ``x``. z's noise is drawn after y's.

        Returns:
            The terms in nats (log_lik = -ln 2 H W lam MSE_255), and ``x_hat [B, k, 3, H, W]``, not clamped.

        Raises:
            GradlabError: images of a wrong shape, k or l below 1, l > 1 without direct-y.
        """
        self._check(x, k, l)
        b, _, height, width = x.shape
        y_mean = self.g_a(x)
        y = y_mean[:, None] + uniform((b, k, *y_mean.shape[1:]), generator, y_mean.dtype, x.device)
        if self.direct_y:
            z_mean = self.h_a(y_mean.abs())[:, None]
            z = z_mean + uniform((b, l, *z_mean.shape[2:]), generator, y_mean.dtype, x.device)
        else:
            # h_a reads the sample before any tap: an estimator rescales each path of z_i once.
            z_mean = _unfold(self.h_a(_fold(y).abs()), b)
            z = z_mean + uniform(tuple(z_mean.shape), generator, y_mean.dtype, x.device)
        y_lik, y_py, z_py, z_pz = (t.view_as(t) for t in (y, y, z, z))
        x_hat = _unfold(self.g_s(_fold(y_lik)), b)
        scales = _unfold(self.h_s(_fold(z_py)), b)
        if self.direct_y:
            log_py = self.gaussian_conditional.likelihood(y_py[:, :, None], scales[:, None]).log().sum(dim=(3, 4, 5))
        else:
            log_py = self.gaussian_conditional.likelihood(y_py, scales).log().sum(dim=(2, 3, 4))[:, :, None]
        log_pz = _unfold(self.entropy_bottleneck.likelihood(_fold(z_pz)), b).log().sum(dim=(2, 3, 4))
        mse = ((255 * (x[:, None] - x_hat)) ** 2).mean(dim=(2, 3, 4))
        terms = LogTerms(
            log_lik=(-math.log(2) * height * width * lam * mse)[:, :, None],
            log_py=log_py,
            log_pz=log_pz[:, None, :] if self.direct_y else log_pz[:, :, None],
            pixels=height * width,
            samples=(y, z),
            taps=(Tap(y_lik, "y", "lik"), Tap(y_py, "y", "py"), Tap(z_py, "z", "py"), Tap(z_pz, "z", "pz")),
        )
        return terms, x_hat

    def groups(self) -> dict[str, nn.Module]:
        """The five groups of Table 3. The entropy bottleneck's ``quantiles`` are no part of the model's likelihood."""
        return {
            "y infer": self.g_a,
            "y gen": self.g_s,
            "z infer": self.h_a,
            "z gen": self.h_s,
            "z prior": self.entropy_bottleneck,
        }

    @torch.no_grad()
    def latents(self, x: Tensor) -> Latents:
        """Latents without noise and as the bitstream holds them.

        Args:
            x: ``[B, 3, H, W]`` in [0, 1], H and W multiples of ``downsampling_factor``.
        """
        self._check(x)
        y = self.g_a(x)
        z = self.h_a(self._read_by_h_a(y))
        z_hat = self.entropy_bottleneck.rounded(z)
        scales = self.h_s(z_hat)
        y_hat = torch.round(y)
        y_bits = -self.gaussian_conditional.likelihood(y_hat, scales).log2().sum(dim=(1, 2, 3))
        z_bits = -self.entropy_bottleneck.likelihood(z_hat).log2().sum(dim=(1, 2, 3))
        return Latents(y, z, y_hat, z_hat, y_bits, z_bits)

    @torch.no_grad()
    def universal(self, x: Tensor, generator: torch.Generator | None = None) -> Latents:
        """Latents by universal quantization: y_hat = round(y - u) + u with shared dither u, z_hat likewise.

        Args:
            x: ``[B, 3, H, W]`` in [0, 1], H and W multiples of ``downsampling_factor``.
            generator: of the dither, y's first, then z's.
        """
        self._check(x)
        y = self.g_a(x)
        y_hat = _dithered(y, generator)
        z = self.h_a((y if self.direct_y else y_hat).abs())
        z_hat = _dithered(z, generator)
        y_bits = -self.gaussian_conditional.likelihood(y_hat, self.h_s(z_hat)).log2().sum(dim=(1, 2, 3))
        z_bits = -self.entropy_bottleneck.likelihood(z_hat).log2().sum(dim=(1, 2, 3))
        return Latents(y, z, y_hat, z_hat, y_bits, z_bits)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """CompressAI's interface: noise in training, rounding in evaluation, by the rule of ``compress``."""
        y = self.g_a(x)
        if self.training:
            y_hat = y + uniform(tuple(y.shape), None, y.dtype, y.device)
            z = self.h_a((y if self.direct_y else y_hat).abs())
            z_hat = z + uniform(tuple(z.shape), None, z.dtype, z.device)
        else:
            y_hat = torch.round(y)
            z = self.h_a(self._read_by_h_a(y))
            z_hat = self.entropy_bottleneck.rounded(z)
        y_likelihood = self.gaussian_conditional.likelihood(y_hat, self.h_s(z_hat))
        likelihoods = {"y": y_likelihood, "z": self.entropy_bottleneck.likelihood(z_hat)}
        return {"x_hat": self.g_s(y_hat), "likelihoods": likelihoods}

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Bitstreams: ``{"strings": [y_strings, z_strings], "shape": z's}``; ``decompress`` is CompressAI's."""
        y = self.g_a(x)
        z = self.h_a(self._read_by_h_a(y))
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
        indexes = self.gaussian_conditional.build_indexes(self.h_s(z_hat))
        return {"strings": [self.gaussian_conditional.compress(y, indexes), z_strings], "shape": z.shape[-2:]}

    def finish(self) -> None:
        """After training: solve the quantiles by bisection and build the coder's tables (no auxiliary optimizer)."""
        self.update(force=True, update_quantiles=True)

    def _read_by_h_a(self, y: Tensor) -> Tensor:
        if self.direct_y or self.hyper_input == "mean":
            return y.abs()
        return torch.round(y).abs()

    def _check(self, x: Tensor, k: int = 1, l: int = 1) -> None:
        f = self.downsampling_factor
        if x.ndim != 4 or x.shape[1] != 3:
            raise GradlabError(f"images have shape {tuple(x.shape)}: give [batch, 3, height, width]")
        if x.shape[2] % f or x.shape[3] % f:
            raise GradlabError(
                f"images are {x.shape[2]} x {x.shape[3]}: height and width must be multiples of {f}; crop or pad them"
            )
        if k < 1 or l < 1:
            raise GradlabError(f"k = {k}, l = {l}: take at least one sample of each latent")
        if l > 1 and not self.direct_y:
            raise GradlabError(f"l = {l} without direct-y: each z is drawn from its own y, so l must be 1")


class SmallHyperprior(Hyperprior):
    """The same codec for small crops and a CPU: three stages in g_a, one stride in h_a (factor 16 instead of 64).

    The four-stage model on 64-pixel crops collapses z (its latent is a single position), so that nothing about z shows.
    """

    def __init__(self, n: int, m: int, direct_y: bool = True) -> None:
        super().__init__(n, m, direct_y)
        self.g_a = nn.Sequential(conv(3, n), GDN(n), conv(n, n), GDN(n), conv(n, m))
        self.g_s = nn.Sequential(deconv(m, n), GDN(n, inverse=True), deconv(n, n), GDN(n, inverse=True), deconv(n, 3))
        self.h_a = nn.Sequential(conv(m, n, stride=1, kernel_size=3), nn.ReLU(inplace=True), conv(n, n))
        self.h_s = nn.Sequential(
            deconv(n, n), nn.ReLU(inplace=True), conv(n, m, stride=1, kernel_size=3), nn.ReLU(inplace=True)
        )

    @property
    def downsampling_factor(self) -> int:
        """Pixels per position of z, along one axis."""
        return 2 ** (3 + 1)


def _dithered(t: Tensor, generator: torch.Generator | None) -> Tensor:
    u = uniform(tuple(t.shape), generator, t.dtype, t.device)
    return torch.round(t - u) + u


def _fold(t: Tensor) -> Tensor:
    """``[B, K, ...]`` to ``[B K, ...]``."""
    return t.flatten(0, 1)


def _unfold(t: Tensor, batch: int) -> Tensor:
    """``[B K, ...]`` to ``[B, K, ...]``."""
    return t.unflatten(0, (batch, -1))
