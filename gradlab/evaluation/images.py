"""What evaluation takes for an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.data import Picture, floats
from gradlab.errors import GradlabError

Images = Sequence[Picture] | Sequence[Tensor] | Tensor


def named_images(images: Images) -> list[tuple[str, Tensor]]:
    """``(name, [1, 3, H, W] floats in [0, 1])`` of each image.

    Raises:
        GradlabError: something that is no picture and no ``[3, H, W]`` tensor, an image without pixels, values that
            are neither bytes nor floats in [0, 1].
    """
    if not isinstance(images, (Sequence, Tensor)) or isinstance(images, (str, bytes, Picture)):
        raise GradlabError(f"images are a sequence or a tensor, not a {type(images).__name__}: give a list of images")
    if isinstance(images, Tensor) and images.ndim != 4:
        raise GradlabError(f"images have shape {tuple(images.shape)}: give [batch, 3, height, width], or a list")
    result = []
    for index, image in enumerate(images):
        name = image.name if isinstance(image, Picture) else str(index)
        pixels = image.pixels if isinstance(image, Picture) else image
        if not isinstance(pixels, Tensor) or pixels.ndim != 3 or pixels.shape[0] != 3:
            raise GradlabError(f"image {name} is not a [3, height, width] tensor: give RGB images")
        if pixels.numel() == 0 or pixels.device.type == "meta" or pixels.layout != torch.strided:
            raise GradlabError(f"image {name} has no pixels, or is sparse: give a dense tensor")
        if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
            raise GradlabError(f"image {name} is of {pixels.dtype}: give bytes (torch.uint8), or floats in [0, 1]")
        x = floats(image)
        if not bool(torch.isfinite(x).all()):
            raise GradlabError(f"image {name} holds NaN or infinite values: give values in [0, 1]")
        if float(x.amin()) < 0 or float(x.amax()) > 1:
            raise GradlabError(f"image {name} holds values outside [0, 1]: divide 0-255 by 255, and clamp")
        result.append((name, x[None]))
    return result
