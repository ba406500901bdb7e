"""Evaluation: rate from real bitstreams, distortion of what they decode to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradlab.codecs import Codec
from gradlab.errors import GradlabError
from gradlab.evaluation.bd import BD, bd, bd_quality, bd_rate, bd_table, check_lambdas
from gradlab.evaluation.bitstream import bitstream, check_tables, on_cpu
from gradlab.evaluation.classical import CLASSICAL_CODECS, available_codecs, classical_codecs, classical_curves
from gradlab.evaluation.container import Container, decode, encode, pack, read, unpack, write
from gradlab.evaluation.images import Images, named_images
from gradlab.evaluation.likelihood import (
    check_lambda,
    deterministic_rounding,
    reconstruction,
    universal_quantization,
)
from gradlab.evaluation.metrics import distortion, ms_ssim, mse_255, psnr, to_8_bit
from gradlab.evaluation.published import is_kodak, published_results
from gradlab.runtime import distributed
from gradlab.runtime.progress import quiet
from gradlab.validation import checked, require_columns

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


@checked
def rate_distortion(codec: Codec, images: Images, lam: float, advance: Callable[..., Any] = quiet) -> pd.DataFrame:
    """Rate and distortion of each image, from a bitstream that is written, decoded and checked.

    Several processes (``gradlab.runtime.distributed``) take the images in turns; each gets all rows, in order.

    Args:
        codec: a codec whose tables are built (``codec.finish()``); one on an accelerator is copied to the CPU.
        images: pictures, tensors ``[3, H, W]`` (uint8, or floats in [0, 1]), or one tensor ``[B, 3, H, W]``; any size.
        lam: lambda of the R-D cost.
        advance: called after each image.

    Returns:
        Per image: ``image``, ``bpp`` (bitstream, y and z, over unpadded pixels), ``bpp_y``, ``bpp_z``, ``bpp_estimate``
        (from likelihoods), ``mse`` (0-255, 8-bit), ``psnr`` (dB), ``ms_ssim`` (NaN below 161 pixels a side), and
        ``rd_cost`` = bpp + lam * mse.

    Raises:
        GradlabError: no images, lam not positive, tables not built, a bitstream that does not decode to what was
            encoded.
    """
    import pandas as pd

    check_lambda(lam)
    check_tables(codec)
    codec = on_cpu(codec)

    def row(_: int, name: str, x: Tensor) -> dict[str, Any]:
        coded = bitstream(codec, x)
        bpp, quality = coded.bpp_y + coded.bpp_z, distortion(x, coded.x_hat)
        rates = {"bpp": bpp, "bpp_y": coded.bpp_y, "bpp_z": coded.bpp_z, "bpp_estimate": coded.bpp_estimate}
        return {"image": name} | rates | quality | {"rd_cost": bpp + lam * quality["mse"]}

    rows = distributed.group().map(named_images(images), row, advance)
    if not rows:
        raise GradlabError("there are no images to evaluate: give at least one")
    return pd.DataFrame(rows)


@checked
def summary(per_image: pd.DataFrame) -> dict[str, float]:
    """Means over images; ``psnr`` is the mean of per-image PSNR, ``psnr_of_mean_mse`` the other convention, named."""
    require_columns(per_image, ["image", "mse"], "what rate_distortion() returned")
    texts = [c for c in per_image.select_dtypes(exclude="number").columns if c != "image"]
    if texts:
        raise GradlabError(f"column {texts[0]!r} holds no numbers: give what rate_distortion() returned")
    means = {column: float(per_image[column].mean()) for column in per_image.columns if column != "image"}
    return {**means, "psnr_of_mean_mse": psnr(means["mse"])}


__all__ = [
    "BD",
    "CLASSICAL_CODECS",
    "Container",
    "available_codecs",
    "bd",
    "bd_quality",
    "bd_rate",
    "bd_table",
    "bitstream",
    "check_lambdas",
    "classical_codecs",
    "classical_curves",
    "decode",
    "deterministic_rounding",
    "distortion",
    "encode",
    "is_kodak",
    "ms_ssim",
    "mse_255",
    "named_images",
    "pack",
    "psnr",
    "published_results",
    "rate_distortion",
    "read",
    "reconstruction",
    "summary",
    "to_8_bit",
    "universal_quantization",
    "unpack",
    "write",
]
