"""Read image files into tensors; images that 8-bit RGB cannot represent are refused, never converted by guess."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradlab.errors import GradlabError, needs
from gradlab.validation import checked

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 80_000_000
"""Images with more pixels are refused as decompression bombs."""

MAX_BYTES = 1 << 29
"""Larger files are refused before they are read."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
"""Decoders that are used, whatever the file name: for others, such as EPS, Pillow would run external programs."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"})
"""Suffixes of images in a folder; other files are ignored."""


class Picture(NamedTuple):
    """One photograph.

    Attributes:
        name: file name.
        pixels: ``[3, H, W]`` uint8, RGB.
        sha256: of the file's bytes, for provenance.
    """

    name: str
    pixels: Tensor
    sha256: str


@checked
def read_image(path: str | Path) -> Tensor:
    """Read a PNG, JPEG, WebP, ... file to ``[3, H, W]`` uint8 RGB.

    Grey and palette images become RGB; of several frames the first is read. The EXIF orientation is applied, as in an
    image viewer.

    Raises:
        GradlabError: missing, not an image, truncated or damaged, more than 80 million pixels, 16 bits or floating
            point, CMYK, partly transparent.
    """
    return read_picture(Path(path)).pixels


def read_picture(path: Path) -> Picture:
    """Read one file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise GradlabError(f"{path} has more than {MAX_BYTES >> 20} MiB: give a smaller image")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise GradlabError(f"there is no image {path}: check the path") from None
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise GradlabError(
            f"{str(path)!r} cannot be read ({getattr(error, 'strerror', error)}): check what it is and its permissions"
        ) from None
    return Picture(path.name, _decode(raw, path), hashlib.sha256(raw).hexdigest())


def _decode(raw: bytes, path: Path) -> Tensor:
    """Pixels ``[3, H, W]`` of the bytes of a file."""
    import warnings

    with needs("reading images"):
        from PIL import Image, ImageOps, UnidentifiedImageError

    too_large = f"{path} has more than {MAX_PIXELS // 10**6} million pixels: give a smaller image"
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            warnings.simplefilter("ignore")  # from decoders; their output is validated below
            if image.width * image.height > MAX_PIXELS:
                raise GradlabError(too_large)
            # Pillow silently opens 16-bit colour as 8-bit RGB; only the raw mode shows it.
            deep = image.mode.startswith(("I", "F")) or any(";16" in str(tile) for tile in image.tile)
            if deep:
                raise GradlabError(f"{path} has more than 8 bits per channel: convert it to 8-bit RGB")
            image.load()
            rgb = _rgb(ImageOps.exif_transpose(image), path)
            return torch.from_numpy(np.array(rgb, dtype=np.uint8)).permute(2, 0, 1).contiguous()
    except GradlabError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise GradlabError(too_large) from None
    except UnidentifiedImageError:
        raise GradlabError(f"{path} is not an image: give a PNG, JPEG or WebP file") from None
    except Exception as error:  # decoders raise arbitrary exceptions on damaged files
        raise GradlabError(f"{path} is truncated or damaged ({error}): fetch it again") from None


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    """The image as 8-bit RGB, where that loses nothing."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        whole = image.convert("RGBA")
        if whole.getchannel("A").getextrema()[0] != 255:
            raise GradlabError(f"{path} is partly transparent: put it on a background and save it as 8-bit RGB")
        return whole.convert("RGB")
    if image.mode in ("RGB", "L", "1", "P", "YCbCr"):
        return image.convert("RGB")
    raise GradlabError(f"{path} is a {image.mode} image: convert it to 8-bit RGB")


@checked
def floats(image: Picture | Tensor) -> Tensor:
    """Convert a picture or tensor to ``[3, H, W]`` float32: bytes are divided by 255, floats keep their values."""
    pixels = image.pixels if isinstance(image, Picture) else image
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


def require_size(pictures: Sequence[Picture], side: int, purpose: str) -> None:
    """Refuse pictures whose height or width is below ``side`` pixels.

    Args:
        pictures: to be checked.
        side: smallest allowed height and width, pixels.
        purpose: what they are too small for, for the error.

    Raises:
        GradlabError: names the first picture that is too small.
    """
    for picture in pictures:
        height, width = picture.pixels.shape[1:]
        if min(height, width) < side:
            raise GradlabError(
                f"{picture.name} has {width} x {height} pixels, too small for {purpose}: "
                "take it out or ask for smaller crops"
            )


@checked
def fingerprint(pictures: Sequence[Picture]) -> str:
    """Compute the SHA-256 of names, shapes and pixels of pictures, in order, for provenance."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{len(picture.name)}:{picture.name}{tuple(picture.pixels.shape)}".encode())
        digest.update(picture.pixels.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
