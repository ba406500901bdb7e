"""Downsample photographs and add noise, after the training set of Balle et al. 2018.

Steps for each image, on its 8-bit RGB values:

1. Leave it out if more than half of its pixels are bright and fully saturated (HSV: value of at least 64 of 255,
   saturation above 0.95), as in drawings and logos, and rarely in photographs.
2. Draw the length of its shorter side: a whole number of pixels, uniform from 640 to 1200, but at most the present one.
   An image whose shorter side has 640 pixels or fewer keeps its size.
3. Resize it by Pillow's bicubic filter, whose support grows with the factor, so that it averages.
4. Add noise U(-1/2, 1/2) to each value, on the 0-255 scale, before rounding to 8 bits. (Values that were not resized
   are integers and do not change.)

Balle et al. 2018 screened out images of excessive saturation, which are rarely photographs, and downsampled the others
by a random factor to a shorter side between 640 and 1200 pixels, to hide compression artefacts; earlier papers added
small noise. This follows their description from memory. The saturation thresholds, the filter, the amplitude of the
noise and the handling of small images are gradlab's choices.
"""

from __future__ import annotations

import numpy as np

SHORTEST, LONGEST = 640, 1200
SATURATED, FULL, BRIGHT = 0.5, 0.95, 64


def downsample(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Apply steps 2 to 4 of the module's docstring.

    Args:
        pixels: ``[H, W, 3]`` uint8.
        generator: of the size, then of the noise.

    Returns:
        ``[H', W', 3]`` uint8, the short edge from 640 to 1200 pixels where the image has so many.
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    short = min(height, width)
    side = int(generator.integers(SHORTEST, LONGEST + 1))
    if short > SHORTEST:
        side = min(side, short)
        size = (max(side, round(width * side / short)), max(side, round(height * side / short)))
        # Pillow resizes floats channel by channel: eight bits are taken once, at the end, together with the noise.
        channels = [
            Image.fromarray(pixels[..., c].astype(np.float32)).resize(size, Image.Resampling.BICUBIC) for c in range(3)
        ]
        values = np.stack([np.asarray(channel) for channel in channels], axis=-1)
    else:
        values = pixels.astype(np.float32)
    noise = generator.random(values.shape, dtype=np.float32) - np.float32(0.5)
    return np.clip(np.rint(values + noise), 0, 255).astype(np.uint8)


def saturated_share(pixels: np.ndarray) -> float:
    """Compute the share of bright, fully saturated pixels (step 1) of ``[H, W, 3]`` uint8."""
    low, high = pixels.min(axis=2).astype(float), pixels.max(axis=2).astype(float)
    return float(((high - low > FULL * high) & (high >= BRIGHT)).mean())
