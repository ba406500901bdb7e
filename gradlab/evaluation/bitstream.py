"""Rate of real bitstreams and distortion of the decoded images, with a check that encoder and decoder agree."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

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

if TYPE_CHECKING:
    from jaxtyping import Float

# Encoder and decoder run the same transforms on the same numbers, so they agree to less than half an 8-bit step.
TOLERANCE = 0.5 / 255


@shown
class Coded(NamedTuple):
    """One image after encoding and decoding.

    Attributes:
        x_hat: decoded image in [0, 1].
        bpp_y: length of y's string in bits per unpadded pixel.
        bpp_z: length of z's string in bits per unpadded pixel; 0 for codecs without z.
        bpp_estimate: -log2 of the likelihoods of y and z in bits per unpadded pixel.
    """

    x_hat: Float[Tensor, "1 3 height width"]
    bpp_y: float
    bpp_z: float
    bpp_estimate: float


@checked
def rate_distortion(codec: Codec, images: Images, lam: float, advance: Callable[..., Any] = quiet) -> pd.DataFrame:
    """Measure the rate and distortion of each image with a real bitstream.

    Each bitstream is written, decoded again, and compared with the encoder's reconstruction. In a distributed run
    (``gradlab.runtime.distributed``), processes take images in turn, and each process returns the rows of all images in
    order.

    Args:
        codec: codec with coding tables (call ``codec.finish()`` after training). A codec on an accelerator is copied to
            the CPU.
        images: pictures, ``[3, height, width]`` tensors (uint8, or floats in [0, 1]), or one ``[batch, 3, height,
            width]`` tensor. Any size is accepted.
        lam: R-D trade-off parameter lambda, for an MSE on the 0-255 scale.
        advance: progress callback, called after each image.

    Returns:
        A table with one row per image and the columns

        - ``image``: name of the image, or its index if it is a tensor
        - ``bpp``, ``bpp_y``, ``bpp_z``: length of the bitstream in bits per unpadded pixel, in total and per latent
        - ``bpp_estimate``: rate according to the likelihoods, in bits per unpadded pixel
        - ``mse``: mean squared error of the 8-bit images on the 0-255 scale
        - ``psnr``: PSNR in dB
        - ``ms_ssim``: MS-SSIM; NaN if a side is shorter than 161 pixels
        - ``rd_cost``: ``bpp + lam * mse``

    Raises:
        GradlabError: there are no images, ``lam`` is not positive, the coding tables are missing, or a bitstream does
            not decode to the encoded image.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> codec.finish()
        >>> table = gl.evaluation.rate_distortion(codec, torch.rand(2, 3, 32, 48), lam=0.01)
        >>> table.columns.tolist()
        ['image', 'bpp', 'bpp_y', 'bpp_z', 'bpp_estimate', 'mse', 'psnr', 'ms_ssim', 'rd_cost']
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
    """Average a table of per-image results over images.

    Args:
        per_image: result of ``rate_distortion``, or another table with the columns ``image`` and ``mse``.

    Returns:
        The mean of each numeric column, and ``psnr_of_mean_mse``, the PSNR of the mean MSE in dB. ``psnr`` is the mean
        of the PSNR of each image.

    Raises:
        GradlabError: the table is empty, a column is missing, or a column other than ``image`` is not numeric.

    Example:
        >>> import gradlab as gl
        >>> import pandas as pd
        >>> per_image = pd.DataFrame({"image": ["a", "b"], "bpp": [0.25, 0.75], "mse": [10.0, 30.0]})
        >>> means = gl.evaluation.summary(per_image)
        >>> means["bpp"], means["mse"], round(means["psnr_of_mean_mse"], 2)
        (0.5, 20.0, 35.12)
    """
    require_columns(per_image, ["image", "mse"], "the table that rate_distortion() returned")
    texts = [c for c in per_image.select_dtypes(exclude="number").columns if c != "image"]
    if texts:
        raise GradlabError(f"column {texts[0]!r} is not numeric: give the table that rate_distortion() returned")
    means = {column: float(per_image[column].mean()) for column in per_image.columns if column != "image"}
    return {**means, "psnr_of_mean_mse": psnr(means["mse"])}


@checked
@torch.no_grad()
def bitstream(codec: Codec, x: Float[Tensor, "1 3 height width"]) -> Coded:
    """Encode and decode one image, and check that encoder and decoder agree.

    Args:
        codec: codec with coding tables (call ``codec.finish()`` after training). A codec on an accelerator is copied to
            the CPU.
        x: image in [0, 1], of any size and on any device. It is zero-padded symmetrically, as in CompressAI.

    Returns:
        The decoded image and its rates.

    Raises:
        GradlabError: ``codec`` is not a codec or has no coding tables, ``x`` is not a single image, or the decoded
            image differs from the encoder's reconstruction.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> codec.finish()
        >>> coded = gl.evaluation.bitstream(codec, torch.rand(1, 3, 30, 50))
        >>> tuple(coded.x_hat.shape), coded.bpp_y > 0
        ((1, 3, 30, 50), True)
    """
    check_tables(codec)
    codec = on_cpu(codec)
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[:2] != (1, 3):
        raise GradlabError("x is not a single image: give a tensor of shape [1, 3, height, width]")
    named_images(x)
    padded, margins = pad(x.cpu(), codec.downsampling_factor)
    with eval_mode(codec):
        with _recorded_calls(codec.g_a) as analyses:
            stream = codec.compress(padded)
        with _recorded_calls(codec.g_s) as syntheses:
            decoded = codec.decompress(**stream)["x_hat"]
        latents = codec.latents(padded, analyses[0][1] if len(analyses) == 1 else None)
        if len(syntheses) == 1 and torch.equal(syntheses[0][0], latents.y_hat):
            expected = syntheses[0][1]  # the decoder ran g_s on the encoder's y_hat, so reuse its output
        else:
            expected = codec.g_s(latents.y_hat)
    gap = float((expected.clamp(0, 1) - decoded).abs().max())
    if not gap <= TOLERANCE:
        raise GradlabError(
            f"the decoded image differs from the encoder's reconstruction by up to {gap:.3g}: "
            "run encoder and decoder on the same kind of device"
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
    """Record input and output of each call of a module, so that expensive transforms run only once per image."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output.clone())))
    try:
        yield calls
    finally:
        handle.remove()


def on_cpu(codec: Codec) -> Codec:
    """Return the codec itself if it is on the CPU, and a copy on the CPU otherwise.

    On an accelerator the last bit of a scale, and hence the coding table of a symbol, may differ from run to run.
    Bitstreams are therefore written and read on the CPU.

    Args:
        codec: codec on any device.

    Example:
        >>> import gradlab as gl
        >>> from gradlab.evaluation.bitstream import on_cpu
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> on_cpu(codec) is codec
        True
    """
    return codec if next(codec.parameters()).device.type == "cpu" else copy.deepcopy(codec).cpu()


def check_tables(codec: Codec) -> None:
    """Raise an error unless the object is a codec with coding tables.

    Args:
        codec: object to check.

    Raises:
        GradlabError: ``codec`` is not a codec, or its coding tables have not been built.

    Example:
        >>> import gradlab as gl
        >>> from gradlab.evaluation.bitstream import check_tables
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> codec.finish()
        >>> check_tables(codec)
    """
    if not isinstance(codec, Codec):
        raise GradlabError(
            f"codec is a {type(codec).__name__}: give a codec from gradlab.codecs.build or gradlab.codecs.load"
        )
    if codec.entropy_bottleneck.quantized_cdf.numel() == 0:
        raise GradlabError("the codec's coding tables are not built: call codec.finish() first")


def padding(size: tuple[int, int], multiple: int) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Compute the symmetric padding that extends a size to multiples of a number.

    Args:
        size: height and width in pixels.
        multiple: number of pixels of which the padded height and width are multiples.

    Returns:
        The margins (left, right, top, bottom) and the padded (height, width).

    Example:
        >>> from gradlab.evaluation.bitstream import padding
        >>> padding((30, 50), 16)
        ((7, 7, 1, 1), (32, 64))
    """
    height, width = size
    extra_w, extra_h = -width % multiple, -height % multiple
    margins = (extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2)
    return margins, (height + extra_h, width + extra_w)


def pad(
    x: Float[Tensor, "... height width"], multiple: int
) -> tuple[Float[Tensor, "... padded_height padded_width"], tuple[int, int, int, int]]:
    """Zero-pad a tensor symmetrically to multiples of a number.

    Args:
        x: images; the last two axes are padded.
        multiple: number of pixels of which the padded height and width are multiples.

    Returns:
        The padded tensor and the margins (left, right, top, bottom).

    Example:
        >>> import torch
        >>> from gradlab.evaluation.bitstream import pad
        >>> padded, margins = pad(torch.rand(1, 3, 30, 50), 16)
        >>> tuple(padded.shape), margins
        ((1, 3, 32, 64), (7, 7, 1, 1))
    """
    margins, _ = padding((x.shape[-2], x.shape[-1]), multiple)
    return F.pad(x, margins), margins


def crop(
    x: Float[Tensor, "... padded_height padded_width"], margins: tuple[int, int, int, int]
) -> Float[Tensor, "... height width"]:
    """Remove the margins that ``pad`` added.

    Args:
        x: padded images.
        margins: left, right, top and bottom margin in pixels.

    Returns:
        The images without the margins.

    Example:
        >>> import torch
        >>> from gradlab.evaluation.bitstream import crop
        >>> tuple(crop(torch.rand(1, 3, 32, 64), (7, 7, 1, 1)).shape)
        (1, 3, 30, 50)
    """
    left, right, top, bottom = margins
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
