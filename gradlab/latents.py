"""How much the latents vary from image to image: Tables 6 and 10, Figure 3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gradlab import moments
from gradlab.codecs import Codec
from gradlab.data import Picture, floats
from gradlab.errors import GradlabError

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("y", "z", "y_hat", "z_hat")
DEAD = 1e-3


class Spread(NamedTuple):
    """Over images, of every dimension (c, h, w) of one latent.

    Attributes:
        mean: ``[dimensions]``.
        variance: ``[dimensions]``, with images - 1.
        bpp: bits per pixel of the rounded latent; NaN for the unrounded, which are not coded.
    """

    mean: Tensor
    variance: Tensor
    bpp: float


def spread(codec: Codec, images: Sequence[Picture | Tensor]) -> dict[str, Spread]:
    """Mean and variance over images of each dimension of ``y z y_hat z_hat`` (streaming: memory flat in images).

    A codec without z has ``y y_hat`` alone.

    Args:
        codec: the codec.
        images: at least two; portrait images are rotated by 90 degrees so that dimensions line up, larger ones are
            cropped centrally to the smallest height and width, and that to a multiple of ``codec.downsampling_factor``.

    Raises:
        GradlabError: fewer than two images, or images smaller than one position of z.
    """
    xs = aligned(images, codec.downsampling_factor)
    states: dict[str, moments.Moments] = {}
    bits = {"y_hat": 0.0, "z_hat": 0.0}
    was_training = codec.training
    codec.eval()
    device = next(codec.parameters()).device
    for x in xs:
        found = codec.latents(x.to(device))
        for name in NAMES:
            latent = getattr(found, name)
            if latent is None:
                continue
            value = latent.flatten(1).double().cpu()
            states[name] = states.get(name, moments.Moments.init(value[0].shape)).update(value)
        bits["y_hat"] += float(found.y_bits) / len(xs)
        bits["z_hat"] += float(found.z_bits) / len(xs)
    codec.train(was_training)
    pixels = xs[0].shape[2] * xs[0].shape[3]
    return {
        name: Spread(s.mean, s.variance(), bits[name] / pixels if name in bits else math.nan)
        for name, s in states.items()
    }


def statistics(codec: Codec, images: Sequence[Picture | Tensor], dead: float = DEAD) -> pd.DataFrame:
    """Table 6 and Table 10: one row per latent.

    Args:
        codec: the codec.
        images: as for ``spread``.
        dead: a dimension of lower variance counts as dead.

    Returns:
        Columns ``latent`` (y z y_hat z_hat), ``dimensions``, ``variance`` (mean over dimensions), ``cov`` (mean of
        std/|mean| over dimensions whose mean is not 0; means near 0 drive it), ``cov_median``, ``dead``, ``bpp``.
    """
    import pandas as pd

    rows = []
    for name, s in spread(codec, images).items():
        usable = s.mean != 0
        cov = s.variance[usable].sqrt() / s.mean[usable].abs()
        rows.append(
            {
                "latent": name,
                "dimensions": s.mean.numel(),
                "variance": float(s.variance.mean()),
                "cov": float(cov.mean()) if len(cov) else math.nan,
                "cov_median": float(cov.median()) if len(cov) else math.nan,
                "dead": int((s.variance < dead).sum()),
                "bpp": s.bpp,
            }
        )
    return pd.DataFrame(rows)


def aligned(images: Sequence[Picture | Tensor], multiple: int) -> list[Tensor]:
    """Landscape ``[1, 3, H, W]`` floats of one common size, a multiple of ``multiple``."""
    xs = []
    for image in images:
        x = floats(image)
        xs.append(torch.rot90(x, dims=(1, 2)) if x.shape[1] > x.shape[2] else x)
    if len(xs) < 2:
        raise GradlabError(f"a variance over images needs at least two of them, not {len(xs)}: give more images")
    height, width = (min(x.shape[axis] for x in xs) // multiple * multiple for axis in (1, 2))
    if height == 0 or width == 0:
        raise GradlabError(f"the smallest image is below {multiple} pixels a side: leave it out")
    return [_centre(x, height, width)[None] for x in xs]


def tiles(pictures: Sequence[Picture], size: int) -> list[Tensor]:
    """All non-overlapping ``[3, size, size]`` floats in [0, 1] of the pictures, from the top left."""
    found = []
    for x in map(floats, pictures):
        tops, lefts = (range(0, side - size + 1, size) for side in x.shape[1:])
        found += [x[:, top : top + size, left : left + size] for top in tops for left in lefts]
    return found


def _centre(x: Tensor, height: int, width: int) -> Tensor:
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]
