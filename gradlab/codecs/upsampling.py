"""CompressAI's last layer, computed as it is cheap on a CPU; its parameters and numbers stay what they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Output row 2 p + r of a transposed convolution (5 taps, stride 2, padding 2) reads rows p - 1, p, p + 1 of the input
# through these taps; the sixth is 0.
_TAPS = ((4, 2, 0), (5, 3, 1))
FEW = 16  # output channels from which on a transposed convolution is as fast as it can be


class Upsampling(nn.ConvTranspose2d):
    """A transposed convolution to few channels, as a convolution to four times as many and a shuffle of pixels.

    Kernels for transposed convolutions on a CPU are laid out for many output channels: the step from 128 channels to
    an image takes four times as long by them. Elsewhere, and for other shapes, it is a plain ``ConvTranspose2d``.
    """

    @classmethod
    def of(cls, layer: nn.ConvTranspose2d) -> Upsampling:
        """The same layer, its very parameters."""
        assert layer.bias is not None
        made = cls(layer.in_channels, layer.out_channels, 5, 2, 2, 1, device="meta")
        made.weight, made.bias = layer.weight, layer.bias
        return made

    @staticmethod
    def replaces(layer: nn.Module) -> bool:
        """Whether a layer is one that this is for."""
        return (
            type(layer) is nn.ConvTranspose2d
            and layer.out_channels <= FEW
            and layer.bias is not None
            and (layer.kernel_size, layer.stride, layer.padding) == ((5, 5), (2, 2), (2, 2))
            and (layer.output_padding, layer.dilation, layer.groups) == ((1, 1), (1, 1), 1)
        )

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``[B, C, h, w]`` to ``[B, C', 2 h, 2 w]``."""
        if x.device.type != "cpu" or output_size is not None:
            return super().forward(x, output_size)
        taps = torch.tensor(_TAPS)
        weight = F.pad(self.weight, (0, 1, 0, 1))[:, :, taps[:, None, :, None], taps[None, :, None, :]]
        # [C, C', row, column, 3, 3] to [C' row column, C, 3, 3], the order that pixel_shuffle takes channels in.
        weight = weight.permute(1, 2, 3, 0, 4, 5).reshape(4 * self.out_channels, self.in_channels, 3, 3)
        assert self.bias is not None
        return F.pixel_shuffle(F.conv2d(x, weight, self.bias.repeat_interleave(4), padding=1), 2)
