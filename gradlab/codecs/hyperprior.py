"""Hyperpriors with k samples of y and l samples of z, with or without direct-y (Balle et al. 2018, Minnen et al. 2018).

.. code-block:: none

         x --> g_a --> y --+--> y + u_1..k --+--> g_s --> x_hat_1..k         log p(x | y_i)
                           |                 |
        direct-y: y        |                 +--> p(y_i | z_j) <--+          log p(y_i | z_j)
        2-level:  y + u_i  +--> h_a --> z --> z + u_1..l ---------+--> h_s
                                                        |
                                                        +--> p(z_j)          log p(z_j)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from compressai.layers import GDN
from compressai.models import MeanScaleHyperprior, ScaleHyperprior
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from gradlab.codecs.base import Codec
from gradlab.codecs.entropy import Conditional
from gradlab.codecs.precision import run_transform
from gradlab.codecs.shared import fold, unfold
from gradlab.objectives.terms import Tap

if TYPE_CHECKING:
    from jaxtyping import Float


class Hierarchical(Codec):
    """Base class of codecs with a hyperprior: z = h_a(y), a Normal p(y | z) parameterised by h_s, and a factorised
    p(z).

    Subclasses define the input of h_a and derive the parameters of p(y | z) from the output of h_s.
    """

    h_a: nn.Module
    h_s: nn.Module
    gaussian_conditional: Conditional

    def __init__(self, *channels: int, direct_y: bool = True) -> None:
        super().__init__(*channels, direct_y=direct_y)
        self.gaussian_conditional = Conditional(None)

    @classmethod
    def channels_of(cls, state: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Infer ``(N, M)`` from the output and input channels of the first layer of h_a.

        Args:
            state: state dict with the keys of this model.

        Returns:
            The channels in the order of ``channel_names``.
        """
        n, m = state["h_a.0.weight"].shape[:2]
        return (n, m)[: len(cls.channel_names)]

    def groups(self) -> dict[str, nn.Module]:
        """Return the five module groups of Table 3 by name.

        The quantiles of the entropy bottleneck are not part of the likelihood; exclude them when recording gradients.
        """
        return {
            "y infer": self.g_a,
            "y gen": self.g_s,
            "z infer": self.h_a,
            "z gen": self.h_s,
            "z prior": self.entropy_bottleneck,
        }

    def normal(
        self,
        y: Float[Tensor, "*samples channels rows columns"],
        hyper: Float[Tensor, "*priors parameters rows columns"],
    ) -> tuple[Tensor, Tensor | None]:
        """Return the scale and the mean of p(y | z).

        Args:
            y: samples or rounded latents, which only context models read.
            hyper: output of h_s. Its leading axes broadcast with those of ``y``.

        Returns:
            The scale and the mean; a mean of None stands for 0.

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("mbt2018-mean", channels=(6, 4))
            >>> scale, mean = codec.normal(torch.zeros(1, 4, 4, 6), torch.rand(1, 8, 4, 6))
            >>> tuple(scale.shape), tuple(mean.shape)
            ((1, 4, 4, 6), (1, 4, 4, 6))
        """
        return hyper, None

    def likelihoods(
        self,
        y_hat: Float[Tensor, "batch channels rows columns"],
        z_hat: Float[Tensor, "batch z_channels z_rows z_columns"] | None,
    ) -> dict[str, Tensor]:
        """Compute the probability mass of each element of y and z.

        Args:
            y_hat: y after rounding, universal quantization or additive noise.
            z_hat: z, also quantised or noisy.

        Returns:
            The probability masses of ``"y"`` and ``"z"``.
        """
        assert z_hat is not None
        y_mass = self.gaussian_conditional.likelihood(y_hat, *self.normal(y_hat, self._scored(z_hat)))
        return {"y": y_mass, "z": self.entropy_bottleneck.likelihood(z_hat)}

    def compress(self, x: Float[Tensor, "batch 3 height width"]) -> dict[str, Any]:
        """Encode images with the range coder. CompressAI's ``decompress`` decodes the result.

        Args:
            x: images in [0, 1]. Height and width must be multiples of ``downsampling_factor``.

        Returns:
            ``"strings"``, the strings of y and of z, one per image; and ``"shape"``, height and width of z.

        Raises:
            GradlabError: the shape, dtype or device of ``x`` does not fit the codec.

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4)).eval()
            >>> codec.finish()
            >>> stream = codec.compress(torch.rand(1, 3, 32, 48))
            >>> len(stream["strings"]), tuple(stream["shape"])
            (2, (2, 3))
        """
        self._check(x)
        y = self.g_a(x)
        z = self._hyper(self._read_by_h_a(y))
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
        return {"strings": [self._coded(y, self.h_s(z_hat)), z_strings], "shape": z.shape[-2:]}

    def _hyper(self, y: Tensor) -> Tensor:
        return run_transform(self.h_a, y, self.precision)

    def _scored(self, z: Tensor) -> Tensor:
        """Compute the output of h_s, which parameterises p(y | z), in the dtype of ``z``."""
        return run_transform(self.h_s, z, self.precision)

    def _log_prior(self, y: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor, tuple[Tap, ...]]:
        assert z is not None
        z_py, z_pz = z.view_as(z), z.view_as(z)
        hyper = unfold(self._scored(fold(z_py)), len(z))
        if self.direct_y:
            y, hyper = y[:, :, None], hyper[:, None]
        mass = self.gaussian_conditional.likelihood(y, *self.normal(y, hyper))
        log_py = mass.log().sum(dim=(-3, -2, -1))
        log_pz = unfold(self.entropy_bottleneck.likelihood(fold(z_pz)), len(z)).log().sum(dim=(2, 3, 4))
        taps = (Tap(z_py, "z", "py"), Tap(z_pz, "z", "pz"))
        return (log_py, log_pz[:, None, :], taps) if self.direct_y else (log_py[:, :, None], log_pz[:, :, None], taps)

    def _rounded(self, y: Tensor, z_hat: Tensor | None) -> Tensor:
        return self.gaussian_conditional.quantize(y, "dequantize", self.normal(y, self.h_s(z_hat))[1])

    def _coded(self, y: Tensor, hyper: Tensor) -> list[bytes]:
        """Encode y to one string per image."""
        scales, means = self.normal(y, hyper)
        return self.gaussian_conditional.compress(y, self.gaussian_conditional.build_indexes(scales), means)


class Hyperprior(Hierarchical, ScaleHyperprior):
    """CompressAI's ``ScaleHyperprior``: h_a reads abs(y), p(y | z) has mean 0, and y is rounded to integers.

    Args:
        *channels: ``N`` and ``M``, the numbers of channels inside the transforms and of y.
        direct_y: whether h_a reads the mean of y (True) or its sample (False).

    Example:
        >>> import gradlab as gl
        >>> codec = gl.codecs.Hyperprior(8, 12)
        >>> codec.N, codec.M
        (8, 12)

    Source:
        J. Balle et al., "Variational image compression with a scale hyperprior" (2018).
    """

    def _hyper(self, y: Tensor) -> Tensor:
        return super()._hyper(y.abs())

    def _rounded(self, y: Tensor, z_hat: Tensor | None) -> Tensor:
        return torch.round(y)


class MeanScale(Hierarchical, MeanScaleHyperprior):
    """CompressAI's ``MeanScaleHyperprior``: h_a reads y, and p(y | z) has a mean, about which y is rounded.

    Source:
        D. Minnen et al., "Joint autoregressive and hierarchical priors for learned image compression" (2018).
    """

    def normal(
        self,
        y: Float[Tensor, "*samples channels rows columns"],
        hyper: Float[Tensor, "*priors parameters rows columns"],
    ) -> tuple[Tensor, Tensor | None]:
        """Return the scale and the mean of p(y | z), the two halves of the output of h_s.

        Args:
            y: ignored.
            hyper: output of h_s.

        Returns:
            The scale and the mean.
        """
        scales, means = hyper.chunk(2, dim=-3)
        return scales, means


class SmallHyperprior(Hyperprior):
    """Scale hyperprior for small crops and CPUs, with three stages in g_a and one in h_a.

    Its downsampling factor is 16 instead of 64. On 64-pixel crops, the z of the four-stage model has a single position
    and collapses, so z could not be studied there.

    Args:
        n: number of channels inside the transforms and of z.
        m: number of channels of y.
        direct_y: whether h_a reads the mean of y (True) or its sample (False).

    Example:
        >>> import gradlab as gl
        >>> codec = gl.codecs.SmallHyperprior(6, 4)
        >>> codec.downsampling_factor
        16
    """

    downsampling_factor = 2 ** (3 + 1)

    def __init__(self, n: int, m: int, direct_y: bool = True) -> None:
        super().__init__(n, m, direct_y=direct_y)
        self.g_a = nn.Sequential(conv(3, n), GDN(n), conv(n, n), GDN(n), conv(n, m))
        self.g_s = nn.Sequential(deconv(m, n), GDN(n, inverse=True), deconv(n, n), GDN(n, inverse=True), deconv(n, 3))
        self.h_a = nn.Sequential(conv(m, n, stride=1, kernel_size=3), nn.ReLU(inplace=True), conv(n, n))
        self.h_s = nn.Sequential(
            deconv(n, n), nn.ReLU(inplace=True), conv(n, m, stride=1, kernel_size=3), nn.ReLU(inplace=True)
        )
