"""Validate and convert the images passed to evaluation functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradlab.data import Picture, floats
from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from jaxtyping import Float

Images = Sequence[Picture | Tensor] | Tensor


def named_images(images: Images) -> list[tuple[str, Float[Tensor, "1 3 height width"]]]:
    """Convert images to pairs of a name and a float tensor.

    Args:
        images: pictures, ``[3, height, width]`` tensors (uint8, or floats in [0, 1]), or one ``[batch, 3, height,
            width]`` tensor.

    Returns:
        One pair per image. The first item is its name, or its index if it is a tensor; the second its pixels
        ``[1, 3, height, width]`` as float32 in [0, 1].

    Raises:
        GradlabError: there are no images, an image is not an RGB image, or an image holds values outside [0, 1].

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> [(name, tuple(x.shape)) for name, x in gl.evaluation.named_images(torch.rand(2, 3, 8, 8))]
        [('0', (1, 3, 8, 8)), ('1', (1, 3, 8, 8))]
    """
    if not isinstance(images, (Sequence, Tensor)) or isinstance(images, (str, bytes, Picture)):
        raise GradlabError(f"images is a {type(images).__name__}: give a list of images or a tensor")
    if isinstance(images, Tensor) and images.ndim != 4:
        raise GradlabError(
            f"the images have shape {tuple(images.shape)}: give a tensor [batch, 3, height, width], or a list of images"
        )
    if len(images) == 0:
        raise GradlabError("there are no images to evaluate: give at least one image")
    pairs = []
    for index, image in enumerate(images):
        name, x = image_floats(image, index)
        if float(x.amin()) < 0 or float(x.amax()) > 1:
            raise GradlabError(f"image {name} holds values outside [0, 1]: divide 8-bit values by 255, or clamp")
        pairs.append((name, x[None]))
    return pairs


def image_floats(image: Picture | Tensor, index: int) -> tuple[str, Float[Tensor, "3 height width"]]:
    """Convert one image to its name and a float tensor.

    Args:
        image: picture, or ``[3, height, width]`` tensor (uint8 or floating point).
        index: position of the image, which names it if it is a tensor.

    Returns:
        The name and the pixels ``[3, height, width]`` as float32. 8-bit values are divided by 255.

    Raises:
        GradlabError: ``image`` is neither a picture nor a ``[3, height, width]`` tensor, is empty or sparse, has a
            dtype other than uint8 or floating point, or holds NaN or infinite values.

    Example:
        >>> import torch
        >>> from gradlab.evaluation.images import image_floats
        >>> name, x = image_floats(torch.zeros(3, 8, 8, dtype=torch.uint8), index=4)
        >>> name, x.dtype
        ('4', torch.float32)
    """
    name, pixels = (image.name, image.pixels) if isinstance(image, Picture) else (str(index), image)
    if not isinstance(pixels, Tensor) or pixels.ndim != 3 or pixels.shape[0] != 3:
        raise GradlabError(f"image {name} is not a [3, height, width] tensor: give an RGB image")
    if pixels.numel() == 0 or pixels.device.type == "meta" or pixels.layout != torch.strided:
        raise GradlabError(f"image {name} is empty or sparse: give a dense, non-empty tensor")
    if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
        raise GradlabError(f"image {name} has dtype {pixels.dtype}: give torch.uint8, or floats in [0, 1]")
    x = floats(image)
    if not bool(torch.isfinite(x).all()):
        raise GradlabError(f"image {name} holds NaN or infinite values: give values in [0, 1]")
    return name, x
