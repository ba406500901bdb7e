"""Autoregressive context models: p(y | z) also depends on the positions above and to the left (Minnen et al. 2018).

.. code-block:: none

        z_j --> h_s ----------------------------+
                                                +--> entropy_parameters --> scale, mean of p(y_i | z_j)
        y_i --> context_prediction (masked) ----+

The same sample y_i is decoded, scored and read by the context model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from compressai.layers import MaskedConv2d
from compressai.models import Cheng2020Anchor, Cheng2020Attention, JointAutoregressiveHierarchicalPriors
from torch import Tensor, nn

from gradlab.codecs.hyperprior import Hierarchical
from gradlab.codecs.precision import run_transform

if TYPE_CHECKING:
    from jaxtyping import Float


class _Masked(MaskedConv2d):
    """CompressAI's masked convolution with a weight tensor that is masked in place.

    CompressAI's forward pass assigns a new tensor to ``weight.data`` in each call, but a CUDA graph would keep reading
    the tensor that it captured.
    """

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.mul_(self.mask)
        return nn.Conv2d.forward(self, x)


class Context(Hierarchical):
    """Base class of hyperpriors with CompressAI's 5 x 5 masked convolution over y.

    Rounding is sequential, because the mean about which a position is rounded depends on the rounded positions before
    it. ``compress``, ``latents`` and ``forward`` in evaluation mode run this loop over positions in Python.
    CompressAI's own forward pass rounds y to integers instead, so its image differs from the decoded bitstream.
    """

    context_prediction: MaskedConv2d
    entropy_parameters: nn.Module

    def __init__(self, *channels: int, direct_y: bool = True) -> None:
        super().__init__(*channels, direct_y=direct_y)
        self.context_prediction.__class__ = _Masked  # keeps the initial weights

    def groups(self) -> dict[str, nn.Module]:
        """Return the five module groups of Table 3 by name.

        ``z gen`` holds h_s, the context model and the entropy parameters.
        """
        p_y = nn.ModuleDict({name: getattr(self, name) for name in ("h_s", "context_prediction", "entropy_parameters")})
        return {**super().groups(), "z gen": p_y}

    def normal(
        self,
        y: Float[Tensor, "*samples channels rows columns"],
        hyper: Float[Tensor, "*priors parameters rows columns"],
    ) -> tuple[Tensor, Tensor | None]:
        """Return the scale and the mean of p(y | z) from the output of h_s and the context of y.

        The context model runs once per sample of y.

        Args:
            y: samples or rounded latents.
            hyper: output of h_s. Its leading axes broadcast with those of ``y``.

        Returns:
            The scale and the mean.
        """
        context = run_transform(self.context_prediction, y.flatten(0, -4), self.precision).unflatten(0, y.shape[:-3])
        leading = torch.broadcast_shapes(hyper.shape[:-3], context.shape[:-3])
        both = torch.cat([t.expand(*leading, *t.shape[-3:]) for t in (hyper, context)], dim=-3)
        both = run_transform(self.entropy_parameters, both.flatten(0, -4), self.precision)
        scales, means = both.unflatten(0, leading).chunk(2, dim=-3)
        return scales, means

    def _rounded(self, y: Tensor, z_hat: Tensor | None) -> Tensor:
        return self._sequential(y, self.h_s(z_hat))[0]

    def _coded(self, y: Tensor, hyper: Tensor) -> list[bytes]:
        _, symbols, indexes = self._sequential(y, hyper)
        conditional = self.gaussian_conditional
        tables = [t.tolist() for t in (conditional.quantized_cdf, conditional.cdf_length, conditional.offset)]
        # CompressAI's decoder iterates over positions, and within a position over channels.
        lists = ([image.permute(1, 2, 0).flatten().tolist() for image in batch] for batch in (symbols, indexes))
        return [conditional.entropy_coder.encode_with_indexes(*pair, *tables) for pair in zip(*lists, strict=True)]

    @torch.no_grad()
    def _sequential(self, y: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Round y position by position; return ``y_hat``, its integer symbols, and the indices of their coding tables.

        Like ``decompress``, it works image by image and window by window, so that encoder and decoder get identical
        floats."""
        reach = self.context_prediction.padding[0]
        weight = self.context_prediction.weight * self.context_prediction.mask
        symbols, scales = torch.zeros_like(y, dtype=torch.int32), torch.zeros_like(y)
        padded = F.pad(torch.zeros_like(y), (reach,) * 4)
        for b in range(len(y)):
            for h in range(y.shape[2]):
                for w in range(y.shape[3]):
                    window = padded[b : b + 1, :, h : h + 2 * reach + 1, w : w + 2 * reach + 1]
                    context = F.conv2d(window, weight, self.context_prediction.bias)
                    both = torch.cat((hyper[b : b + 1, :, h : h + 1, w : w + 1], context), dim=1)
                    scale, mean = self.entropy_parameters(both).chunk(2, dim=1)
                    symbol = torch.round(y[b : b + 1, :, h : h + 1, w : w + 1] - mean)
                    window[:, :, reach, reach] = (symbol + mean)[:, :, 0, 0]
                    symbols[b, :, h, w] = symbol[0, :, 0, 0].int()
                    scales[b, :, h, w] = scale[0, :, 0, 0]
        y_hat = F.pad(padded, (-reach,) * 4)
        return y_hat, symbols, self.gaussian_conditional.build_indexes(scales)


class Autoregressive(Context, JointAutoregressiveHierarchicalPriors):
    """CompressAI's ``JointAutoregressiveHierarchicalPriors`` (``mbt2018``)."""


class ChengAnchor(Context, Cheng2020Anchor):
    """CompressAI's ``Cheng2020Anchor``: residual blocks, and a single Normal for p(y | z)."""

    channel_names = ("N",)


class ChengAttention(Context, Cheng2020Attention):
    """CompressAI's ``Cheng2020Attention``: ``ChengAnchor`` with attention blocks in g_a and g_s."""

    channel_names = ("N",)
