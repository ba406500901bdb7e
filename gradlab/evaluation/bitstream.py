"""Write a bitstream, decode it, and make sure that both ends agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.codecs import Codec, copy_of
from gradlab.errors import GradlabError
from gradlab.evaluation.images import named_images
from gradlab.validation import checked

# Both ends run the same transforms on the same numbers, so they agree to rounding; half an 8-bit step would show.
TOLERANCE = 0.5 / 255


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
@torch.no_grad()
def bitstream(codec: Codec, x: Tensor) -> Coded:
    """Encode and decode one image.

    Args:
        codec: a codec whose tables are built; one on an accelerator is copied to the CPU, where streams are coded.
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
    was_training = codec.training
    codec.eval()
    try:
        padded, margins = pad(x.to(next(codec.parameters()).device), codec.downsampling_factor)
        with _seen(codec.g_a) as encoded:
            stream = codec.compress(padded)
        with _seen(codec.g_s) as synthesised:
            decoded = codec.decompress(**stream)["x_hat"]
        y, x_hat = (found[0][at] if len(found) == 1 else None for found, at in ((encoded, 1), (synthesised, 1)))
        latents = codec.latents(padded, y)
        if x_hat is not None and torch.equal(synthesised[0][0], latents.y_hat):
            own = x_hat.clamp(0, 1)  # the decoder gave g_s what the encoder holds: it need not run again
        else:
            own = codec.g_s(latents.y_hat).clamp(0, 1)
    finally:
        codec.train(was_training)
    gap = float((own - decoded).abs().max())
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
def _seen(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What a module reads and gives inside the block, so that the most expensive transforms run once per image."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output.clone())))
    try:
        yield seen
    finally:
        handle.remove()


def on_cpu(codec: Codec) -> Codec:
    """The codec itself on a CPU, otherwise a copy of it there.

    On an accelerator the last bit of a scale may differ from run to run, and with it the table that a symbol is coded
    by: bitstreams are written and read on the CPU.
    """
    return codec if next(codec.parameters()).device.type == "cpu" else copy_of(codec).cpu()


def check_tables(codec: Codec) -> None:
    """Refuse what is no codec, and a codec that cannot write bitstreams yet.

    Raises:
        GradlabError: no codec, or coding tables not built.
    """
    if not isinstance(codec, Codec):
        raise GradlabError(f"a {type(codec).__name__} is no codec: make one with gradlab.codecs.build or load")
    if codec.entropy_bottleneck.quantized_cdf.numel() == 0:
        raise GradlabError("the codec's coding tables are not built: call codec.finish() first")


def padding(size: tuple[int, int], multiple: int) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Margins (left, right, top, bottom) that pad height and width centrally to multiples, and the padded size."""
    height, width = size
    extra_w, extra_h = -width % multiple, -height % multiple
    margins = (extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2)
    return margins, (height + extra_h, width + extra_w)


def pad(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Zero-pad ``[..., H, W]`` centrally to multiples; also the margins (left, right, top, bottom)."""
    margins, _ = padding((x.shape[-2], x.shape[-1]), multiple)
    return F.pad(x, margins), margins


def crop(x: Tensor, margins: tuple[int, int, int, int]) -> Tensor:
    """Take the margins off again."""
    left, right, top, bottom = margins
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
