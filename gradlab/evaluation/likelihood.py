"""Evaluation without a bitstream: universal quantization and rounding (Table 11), and the transforms alone (A.10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gradlab.codecs import Codec, Latents
from gradlab.codecs.precision import cudnn_precision
from gradlab.codecs.shared import eval_mode
from gradlab.evaluation.bitstream import crop, pad
from gradlab.evaluation.images import Images, named_images
from gradlab.evaluation.metrics import check_lambda, distortion
from gradlab.noise import stream
from gradlab.runtime import distributed
from gradlab.runtime.progress import quiet
from gradlab.validation import checked, whole


@checked
def universal_quantization(
    codec: Codec, images: Images, lam: float, seed: int = 0, advance: Callable[..., Any] = quiet
) -> pd.DataFrame:
    """Measure the rate and distortion of each image under universal quantization.

    Encoder and decoder share a dither u ~ U(-1/2, 1/2). The encoder sends k = round(y - u), and the decoder
    reconstructs y_hat = k + u, which has the same distribution as y plus the noise added in training. z is quantised in
    the same way.

    No bitstream is written. The probability of k given u is p(y_hat), the likelihood that training optimises, so the
    rate is -log2 p(y_hat). A range coder would come within a few bytes of it, but it would need a separate table for
    each element, because the table depends on u. CompressAI's coder has one table per scale.

    Args:
        codec: codec to evaluate. Coding tables are not required.
        images: pictures, ``[3, height, width]`` tensors (uint8, or floats in [0, 1]), or one ``[batch, 3, height,
            width]`` tensor. Any size is accepted.
        lam: R-D trade-off parameter lambda, for an MSE on the 0-255 scale.
        seed: seed of the dither. The dither of an image depends only on the seed and the index of the image.
        advance: progress callback, called after each image.

    Returns:
        A table with one row per image and the columns ``image``; ``bpp``, ``bpp_y`` and ``bpp_z``, rates in bits per
        unpadded pixel; ``mse`` of the 8-bit images on the 0-255 scale; ``psnr`` in dB; ``ms_ssim``; and ``rd_cost``,
        which is ``bpp + lam * mse``.

    Raises:
        GradlabError: there are no images, or ``lam`` is not positive.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> table = gl.evaluation.universal_quantization(codec, torch.rand(2, 3, 32, 48), lam=0.01)
        >>> table.columns.tolist()
        ['image', 'bpp', 'bpp_y', 'bpp_z', 'mse', 'psnr', 'ms_ssim', 'rd_cost']

    Source:
        J. Ziv, "On universal quantization" (1985); E. Agustsson and L. Theis, "Universally quantized neural
        compression" (2020).
    """
    device, seed = next(codec.parameters()).device, whole("seed", seed, 0)
    return _by_likelihood(
        codec, images, lam, lambda x, index: codec.universal(x, stream(seed, "dither", index, device)), advance
    )


@checked
def deterministic_rounding(
    codec: Codec, images: Images, lam: float, advance: Callable[..., Any] = quiet
) -> pd.DataFrame:
    """Measure the rate and distortion of each image under rounding, with rates from likelihoods.

    The results are comparable with those of ``universal_quantization``, because neither writes a bitstream.

    Args:
        codec: codec to evaluate. Coding tables are not required.
        images: pictures, ``[3, height, width]`` tensors (uint8, or floats in [0, 1]), or one ``[batch, 3, height,
            width]`` tensor. Any size is accepted.
        lam: R-D trade-off parameter lambda, for an MSE on the 0-255 scale.
        advance: progress callback, called after each image.

    Returns:
        A table with the columns of ``universal_quantization``.

    Raises:
        GradlabError: there are no images, or ``lam`` is not positive.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> table = gl.evaluation.deterministic_rounding(codec, torch.rand(2, 3, 32, 48), lam=0.01)
        >>> bool((table["bpp"] == table["bpp_y"] + table["bpp_z"]).all())
        True
    """
    return _by_likelihood(codec, images, lam, lambda x, _: codec.latents(x), advance)


@checked
@torch.no_grad()
def reconstruction(codec: Codec, images: Images, advance: Callable[..., Any] = quiet) -> pd.DataFrame:
    """Measure the distortion of g_s(g_a(x)): the transforms as a plain autoencoder, without quantization.

    Args:
        codec: codec to evaluate. Coding tables are not required.
        images: pictures, ``[3, height, width]`` tensors (uint8, or floats in [0, 1]), or one ``[batch, 3, height,
            width]`` tensor. Any size is accepted.
        advance: progress callback, called after each image.

    Returns:
        A table with one row per image and the columns ``image``; ``mse`` of the 8-bit images on the 0-255 scale;
        ``psnr`` in dB; and ``ms_ssim``.

    Raises:
        GradlabError: there are no images.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> gl.evaluation.reconstruction(codec, torch.rand(2, 3, 32, 48)).columns.tolist()
        ['image', 'mse', 'psnr', 'ms_ssim']

    Source:
        Appendix A.10 of the paper.
    """
    return _rows(codec, images, lambda x, _: (codec.decode(codec.encode(x)), {}), advance)


@torch.no_grad()
def _by_likelihood(
    codec: Codec,
    images: Images,
    lam: float,
    quantize: Callable[[Tensor, int], Latents],
    advance: Callable[..., Any],
) -> pd.DataFrame:
    check_lambda(lam)

    def code(x: Tensor, index: int) -> tuple[Tensor, dict[str, float]]:
        latents = quantize(x, index)
        return codec.decode(latents.y_hat), {"bpp_y": float(latents.y_bits), "bpp_z": float(latents.z_bits)}

    table = _rows(codec, images, code, advance)
    table.insert(1, "bpp", table["bpp_y"] + table["bpp_z"])
    table["rd_cost"] = table["bpp"] + lam * table["mse"]
    return table


def _rows(
    codec: Codec,
    images: Images,
    code: Callable[[Tensor, int], tuple[Tensor, dict[str, float]]],
    advance: Callable[..., Any],
) -> pd.DataFrame:
    """Return one row per image with rates in bits per unpadded pixel and distortions; ``code`` gets the padded image.

    In a distributed run (``gradlab.runtime.distributed``), processes take images in turn, and each process returns the
    rows of all images in order.
    """
    device = next(codec.parameters()).device

    def row(index: int, name: str, x: Tensor) -> dict[str, Any]:
        padded, margins = pad(x.to(device), codec.downsampling_factor)
        with cudnn_precision(codec.precision, device):
            x_hat, bits = code(padded, index)
        rates = {column: value / (x.shape[2] * x.shape[3]) for column, value in bits.items()}
        return {"image": name, **rates, **distortion(x, crop(x_hat, margins).to(x.device))}

    with eval_mode(codec):
        rows = distributed.group().map(named_images(images), row, advance)
    return pd.DataFrame(rows)
