"""Statistics of latents over images (Tables 6 and 10, Figure 3), and the residuals of rounding (Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradlab.codecs import Codec
from gradlab.codecs.precision import cudnn_precision
from gradlab.codecs.shared import eval_mode
from gradlab.data import Picture
from gradlab.errors import GradlabError
from gradlab.evaluation.images import image_floats
from gradlab.runtime.progress import quiet
from gradlab.snr import moments
from gradlab.validation import checked, whole

NAMES = ("y", "z", "y_hat", "z_hat")
DEAD = 1e-3
KEPT = ("all", "|y| >= 1/2")
"""Which elements ``residuals`` counts: every one, and those that rounding does not send to 0."""


class LatentMoments(NamedTuple):
    """Mean and variance over images of every dimension (c, h, w) of one latent.

    Attributes:
        mean: ``[dimensions]``, in the order (c, h, w).
        variance: ``[dimensions]``, with images - 1.
        bpp: bits per pixel of a rounded latent; NaN for one that is not rounded, and hence not coded.
        channels: number of channels.
    """

    mean: Tensor
    variance: Tensor
    bpp: float
    channels: int

    def by_channel(self) -> list[LatentMoments]:
        """Split into channels; the rate of a single channel is not known."""
        parts = zip(self.mean.chunk(self.channels), self.variance.chunk(self.channels), strict=True)
        return [LatentMoments(mean, variance, math.nan, 1) for mean, variance in parts]

    def row(self, dead: float) -> dict[str, float]:
        """Summarise over dimensions, with the column names of ``statistics``."""
        # The streaming mean of integers that sum to 0 may be 1e-17, and its coefficient of variation 1e17.
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
    """Accumulate mean and variance over images of each dimension of ``y z y_hat z_hat``, in constant memory.

    For a codec without z the result holds ``y`` and ``y_hat`` alone.

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
    device = next(codec.parameters()).device
    for x in xs:
        with eval_mode(codec), cudnn_precision(codec.precision, device):
            latents = codec.latents(x.to(device))
        for name in NAMES:
            latent = getattr(latents, name)
            if latent is None:
                continue
            channels[name] = latent.shape[1]
            value = latent.flatten(1).double().cpu()
            states[name] = states.get(name, moments.Moments.init(value[0].shape)).update(value)
        bits["y_hat"] += float(latents.y_bits) / len(xs)
        bits["z_hat"] += float(latents.z_bits) / len(xs)
        advance(1)
    pixels = xs[0].shape[2] * xs[0].shape[3]
    return {
        name: LatentMoments(s.mean, s.variance(), bits[name] / pixels if name in bits else math.nan, channels[name])
        for name, s in states.items()
    }


@checked
def statistics(codec: Codec, images: Sequence[Picture | Tensor], dead: float = DEAD) -> pd.DataFrame:
    """Compute the statistics of Tables 6 and 10, one row per latent.

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
    """Compute ``statistics`` per channel, without ``bpp``: one row per latent and ``channel``."""
    return channel_statistics_of(moments_over_images(codec, images), dead)


@checked
def statistics_of(latent_moments: Mapping[str, LatentMoments], dead: float = DEAD) -> pd.DataFrame:
    """Tabulate ``statistics`` from the result of ``moments_over_images``."""
    _require_latents(latent_moments)
    return pd.DataFrame([{"latent": name, **latent.row(dead)} for name, latent in latent_moments.items()])


@checked
def channel_statistics_of(latent_moments: Mapping[str, LatentMoments], dead: float = DEAD) -> pd.DataFrame:
    """Tabulate ``channel_statistics`` from the result of ``moments_over_images``."""
    _require_latents(latent_moments)
    rows = [
        {"latent": name, "channel": index, **channel.row(dead)}
        for name, latent in latent_moments.items()
        for index, channel in enumerate(latent.by_channel())
    ]
    return pd.DataFrame(rows).drop(columns="bpp")


def _require_latents(latent_moments: Mapping[str, LatentMoments]) -> None:
    if not latent_moments:
        raise GradlabError("there are no latents: give the result of moments_over_images()")


@checked
@torch.no_grad()
def residuals(
    codec: Codec,
    images: Sequence[Picture | Tensor],
    bins: int = 50,
    advance: Callable[..., Any] = quiet,
) -> pd.DataFrame:
    """Compute the histograms of Figure 4, y - round(y), of every element of y and of those with |y| >= 1/2, per image.

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
    if len(images) == 0:
        raise GradlabError("there are no images: give at least one")
    bins = whole("bins", bins, 1)
    edges = np.linspace(-0.5, 0.5, bins + 1)
    device = next(codec.parameters()).device
    tables = []
    for index, image in enumerate(images):
        name, x = image_floats(image, index)
        x = _centre_crop(x, *_largest_multiple(x.shape[1], x.shape[2], codec.downsampling_factor))
        with cudnn_precision(codec.precision, device):
            y = codec.encode(x[None].to(device)).flatten().double()
        for kept, values in zip(KEPT, (y, y[y.abs() >= 0.5]), strict=True):
            counts, _ = np.histogram((values - values.round()).cpu().numpy(), edges)
            columns = {"image": name, "kept": kept, "low": edges[:-1], "high": edges[1:], "count": counts}
            tables.append(pd.DataFrame(columns))
        advance(1)
    return pd.concat(tables, ignore_index=True)


@checked
def align(images: Sequence[Picture | Tensor], multiple: int) -> list[Tensor]:
    """Rotate to landscape and crop images to ``[1, 3, H, W]`` floats of one size, a multiple of ``multiple``."""
    multiple = whole("multiple", multiple, 1, "pixels")
    xs = []
    for index, image in enumerate(images):
        _, x = image_floats(image, index)
        xs.append(torch.rot90(x, dims=(1, 2)) if x.shape[1] > x.shape[2] else x)
    if len(xs) < 2:
        raise GradlabError(f"a variance over images needs at least two of them, not {len(xs)}: give more images")
    smallest = _largest_multiple(min(x.shape[1] for x in xs), min(x.shape[2] for x in xs), multiple)
    return [_centre_crop(x, *smallest)[None] for x in xs]


@checked
def tiles(pictures: Sequence[Picture], size: int) -> list[Tensor]:
    """Cut pictures into non-overlapping ``[3, size, size]`` floats in [0, 1], from the top left."""
    size = whole("size", size, 1, "pixels")
    crops = []
    for index, picture in enumerate(pictures):
        _, x = image_floats(picture, index)
        tops, lefts = (range(0, side - size + 1, size) for side in x.shape[1:])
        crops += [x[:, top : top + size, left : left + size] for top in tops for left in lefts]
    return crops


def _largest_multiple(height: int, width: int, multiple: int) -> tuple[int, int]:
    if min(height, width) < multiple:
        raise GradlabError(f"the smallest image is below {multiple} pixels a side: leave it out")
    return height // multiple * multiple, width // multiple * multiple


def _centre_crop(x: Tensor, height: int, width: int) -> Tensor:
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]
