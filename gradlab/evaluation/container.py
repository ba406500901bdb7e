"""A file format for one compressed image: CompressAI's strings in a container with a checksum.

All integers are little-endian.

.. code-block:: none

    bytes       content
    4           magic number, 89 47 4C 43 (a byte with the high bit set, then "GLC")
    1           version, 1
    1           number of strings: y, and z if the codec has one
    8           fingerprint of the model
    4 + 4       height and width of the image in pixels
    4 + 4       height and width of the coarsest latent
    4 each      lengths of the strings
    ...         the strings
    4           CRC-32 of all preceding bytes

The overhead is 34 bytes plus 4 bytes per string: 42 bytes with z and 38 without. As is usual in the literature,
reported rates count the strings only, not this overhead.

The checksum detects accidental damage: any single burst of up to 32 bits, and all but one in 4 billion of other errors.
It is not a signature. A forged stream with a valid checksum either decodes to some picture or is rejected; it cannot
execute code or read other files. Every length is checked against the number of available bytes before memory is
allocated.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gradlab.codecs import Codec
from gradlab.codecs.factorized import Factorized
from gradlab.codecs.shared import eval_mode
from gradlab.data import Picture
from gradlab.data.images import MAX_BYTES, MAX_PIXELS
from gradlab.errors import GradlabError
from gradlab.evaluation.bitstream import check_tables, crop, on_cpu, pad, padding
from gradlab.evaluation.images import named_images
from gradlab.runtime import checkpoints, files
from gradlab.runtime.display import shown
from gradlab.validation import checked

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

MAGIC, VERSION = b"\x89GLC", 1
HEAD = struct.Struct("<4sBB8s4I")
CHECKSUM = struct.Struct("<I")
MOST_STRINGS = 2


@shown
class Container(NamedTuple):
    """The parsed content of a stream.

    Attributes:
        fingerprint: fingerprint of the model, 16 hexadecimal digits.
        size: height and width of the image in pixels.
        shape: height and width of the coarsest latent: z, or y for codecs without z.
        strings: range-coded y, and z if the codec has one.
    """

    fingerprint: str
    size: tuple[int, int]
    shape: tuple[int, int]
    strings: tuple[bytes, ...]

    def _repr_line_(self) -> str:
        height, width = self.size
        strings = ", ".join(f"{len(string):_}" for string in self.strings)
        return f"{width} x {height} pixels, strings of {strings} bytes, model {self.fingerprint}"


@checked
def pack(container: Container) -> bytes:
    """Serialise a container to bytes.

    Args:
        container: content of the stream.

    Returns:
        The stream, with its checksum.

    Raises:
        GradlabError: the number of strings is not 1 or 2, or the format cannot represent a size or the fingerprint.

    Example:
        >>> import gradlab as gl
        >>> container = gl.evaluation.Container("00" * 8, size=(32, 48), shape=(2, 3), strings=(b"y", b"z"))
        >>> len(gl.evaluation.pack(container))
        44
    """
    fingerprint, size, shape, strings = container
    if (
        not isinstance(strings, tuple)
        or not 1 <= len(strings) <= MOST_STRINGS
        or not all(isinstance(s, bytes) for s in strings)
    ):
        raise GradlabError(
            f"strings is not a tuple of 1 to {MOST_STRINGS} byte strings: give the strings of codec.compress()"
        )
    try:
        _check_sizes(size, shape)
        model = bytes.fromhex(fingerprint)
        if len(model) != 8:
            raise ValueError(f"a fingerprint of {len(model)} bytes")
        head = HEAD.pack(MAGIC, VERSION, len(strings), model, *size, *shape)
        lengths = struct.pack(f"<{len(strings)}I", *map(len, strings))
    except GradlabError:
        raise
    except (struct.error, ValueError, TypeError, IndexError) as error:
        raise GradlabError(f"the format cannot represent this container ({error}): use encode()") from None
    body = b"".join((head, lengths, *strings))
    return body + CHECKSUM.pack(zlib.crc32(body))


@checked
def unpack(data: bytes | bytearray | memoryview) -> Container:
    """Parse a stream and verify its checksum.

    Args:
        data: bytes that ``encode`` or ``pack`` returned.

    Returns:
        The content of the stream.

    Raises:
        GradlabError: the data is not a gradlab bitstream, has an unsupported version, is too short or too long, or is
            damaged.

    Example:
        >>> import gradlab as gl
        >>> container = gl.evaluation.Container("00" * 8, size=(32, 48), shape=(2, 3), strings=(b"y", b"z"))
        >>> gl.evaluation.unpack(gl.evaluation.pack(container)) == container
        True
    """
    data = bytes(data)
    if data[: len(MAGIC)] != MAGIC:
        raise GradlabError(
            "the data is not a gradlab bitstream, or its first bytes are damaged: give the bytes that encode() returned"
        )
    if len(data) < HEAD.size + CHECKSUM.size:
        raise damaged_error(f"it ends after {len(data)} bytes, within its header")
    _, version, count, fingerprint, height, width, h, w = HEAD.unpack_from(data)
    if version != VERSION:
        raise damaged_error(f"its header claims version {version}, but this gradlab reads version {VERSION}")
    if not 1 <= count <= MOST_STRINGS:
        raise damaged_error(f"its header claims {count} strings, but a codec writes 1 or {MOST_STRINGS}")
    begin = HEAD.size + 4 * count
    if len(data) < begin + CHECKSUM.size:
        raise damaged_error(f"it ends after {len(data)} bytes, within its header")
    lengths = struct.unpack_from(f"<{count}I", data, HEAD.size)
    whole = begin + sum(lengths) + CHECKSUM.size
    if len(data) != whole:
        raise damaged_error(f"it has {len(data)} bytes, but its header claims {whole}")
    if zlib.crc32(data[: -CHECKSUM.size]) != CHECKSUM.unpack_from(data, whole - CHECKSUM.size)[0]:
        raise damaged_error("its checksum does not match")
    _check_sizes((height, width), (h, w))
    ends = [begin + sum(lengths[: i + 1]) for i in range(count)]
    strings = tuple(data[end - length : end] for end, length in zip(ends, lengths, strict=True))
    return Container(fingerprint.hex(), (height, width), (h, w), strings)


def damaged_error(what: str) -> GradlabError:
    """Build the error for a stream that ``encode`` cannot have written.

    Args:
        what: description of the damage.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> from gradlab.evaluation.container import damaged_error
        >>> print(damaged_error("its checksum does not match"))
        the bitstream is damaged: its checksum does not match; download it or encode the image again
    """
    return GradlabError(f"the bitstream is damaged: {what}; download it or encode the image again")


@checked
def write(path: str | Path, data: bytes) -> None:
    """Write a stream to a file atomically.

    Args:
        path: path of the file.
        data: bytes that ``encode`` returned.

    Raises:
        GradlabError: the stream is damaged, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import gradlab as gl
        >>> container = gl.evaluation.Container("00" * 8, size=(32, 48), shape=(2, 3), strings=(b"y", b"z"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "image.glc"
        ...     gl.evaluation.write(path, gl.evaluation.pack(container))
        ...     path.stat().st_size
        44
    """
    unpack(data)
    try:
        files.write_bytes(path, data)
    except GradlabError:
        raise
    except ValueError as error:
        raise GradlabError(f"cannot write to {str(path)!r} ({error}): give the path of a writable file") from None


@checked
def read(path: str | Path) -> bytes:
    """Read a stream from a file and verify its checksum.

    Args:
        path: path of the file.

    Returns:
        The stream, to be passed to ``decode`` or ``unpack``.

    Raises:
        GradlabError: the file is missing, unreadable, too large or damaged, or is not a gradlab bitstream.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import gradlab as gl
        >>> container = gl.evaluation.Container("00" * 8, size=(32, 48), shape=(2, 3), strings=(b"y", b"z"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "image.glc"
        ...     gl.evaluation.write(path, gl.evaluation.pack(container))
        ...     gl.evaluation.unpack(gl.evaluation.read(path)).size
        (32, 48)
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        reason = getattr(error, "strerror", error)
        raise GradlabError(f"cannot read {str(path)!r} ({reason}): check the path and its permissions") from None
    if size > MAX_BYTES:
        raise GradlabError(
            f"{path} is larger than {MAX_BYTES >> 20} MiB, too large for a bitstream: give a file that write() wrote"
        )
    try:
        unpack(data)
    except GradlabError as error:
        raise GradlabError(f"{path}: {error}") from None
    return data


def fingerprint(codec: Codec) -> str:
    """Compute a fingerprint of the architecture, weights and coding tables, which encoder and decoder must share.

    Args:
        codec: codec on any device.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> import gradlab as gl
        >>> from gradlab.evaluation.container import fingerprint
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> len(fingerprint(codec))
        16
    """
    digest = checkpoints.digest({f"{type(codec).__name__}.{name}": t.cpu() for name, t in codec.state_dict().items()})
    return digest[:16]


@checked
@torch.no_grad()
def encode(codec: Codec, image: Picture | Float[Tensor, "3 height width"] | UInt8[Tensor, "3 height width"]) -> bytes:
    """Encode an image to a stream that ``decode`` reads.

    Args:
        codec: codec with coding tables (call ``codec.finish()`` after training).
        image: picture, or ``[3, height, width]`` tensor (uint8, or floats in [0, 1]), of at most 80 million pixels.

    Returns:
        The stream.

    Raises:
        GradlabError: the coding tables are missing, ``image`` is not an image, or the image is too large.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> codec.finish()
        >>> stream = gl.evaluation.encode(codec, torch.rand(3, 30, 50))
        >>> gl.evaluation.unpack(stream).size
        (30, 50)
    """
    check_tables(codec)
    codec = on_cpu(codec)
    ((_, x),) = named_images([image])
    height, width = x.shape[-2:]
    _check_sizes((height, width), (1, 1))
    padded, _ = pad(x.cpu(), codec.downsampling_factor)
    with eval_mode(codec):
        stream = codec.compress(padded)
    h, w = stream["shape"]
    strings = tuple(strings[0] for strings in stream["strings"])
    return pack(Container(fingerprint(codec), (height, width), (h, w), strings))


@checked
@torch.no_grad()
def decode(codec: Codec, data: bytes) -> Float[Tensor, "3 height width"]:
    """Decode a stream to an image, bit for bit as the codec's ``decompress`` does.

    Args:
        codec: codec that encoded the image, with the same weights, on any device.
        data: bytes that ``encode`` or ``read`` returned.

    Returns:
        The image ``[3, height, width]``, floats in [0, 1].

    Raises:
        GradlabError: the coding tables are missing, the stream is damaged, or another model wrote it.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> codec.finish()
        >>> stream = gl.evaluation.encode(codec, torch.rand(3, 30, 50))
        >>> tuple(gl.evaluation.decode(codec, stream).shape)
        (3, 30, 50)
    """
    check_tables(codec)
    codec = on_cpu(codec)
    container, model = unpack(data), fingerprint(codec)
    if container.fingerprint != model:
        raise GradlabError(
            f"the bitstream was written by another model ({container.fingerprint}, not {model}): "
            "give the codec that encoded it"
        )
    (height, width), strings = container.size, container.strings
    margins, padded = padding(container.size, codec.downsampling_factor)
    shape = (padded[0] // codec.downsampling_factor, padded[1] // codec.downsampling_factor)
    if container.shape != shape:
        raise damaged_error(
            f"the latent of an image of {height} x {width} has shape {shape}, but its header claims {container.shape}"
        )
    expected = 1 if isinstance(codec, Factorized) else 2
    if len(strings) != expected:
        raise damaged_error(f"the number of its strings is {len(strings)}, but this codec writes {expected}")
    # CompressAI's range decoder does not check where its string ends. With a forged checksum it would read beyond the
    # end, at most 8 bytes per symbol, so zeros are appended. (Every codec has at most one position of y per 8 x 8
    # pixels.)
    spare = bytes(64 + 8 * max(codec.N, codec.M) * (padded[0] * padded[1] // 64))
    with eval_mode(codec):
        x_hat = codec.decompress([[string + spare] for string in strings], shape)["x_hat"]
    if not bool(torch.isfinite(x_hat).all()):
        raise damaged_error("the decoded image holds NaN or infinite values")
    return crop(x_hat, margins)[0]


def _check_sizes(size: tuple[int, int], shape: tuple[int, int]) -> None:
    """Raise an error for sizes that no image or latent can have.

    Raises:
        GradlabError: a side is below 1, or there are more pixels than an image may have.
    """
    if min(*size, *shape) < 1:
        raise damaged_error(
            f"its header claims an image of {size[0]} x {size[1]} and a latent of {shape[0]} x {shape[1]}"
        )
    if size[0] * size[1] > MAX_PIXELS or shape[0] * shape[1] > MAX_PIXELS:
        raise GradlabError(
            f"an image of {size[0]} x {size[1]} has more than {MAX_PIXELS // 10**6} million pixels: give a smaller one"
        )
