"""What the evaluation takes for images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.data import Picture, floats
from gradlab.errors import GradlabError

Images = Sequence[Picture] | Sequence[Tensor] | Tensor


def named(images: Images) -> list[tuple[str, Tensor]]:
    """``(name, [1, 3, H, W] floats in [0, 1])`` of each image.

    Raises:
        GradlabError: something that is no picture and no ``[3, H, W]`` tensor, or non-finite values.
    """
    result = []
    for index, image in enumerate(images):
        name = image.name if isinstance(image, Picture) else str(index)
        pixels = image.pixels if isinstance(image, Picture) else image
        if not isinstance(pixels, Tensor) or pixels.ndim != 3 or pixels.shape[0] != 3:
            raise GradlabError(f"image {name} is not a [3, height, width] tensor: give RGB images")
        x = floats(image)
        if not bool(torch.isfinite(x).all()):
            raise GradlabError(f"image {name} holds NaN or infinite values: give values in [0, 1]")
        result.append((name, x[None]))
    return result
