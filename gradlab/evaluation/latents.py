"""How latents vary from image to image (Tables 6 and 10, Figure 3), and what rounding does to them (Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradlab.codecs import Codec
from gradlab.codecs.precision import cudnn_precision
from gradlab.data import Picture, floats
from gradlab.errors import GradlabError
from gradlab.runtime.progress import quiet
from gradlab.snr import moments
from gradlab.validation import checked

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("y", "z", "y_hat", "z_hat")
DEAD = 1e-3
KEPT = ("all", "|y| >= 1/2")
"""Which elements ``residuals`` counts: every one, and those that rounding does not send to 0."""


class LatentMoments(NamedTuple):
    """Over images, of every dimension (c, h, w) of one latent.

    Attributes:
        mean: ``[dimensions]``, in the order (c, h, w).
        variance: ``[dimensions]``, with images - 1.
        bpp: bits per pixel of the rounded latent; NaN for the unrounded, which are not coded.
        channels: how many there are.
    """

    mean: Tensor
    variance: Tensor
    bpp: float
    channels: int

    def by_channel(self) -> list[LatentMoments]:
        """The same of each channel; a channel's rate is not known."""
        parts = zip(self.mean.chunk(self.channels), self.variance.chunk(self.channels), strict=True)
        return [LatentMoments(mean, variance, math.nan, 1) for mean, variance in parts]

    def row(self, dead: float) -> dict[str, float]:
        """Its statistics over dimensions, as ``statistics`` names them."""
        # Streamed, whole numbers that sum to 0 leave a mean of 1e-17, and a coefficient of 1e17.
        usable = self.mean.abs() > 1e-9 * self.variance.sqrt()
        cov = self.variance[usable].sqrt() / self.mean[usable].abs()
        return {
            "dimensions": self.mean.numel(),
            "variance": float(self.variance.mean()),
            "cov": float(cov.mean()) if len(cov) else math.nan,
            "cov_median": float(cov.median()) if len(cov) else math.nan,
            "dead": int((self.variance < dead).sum()),
            "bpp": self.bpp,
        }


@checked
def moments_over_images(
    codec: Codec, images: Sequence[Picture | Tensor], advance: Callable[..., Any] = quiet
) -> dict[str, LatentMoments]:
    """Mean and variance over images of each dimension of ``y z y_hat z_hat`` (streaming: memory flat in images).

    A codec without z has ``y y_hat`` alone.

    Args:
        codec: the codec.
        images: at least two; portrait images are rotated by 90 degrees so that dimensions line up, larger ones are
            cropped centrally to the smallest height and width, and that to a multiple of ``codec.downsampling_factor``.
        advance: called after each image.

    Raises:
        GradlabError: fewer than two images, or images smaller than one position of z.
    """
    xs = align(images, codec.downsampling_factor)
    states: dict[str, moments.Moments] = {}
    channels: dict[str, int] = {}
    bits = {"y_hat": 0.0, "z_hat": 0.0}
    was_training = codec.training
    codec.eval()
    device = next(codec.parameters()).device
    for x in xs:
        with cudnn_precision(codec.precision, device):
            found = codec.latents(x.to(device))
        for name in NAMES:
            latent = getattr(found, name)
            if latent is None:
                continue
            channels[name] = latent.shape[1]
            value = latent.flatten(1).double().cpu()
            states[name] = states.get(name, moments.Moments.init(value[0].shape)).update(value)
        bits["y_hat"] += float(found.y_bits) / len(xs)
        bits["z_hat"] += float(found.z_bits) / len(xs)
        advance(1)
    codec.train(was_training)
    pixels = xs[0].shape[2] * xs[0].shape[3]
    return {
        name: LatentMoments(s.mean, s.variance(), bits[name] / pixels if name in bits else math.nan, channels[name])
        for name, s in states.items()
    }


@checked
def statistics(codec: Codec, images: Sequence[Picture | Tensor], dead: float = DEAD) -> pd.DataFrame:
    """Table 6 and Table 10: one row per latent.

    Args:
        codec: the codec.
        images: as for ``moments_over_images``.
        dead: a dimension of lower variance counts as dead.

    Returns:
        Columns ``latent`` (y z y_hat z_hat), ``dimensions``, ``variance`` (mean over dimensions), ``cov`` (mean of
        std/|mean| over dimensions whose mean is not 0 but for rounding; means near 0 drive it), ``cov_median``,
        ``dead``, ``bpp``.
    """
    return statistics_of(moments_over_images(codec, images), dead)


@checked
def channel_statistics(codec: Codec, images: Sequence[Picture | Tensor], dead: float = DEAD) -> pd.DataFrame:
    """``statistics`` per channel: one row per latent and ``channel``; ``bpp`` is known of whole latents only."""
    return channel_statistics_of(moments_over_images(codec, images), dead)


@checked
def statistics_of(found: Mapping[str, LatentMoments], dead: float = DEAD) -> pd.DataFrame:
    """``statistics`` of what ``moments_over_images`` returned.

    Raises:
        GradlabError: something that ``moments_over_images`` did not return.
    """
    import pandas as pd

    return pd.DataFrame([{"latent": name, **s.row(dead)} for name, s in _spreads(found)])


@checked
def channel_statistics_of(found: Mapping[str, LatentMoments], dead: float = DEAD) -> pd.DataFrame:
    """``channels`` of what ``moments_over_images`` returned.

    Raises:
        GradlabError: something that ``moments_over_images`` did not return.
    """
    import pandas as pd

    each = [
        {"latent": name, "channel": channel, **part.row(dead)}
        for name, s in _spreads(found)
        for channel, part in enumerate(s.by_channel())
    ]
    return pd.DataFrame(each).drop(columns="bpp")


def _spreads(found: Mapping[str, LatentMoments]) -> list[tuple[str, LatentMoments]]:
    if not found or not all(isinstance(s, LatentMoments) for s in found.values()):
        raise GradlabError("rows need the mean and variance of each latent: give what moments_over_images() returned")
    return list(found.items())


@checked
@torch.no_grad()
def residuals(
    codec: Codec,
    images: Sequence[Picture | Tensor],
    bins: int = 50,
    advance: Callable[..., Any] = quiet,
) -> pd.DataFrame:
    """Figure 4: histograms of y - round(y), of every element of y and of those with |y| >= 1/2, image by image.

    Sum ``count`` over images for the histogram of a folder.

    Args:
        codec: any codec; y is rounded itself, whatever the codec subtracts from it before it rounds.
        images: pictures or ``[3, H, W]`` tensors of any sizes, cropped centrally to a multiple of
            ``codec.downsampling_factor``.
        bins: how many between -1/2 and 1/2.
        advance: called after each image.

    Returns:
        Columns ``image``, ``kept`` (``KEPT``), ``low``, ``high``, ``count``.

    Raises:
        GradlabError: no images, images smaller than one position of z, or fewer than one bin.
    """
    import pandas as pd

    if len(images) == 0:
        raise GradlabError("there are no images: give at least one")
    if bins < 1:
        raise GradlabError(f"a histogram of {bins} bins holds nothing: give at least 1")
    edges = np.linspace(-0.5, 0.5, bins + 1)
    device = next(codec.parameters()).device
    tables = []
    for index, image in enumerate(images):
        x = _cropped(_image(image), codec.downsampling_factor)
        with cudnn_precision(codec.precision, device):
            y = codec.encode(x[None].to(device)).flatten().double()
        for kept, values in zip(KEPT, (y, y[y.abs() >= 0.5]), strict=True):
            counts, _ = np.histogram((values - values.round()).cpu().numpy(), edges)
            name = image.name if isinstance(image, Picture) else str(index)
            columns = {"image": name, "kept": kept, "low": edges[:-1], "high": edges[1:], "count": counts}
            tables.append(pd.DataFrame(columns))
        advance(1)
    return pd.concat(tables, ignore_index=True)


@checked
def align(images: Sequence[Picture | Tensor], multiple: int) -> list[Tensor]:
    """Landscape ``[1, 3, H, W]`` floats of one common size, a multiple of ``multiple``."""
    if multiple < 1:
        raise GradlabError(f"multiple is {multiple}: give at least 1 pixel")
    xs = []
    for image in images:
        x = _image(image)
        xs.append(torch.rot90(x, dims=(1, 2)) if x.shape[1] > x.shape[2] else x)
    if len(xs) < 2:
        raise GradlabError(f"a variance over images needs at least two of them, not {len(xs)}: give more images")
    smallest = _multiple(min(x.shape[1] for x in xs), min(x.shape[2] for x in xs), multiple)
    return [_centre(x, *smallest)[None] for x in xs]


@checked
def tiles(pictures: Sequence[Picture], size: int) -> list[Tensor]:
    """All non-overlapping ``[3, size, size]`` floats in [0, 1] of the pictures, from the top left."""
    found = []
    if size < 1:
        raise GradlabError(f"tiles of {size} pixels: give at least 1")
    for x in map(_image, pictures):
        tops, lefts = (range(0, side - size + 1, size) for side in x.shape[1:])
        found += [x[:, top : top + size, left : left + size] for top in tops for left in lefts]
    return found


def _image(image: Picture | Tensor) -> Tensor:
    """``[3, H, W]`` floats.

    Raises:
        GradlabError: another shape, or values that are not finite numbers.
    """
    pixels = image.pixels if isinstance(image, Picture) else image
    if (
        pixels.ndim != 3
        or pixels.shape[0] != 3
        or pixels.layout != torch.strided
        or pixels.is_complex()
        or pixels.is_meta
    ):
        raise GradlabError(f"an image has shape {tuple(pixels.shape)}: give dense [3, height, width] tensors")
    x = floats(image)
    if not bool(torch.isfinite(x).all()):
        raise GradlabError("an image holds NaN or infinite values: give finite ones")
    return x


def _cropped(x: Tensor, multiple: int) -> Tensor:
    return _centre(x, *_multiple(x.shape[1], x.shape[2], multiple))


def _multiple(height: int, width: int, multiple: int) -> tuple[int, int]:
    if min(height, width) < multiple:
        raise GradlabError(f"the smallest image is below {multiple} pixels a side: leave it out")
    return height // multiple * multiple, width // multiple * multiple


def _centre(x: Tensor, height: int, width: int) -> Tensor:
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]
