"""Classical codecs for comparison, by Pillow: JPEG, JPEG 2000, WebP, AVIF.

Rates are those of whole files, headers included; no colour profile and no metadata is written. Chroma is what each
format is known for, and stated in every row: a codec with 4:2:0 chroma saturates in PSNR over RGB at high rates.

========= ====== ===================================================================================================
JPEG      4:2:0  baseline, Huffman tables optimised for the image
JPEG 2000 4:4:4  irreversible wavelet and colour transform; ``quality`` is the PSNR (dB) that the encoder aims at
WebP      4:2:0  the only sampling of its lossy mode; slowest, best effort
AVIF      4:4:4  AV1 still picture, Pillow's default effort
========= ====== ===================================================================================================
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.evaluation.images import Images, named_images
from gradlab.evaluation.metrics import distortion, to_8_bit
from gradlab.runtime.progress import quiet
from gradlab.validation import checked, known, require_columns, several, wholes


class ClassicalCodec(NamedTuple):
    """How one classical codec is run.

    Attributes:
        feature: what Pillow calls its support of it.
        format: what Pillow calls the file format.
        chroma: sampling of the colour differences.
        qualities: settings that span the rates of learned codecs, from low to high.
        options: quality to the arguments of ``Image.save``.
    """

    feature: str
    format: str
    chroma: str
    qualities: tuple[int, ...]
    options: Callable[[int], dict[str, Any]]


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
    """List those of ``CLASSICAL_CODECS`` that this Pillow can write and read."""
    from PIL import features

    # A Pillow that is too old for AVIF does not know its name, and would warn when asked.
    known = {*features.modules, *features.codecs, *features.features}
    return tuple(name for name, c in CLASSICAL_CODECS.items() if c.feature in known and features.check(c.feature))


@checked
def classical_codecs(
    images: Images,
    names: str | Iterable[str] | None = None,
    qualities: SupportsIndex | Iterable[SupportsIndex] | None = None,
    advance: Callable[..., Any] = quiet,
) -> pd.DataFrame:
    """Measure rate and distortion of each image under each classical codec and quality.

    Args:
        images: as ``rate_distortion`` takes them.
        names: keys of ``CLASSICAL_CODECS``, one or several; by default those that this Pillow has.
        qualities: settings for every codec, one or several, on its own scale; by default each one's own.
        advance: called after each image, codec and quality.

    Returns:
        Per codec, quality and image: ``codec``, ``chroma``, ``quality``, ``image``, ``bpp`` (8 times the bytes of the
        file over its pixels), ``mse`` (0-255, 8-bit), ``psnr`` (dB), ``ms_ssim`` (NaN below 161 pixels a side).

    Raises:
        GradlabError: no images, an unknown codec, or one that this Pillow lacks.
    """
    available = available_codecs()
    selected = available if names is None else several("names", names, str, "names of codecs", empty=True)
    for name in selected:
        known("classical codec", name, CLASSICAL_CODECS)
        if name not in available:
            raise GradlabError(f"this Pillow has no {name}: install one with it, or ask for {', '.join(available)}")
    settings = None if qualities is None else wholes("qualities", qualities, 1, empty=True)
    for quality in settings or ():
        if quality > 100:
            raise GradlabError(f"quality is {quality}: give whole numbers from 1 to 100")
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
    """Average the rows of ``classical_codecs`` over images: one point of an R-D curve per codec and quality."""
    keys = ["codec", "chroma", "quality"]
    require_columns(table, [*keys, "bpp", "mse", "psnr", "ms_ssim"], "what classical_codecs() returned")
    return table.groupby(keys, sort=False)[["bpp", "mse", "psnr", "ms_ssim"]].mean().reset_index()


def encode(x: Tensor, codec: ClassicalCodec, quality: int) -> tuple[int, Tensor]:
    """Encode and decode an image; return the bytes of the file and the decoded image, ``[1, 3, H, W]`` on 0-255."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(x[0].permute(1, 2, 0).to(torch.uint8).numpy(), "RGB").save(
        file, format=codec.format, **codec.options(quality)
    )
    size = file.tell()
    with Image.open(file) as decoded:
        pixels = np.array(decoded.convert("RGB"), dtype=np.uint8)
    return size, torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
