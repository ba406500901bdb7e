"""Random crops, free of state: a batch depends on the seed and the step alone, so a resumed run sees the same ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab import arguments
from gradlab.arguments import checked
from gradlab.data.images import Picture
from gradlab.errors import GradlabError
from gradlab.noise import stream


class Crops:
    """Batches of random square crops: a picture uniformly, a place in it uniformly, mirrored with probability 1/2.

    Args:
        pictures: kept on ``device`` as uint8.
        size: height and width of a crop, pixels.
        batch: crops per batch.
        seed: the user's seed.
        flips: mirror half of the crops left to right.
        device: where pictures are kept and batches appear; places are always drawn on the CPU, so that every device
            sees the same crops.

    Raises:
        GradlabError: no pictures, a picture smaller than ``size``, size or batch below 1.
    """

    @checked
    def __init__(
        self,
        pictures: Sequence[Picture],
        size: int,
        batch: int,
        seed: int,
        flips: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        """Move the pictures to ``device``."""
        if len(pictures) == 0:
            raise GradlabError("there are no pictures to crop: give at least one")
        if size < 1 or batch < 1:
            raise GradlabError(f"crops of size {size} in batches of {batch}: both must be at least 1")
        for picture in pictures:
            height, width = picture.pixels.shape[1:]
            if min(height, width) < size:
                raise GradlabError(
                    f"{picture.name} has {width} x {height} pixels, too small for crops of {size}: "
                    "take it out or ask for smaller crops"
                )
        self.size, self.size_of_batch, self.seed, self.flips = size, batch, seed, flips
        self.device = arguments.device(device)
        self._pixels = [picture.pixels.to(self.device) for picture in pictures]

    @checked
    def batch(self, step: int) -> Tensor:
        """``[B, 3, size, size]`` float32 in [0, 1]: the batch of ``step``, in any order of calls.

        Raises:
            GradlabError: a negative step.
        """
        if step < 0:
            raise GradlabError(f"there is no step {step}: count steps from 0")
        # float64: float32 has too few values to reach every place of a large picture.
        places = torch.rand(self.size_of_batch, 4, generator=stream(self.seed, "crops", step), dtype=torch.float64)
        size = self.size
        crops = torch.empty((self.size_of_batch, 3, size, size), dtype=torch.uint8, device=self.device)
        for i, (which, down, right, mirror) in enumerate(places.tolist()):
            pixels = self._pixels[int(which * len(self._pixels))]
            top = int(down * (pixels.shape[1] - size + 1))
            left = int(right * (pixels.shape[2] - size + 1))
            crop = pixels[:, top : top + size, left : left + size]
            crops[i] = crop.flip(2) if self.flips and mirror < 0.5 else crop
        return crops.to(torch.float32).div_(255)
