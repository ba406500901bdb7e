"""Read image files into tensors. Images that 8-bit RGB cannot represent are rejected rather than converted."""

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
from gradlab.runtime.display import shown
from gradlab.validation import checked

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped, UInt8
    from PIL import Image

MAX_PIXELS = 80_000_000
"""Maximum number of pixels. Larger images are rejected as decompression bombs."""

MAX_BYTES = 1 << 29
"""Maximum size of a file. Larger files are rejected before they are read."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
"""Decoders to use, whatever the file name. For other formats, such as EPS, Pillow would run external programs."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"})
"""Suffixes of image files; other files in a folder are ignored."""


@shown
class Picture(NamedTuple):
    """An image with its name and checksum.

    Attributes:
        name: file name.
        pixels: RGB pixels, ``[3, height, width]`` uint8.
        sha256: SHA-256 of the file, for provenance.
    """

    name: str
    pixels: UInt8[Tensor, "3 height width"]
    sha256: str

    def _repr_line_(self) -> str:
        return f"{self.name!r}, {self._size()}"

    def _repr_rows_(self) -> dict[str, object]:
        return {"name": self.name, "width x height": self._size(), "sha256": self.sha256}

    def _size(self) -> str:
        _, height, width = self.pixels.shape
        return f"{width} x {height}"


@checked
def read_image(path: str | Path) -> UInt8[Tensor, "3 height width"]:
    """Read an image file as 8-bit RGB.

    PNG, JPEG, WebP, BMP, PPM, TIFF and GIF are supported. Grey and palette images are converted to RGB, the first of
    several frames is used, and the EXIF orientation is applied.

    Args:
        path: path of the file.

    Returns:
        RGB pixels, ``[3, height, width]`` uint8.

    Raises:
        GradlabError: the file is missing, damaged or not an image; it has more than 80 million pixels, more than 8 bits
            per channel, or transparent pixels; or its colour model is not RGB, grey or palette (CMYK, for example).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import gradlab as gl
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "red.png"
        ...     Image.new("RGB", (48, 32), "red").save(path)
        ...     pixels = gl.data.read_image(path)
        >>> tuple(pixels.shape), pixels[:, 0, 0].tolist()
        ((3, 32, 48), [255, 0, 0])
    """
    return read_picture(Path(path)).pixels


def read_picture(path: Path) -> Picture:
    """Read an image file with its name and checksum.

    Args:
        path: path of the file.

    Returns:
        The picture.

    Raises:
        GradlabError: see ``read_image``.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from gradlab.data.images import read_picture
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "red.png"
        ...     Image.new("RGB", (48, 32), "red").save(path)
        ...     picture = read_picture(path)
        >>> picture.name, len(picture.sha256)
        ('red.png', 64)
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise GradlabError(f"{path} is larger than {MAX_BYTES >> 20} MiB: give a smaller image")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise GradlabError(f"there is no image {path}: check the path") from None
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise GradlabError(
            f"{str(path)!r} cannot be read ({getattr(error, 'strerror', error)}): check the path and its permissions"
        ) from None
    return Picture(path.name, _decode(raw, path), hashlib.sha256(raw).hexdigest())


def _decode(raw: bytes, path: Path) -> Tensor:
    """Decode the bytes of a file to pixels ``[3, H, W]``."""
    import warnings

    with needs("reading images"):
        from PIL import Image, ImageOps, UnidentifiedImageError

    too_large = f"{path} has more than {MAX_PIXELS // 10**6} million pixels: give a smaller image"
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            warnings.simplefilter("ignore")  # warnings of decoders; their output is validated below
            if image.width * image.height > MAX_PIXELS:
                raise GradlabError(too_large)
            # Pillow silently opens 16-bit colour as 8-bit RGB; only the raw mode reveals it.
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
        raise GradlabError(f"{path} is truncated or damaged ({error}): download it again") from None


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    """Convert an image to 8-bit RGB if that loses nothing."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        whole = image.convert("RGBA")
        if whole.getchannel("A").getextrema()[0] != 255:
            raise GradlabError(f"{path} is partly transparent: flatten it and save it as 8-bit RGB")
        return whole.convert("RGB")
    if image.mode in ("RGB", "L", "1", "P", "YCbCr"):
        return image.convert("RGB")
    raise GradlabError(f"{path} is a {image.mode} image: convert it to 8-bit RGB")


@checked
def floats(image: Picture | Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert an image to float32.

    Args:
        image: picture, or tensor. 8-bit values are divided by 255; floating-point values are kept.

    Returns:
        The pixels as float32, in [0, 1] for 8-bit images.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> gl.data.floats(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        [0.0, 1.0]
    """
    pixels = image.pixels if isinstance(image, Picture) else image
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


def require_size(pictures: Sequence[Picture], side: int, purpose: str) -> None:
    """Raise an error if the height or width of a picture is too small.

    Args:
        pictures: pictures to check.
        side: smallest accepted height and width in pixels.
        purpose: use for which a picture may be too small, for the error message.

    Raises:
        GradlabError: a picture is too small; the message names the first one.

    Example:
        >>> import gradlab as gl
        >>> from gradlab.data.images import require_size
        >>> require_size(gl.data.embedded("train"), 256, "crops of 256")
    """
    for picture in pictures:
        height, width = picture.pixels.shape[1:]
        if min(height, width) < side:
            raise GradlabError(
                f"{picture.name} has {width} x {height} pixels, too small for {purpose}: remove it or use smaller crops"
            )


@checked
def fingerprint(pictures: Sequence[Picture]) -> str:
    """Compute the SHA-256 of names, shapes and pixels of pictures, for provenance.

    Args:
        pictures: pictures; their order matters.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> import gradlab as gl
        >>> pictures = gl.data.embedded("test")
        >>> gl.data.fingerprint(pictures) == gl.data.fingerprint(pictures[::-1])
        False
    """
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{len(picture.name)}:{picture.name}{tuple(picture.pixels.shape)}".encode())
        digest.update(picture.pixels.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
