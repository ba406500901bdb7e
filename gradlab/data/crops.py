"""Stateless random crops: a batch depends only on the seed and the step, so a resumed run sees the same crops."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, SupportsIndex

import torch
from torch import Tensor

from gradlab import validation
from gradlab.data.images import Picture, require_size
from gradlab.errors import GradlabError
from gradlab.noise import stream
from gradlab.runtime.display import counted, shown
from gradlab.validation import checked, whole

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@shown
class Crops:
    """Batches of random square crops.

    Pictures and positions are drawn uniformly, and each crop is mirrored left to right with probability 1/2.

    Args:
        pictures: pictures to crop. They are kept on ``device`` as uint8.
        size: height and width of a crop in pixels.
        batch: number of crops per batch.
        seed: seed of the crops.
        flips: whether to mirror half of the crops.
        device: device of pictures and batches. Positions are always drawn on the CPU, so crops do not depend on the
            device.

    Raises:
        GradlabError: there are no pictures, a picture is smaller than ``size``, ``size`` or ``batch`` is below 1, or
            the device is not available.

    Example:
        >>> import gradlab as gl
        >>> crops = gl.data.Crops(gl.data.embedded("train"), size=32, batch=4, seed=0)
        >>> x = crops.batch(step=10)
        >>> tuple(x.shape), x.dtype
        ((4, 3, 32, 32), torch.float32)
        >>> bool((x == crops.batch(step=10)).all())
        True
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
            raise GradlabError("there are no pictures to crop: give at least one picture")
        self.size, self.size_of_batch = whole("size", size, 1, "pixels"), whole("batch", batch, 1, "crops")
        self.seed, self.flips = whole("seed", seed, 0), flips
        require_size(pictures, self.size, f"crops of {self.size}")
        self.device = validation.device(device)
        self._sizes = [(picture.pixels.shape[1], picture.pixels.shape[2]) for picture in pictures]
        # Slicing is fastest on a CPU, and one gather of the whole batch from flattened pixels on an accelerator.
        self._gathers = self.device.type != "cpu"
        self._pixels = [picture.pixels.cpu() for picture in pictures]
        if self._gathers:
            self._flatten()

    def _repr_line_(self) -> str:
        pictures = counted(len(self._sizes), "picture")
        return f"{pictures}, size={self.size}, batch={self.size_of_batch}, seed={self.seed}, {self.device}"

    def _repr_rows_(self) -> dict[str, object]:
        return {
            "pictures": len(self._sizes),
            "size": f"{self.size} pixels",
            "batch": counted(self.size_of_batch, "crop"),
            "seed": self.seed,
            "flips": self.flips,
            "device": str(self.device),
        }

    def _flatten(self) -> None:
        areas = [height * width for height, width in self._sizes]
        starts = [0, *itertools.accumulate(3 * area for area in areas[:-1])]
        rows = [(start, area, width) for start, area, (_, width) in zip(starts, areas, self._sizes, strict=True)]
        self._table = torch.tensor(rows, device=self.device)
        self._flat = torch.cat([pixels.reshape(-1) for pixels in self._pixels]).to(self.device)
        self._pixels = []

    def places(self, step: int) -> Int[Tensor, "batch 4"]:
        """Draw the place of each crop of a batch: index of the picture, top, left, and whether to mirror it.

        Args:
            step: index of the batch, from 0.

        Returns:
            One row of these four integers per crop, on the CPU.

        Raises:
            GradlabError: ``step`` is negative.

        Example:
            >>> import gradlab as gl
            >>> crops = gl.data.Crops(gl.data.embedded("train"), size=32, batch=4, seed=0)
            >>> tuple(crops.places(step=0).shape)
            (4, 4)
        """
        step = whole("step", step, 0)
        # float32 has too few values to reach every position in a large picture.
        chances = torch.rand(self.size_of_batch, 4, generator=stream(self.seed, "crops", step), dtype=torch.float64)
        places = []
        for which, down, right, mirror in chances.tolist():
            picture = int(which * len(self._sizes))
            height, width = self._sizes[picture]
            top, left = int(down * (height - self.size + 1)), int(right * (width - self.size + 1))
            places.append((picture, top, left, int(self.flips and mirror < 0.5)))
        return torch.tensor(places)

    def cut(self, places: Int[Tensor, "crops 4"], size: int | None = None) -> Float[Tensor, "crops 3 size size"]:
        """Cut crops at given places.

        On an accelerator this is a single gather without host synchronisation, which a CUDA graph can capture.

        Args:
            places: rows from ``places``, on ``device``.
            size: height and width of the crops in pixels; by default the size given to the constructor.

        Returns:
            Crops in [0, 1].

        Example:
            >>> import gradlab as gl
            >>> crops = gl.data.Crops(gl.data.embedded("train"), size=32, batch=4, seed=0)
            >>> tuple(crops.cut(crops.places(step=0)[:2], size=16).shape)
            (2, 3, 16, 16)
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
    def batch(self, step: int) -> Float[Tensor, "batch 3 size size"]:
        """Return the batch of a step. Steps may be requested in any order.

        Args:
            step: index of the batch, from 0.

        Returns:
            Crops in [0, 1] on ``device``.

        Raises:
            GradlabError: ``step`` is negative.

        Example:
            >>> import gradlab as gl
            >>> crops = gl.data.Crops(gl.data.embedded("train"), size=32, batch=4, seed=0)
            >>> tuple(crops.batch(step=0).shape)
            (4, 3, 32, 32)
        """
        return self.cut(self.places(step).to(self.device))
