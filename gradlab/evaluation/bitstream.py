"""Rate of real bitstreams and distortion of the images that they decode to; encoder and decoder must agree."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.codecs import Codec
from gradlab.codecs.shared import eval_mode
from gradlab.errors import GradlabError
from gradlab.evaluation.images import Images, named_images
from gradlab.evaluation.metrics import check_lambda, distortion, psnr
from gradlab.runtime import distributed
from gradlab.runtime.display import shown
from gradlab.runtime.progress import quiet
from gradlab.validation import checked, require_columns

# Both ends run the same transforms on the same numbers, so they agree to rounding: less than half an 8-bit step.
TOLERANCE = 0.5 / 255


@shown
class Coded(NamedTuple):
    """One image after coding.

    Attributes:
        x_hat: ``[1, 3, H, W]`` decoded, in [0, 1].
        bpp_y, bpp_z: bits of each string over unpadded pixels; ``bpp_z`` is 0 without z.
        bpp_estimate: -log2 of the likelihoods, y and z, over unpadded pixels.
    """

    x_hat: Tensor
    bpp_y: float
    bpp_z: float
    bpp_estimate: float


@checked
def rate_distortion(codec: Codec, images: Images, lam: float, advance: Callable[..., Any] = quiet) -> pd.DataFrame:
    """Measure rate and distortion of each image by a bitstream that is written, decoded and checked.

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
    check_lambda(lam)
    check_tables(codec)
    codec = on_cpu(codec)

    def row(_: int, name: str, x: Tensor) -> dict[str, Any]:
        coded = bitstream(codec, x)
        bpp, quality = coded.bpp_y + coded.bpp_z, distortion(x, coded.x_hat)
        rates = {"bpp": bpp, "bpp_y": coded.bpp_y, "bpp_z": coded.bpp_z, "bpp_estimate": coded.bpp_estimate}
        return {"image": name} | rates | quality | {"rd_cost": bpp + lam * quality["mse"]}

    rows = distributed.group().map(named_images(images), row, advance)
    return pd.DataFrame(rows)


@checked
def summary(per_image: pd.DataFrame) -> dict[str, float]:
    """Average over images: ``psnr`` is the mean of per-image PSNR, ``psnr_of_mean_mse`` the PSNR of the mean MSE."""
    require_columns(per_image, ["image", "mse"], "what rate_distortion() returned")
    texts = [c for c in per_image.select_dtypes(exclude="number").columns if c != "image"]
    if texts:
        raise GradlabError(f"column {texts[0]!r} holds no numbers: give what rate_distortion() returned")
    means = {column: float(per_image[column].mean()) for column in per_image.columns if column != "image"}
    return {**means, "psnr_of_mean_mse": psnr(means["mse"])}


@checked
@torch.no_grad()
def bitstream(codec: Codec, x: Tensor) -> Coded:
    """Encode and decode one image, and check that both ends agree.

    Args:
        codec: a codec whose tables are built; a codec on an accelerator is copied to the CPU.
        x: ``[1, 3, H, W]`` in [0, 1], any size and device; padded centrally with zeros as CompressAI does.

    Raises:
        GradlabError: no codec, no such tensor, tables not built, or a decoded image that is not the encoder's own
            reconstruction.
    """
    check_tables(codec)
    codec = on_cpu(codec)
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[:2] != (1, 3):
        raise GradlabError("a bitstream holds one image: give a tensor [1, 3, height, width]")
    named_images(x)
    padded, margins = pad(x.cpu(), codec.downsampling_factor)
    with eval_mode(codec):
        with _recorded_calls(codec.g_a) as analyses:
            stream = codec.compress(padded)
        with _recorded_calls(codec.g_s) as syntheses:
            decoded = codec.decompress(**stream)["x_hat"]
        latents = codec.latents(padded, analyses[0][1] if len(analyses) == 1 else None)
        if len(syntheses) == 1 and torch.equal(syntheses[0][0], latents.y_hat):
            expected = syntheses[0][1]  # the decoder gave g_s the encoder's y_hat: it need not run again
        else:
            expected = codec.g_s(latents.y_hat)
    gap = float((expected.clamp(0, 1) - decoded).abs().max())
    if not gap <= TOLERANCE:
        raise GradlabError(
            f"the bitstream decodes to another image than was encoded (largest difference {gap:.3g}): "
            "encoder and decoder must run on the same kind of device"
        )
    pixels = x.shape[2] * x.shape[3]
    y_bits, z_bits = (8.0 * len(strings[0]) for strings in (*stream["strings"], [b""])[:2])
    return Coded(
        x_hat=crop(decoded, margins).to(x.device),
        bpp_y=y_bits / pixels,
        bpp_z=z_bits / pixels,
        bpp_estimate=float(latents.y_bits + latents.z_bits) / pixels,
    )


@contextmanager
def _recorded_calls(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record input and output of each call of a module, so that the most expensive transforms run once per image."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output.clone())))
    try:
        yield calls
    finally:
        handle.remove()


def on_cpu(codec: Codec) -> Codec:
    """Return the codec if it is on the CPU, otherwise a copy of it on the CPU.

    On an accelerator the last bit of a scale, and hence the coding table of a symbol, may differ from run to run, so
    bitstreams are written and read on the CPU.
    """
    return codec if next(codec.parameters()).device.type == "cpu" else copy.deepcopy(codec).cpu()


def check_tables(codec: Codec) -> None:
    """Refuse objects that are not codecs, and codecs without coding tables.

    Raises:
        GradlabError: no codec, or coding tables not built.
    """
    if not isinstance(codec, Codec):
        raise GradlabError(f"a {type(codec).__name__} is no codec: make one with gradlab.codecs.build or load")
    if codec.entropy_bottleneck.quantized_cdf.numel() == 0:
        raise GradlabError("the codec's coding tables are not built: call codec.finish() first")


def padding(size: tuple[int, int], multiple: int) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Compute the margins (left, right, top, bottom) that pad a size centrally to multiples, and the padded size."""
    height, width = size
    extra_w, extra_h = -width % multiple, -height % multiple
    margins = (extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2)
    return margins, (height + extra_h, width + extra_w)


def pad(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Zero-pad ``[..., H, W]`` centrally to multiples; also return the margins (left, right, top, bottom)."""
    margins, _ = padding((x.shape[-2], x.shape[-1]), multiple)
    return F.pad(x, margins), margins


def crop(x: Tensor, margins: tuple[int, int, int, int]) -> Tensor:
    """Remove the margins that ``pad`` added."""
    left, right, top, bottom = margins
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
