"""Distortion metrics of 8-bit images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.validation import checked

if TYPE_CHECKING:
    from jaxtyping import Float

# The smallest of the five scales must hold an 11-pixel window.
SMALLEST_FOR_MS_SSIM = 161


def check_lambda(lam: float) -> None:
    """Raise an error unless a trade-off parameter is positive and finite.

    Args:
        lam: R-D trade-off parameter lambda.

    Raises:
        GradlabError: ``lam`` is not positive or not finite.

    Example:
        >>> from gradlab.evaluation.metrics import check_lambda
        >>> check_lambda(0.0016)
    """
    if not 0 < lam < math.inf:
        raise GradlabError(f"lam is {lam}: give a positive, finite lambda")


@checked
def to_8_bit(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert images in [0, 1] to 8-bit values, clamped and rounded, without changing the dtype.

    Args:
        x: dense floating-point tensor of any shape.

    Returns:
        A tensor of whole numbers from 0 to 255 with the shape and dtype of ``x``.

    Raises:
        GradlabError: ``x`` is empty, sparse or not floating point, or holds NaN or infinite values.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> gl.evaluation.to_8_bit(torch.tensor([-0.1, 0.0, 0.5, 1.0])).tolist()
        [0.0, 0.0, 128.0, 255.0]
    """
    _check_values(x)
    return torch.round(255 * x.clamp(0, 1))


@checked
def mse_255(x: Float[Tensor, "*shape"], x_hat: Float[Tensor, "*shape"]) -> float:
    """Compute the mean squared error of two images on the 0-255 scale.

    Args:
        x: original image, with values from 0 to 255.
        x_hat: decoded image with the same shape, dtype and device.

    Returns:
        The mean of the squared differences, computed in float64.

    Raises:
        GradlabError: the images differ in shape, dtype or device, are empty, or hold NaN or infinite values.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> gl.evaluation.mse_255(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 2.0))
        4.0
    """
    _check_pair(x, x_hat)
    return float(((x.double() - x_hat.double()) ** 2).mean())


@checked
def psnr(mse: float) -> float:
    """Convert a mean squared error to a peak signal-to-noise ratio.

    Args:
        mse: mean squared error on the 0-255 scale.

    Returns:
        The PSNR, 10 log10(255^2 / mse), in dB; infinite if ``mse`` is 0.

    Raises:
        GradlabError: ``mse`` is negative or not finite.

    Example:
        >>> import gradlab as gl
        >>> round(gl.evaluation.psnr(10.0), 2)
        38.13
    """
    if not 0 <= mse < math.inf:
        raise GradlabError(f"mse is {mse}: give a finite number of at least 0")
    return 10 * math.log10(255**2 / mse) if mse > 0 else math.inf


@checked
def ms_ssim(
    x: Float[Tensor, "batch channels height width"], x_hat: Float[Tensor, "batch channels height width"]
) -> float:
    """Compute the multi-scale structural similarity of two images on the 0-255 scale.

    Args:
        x: original image, with values from 0 to 255.
        x_hat: decoded image with the same shape, dtype and device.

    Returns:
        The MS-SSIM, 1 for identical images; NaN if height or width is below 161 pixels, because the smallest of the
        five scales must hold an 11-pixel window.

    Raises:
        GradlabError: the images differ in shape, dtype or device, are not 4-dimensional, are empty, or hold NaN or
            infinite values.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> x = 255 * torch.rand(1, 3, 176, 176)
        >>> round(gl.evaluation.ms_ssim(x, x), 3)
        1.0

    Source:
        Z. Wang, E. P. Simoncelli and A. C. Bovik, "Multiscale structural similarity for image quality assessment"
        (2003), computed by the package ``pytorch-msssim``.
    """
    _check_pair(x, x_hat)
    if x.ndim != 4:
        raise GradlabError(f"the images have shape {tuple(x.shape)}: give [batch, 3, height, width]")
    if min(x.shape[-2:]) < SMALLEST_FOR_MS_SSIM:
        return math.nan
    from pytorch_msssim import ms_ssim as reference

    return float(reference(x, x_hat, data_range=255.0))


@checked
def distortion(
    x: Float[Tensor, "batch channels height width"], x_hat: Float[Tensor, "batch channels height width"]
) -> dict[str, float]:
    """Compute MSE, PSNR and MS-SSIM of two images after conversion to 8 bits.

    Args:
        x: original image in [0, 1].
        x_hat: decoded image with the same shape, dtype and device.

    Returns:
        ``mse`` on the 0-255 scale, ``psnr`` in dB, and ``ms_ssim``, which is NaN if height or width is below 161
        pixels.

    Raises:
        GradlabError: the images differ in shape, dtype or device, are not 4-dimensional, are empty, or hold NaN or
            infinite values.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> x = torch.zeros(1, 3, 8, 8)
        >>> figures = gl.evaluation.distortion(x, x + 1 / 255)
        >>> figures["mse"], round(figures["psnr"], 2)
        (1.0, 48.13)
    """
    original, decoded = to_8_bit(x), to_8_bit(x_hat)
    mse = mse_255(original, decoded)
    return {"mse": mse, "psnr": psnr(mse), "ms_ssim": ms_ssim(original, decoded)}


def _check_values(x: Tensor) -> None:
    if not x.is_floating_point() or x.layout != torch.strided or x.device.type == "meta" or x.numel() == 0:
        raise GradlabError(
            f"a {x.dtype} tensor of shape {tuple(x.shape)} is not an image: give a dense, non-empty float tensor"
        )
    if not bool(torch.isfinite(x).all()):
        raise GradlabError("an image holds NaN or infinite values: give finite values")


def _check_pair(x: Tensor, x_hat: Tensor) -> None:
    """Raise an error for images that differ in shape, dtype or device."""
    if x.shape != x_hat.shape or x.dtype != x_hat.dtype or x.device != x_hat.device:
        kinds = "; ".join(f"{t.dtype} {tuple(t.shape)} on {t.device}" for t in (x, x_hat))
        raise GradlabError(f"the images differ ({kinds}): give images of the same shape, dtype and device")
    _check_values(x)
    _check_values(x_hat)
