"""Evaluation without a bitstream: universal quantization and rounding (Table 11), the transforms alone (A.10)."""

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
    """Measure rate and distortion of each image under universal quantization (Ziv 1985; Agustsson and Theis 2020).

    Encoder and decoder share a dither u ~ U(-1/2, 1/2); the encoder sends k = round(y - u) and the decoder adds u back.
    Then y_hat = k + u is distributed as y plus the noise of training; the same holds for z.

    No bitstream is written. The mass of k given u is p(y_hat), the likelihood that training scores, so the rate is the
    entropy -log2 p(y_hat), which a range coder would meet to within a few bytes. Its tables would depend on u, one for
    every element, whereas CompressAI's coder has one for each scale.

    Args:
        codec: any codec.
        images: pictures, tensors ``[3, H, W]`` (uint8, or floats in [0, 1]), or one tensor ``[B, 3, H, W]``; any size.
        lam: lambda of the R-D cost.
        seed: of the dither; the dither of an image depends on the seed and the index of the image alone.
        advance: called after each image.

    Returns:
        Per image: ``image``, ``bpp``, ``bpp_y``, ``bpp_z`` (entropies, over unpadded pixels), ``mse`` (0-255, 8-bit),
        ``psnr`` (dB), ``ms_ssim``, and ``rd_cost`` = bpp + lam * mse.

    Raises:
        GradlabError: no images, or lam not positive.
    """
    device, seed = next(codec.parameters()).device, whole("seed", seed, 0)
    return _by_likelihood(
        codec, images, lam, lambda x, index: codec.universal(x, stream(seed, "dither", index, device)), advance
    )


@checked
def deterministic_rounding(
    codec: Codec, images: Images, lam: float, advance: Callable[..., Any] = quiet
) -> pd.DataFrame:
    """Measure rate, by likelihoods, and distortion under rounding, for comparison with universal quantization.

    Arguments, columns and errors are those of ``universal_quantization``.
    """
    return _by_likelihood(codec, images, lam, lambda x, _: codec.latents(x), advance)


@checked
@torch.no_grad()
def reconstruction(codec: Codec, images: Images, advance: Callable[..., Any] = quiet) -> pd.DataFrame:
    """Measure the distortion of g_s(g_a(x)), the transforms as a plain autoencoder without quantization.

    Args:
        codec: any codec.
        images: as for ``universal_quantization``.
        advance: called after each image.

    Returns:
        Per image: ``image``, ``mse`` (0-255, 8-bit), ``psnr`` (dB), ``ms_ssim``.

    Raises:
        GradlabError: no images.
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
    """Return one row per image: bits (by ``code``, of the padded image) over unpadded pixels, and distortion.

    Several processes (``gradlab.runtime.distributed``) take the images in turns; each gets all rows, in order.
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
