"""Check and convert the images given to evaluation functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.data import Picture, floats
from gradlab.errors import GradlabError

Images = Sequence[Picture | Tensor] | Tensor


def named_images(images: Images) -> list[tuple[str, Tensor]]:
    """Convert images to pairs ``(name, [1, 3, H, W] floats in [0, 1])``; the name of a tensor is its index.

    Raises:
        GradlabError: as for ``image_floats``, no images, or values outside [0, 1].
    """
    if not isinstance(images, (Sequence, Tensor)) or isinstance(images, (str, bytes, Picture)):
        raise GradlabError(f"images are a sequence or a tensor, not a {type(images).__name__}: give a list of images")
    if isinstance(images, Tensor) and images.ndim != 4:
        raise GradlabError(f"images have shape {tuple(images.shape)}: give [batch, 3, height, width], or a list")
    if len(images) == 0:
        raise GradlabError("there are no images to evaluate: give at least one")
    pairs = []
    for index, image in enumerate(images):
        name, x = image_floats(image, index)
        if float(x.amin()) < 0 or float(x.amax()) > 1:
            raise GradlabError(f"image {name} holds values outside [0, 1]: divide 0-255 by 255, and clamp")
        pairs.append((name, x[None]))
    return pairs


def image_floats(image: Picture | Tensor, index: int) -> tuple[str, Tensor]:
    """Convert one image to its name and its ``[3, H, W]`` floats.

    Args:
        image: a picture, or a tensor ``[3, H, W]`` (uint8, or floats).
        index: the name of an image that is a tensor.

    Raises:
        GradlabError: neither a picture nor a ``[3, H, W]`` tensor, no pixels, or values that are neither bytes nor
            finite floats.
    """
    name, pixels = (image.name, image.pixels) if isinstance(image, Picture) else (str(index), image)
    if not isinstance(pixels, Tensor) or pixels.ndim != 3 or pixels.shape[0] != 3:
        raise GradlabError(f"image {name} is not a [3, height, width] tensor: give RGB images")
    if pixels.numel() == 0 or pixels.device.type == "meta" or pixels.layout != torch.strided:
        raise GradlabError(f"image {name} has no pixels, or is sparse: give a dense tensor")
    if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
        raise GradlabError(f"image {name} is of {pixels.dtype}: give bytes (torch.uint8), or floats in [0, 1]")
    x = floats(image)
    if not bool(torch.isfinite(x).all()):
        raise GradlabError(f"image {name} holds NaN or infinite values: give values in [0, 1]")
    return name, x
