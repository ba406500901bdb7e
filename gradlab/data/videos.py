"""Stateless synthetic videos of two frames: a window moves over a photograph by whole pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.data.crops import Crops
from gradlab.data.images import Picture
from gradlab.errors import GradlabError
from gradlab.noise import stream
from gradlab.runtime.display import shown
from gradlab.validation import checked


@shown
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
        size: int,
        batch: int,
        shift: int,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        """Move the pictures to ``device``."""
        if shift < 0:
            raise GradlabError(f"shift is {shift}: give the largest motion in pixels, at least 0")
        self.size, self.shift, self.seed = size, shift, seed
        self._crops = Crops(pictures, size + shift, batch, seed, device=device)
        self.device = self._crops.device

    def _repr_line_(self) -> str:
        return f"size={self.size}, shift={self.shift}, of {self._crops!r}"

    def _repr_rows_(self) -> dict[str, object]:
        return {"size": f"{self.size} pixels", "shift": f"up to {self.shift} pixels", "crops": self._crops}

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
