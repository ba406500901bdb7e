"""Stateless random crops: a batch depends on the seed and the step alone, so a resumed run sees the same crops."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import SupportsIndex

import torch
from torch import Tensor

from gradlab import validation
from gradlab.data.images import Picture, require_size
from gradlab.errors import GradlabError
from gradlab.noise import stream
from gradlab.validation import checked, whole


class Crops:
    """Batches of random square crops: uniform over pictures and positions, mirrored with probability 1/2.

    Args:
        pictures: kept on ``device`` as uint8.
        size: height and width of a crop, pixels.
        batch: crops per batch.
        seed: the user's seed.
        flips: mirror half of the crops left to right.
        device: of pictures and batches; positions are always drawn on the CPU, so that crops do not depend on it.

    Raises:
        GradlabError: no pictures, a picture smaller than ``size``, size or batch below 1.
    """

    @checked
    def __init__(
        self,
        pictures: Sequence[Picture],
        size: SupportsIndex,
        batch: SupportsIndex,
        seed: SupportsIndex,
        flips: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        """Move the pictures to ``device``."""
        if len(pictures) == 0:
            raise GradlabError("there are no pictures to crop: give at least one")
        self.size, self.size_of_batch = whole("size", size, 1, "pixels"), whole("batch", batch, 1, "crops")
        self.seed, self.flips = whole("seed", seed, 0), flips
        require_size(pictures, self.size, f"crops of {self.size}")
        self.device = validation.device(device)
        self._sizes = [(picture.pixels.shape[1], picture.pixels.shape[2]) for picture in pictures]
        # On a CPU slices are fastest; on an accelerator, one gather of a whole batch from the flattened pixels.
        self._gathers = self.device.type != "cpu"
        self._pixels = [picture.pixels.cpu() for picture in pictures]
        if self._gathers:
            self._flatten()

    def _flatten(self) -> None:
        areas = [height * width for height, width in self._sizes]
        starts = [0, *itertools.accumulate(3 * area for area in areas[:-1])]
        rows = [(start, area, width) for start, area, (_, width) in zip(starts, areas, self._sizes, strict=True)]
        self._table = torch.tensor(rows, device=self.device)
        self._flat = torch.cat([pixels.reshape(-1) for pixels in self._pixels]).to(self.device)
        self._pixels = []

    def places(self, step: int) -> Tensor:
        """Draw picture, top, left and mirroring of each crop of ``step``: ``[B, 4]`` int64 on the CPU.

        Raises:
            GradlabError: a negative step.
        """
        step = whole("step", step, 0)
        # float64: float32 has too few values to reach every position in a large picture.
        chances = torch.rand(self.size_of_batch, 4, generator=stream(self.seed, "crops", step), dtype=torch.float64)
        places = []
        for which, down, right, mirror in chances.tolist():
            picture = int(which * len(self._sizes))
            height, width = self._sizes[picture]
            top, left = int(down * (height - self.size + 1)), int(right * (width - self.size + 1))
            places.append((picture, top, left, int(self.flips and mirror < 0.5)))
        return torch.tensor(places)

    def cut(self, places: Tensor, size: int | None = None) -> Tensor:
        """Cut the crops at ``places [N, 4]``, which lie on ``device``: ``[N, 3, size, size]`` float32 in [0, 1].

        On an accelerator this is one gather without host synchronisation, suitable for a CUDA graph.

        Args:
            places: from ``places``.
            size: height and width, if different from those of the crops.
        """
        side = size or self.size
        if self._gathers:
            which, top, left, mirrored = places.unbind(1)
            start, area, width = self._table[which].unbind(1)
            along = torch.arange(side, device=places.device)
            rows = top[:, None] + along
            columns = left[:, None] + torch.where(mirrored[:, None] > 0, side - 1 - along, along)
            planes = start[:, None] + area[:, None] * torch.arange(3, device=places.device)
            at = planes[:, :, None, None] + (rows * width[:, None])[:, None, :, None] + columns[:, None, None, :]
            return self._flat[at].to(torch.float32).div_(255)
        crops = torch.empty((len(places), 3, side, side), dtype=torch.uint8)
        for crop, (which, top, left, mirrored) in zip(crops, places.tolist(), strict=True):
            pixels = self._pixels[which][:, top : top + side, left : left + side]
            crop.copy_(pixels.flip(2) if mirrored else pixels)
        return crops.to(torch.float32).div_(255)

    @checked
    def batch(self, step: int) -> Tensor:
        """Return the batch of ``step``, ``[B, 3, size, size]`` float32 in [0, 1]; steps may come in any order.

        Raises:
            GradlabError: a negative step.
        """
        return self.cut(self.places(step).to(self.device))
