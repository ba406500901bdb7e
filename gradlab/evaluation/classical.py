"""Classical codecs for comparison, through Pillow: JPEG, JPEG 2000, WebP and AVIF.

Rates count whole files including headers, but files contain neither a colour profile nor metadata. Each codec uses the
chroma subsampling listed below, which is also reported in every row: with 4:2:0 subsampling, PSNR over RGB saturates at
high rates.

========= ====== ===================================================================================================
JPEG      4:2:0  baseline, with Huffman tables optimised for the image
JPEG 2000 4:4:4  irreversible wavelet and colour transform; ``quality`` is the target PSNR in dB
WebP      4:2:0  the only subsampling of its lossy mode; slowest, best compression effort
AVIF      4:4:4  AV1 still picture, with Pillow's default effort
========= ====== ===================================================================================================
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.evaluation.images import Images, named_images
from gradlab.evaluation.metrics import distortion, to_8_bit
from gradlab.runtime.display import shown
from gradlab.runtime.progress import quiet
from gradlab.validation import checked, known, require_columns, several, wholes

if TYPE_CHECKING:
    from jaxtyping import Float


@shown
class ClassicalCodec(NamedTuple):
    """Settings of a classical codec.

    Attributes:
        feature: Pillow's name of the feature that the codec needs.
        format: Pillow's name of the file format.
        chroma: chroma subsampling.
        qualities: quality settings in ascending order that cover the rates of learned codecs.
        options: function from a quality to keyword arguments of ``Image.save``.
    """

    feature: str
    format: str
    chroma: str
    qualities: tuple[int, ...]
    options: Callable[[int], dict[str, Any]]

    def _repr_line_(self) -> str:
        return f"{self.format!r}, {self.chroma}, qualities {self.qualities[0]} to {self.qualities[-1]}"


CLASSICAL_CODECS: dict[str, ClassicalCodec] = {
    "JPEG": ClassicalCodec(
        "jpg", "JPEG", "4:2:0", (5, 10, 20, 40, 60, 80, 90),
        lambda q: {"quality": q, "subsampling": "4:2:0", "optimize": True},
    ),
    "JPEG 2000": ClassicalCodec(
        "jpg_2000", "JPEG2000", "4:4:4", (24, 27, 30, 33, 36, 39, 42),
        lambda q: {"quality_mode": "dB", "quality_layers": [q], "irreversible": True, "mct": 1},
    ),
    "WebP": ClassicalCodec("webp", "WEBP", "4:2:0", (1, 10, 30, 50, 70, 85, 95), lambda q: {"quality": q, "method": 6}),
    "AVIF": ClassicalCodec(
        "avif", "AVIF", "4:4:4", (10, 25, 40, 55, 65, 75, 85), lambda q: {"quality": q, "subsampling": "4:4:4"}
    ),
}  # fmt: skip


def available_codecs() -> tuple[str, ...]:
    """List the classical codecs that the installed Pillow can write and read.

    Returns:
        The available keys of ``CLASSICAL_CODECS``.

    Example:
        >>> import gradlab as gl
        >>> "JPEG" in gl.evaluation.available_codecs()
        True
    """
    from PIL import features

    # ``features.check`` warns about names that Pillow does not know, such as AVIF in old versions.
    known = {*features.modules, *features.codecs, *features.features}
    return tuple(name for name, c in CLASSICAL_CODECS.items() if c.feature in known and features.check(c.feature))


@checked
def classical_codecs(
    images: Images,
    names: str | Iterable[str] | None = None,
    qualities: SupportsIndex | Iterable[SupportsIndex] | None = None,
    advance: Callable[..., Any] = quiet,
) -> pd.DataFrame:
    """Measure the rate and distortion of each image under each classical codec and quality.

    Args:
        images: pictures, ``[3, height, width]`` tensors (uint8, or floats in [0, 1]), or one ``[batch, 3, height,
            width]`` tensor. Any size is accepted.
        names: key or keys of ``CLASSICAL_CODECS``; by default all that the installed Pillow supports.
        qualities: one or several quality settings from 1 to 100, used for each codec on its own scale; by default its
            own settings.
        advance: progress callback, called after each image, codec and quality.

    Returns:
        A table with one row per codec, quality and image and the columns ``codec``, ``chroma``, ``quality`` and
        ``image``; ``bpp``, the size of the file in bits per pixel; ``mse`` of the 8-bit images on the 0-255 scale;
        ``psnr`` in dB; and ``ms_ssim``, NaN if a side is shorter than 161 pixels.

    Raises:
        GradlabError: there are no images, a codec is unknown or not supported by the installed Pillow, or a quality is
            outside 1 to 100.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> table = gl.evaluation.classical_codecs(torch.rand(2, 3, 32, 48), names=["JPEG"], qualities=[10, 90])
        >>> table[["codec", "chroma", "quality", "image"]]
          codec chroma  quality image
        0  JPEG  4:2:0       10     0
        1  JPEG  4:2:0       10     1
        2  JPEG  4:2:0       90     0
        3  JPEG  4:2:0       90     1
    """
    available = available_codecs()
    selected = available if names is None else several("names", names, str, "names of codecs", empty=True)
    for name in selected:
        known("classical codec", name, CLASSICAL_CODECS)
        if name not in available:
            raise GradlabError(
                f"the installed Pillow does not support {name}: install one that does, or use {', '.join(available)}"
            )
    settings = None if qualities is None else wholes("qualities", qualities, 1, empty=True)
    for quality in settings or ():
        if quality > 100:
            raise GradlabError(f"a quality is {quality}: give whole numbers from 1 to 100")
    originals = named_images(images)
    rows = []
    for name in selected:
        codec = CLASSICAL_CODECS[name]
        for quality in codec.qualities if settings is None else settings:
            for image, x in originals:
                size, decoded = encode(to_8_bit(x), codec, quality)
                row = {"codec": name, "chroma": codec.chroma, "quality": quality, "image": image}
                bpp = 8 * size / (x.shape[2] * x.shape[3])
                rows.append({**row, "bpp": bpp, **distortion(x, decoded / 255)})
                advance(1, f"{name} {quality}")
    return pd.DataFrame(rows)


@checked
def classical_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Average the rows of ``classical_codecs`` over images, giving one R-D point per codec and quality.

    Args:
        table: result of ``classical_codecs``.

    Returns:
        A table with the columns ``codec``, ``chroma``, ``quality``, ``bpp``, ``mse``, ``psnr`` and ``ms_ssim``.

    Raises:
        GradlabError: the table is empty or lacks a column.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> table = gl.evaluation.classical_codecs(torch.rand(2, 3, 32, 48), names=["JPEG"], qualities=[10, 90])
        >>> curve = gl.evaluation.classical_curves(table)
        >>> curve["quality"].tolist(), curve["bpp"].is_monotonic_increasing
        ([10, 90], True)
    """
    keys = ["codec", "chroma", "quality"]
    require_columns(table, [*keys, "bpp", "mse", "psnr", "ms_ssim"], "the table that classical_codecs() returned")
    return table.groupby(keys, sort=False)[["bpp", "mse", "psnr", "ms_ssim"]].mean().reset_index()


def encode(
    x: Float[Tensor, "1 3 height width"], codec: ClassicalCodec, quality: int
) -> tuple[int, Float[Tensor, "1 3 height width"]]:
    """Encode an image with a classical codec and decode it again.

    Args:
        x: image with whole values from 0 to 255.
        codec: codec to use.
        quality: quality setting of the codec.

    Returns:
        The size of the file in bytes, and the decoded image ``[1, 3, height, width]`` with values from 0 to 255.

    Example:
        >>> import torch
        >>> from gradlab.evaluation.classical import CLASSICAL_CODECS, encode
        >>> size, decoded = encode(torch.zeros(1, 3, 32, 48), CLASSICAL_CODECS["JPEG"], quality=50)
        >>> size > 0, tuple(decoded.shape)
        (True, (1, 3, 32, 48))
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(x[0].permute(1, 2, 0).to(torch.uint8).numpy(), "RGB").save(
        file, format=codec.format, **codec.options(quality)
    )
    size = file.tell()
    with Image.open(file) as decoded:
        pixels = np.array(decoded.convert("RGB"), dtype=np.uint8)
    return size, torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
