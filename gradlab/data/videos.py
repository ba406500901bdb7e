"""Stateless synthetic videos of two frames: a window moves over a photograph by whole pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import torch
from torch import Tensor

from gradlab.data.crops import Crops
from gradlab.data.images import Picture
from gradlab.noise import stream
from gradlab.validation import checked, whole


class VideoCrops:
    """Batches of two-frame videos: the second frame is the first, moved.

    Args:
        pictures: from which the windows are cut.
        size: height and width of a frame, pixels.
        batch: videos per batch.
        shift: the largest motion along each axis, pixels; all whole numbers up to it are equally likely.
        seed: the user's seed.
        device: of the batches.

    Raises:
        GradlabError: as for ``Crops`` of ``size + shift`` pixels, or a negative shift.
    """

    @checked
    def __init__(
        self,
        pictures: Sequence[Picture],
        size: SupportsIndex,
        batch: SupportsIndex,
        shift: SupportsIndex,
        seed: SupportsIndex,
        device: str | torch.device = "cpu",
    ) -> None:
        """Move the pictures to ``device``."""
        self.size, self.shift, self.seed = (
            whole("size", size, 1, "pixels"),
            whole("shift", shift, 0, "pixels"),
            whole("seed", seed, 0),
        )
        self._crops = Crops(pictures, self.size + self.shift, batch, self.seed, device=device)
        self.device = self._crops.device

    def places(self, step: int) -> Tensor:
        """Draw the places of both frames of each video, as ``Crops.places`` does: ``[B, 8]`` int64 on the CPU."""
        areas = self._crops.places(step)
        motion = torch.randint(-self.shift, self.shift + 1, (len(areas), 2), generator=stream(self.seed, "pans", step))
        places = []
        for (which, top, left, mirrored), (down, right) in zip(areas.tolist(), motion.tolist(), strict=True):
            frames = []
            for y, x in ((max(0, -down), max(0, -right)), (max(0, down), max(0, right))):
                frames += [which, top + y, left + (self.shift - x if mirrored else x), mirrored]
            places.append(frames)
        return torch.tensor(places)

    def cut(self, places: Tensor) -> Tensor:
        """Cut the videos at ``places [N, 8]``, which lie on ``device``: ``[N, 2, 3, size, size]`` in [0, 1]."""
        return self._crops.cut(places.reshape(-1, 4), self.size).unflatten(0, (-1, 2))

    @checked
    def batch(self, step: int) -> Tensor:
        """Return the batch of ``step``, ``[B, 2, 3, size, size]`` in [0, 1]; steps may come in any order."""
        return self.cut(self.places(step).to(self.device))
