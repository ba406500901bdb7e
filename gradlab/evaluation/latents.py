"""Statistics of latents over images (Tables 6 and 10, Figure 3) and rounding residuals (Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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
from gradlab.runtime.display import shown
from gradlab.runtime.progress import quiet
from gradlab.snr import moments
from gradlab.validation import checked, whole

if TYPE_CHECKING:
    from jaxtyping import Float

NAMES = ("y", "z", "y_hat", "z_hat")
DEAD = 1e-3
KEPT = ("all", "|y| >= 1/2")
"""The element sets of ``residuals``: all elements, and those that do not round to 0."""


@shown
class LatentMoments(NamedTuple):
    """Mean and variance over images of each dimension (channel, row, column) of one latent.

    Attributes:
        mean: mean of each dimension over images, in the order (channel, row, column).
        variance: unbiased variance of each dimension over images.
        bpp: average rate of the latent in bits per pixel; NaN for latents that are not quantised and hence not coded.
        channels: number of channels of the latent.
    """

    mean: Float[Tensor, " dimensions"]
    variance: Float[Tensor, " dimensions"]
    bpp: float
    channels: int

    def by_channel(self) -> list[LatentMoments]:
        """Split the moments into channels.

        Returns:
            One record per channel. ``bpp`` is NaN, because the rate of a single channel is not known.

        Example:
            >>> import torch
            >>> from gradlab.evaluation.latents import LatentMoments
            >>> latent = LatentMoments(torch.zeros(12), torch.ones(12), bpp=0.5, channels=3)
            >>> [part.mean.numel() for part in latent.by_channel()]
            [4, 4, 4]
        """
        parts = zip(self.mean.chunk(self.channels), self.variance.chunk(self.channels), strict=True)
        return [LatentMoments(mean, variance, math.nan, 1) for mean, variance in parts]

    def row(self, dead: float) -> dict[str, float]:
        """Summarise the moments over dimensions.

        Args:
            dead: variance below which a dimension counts as dead.

        Returns:
            The columns of ``statistics`` except ``latent``.

        Example:
            >>> import torch
            >>> from gradlab.evaluation.latents import LatentMoments
            >>> latent = LatentMoments(torch.ones(4), torch.tensor([4.0, 4.0, 0.0, 0.0]), bpp=0.5, channels=1)
            >>> latent.row(dead=1e-3)["cov"], latent.row(dead=1e-3)["dead"]
            (1.0, 2)
        """
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
    """Compute the mean and variance over images of each dimension of ``y``, ``z``, ``y_hat`` and ``z_hat``.

    Moments are accumulated one image at a time, so memory does not grow with the number of images.

    Args:
        codec: codec to analyse.
        images: at least two pictures or ``[3, height, width]`` tensors. Portrait images are rotated by 90 degrees so
            that dimensions line up. Larger images are centre-cropped to the smallest height and width, rounded down to
            a multiple of ``codec.downsampling_factor``.
        advance: progress callback, called after each image.

    Returns:
        The moments of each latent by name. Codecs without z return ``y`` and ``y_hat`` only.

    Raises:
        GradlabError: fewer than two images are given, or an image is smaller than one position of the coarsest latent.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> moments = gl.latents.moments_over_images(codec, list(torch.rand(3, 3, 32, 48)))
        >>> {name: latent.mean.numel() for name, latent in moments.items()}
        {'y': 96, 'z': 36, 'y_hat': 96, 'z_hat': 36}
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
    """Compute latent statistics over images, one row per latent, as in Tables 6 and 10 of the paper.

    Args:
        codec: codec to analyse.
        images: at least two pictures or ``[3, height, width]`` tensors; see ``moments_over_images``.
        dead: variance below which a dimension counts as dead.

    Returns:
        A table with the columns

        - ``latent``: ``y``, ``z``, ``y_hat`` or ``z_hat``
        - ``dimensions``: number of dimensions (channels times rows times columns)
        - ``variance``: variance over images, averaged over dimensions
        - ``cov``: coefficient of variation std/abs(mean), averaged over the dimensions whose mean is not zero up to
          rounding error. Means close to zero dominate this average.
        - ``cov_median``: median of the same coefficients
        - ``dead``: number of dimensions with a variance below ``dead``
        - ``bpp``: rate in bits per pixel; NaN for ``y`` and ``z``

    Raises:
        GradlabError: fewer than two images are given, or an image is smaller than one position of the coarsest latent.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> table = gl.latents.statistics(codec, list(torch.rand(3, 3, 32, 48)))
        >>> table[["latent", "dimensions"]]
          latent  dimensions
        0      y          96
        1      z          36
        2  y_hat          96
        3  z_hat          36
    """
    return statistics_of(moments_over_images(codec, images), dead)


@checked
def channel_statistics(codec: Codec, images: Sequence[Picture | Tensor], dead: float = DEAD) -> pd.DataFrame:
    """Compute latent statistics over images, one row per latent and channel.

    Args:
        codec: codec to analyse.
        images: at least two pictures or ``[3, height, width]`` tensors; see ``moments_over_images``.
        dead: variance below which a dimension counts as dead.

    Returns:
        The columns of ``statistics`` without ``bpp``, and ``channel``.

    Raises:
        GradlabError: fewer than two images are given, or an image is smaller than one position of the coarsest latent.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> table = gl.latents.channel_statistics(codec, list(torch.rand(3, 3, 32, 48)))
        >>> table.groupby("latent", sort=False)["channel"].count().to_dict()
        {'y': 4, 'z': 6, 'y_hat': 4, 'z_hat': 6}
    """
    return channel_statistics_of(moments_over_images(codec, images), dead)


@checked
def statistics_of(latent_moments: Mapping[str, LatentMoments], dead: float = DEAD) -> pd.DataFrame:
    """Tabulate ``statistics`` from moments that are already computed.

    Args:
        latent_moments: result of ``moments_over_images``.
        dead: variance below which a dimension counts as dead.

    Returns:
        The table that ``statistics`` returns.

    Raises:
        GradlabError: ``latent_moments`` is empty.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("bmshj2018-factorized", channels=(6, 4))
        >>> moments = gl.latents.moments_over_images(codec, list(torch.rand(2, 3, 32, 48)))
        >>> gl.latents.statistics_of(moments)["latent"].tolist()
        ['y', 'y_hat']
    """
    _require_latents(latent_moments)
    return pd.DataFrame([{"latent": name, **latent.row(dead)} for name, latent in latent_moments.items()])


@checked
def channel_statistics_of(latent_moments: Mapping[str, LatentMoments], dead: float = DEAD) -> pd.DataFrame:
    """Tabulate ``channel_statistics`` from moments that are already computed.

    Args:
        latent_moments: result of ``moments_over_images``.
        dead: variance below which a dimension counts as dead.

    Returns:
        The table that ``channel_statistics`` returns.

    Raises:
        GradlabError: ``latent_moments`` is empty.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("bmshj2018-factorized", channels=(6, 4))
        >>> moments = gl.latents.moments_over_images(codec, list(torch.rand(2, 3, 32, 48)))
        >>> gl.latents.channel_statistics_of(moments)["channel"].tolist()
        [0, 1, 2, 3, 0, 1, 2, 3]
    """
    _require_latents(latent_moments)
    rows = [
        {"latent": name, "channel": index, **channel.row(dead)}
        for name, latent in latent_moments.items()
        for index, channel in enumerate(latent.by_channel())
    ]
    return pd.DataFrame(rows).drop(columns="bpp")


def _require_latents(latent_moments: Mapping[str, LatentMoments]) -> None:
    if not latent_moments:
        raise GradlabError("latent_moments is empty: give the result of moments_over_images()")


@checked
@torch.no_grad()
def residuals(
    codec: Codec,
    images: Sequence[Picture | Tensor],
    bins: int = 50,
    advance: Callable[..., Any] = quiet,
) -> pd.DataFrame:
    """Compute histograms of the rounding residual y - round(y) for each image, as in Figure 4 of the paper.

    Each image has two histograms: one over all elements of y, and one over the elements with abs(y) >= 1/2, which do
    not round to 0. To obtain the histogram of a data set, sum ``count`` over images.

    Args:
        codec: codec to analyse. y itself is rounded, even if the codec subtracts a predicted mean before rounding.
        images: pictures or ``[3, height, width]`` tensors of any size, centre-cropped to a multiple of
            ``codec.downsampling_factor``.
        bins: number of bins between -1/2 and 1/2.
        advance: progress callback, called after each image.

    Returns:
        A table with the columns ``image``; ``kept``, one of ``KEPT``; ``low`` and ``high``, the edges of the bin; and
        ``count``.

    Raises:
        GradlabError: no images are given, an image is smaller than one position of the coarsest latent, or ``bins`` is
            below 1.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> table = gl.latents.residuals(codec, list(torch.rand(1, 3, 32, 48)), bins=4)
        >>> table.columns.tolist(), len(table)
        (['image', 'kept', 'low', 'high', 'count'], 8)
        >>> int(table[table["kept"] == "all"]["count"].sum())
        96
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
def align(images: Sequence[Picture | Tensor], multiple: int) -> list[Float[Tensor, "1 3 height width"]]:
    """Rotate portrait images to landscape and centre-crop all images to one size.

    Args:
        images: at least two pictures or ``[3, height, width]`` tensors (uint8, or floats in [0, 1]).
        multiple: the common height and width are rounded down to a multiple of this number of pixels.

    Returns:
        Float tensors ``[1, 3, height, width]`` of the same size.

    Raises:
        GradlabError: fewer than two images are given, or an image is smaller than ``multiple``.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> images = [torch.rand(3, 40, 50), torch.rand(3, 64, 33)]
        >>> [tuple(x.shape) for x in gl.latents.align(images, multiple=16)]
        [(1, 3, 32, 48), (1, 3, 32, 48)]
    """
    multiple = whole("multiple", multiple, 1, "pixels")
    xs = []
    for index, image in enumerate(images):
        _, x = image_floats(image, index)
        xs.append(torch.rot90(x, dims=(1, 2)) if x.shape[1] > x.shape[2] else x)
    if len(xs) < 2:
        raise GradlabError(f"the number of images is {len(xs)}: a variance over images needs at least two images")
    smallest = _largest_multiple(min(x.shape[1] for x in xs), min(x.shape[2] for x in xs), multiple)
    return [_centre_crop(x, *smallest)[None] for x in xs]


@checked
def tiles(pictures: Sequence[Picture], size: int) -> list[Float[Tensor, "3 size size"]]:
    """Cut pictures into non-overlapping square tiles, starting at the top left.

    Args:
        pictures: pictures to cut. Pixels to the right and at the bottom that do not fill a tile are dropped.
        size: height and width of a tile in pixels.

    Returns:
        Float tensors ``[3, size, size]`` in [0, 1], row by row and picture by picture.

    Raises:
        GradlabError: ``size`` is below 1.

    Example:
        >>> import gradlab as gl
        >>> tiles = gl.latents.tiles(gl.data.embedded("test")[:1], size=256)
        >>> len(tiles), tuple(tiles[0].shape)
        (4, (3, 256, 256))
    """
    size = whole("size", size, 1, "pixels")
    crops = []
    for index, picture in enumerate(pictures):
        _, x = image_floats(picture, index)
        tops, lefts = (range(0, side - size + 1, size) for side in x.shape[1:])
        crops += [x[:, top : top + size, left : left + size] for top in tops for left in lefts]
    return crops


def _largest_multiple(height: int, width: int, multiple: int) -> tuple[int, int]:
    if min(height, width) < multiple:
        raise GradlabError(
            f"an image of {height} x {width} pixels is smaller than {multiple} x {multiple}: leave it out"
        )
    return height // multiple * multiple, width // multiple * multiple


def _centre_crop(x: Tensor, height: int, width: int) -> Tensor:
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]
