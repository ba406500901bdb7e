"""One image as one stream of bytes: CompressAI's strings in a container that notices damage.

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

The checksum finds accidents (any single burst of up to 32 bits, others but for one in 4 billion), it is no signature.
A stream that was forged, checksum and all, decodes to some picture or is refused; it executes nothing and reads nothing
but itself. Before anything is allocated every length is held against the number of bytes that are there.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradlab.codecs import Codec
from gradlab.codecs.factorized import Factorized
from gradlab.data import Picture
from gradlab.data.images import MAX_BYTES, MAX_PIXELS
from gradlab.errors import GradlabError
from gradlab.evaluation.bitstream import check_tables, crop, on_cpu, pad, padding
from gradlab.evaluation.images import named_images
from gradlab.runtime import checkpoints, files
from gradlab.validation import checked

MAGIC, VERSION = b"\x89GLC", 1
HEAD = struct.Struct("<4sBB8s4I")
CHECKSUM = struct.Struct("<I")
MOST_STRINGS = 2


class Container(NamedTuple):
    """What a stream holds.

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


def pack(container: Container) -> bytes:
    """The stream of a container.

    Raises:
        GradlabError: no or too many strings, sizes or a fingerprint that the format cannot hold.
    """
    if not isinstance(container, Container):
        raise GradlabError(f"a {type(container).__name__} is no Container: encode() makes one from an image")
    fingerprint, size, shape, strings = container
    if (
        not isinstance(strings, tuple)
        or not 1 <= len(strings) <= MOST_STRINGS
        or not all(isinstance(s, bytes) for s in strings)
    ):
        raise GradlabError(f"a container holds 1 to {MOST_STRINGS} strings of bytes: give those of codec.compress()")
    try:
        _bound(size, shape)
        mark = bytes.fromhex(fingerprint)
        if len(mark) != 8:
            raise ValueError(f"a fingerprint of {len(mark)} bytes")
        head = HEAD.pack(MAGIC, VERSION, len(strings), mark, *size, *shape)
        lengths = struct.pack(f"<{len(strings)}I", *map(len, strings))
    except GradlabError:
        raise
    except (struct.error, ValueError, TypeError, IndexError) as error:
        raise GradlabError(f"this does not fit into a container ({error}): make it with encode()") from None
    body = b"".join((head, lengths, *strings))
    return body + CHECKSUM.pack(zlib.crc32(body))


def unpack(data: bytes) -> Container:
    """What a stream holds, if it is whole.

    Raises:
        GradlabError: not a stream of gradlab's, of another version, cut short, too long, or damaged.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise GradlabError(f"a bitstream is bytes, not a {type(data).__name__}: give what encode() returned")
    data = bytes(data)
    if data[: len(MAGIC)] != MAGIC:
        raise GradlabError("this is no bitstream of gradlab, or its first bytes are damaged: give what encode() wrote")
    if len(data) < HEAD.size + CHECKSUM.size:
        raise damaged(f"it ends after {len(data)} bytes, inside its header")
    _, version, count, fingerprint, height, width, h, w = HEAD.unpack_from(data)
    if version != VERSION:
        raise damaged(f"it says version {version}, and this gradlab reads version {VERSION}")
    if not 1 <= count <= MOST_STRINGS:
        raise damaged(f"it claims {count} strings, and a codec has 1 or {MOST_STRINGS}")
    begin = HEAD.size + 4 * count
    if len(data) < begin + CHECKSUM.size:
        raise damaged(f"it ends after {len(data)} bytes, inside its header")
    lengths = struct.unpack_from(f"<{count}I", data, HEAD.size)
    whole = begin + sum(lengths) + CHECKSUM.size
    if len(data) != whole:
        raise damaged(f"it has {len(data)} bytes where its header claims {whole}")
    if zlib.crc32(data[: -CHECKSUM.size]) != CHECKSUM.unpack_from(data, whole - CHECKSUM.size)[0]:
        raise damaged("its checksum does not match")
    _bound((height, width), (h, w))
    ends = [begin + sum(lengths[: i + 1]) for i in range(count)]
    strings = tuple(data[end - length : end] for end, length in zip(ends, lengths, strict=True))
    return Container(fingerprint.hex(), (height, width), (h, w), strings)


def damaged(what: str) -> GradlabError:
    """The error for a stream that cannot be what ``encode`` wrote."""
    return GradlabError(f"the bitstream is damaged: {what}; fetch it or encode the image again")


@checked
def write(path: str | Path, data: bytes) -> None:
    """Writes a stream that ``encode`` made, whole or not at all.

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
    """The stream in a file, whole and with its checksum right.

    Raises:
        GradlabError: missing, larger than any image may be, or damaged.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise GradlabError(f"{path} has more than {MAX_BYTES >> 20} MiB: no bitstream of an image is so large")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        if isinstance(error, GradlabError):
            raise
        reason = getattr(error, "strerror", error)
        raise GradlabError(f"cannot read {str(path)!r} ({reason}): check the path and its permissions") from None
    try:
        unpack(data)
    except GradlabError as error:
        raise GradlabError(f"{path}: {error}") from None
    return data


def fingerprint(codec: Codec) -> str:
    """16 hex digits of the architecture, the weights and the coding tables: what both ends must share."""
    digest = checkpoints.digest({f"{type(codec).__name__}.{name}": t.cpu() for name, t in codec.state_dict().items()})
    return digest[:16]


@checked
@torch.no_grad()
def encode(codec: Codec, image: Picture | Tensor) -> bytes:
    """One image as a stream that ``decode`` reads.

    Args:
        codec: a codec whose tables are built (``codec.finish()``).
        image: a picture, or a tensor ``[3, H, W]`` (uint8, or floats in [0, 1]); any size up to 80 million pixels.

    Raises:
        GradlabError: tables not built, something that is no image, or an image too large.
    """
    check_tables(codec)
    codec = on_cpu(codec)
    one: list[Any] = [image]
    ((_, x),) = named_images(one)
    height, width = x.shape[-2:]
    _bound((height, width), (1, 1))
    padded, _ = pad(x.to(next(codec.parameters()).device), codec.downsampling_factor)
    was_training = codec.training
    codec.eval()
    try:
        stream = codec.compress(padded)
    finally:
        codec.train(was_training)
    h, w = (int(side) for side in stream["shape"])
    strings = tuple(strings[0] for strings in stream["strings"])
    return pack(Container(fingerprint(codec), (height, width), (h, w), strings))


@checked
@torch.no_grad()
def decode(codec: Codec, data: bytes) -> Tensor:
    """The image in a stream, ``[3, H, W]`` floats in [0, 1]: bit for bit what the codec's own ``decompress`` gives.

    Args:
        codec: the codec that encoded it: the same weights, on any device.
        data: what ``encode`` returned, or ``read`` read.

    Raises:
        GradlabError: tables not built, a damaged stream, or one of another model.
    """
    check_tables(codec)
    codec = on_cpu(codec)
    found = unpack(data)
    own = fingerprint(codec)
    if found.fingerprint != own:
        raise GradlabError(
            f"the bitstream is of another model ({found.fingerprint}, not {own}): give the codec that wrote it"
        )
    margins, (height, width) = padding(found.size, codec.downsampling_factor)
    shape = (height // codec.downsampling_factor, width // codec.downsampling_factor)
    if found.shape != shape:
        raise damaged(f"an image of {found.size[0]} x {found.size[1]} has a latent of {shape}, not of {found.shape}")
    expected = 1 if isinstance(codec, Factorized) else 2
    if len(found.strings) != expected:
        raise damaged(f"it holds {len(found.strings)} strings where this codec writes {expected}")
    # CompressAI's range decoder does not look where its string ends. Where the checksum was forged too it would read
    # on, at most 8 bytes for each symbol: into zeros. (No codec has y on a finer grid than one position in 8 x 8.)
    spare = bytes(64 + 8 * max(codec.N, codec.M) * (height * width // 64))
    was_training = codec.training
    codec.eval()
    try:
        x_hat = codec.decompress([[s + spare] for s in found.strings], found.shape)["x_hat"]
    finally:
        codec.train(was_training)
    if not bool(torch.isfinite(x_hat).all()):
        raise damaged("it decodes to numbers that are not finite")
    return crop(x_hat, margins)[0]


def _bound(size: tuple[int, int], shape: tuple[int, int]) -> None:
    """Refuse sizes that no image has.

    Raises:
        GradlabError: a side below 1, or more pixels than an image may have.
    """
    if min(*size, *shape) < 1:
        raise damaged(f"it claims an image of {size[0]} x {size[1]} and a latent of {shape[0]} x {shape[1]}")
    if size[0] * size[1] > MAX_PIXELS or shape[0] * shape[1] > MAX_PIXELS:
        raise GradlabError(f"an image of {size[0]} x {size[1]} has more than {MAX_PIXELS // 10**6} million pixels")
