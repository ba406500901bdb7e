"""Lay out the memory of a recorder's statistics: one float64 vector per device, with views by parameter and by piece.

Each operation on an accelerator costs a kernel launch, so ``passes`` works on pieces; everything else works on
parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 22
"""Largest number of scalars in a piece; it limits the working memory of ``passes`` to 64 bytes x 2^22 = 270 MB."""


class Piece(NamedTuple):
    """Consecutive scalars on one device: whole parameters, or a part of one that is larger than ``CHUNK``.

    Attributes:
        device: device that holds the statistics.
        rows: positions of the parameters.
        sizes: number of scalars of each parameter in the piece.
        start: where the part begins in its parameter; None for whole parameters.
    """

    device: torch.device
    rows: list[int]
    sizes: list[int]
    start: int | None

    @property
    def size(self) -> int:
        """The number of scalars in the piece."""
        return sum(self.sizes)


def pieces(sizes: Sequence[int], devices: Sequence[torch.device]) -> list[Piece]:
    """Cut parameters of these sizes into pieces, in order."""
    cut: list[Piece] = []
    free = 0  # scalars that still fit into the last piece
    for row, (size, device) in enumerate(zip(sizes, devices, strict=True)):
        if size > CHUNK:
            cut += [Piece(device, [row], [min(CHUNK, size - start)], start) for start in range(0, size, CHUNK)]
            free = 0
        elif size <= free and cut[-1].device == device:
            cut[-1].rows.append(row)
            cut[-1].sizes.append(size)
            free -= size
        else:
            cut.append(Piece(device, [row], [size], None))
            free = CHUNK - size
    return cut


class Layout:
    """Where the statistics of parameters are kept.

    Args:
        shapes: shapes of the parameters.
        devices: devices of the parameters. MPS has no float64, so its statistics are kept on the CPU.

    Attributes:
        shapes: shapes of the parameters.
        sizes: number of scalars of each parameter.
        pieces: all scalars, in the order of the parameters.
        on_cpu: whether every statistic is on the CPU.
    """

    def __init__(self, shapes: Sequence[torch.Size] = (), devices: Sequence[torch.device] = ()) -> None:
        devices = [torch.device("cpu") if d.type == "mps" else d for d in devices]
        self.shapes = list(shapes)
        self.sizes = [shape.numel() for shape in shapes]
        self.pieces = pieces(self.sizes, devices)
        self.on_cpu = all(device.type == "cpu" for device in devices)

    def zeros(self) -> tuple[list[Tensor], list[Tensor]]:
        """Allocate float64 zeros; return flat views of them by parameter and by piece."""
        by_row: list[Tensor] = []
        by_piece: list[Tensor] = []
        for device, group in groupby(self.pieces, key=lambda piece: piece.device):
            run = list(group)
            vector = torch.zeros(sum(piece.size for piece in run), dtype=torch.float64, device=device)
            by_piece += vector.split([piece.size for piece in run])
            by_row += vector.split([self.sizes[row] for row in dict.fromkeys(r for piece in run for r in piece.rows)])
        return by_row, by_piece

    def filled(self, gradients: Sequence[Tensor | None]) -> Iterator[Tensor]:
        """Yield the gradients of each piece as one float64 vector; None counts as a gradient of 0.

        The pieces of a device share one work vector, so use each piece before requesting the next.

        Args:
            gradients: gradients in the shapes of the parameters, of any float type and strides, on any device.
        """
        flat: Tensor | None = None
        for piece, (vector, views) in zip(self.pieces, self._work, strict=True):
            sources = [gradients[row] for row in piece.rows]
            if piece.start is not None and sources[0] is not None:
                flat = sources[0].reshape(-1) if flat is None or piece.start == 0 else flat
                sources = [flat[piece.start : piece.start + piece.size]]
            absent = [view for view, source in zip(views, sources, strict=True) if source is None]
            present = [view for view, source in zip(views, sources, strict=True) if source is not None]
            if absent:
                torch._foreach_zero_(absent)
            if present:
                torch._foreach_copy_(present, [source for source in sources if source is not None])
            yield vector

    @cached_property
    def _work(self) -> list[tuple[Tensor, list[Tensor]]]:
        """For each piece, the work vector of its device cut to size, and views of it in the parameters' shapes."""
        largest: dict[torch.device, int] = {}
        for piece in self.pieces:
            largest[piece.device] = max(piece.size, largest.get(piece.device, 0))
        vectors = {device: torch.empty(n, dtype=torch.float64, device=device) for device, n in largest.items()}
        work = []
        for piece in self.pieces:
            vector = vectors[piece.device][: piece.size]
            parts = vector.split(piece.sizes)
            shapes = [self.shapes[row] for row in piece.rows] if piece.start is None else [vector.shape]
            work.append((vector, [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]))
        return work


class Moments:
    """Welford's mean and M2 of every parameter, initially 0.

    Args:
        layout: where the moments are kept.

    Attributes:
        layout: where the moments are kept.
        mean: flat float64 vectors, one per parameter.
        m2: sums of squared deviations, in the same form.
        piece_mean: the means, one vector per piece.
        piece_m2: the sums of squared deviations, one vector per piece.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.mean, self.piece_mean = layout.zeros()
        self.m2, self.piece_m2 = layout.zeros()

    def put(self, index: int, mean: Tensor, m2: Tensor) -> None:
        """Copy the moments of one parameter from any device."""
        self.mean[index].copy_(mean)
        self.m2[index].copy_(m2)

    def zero_(self) -> None:
        """Forget all draws."""
        for vector in (*self.piece_mean, *self.piece_m2):
            vector.zero_()
