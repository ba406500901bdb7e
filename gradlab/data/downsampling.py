"""Downsample photographs and add noise, following the training set of Balle et al. 2018.

Each image is processed as follows, on its 8-bit RGB values:

1. Skip it if more than half of its pixels are bright and fully saturated (HSV value of at least 64 of 255, saturation
   above 0.95). Such pixels are common in drawings and logos but rare in photographs.
2. Draw the length of its shorter side uniformly from the whole numbers 640 to 1200, but at most the present length. An
   image whose shorter side has 640 pixels or fewer keeps its size.
3. Resize it with Pillow's bicubic filter, whose support grows with the downsampling factor to avoid aliasing.
4. Add noise U(-1/2, 1/2) to each value on the 0-255 scale, and round to 8 bits. (Values that were not resized are
   integers and do not change.)

Balle et al. 2018 removed images of excessive saturation, which are rarely photographs. They downsampled the others by a
random factor to a shorter side between 640 and 1200 pixels, to hide compression artefacts; earlier papers added small
noise. The description is from memory: the saturation thresholds, the filter, the amplitude of the noise and the
treatment of small images are gradlab's own choices.
"""

from __future__ import annotations

import numpy as np

SHORTEST, LONGEST = 640, 1200
SATURATED, FULL, BRIGHT = 0.5, 0.95, 64


def downsample(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Resize an image at random and add noise: steps 2 to 4 of the module's docstring.

    Args:
        pixels: RGB pixels, ``[height, width, 3]`` uint8.
        generator: generator of the size and then of the noise.

    Returns:
        RGB pixels, uint8. The shorter side has 640 to 1200 pixels, or its original length if that is below 640.

    Example:
        >>> import numpy as np
        >>> from gradlab.data.downsampling import downsample
        >>> small = downsample(np.zeros((700, 900, 3), np.uint8), np.random.default_rng(0))
        >>> 640 <= min(small.shape[:2]) <= 700
        True
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    short = min(height, width)
    side = int(generator.integers(SHORTEST, LONGEST + 1))
    if short > SHORTEST:
        side = min(side, short)
        size = (max(side, round(width * side / short)), max(side, round(height * side / short)))
        # Resize as floats, which Pillow does channel by channel, and round to 8 bits only after adding the noise.
        channels = [
            Image.fromarray(pixels[..., c].astype(np.float32)).resize(size, Image.Resampling.BICUBIC) for c in range(3)
        ]
        values = np.stack([np.asarray(channel) for channel in channels], axis=-1)
    else:
        values = pixels.astype(np.float32)
    noise = generator.random(values.shape, dtype=np.float32) - np.float32(0.5)
    return np.clip(np.rint(values + noise), 0, 255).astype(np.uint8)


def saturated_share(pixels: np.ndarray) -> float:
    """Compute the fraction of bright, fully saturated pixels (step 1 of the module's docstring).

    Args:
        pixels: RGB pixels, ``[height, width, 3]`` uint8.

    Returns:
        The fraction, from 0 to 1.

    Example:
        >>> import numpy as np
        >>> from gradlab.data.downsampling import saturated_share
        >>> saturated_share(np.array([[[255, 0, 0], [128, 128, 128]]], np.uint8))
        0.5
    """
    low, high = pixels.min(axis=2).astype(float), pixels.max(axis=2).astype(float)
    return float(((high - low > FULL * high) & (high >= BRIGHT)).mean())
