"""Welford's moments of many parameters, in place, with the replicates that standard errors need.

Cost per draw decides whether people leave a recorder on: the arithmetic of large models on a CPU is in compiled loops
that read every number once (``compiled``), that of small ones and on accelerators in few calls of torch (``passes``).
What is here is their order.

Memory, in float64 copies of the parameters: mean and M2 (2 copies); with standard errors and 64 draws or more also mean
and M2 of the current block (4 copies). ``passes`` adds working memory of bounded size (``layout.CHUNK``), and
a merge two copies while it lasts. Nothing grows with the number of draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradlab.snr.definitions import Spread
from gradlab.snr.recorder import passes
from gradlab.snr.recorder.layout import Layout, Moments

LARGE = 1 << 16
"""Parameters from which on the compiled loops are worth their loading, half a second."""

BURN_IN = 8
"""Draws before the first replicate: fewer do not know where a parameter stands."""

BLOCKS = 32
"""Blocks per doubling of the draws, hence at most 96 that count; single draws are the blocks below 64 draws."""


def block_size(draws: int) -> int:
    """Draws of the block that starts on top of ``draws`` draws: a power of two, 1 below 64."""
    return max(1, 1 << max(0, (draws // BLOCKS).bit_length() - 1))


class Stream:
    """Running moments of a list of tensors.

    Attributes:
        draws: draws so far, those of the open block included.
        moments: of the closed draws; empty before the first draw.
        block: moments of the open block; empty while blocks are single draws.
        opened: draws in the open block.
        large: whether the arithmetic on a CPU is compiled.
        entities: number of rows of the summary.
        spread: the replicates' spread, by entity.
    """

    def __init__(self, parameters: Sequence[Tensor], entities: Sequence[Sequence[int]], standard_errors: bool) -> None:
        """``entities``: for each row of the summary, the positions of its parameters."""
        self.shapes = [p.shape for p in parameters]
        self.entities = len(entities)
        self._members = np.concatenate(entities)
        self._starts = np.cumsum([0, *map(len, entities[:-1])])
        self.large = sum(shape.numel() for shape in self.shapes) >= LARGE
        self.standard_errors = standard_errors
        self.draws = self.opened = 0
        self.moments = self.block = Moments(Layout())
        self.spread = Spread()

    def allocate(self, devices: Sequence[torch.device]) -> None:
        """Make room, once; a device without float64 keeps its statistics on the CPU."""
        if not self.moments.mean:
            self.moments = Moments(Layout(self.shapes, devices))

    def update(self, gradients: Sequence[Tensor | None]) -> None:
        """One more draw; None is a gradient of 0. Any float dtype, any device, shapes as the parameters'."""
        closed = self.draws - self.opened
        size = block_size(closed) if self.standard_errors else 1
        if size == 1:
            self._draw(self.moments, gradients, closed, self.standard_errors and closed >= BURN_IN)
            self.draws += 1
            return
        if not self.block.mean:
            self.block = Moments(self.moments.layout)
        if self.opened == 0:
            self.block.zero_()
        self._draw(self.block, gradients, self.opened, False)
        self.draws += 1
        self.opened += 1
        if self.opened >= size:
            self._close(replicated=True)

    def flush(self) -> None:
        """Close the open block without a replicate."""
        if self.opened:
            self._close(replicated=False)

    def _close(self, replicated: bool) -> None:
        n, b, self.opened = self.draws - self.opened, self.opened, 0
        self._join(self.block, n, b, replicated)

    def totals(self, index: int) -> tuple[Tensor, Tensor]:
        """Mean and M2 of one parameter over all draws, flat; the state is left as it is."""
        mean, m2 = self.moments.mean[index], self.moments.m2[index]
        if not self.opened:
            return mean, m2
        n, b = self.draws - self.opened, self.opened
        delta = self.block.mean[index] - mean
        return mean + delta * (b / (n + b)), m2 + self.block.m2[index] + delta.square_() * (n * b / (n + b))

    def merge(self, other: Stream) -> None:
        """Take in the draws of another stream over the same parameters (Chan)."""
        if other.draws == 0:
            return
        self.flush()
        self.allocate([m.device for m in other.moments.mean])
        theirs = Moments(self.moments.layout)
        for index in range(len(self.shapes)):
            theirs.put(index, *other.totals(index))
        self._join(theirs, self.draws, other.draws, replicated=False)
        self.draws += other.draws
        self.spread = self.spread.merge(other.spread, self.draws)

    def _draw(self, into: Moments, gradients: Sequence[Tensor | None], n: int, replicated: bool) -> None:
        """Add one draw to the n draws in ``into``, and its replicates to the spread, where asked for."""
        if self._compiled:
            from gradlab.snr.recorder import compiled

            given = [m.new_zeros(len(m)) if g is None else g for g, m in zip(gradients, into.mean, strict=True)]
            values = np.array(compiled.update(into.mean, into.m2, given, [], n, 1, replicated=replicated))
        else:
            values = passes.draw(into, gradients, n, replicated)
        if replicated:
            self._spread(values, n)

    def _join(self, other: Moments, n: int, b: int, replicated: bool) -> None:
        """Add the b draws in ``other`` to the n closed draws, and their replicates to the spread, where asked for."""
        if self._compiled:
            from gradlab.snr.recorder import compiled

            mine = self.moments
            values = np.array(compiled.update(mine.mean, mine.m2, other.mean, other.m2, n, b, replicated=replicated))
        else:
            values = passes.join(self.moments, other, n, b, replicated)
        if replicated:
            self._spread(values, n)

    @property
    def _compiled(self) -> bool:
        return self.large and self.moments.layout.on_cpu

    def _spread(self, values: NDArray[np.float64], n: int) -> None:
        """The replicates of the parameters add up to those of every entity."""
        sums = np.add.reduceat(values[self._members], self._starts)
        self.spread = self.spread.update(torch.from_numpy(sums), n)
