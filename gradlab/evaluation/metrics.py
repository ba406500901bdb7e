"""Distortion of 8-bit images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.validation import checked

# Five scales of an 11-pixel window: below this side the smallest scale no longer holds one.
SMALLEST_FOR_MS_SSIM = 161


def check_lambda(lam: float) -> None:
    """Refuse a value that is not a trade-off lambda.

    Raises:
        GradlabError: not positive, or not finite.
    """
    if not 0 < lam < math.inf:
        raise GradlabError(f"lam is {lam}: lambda must be positive and finite")


@checked
def to_8_bit(x: Tensor) -> Tensor:
    """Convert floats in [0, 1] to 0-255, clamped and rounded (kept as floats).

    Raises:
        GradlabError: no dense floats, or values that are not finite.
    """
    _check_values(x)
    return torch.round(255 * x.clamp(0, 1))


@checked
def mse_255(x: Tensor, x_hat: Tensor) -> float:
    """Compute the mean squared error of two images on the 0-255 scale.

    Raises:
        GradlabError: images of different shapes, without pixels, or not of finite numbers.
    """
    _check_pair(x, x_hat)
    return float(((x.double() - x_hat.double()) ** 2).mean())


@checked
def psnr(mse: float) -> float:
    """Compute the peak signal-to-noise ratio, dB, of an MSE on the 0-255 scale; infinite for identical images.

    Raises:
        GradlabError: an MSE that is negative or not finite.
    """
    if not 0 <= mse < math.inf:
        raise GradlabError(f"mse is {mse}: a mean squared error is a finite number of at least 0")
    return 10 * math.log10(255**2 / mse) if mse > 0 else math.inf


@checked
def ms_ssim(x: Tensor, x_hat: Tensor) -> float:
    """Compute MS-SSIM (Wang et al. 2003) of two ``[1, 3, H, W]`` images on 0-255; NaN below 161 pixels a side.

    Raises:
        GradlabError: images of different or wrong shapes, or not of finite floats.
    """
    _check_pair(x, x_hat)
    if x.ndim != 4:
        raise GradlabError(f"images have shape {tuple(x.shape)}: give [batch, 3, height, width]")
    if min(x.shape[-2:]) < SMALLEST_FOR_MS_SSIM:
        return math.nan
    from pytorch_msssim import ms_ssim as reference

    return float(reference(x, x_hat, data_range=255.0))


@checked
def distortion(x: Tensor, x_hat: Tensor) -> dict[str, float]:
    """Compute ``mse`` (0-255), ``psnr`` (dB), ``ms_ssim`` of two ``[1, 3, H, W]`` images in [0, 1], both in 8 bits."""
    original, decoded = to_8_bit(x), to_8_bit(x_hat)
    mse = mse_255(original, decoded)
    return {"mse": mse, "psnr": psnr(mse), "ms_ssim": ms_ssim(original, decoded)}


def _check_values(x: Tensor) -> None:
    if not x.is_floating_point() or x.layout != torch.strided or x.device.type == "meta" or x.numel() == 0:
        raise GradlabError(f"this is no image but a {x.dtype} tensor of shape {tuple(x.shape)}: give dense floats")
    if not bool(torch.isfinite(x).all()):
        raise GradlabError("an image holds NaN or infinite values: give finite ones")


def _check_pair(x: Tensor, x_hat: Tensor) -> None:
    """Refuse images of different shape, type or device."""
    if x.shape != x_hat.shape or x.dtype != x_hat.dtype or x.device != x_hat.device:
        kinds = "; ".join(f"{t.dtype} {tuple(t.shape)} on {t.device}" for t in (x, x_hat))
        raise GradlabError(f"images differ in kind ({kinds}): compare images of one shape, type and device")
    _check_values(x)
    _check_values(x_hat)
