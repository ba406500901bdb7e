"""One image as one stream of bytes: CompressAI's strings in a container with a checksum.

.. code-block:: none

    bytes       what (integers are little-endian)
    4           magic, 89 47 4C 43 (a high bit, then "GLC")
    1           version, 1
    1           how many strings: y, and z where the codec has one
    8           fingerprint of the model
    4 + 4       height and width of the image, pixels
    4 + 4       height and width of the coarsest latent
    4 each      lengths of the strings
    ...         the strings
    4           CRC-32 of all that stands before it

That is 34 bytes and 4 for each string: 42 with z, 38 without. The rates that evaluation reports are those of the
strings alone, as in the literature; a file is that much longer.

The checksum detects accidental damage (any single burst of up to 32 bits, all but one in 4 billion other errors); it is
not a signature. A forged stream with a valid checksum decodes to some picture or is refused; it cannot execute code or
read other files. Every length is checked against the number of available bytes before memory is allocated.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

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

MAGIC, VERSION = b"\x89GLC", 1
HEAD = struct.Struct("<4sBB8s4I")
CHECKSUM = struct.Struct("<I")
MOST_STRINGS = 2


@shown
class Container(NamedTuple):
    """The content of a stream.

    Attributes:
        fingerprint: of the model, 16 hex digits.
        size: height and width of the image, pixels.
        shape: height and width of the coarsest latent (z, or y where there is no z).
        strings: of y, and of z where the codec has one.
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
    """Serialise a container.

    Raises:
        GradlabError: no or too many strings, sizes or a fingerprint that the format cannot hold.
    """
    fingerprint, size, shape, strings = container
    if (
        not isinstance(strings, tuple)
        or not 1 <= len(strings) <= MOST_STRINGS
        or not all(isinstance(s, bytes) for s in strings)
    ):
        raise GradlabError(f"a container holds 1 to {MOST_STRINGS} strings of bytes: give those of codec.compress()")
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
        raise GradlabError(f"this does not fit into a container ({error}): make it with encode()") from None
    body = b"".join((head, lengths, *strings))
    return body + CHECKSUM.pack(zlib.crc32(body))


@checked
def unpack(data: bytes | bytearray | memoryview) -> Container:
    """Parse a stream and verify its checksum.

    Raises:
        GradlabError: not a stream of gradlab's, of another version, cut short, too long, or damaged.
    """
    data = bytes(data)
    if data[: len(MAGIC)] != MAGIC:
        raise GradlabError("this is no bitstream of gradlab, or its first bytes are damaged: give what encode() wrote")
    if len(data) < HEAD.size + CHECKSUM.size:
        raise damaged_error(f"it ends after {len(data)} bytes, inside its header")
    _, version, count, fingerprint, height, width, h, w = HEAD.unpack_from(data)
    if version != VERSION:
        raise damaged_error(f"it says version {version}, and this gradlab reads version {VERSION}")
    if not 1 <= count <= MOST_STRINGS:
        raise damaged_error(f"it claims {count} strings, and a codec has 1 or {MOST_STRINGS}")
    begin = HEAD.size + 4 * count
    if len(data) < begin + CHECKSUM.size:
        raise damaged_error(f"it ends after {len(data)} bytes, inside its header")
    lengths = struct.unpack_from(f"<{count}I", data, HEAD.size)
    whole = begin + sum(lengths) + CHECKSUM.size
    if len(data) != whole:
        raise damaged_error(f"it has {len(data)} bytes where its header claims {whole}")
    if zlib.crc32(data[: -CHECKSUM.size]) != CHECKSUM.unpack_from(data, whole - CHECKSUM.size)[0]:
        raise damaged_error("its checksum does not match")
    _check_sizes((height, width), (h, w))
    ends = [begin + sum(lengths[: i + 1]) for i in range(count)]
    strings = tuple(data[end - length : end] for end, length in zip(ends, lengths, strict=True))
    return Container(fingerprint.hex(), (height, width), (h, w), strings)


def damaged_error(what: str) -> GradlabError:
    """The error for a stream that ``encode`` cannot have written."""
    return GradlabError(f"the bitstream is damaged: {what}; fetch it or encode the image again")


@checked
def write(path: str | Path, data: bytes) -> None:
    """Write a stream of ``encode`` to a file, atomically.

    Raises:
        GradlabError: a damaged stream, or the disk refuses.
    """
    unpack(data)
    try:
        files.write_bytes(path, data)
    except GradlabError:
        raise
    except ValueError as error:
        raise GradlabError(f"cannot write to {str(path)!r} ({error}): give the path of a file") from None


@checked
def read(path: str | Path) -> bytes:
    """Read a stream from a file and verify its checksum.

    Raises:
        GradlabError: missing, larger than any image may be, or damaged.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        reason = getattr(error, "strerror", error)
        raise GradlabError(f"cannot read {str(path)!r} ({reason}): check the path and its permissions") from None
    if size > MAX_BYTES:
        raise GradlabError(f"{path} has more than {MAX_BYTES >> 20} MiB: no bitstream of an image is so large")
    try:
        unpack(data)
    except GradlabError as error:
        raise GradlabError(f"{path}: {error}") from None
    return data


def fingerprint(codec: Codec) -> str:
    """Compute 16 hex digits from the architecture, weights and coding tables, which both ends must share."""
    digest = checkpoints.digest({f"{type(codec).__name__}.{name}": t.cpu() for name, t in codec.state_dict().items()})
    return digest[:16]


@checked
@torch.no_grad()
def encode(codec: Codec, image: Picture | Tensor) -> bytes:
    """Encode an image into a stream that ``decode`` reads.

    Args:
        codec: a codec whose tables are built (``codec.finish()``).
        image: a picture, or a tensor ``[3, H, W]`` (uint8, or floats in [0, 1]); any size up to 80 million pixels.

    Raises:
        GradlabError: tables not built, something that is no image, or an image too large.
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
def decode(codec: Codec, data: bytes) -> Tensor:
    """Decode a stream to ``[3, H, W]`` floats in [0, 1], bit for bit the result of the codec's ``decompress``.

    Args:
        codec: the codec that encoded it: the same weights, on any device.
        data: what ``encode`` returned, or ``read`` read.

    Raises:
        GradlabError: tables not built, a damaged stream, or one of another model.
    """
    check_tables(codec)
    codec = on_cpu(codec)
    container, model = unpack(data), fingerprint(codec)
    if container.fingerprint != model:
        raise GradlabError(
            f"the bitstream is of another model ({container.fingerprint}, not {model}): give the codec that wrote it"
        )
    (height, width), strings = container.size, container.strings
    margins, padded = padding(container.size, codec.downsampling_factor)
    shape = (padded[0] // codec.downsampling_factor, padded[1] // codec.downsampling_factor)
    if container.shape != shape:
        raise damaged_error(f"an image of {height} x {width} has a latent of {shape}, not of {container.shape}")
    expected = 1 if isinstance(codec, Factorized) else 2
    if len(strings) != expected:
        raise damaged_error(f"it holds {len(strings)} strings where this codec writes {expected}")
    # CompressAI's range decoder does not look where its string ends. Where the checksum was forged too it would read
    # on, at most 8 bytes for each symbol: into zeros. (No codec has y on a finer grid than one position in 8 x 8.)
    spare = bytes(64 + 8 * max(codec.N, codec.M) * (padded[0] * padded[1] // 64))
    with eval_mode(codec):
        x_hat = codec.decompress([[string + spare] for string in strings], shape)["x_hat"]
    if not bool(torch.isfinite(x_hat).all()):
        raise damaged_error("it decodes to numbers that are not finite")
    return crop(x_hat, margins)[0]


def _check_sizes(size: tuple[int, int], shape: tuple[int, int]) -> None:
    """Refuse sizes that no image can have.

    Raises:
        GradlabError: a side below 1, or more pixels than an image may have.
    """
    if min(*size, *shape) < 1:
        raise damaged_error(f"it claims an image of {size[0]} x {size[1]} and a latent of {shape[0]} x {shape[1]}")
    if size[0] * size[1] > MAX_PIXELS or shape[0] * shape[1] > MAX_PIXELS:
        raise GradlabError(f"an image of {size[0]} x {size[1]} has more than {MAX_PIXELS // 10**6} million pixels")
