"""Write small PNGs: 256 colours if the change is invisible, otherwise all colours; reproducible to the byte."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

COLOURS = 256
# Largest change of a pixel by the palette in levels of 255, on average and overall. Plots change by less than 0.2 and
# 22 (at the edges of lines and letters), photographs by more than 2 on average.
MEAN_CHANGE, LARGEST_CHANGE = 0.5, 24


def light(content: bytes) -> bytes:
    """Compress a PNG: a plot to about a third, a photograph or an image with transparency without loss.

    Text chunks and resolution are kept.

    Args:
        content: bytes of a PNG with 8 bits per channel.

    Returns:
        The bytes of the smaller PNG; equal images give equal bytes.
    """
    image = Image.open(io.BytesIO(content), formats=["PNG"])
    assert isinstance(image, PngImageFile)
    image.load()  # text may follow the pixels
    texts = PngInfo()
    for key, text in image.text.items():
        texts.add_text(key, text)
    lighter: Image.Image = image.convert("RGBA")
    if lighter.getchannel("A").getextrema() == (255, 255):
        lighter = lighter.convert("RGB")
        reduced = _reduced(lighter)
        change = np.abs(np.asarray(reduced.convert("RGB"), np.int16) - np.asarray(lighter, np.int16)).max(axis=-1)
        if change.mean() <= MEAN_CHANGE and change.max() <= LARGEST_CHANGE:
            lighter = reduced
    written = io.BytesIO()
    lighter.save(written, "PNG", optimize=True, pnginfo=texts, dpi=image.info.get("dpi"))
    return written.getvalue()


def _reduced(image: Image.Image) -> Image.Image:
    """Return the image in 256 of its own colours, without dithering.

    Lines and letters stay clean, and areas keep their colour. Each colour of the palette is the one furthest from the
    colours before it, with its squared distance weighted by the root of its pixel count. Pillow's methods change the
    colours of whole areas, or rare colours on edges, by up to 60.
    """
    levels = np.asarray(image, np.int64)
    codes, place, counts = np.unique(levels @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True, return_counts=True)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    chosen: list[int] = []
    nearest: np.ndarray[Any, Any] = np.zeros(len(colours), np.uint8)
    distance: np.ndarray[Any, Any] = np.full(len(colours), 1 << 20)
    for entry in range(min(COLOURS, len(colours))):
        chosen.append(int((np.sqrt(counts) * distance).argmax()))
        new = np.square(colours - colours[chosen[-1]]).sum(axis=1)
        nearest[new < distance] = entry
        distance = np.minimum(distance, new)
    reduced = Image.fromarray(nearest[place.reshape(levels.shape[:2])], "P")
    reduced.putpalette(colours[chosen].astype(np.uint8).tobytes())
    return reduced
