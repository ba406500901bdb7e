"""Distortion of 8-bit images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Five scales of an 11-pixel window: below this side the smallest scale no longer holds one.
SMALLEST_FOR_MS_SSIM = 161


def to_8_bit(x: Tensor) -> Tensor:
    """Floats in [0, 1] to 0-255, clamped and rounded (kept as floats)."""
    return torch.round(255 * x.clamp(0, 1))


def mse_255(x: Tensor, x_hat: Tensor) -> float:
    """Mean squared error of two images on the 0-255 scale."""
    return float(((x.double() - x_hat.double()) ** 2).mean())


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio, dB, of an MSE on the 0-255 scale; infinite for identical images."""
    return 10 * math.log10(255**2 / mse) if mse > 0 else math.inf


def ms_ssim(x: Tensor, x_hat: Tensor) -> float:
    """MS-SSIM (Wang et al. 2003) of two ``[1, 3, H, W]`` images on 0-255; NaN where a side is below 161 pixels."""
    if min(x.shape[-2:]) < SMALLEST_FOR_MS_SSIM:
        return math.nan
    from pytorch_msssim import ms_ssim as reference

    return float(reference(x, x_hat, data_range=255.0))


def distortion(x: Tensor, x_hat: Tensor) -> dict[str, float]:
    """``mse`` (0-255), ``psnr`` (dB) and ``ms_ssim`` of two ``[1, 3, H, W]`` images in [0, 1], both taken to 8 bits."""
    original, decoded = to_8_bit(x), to_8_bit(x_hat)
    mse = mse_255(original, decoded)
    return {"mse": mse, "psnr": psnr(mse), "ms_ssim": ms_ssim(original, decoded)}
