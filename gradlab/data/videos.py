"""Stateless synthetic videos of two frames: a window that moves over a photograph by whole pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, SupportsIndex

import torch
from torch import Tensor

from gradlab.data.crops import Crops
from gradlab.data.images import Picture
from gradlab.noise import stream
from gradlab.runtime.display import shown
from gradlab.validation import checked, whole

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@shown
class VideoCrops:
    """Batches of two-frame videos, in which the second frame is a translation of the first.

    Args:
        pictures: pictures from which the windows are cut.
        size: height and width of a frame in pixels.
        batch: number of videos per batch.
        shift: largest motion along each axis in pixels. Motions are whole numbers, drawn uniformly from -shift to
            shift.
        seed: seed of the crops and motions.
        device: device of pictures and batches.

    Raises:
        GradlabError: ``shift`` is negative, a picture is smaller than ``size + shift``, or another argument is invalid
            (see ``Crops``).

    Example:
        >>> import gradlab as gl
        >>> videos = gl.data.VideoCrops(gl.data.embedded("train"), size=32, batch=4, shift=3, seed=0)
        >>> tuple(videos.batch(step=0).shape)
        (4, 2, 3, 32, 32)
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

    def _repr_line_(self) -> str:
        return f"size={self.size}, shift={self.shift}, of {self._crops!r}"

    def _repr_rows_(self) -> dict[str, object]:
        return {"size": f"{self.size} pixels", "shift": f"up to {self.shift} pixels", "crops": self._crops}

    def places(self, step: int) -> Int[Tensor, "batch 8"]:
        """Draw the places of both frames of each video of a batch.

        Args:
            step: index of the batch, from 0.

        Returns:
            One row per video, on the CPU, with the four integers of ``Crops.places`` for each of the two frames.

        Raises:
            GradlabError: ``step`` is negative.

        Example:
            >>> import gradlab as gl
            >>> videos = gl.data.VideoCrops(gl.data.embedded("train"), size=32, batch=4, shift=3, seed=0)
            >>> tuple(videos.places(step=0).shape)
            (4, 8)
        """
        areas = self._crops.places(step)
        motion = torch.randint(-self.shift, self.shift + 1, (len(areas), 2), generator=stream(self.seed, "pans", step))
        places = []
        for (which, top, left, mirrored), (down, right) in zip(areas.tolist(), motion.tolist(), strict=True):
            frames = []
            for y, x in ((max(0, -down), max(0, -right)), (max(0, down), max(0, right))):
                frames += [which, top + y, left + (self.shift - x if mirrored else x), mirrored]
            places.append(frames)
        return torch.tensor(places)

    def cut(self, places: Int[Tensor, "videos 8"]) -> Float[Tensor, "videos 2 3 size size"]:
        """Cut videos at given places.

        Args:
            places: rows from ``places``, on ``device``.

        Returns:
            Videos in [0, 1].

        Example:
            >>> import gradlab as gl
            >>> videos = gl.data.VideoCrops(gl.data.embedded("train"), size=32, batch=4, shift=3, seed=0)
            >>> tuple(videos.cut(videos.places(step=0)[:2]).shape)
            (2, 2, 3, 32, 32)
        """
        return self._crops.cut(places.reshape(-1, 4), self.size).unflatten(0, (-1, 2))

    @checked
    def batch(self, step: int) -> Float[Tensor, "batch 2 3 size size"]:
        """Return the batch of a step. Steps may be requested in any order.

        Args:
            step: index of the batch, from 0.

        Returns:
            Videos in [0, 1] on ``device``.

        Raises:
            GradlabError: ``step`` is negative.

        Example:
            >>> import gradlab as gl
            >>> videos = gl.data.VideoCrops(gl.data.embedded("train"), size=32, batch=4, shift=0, seed=0)
            >>> x = videos.batch(step=0)
            >>> bool((x[:, 0] == x[:, 1]).all())
            True
        """
        return self.cut(self.places(step).to(self.device))
