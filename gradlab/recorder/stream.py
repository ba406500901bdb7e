"""Welford's moments of many parameters, in place, with the replicates that standard errors need.

Cost per draw decides whether people leave a recorder on: the arithmetic of large models on a CPU is in compiled loops
that read every number once (``compiled``), that of small ones and on accelerators in few calls of torch (``passes``).
What is here is their order.

Memory, in float64 copies of the parameters: mean and M2 (2 copies); with standard errors and 64 draws or more also mean
and M2 of the current block (4 copies). Nothing grows with the number of draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradlab.recorder import passes
from gradlab.snr import Spread

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
        mean: flat float64 vectors of the closed draws; ``m2`` likewise.
        block_mean: of the open block, empty while blocks are single draws; ``block_m2`` likewise.
        opened: draws in the open block.
        large: whether the arithmetic on a CPU is compiled.
        spread: the replicates' spread, by entity.
    """

    def __init__(self, parameters: Sequence[Tensor], entities: Sequence[Sequence[int]], standard_errors: bool) -> None:
        """``entities``: for each row of the summary, the positions of its parameters."""
        self.sizes = [p.numel() for p in parameters]
        self.entities = [torch.tensor(rows) for rows in entities]
        self.large = sum(self.sizes) >= LARGE
        self.standard_errors = standard_errors
        self.draws = self.opened = 0
        self.mean: list[Tensor] = []
        self.m2: list[Tensor] = []
        self.block_mean: list[Tensor] = []
        self.block_m2: list[Tensor] = []
        self.spread = Spread()

    def allocate(self, devices: Sequence[torch.device]) -> None:
        """Make room, once; a device without float64 keeps its statistics on the CPU."""
        if not self.mean:
            homes = [torch.device("cpu") if d.type == "mps" else d for d in devices]
            pairs = list(zip(self.sizes, homes, strict=True))
            self.mean = [torch.zeros(size, dtype=torch.float64, device=at) for size, at in pairs]
            self.m2 = [torch.zeros_like(m) for m in self.mean]

    def update(self, gradients: Sequence[Tensor | None]) -> None:
        """One more draw; None is a gradient of 0. Any float dtype, any device, shapes as the parameters'."""
        given = [m.new_zeros(len(m)) if g is None else g for g, m in zip(gradients, self.mean, strict=True)]
        closed = self.draws - self.opened
        size = block_size(closed) if self.standard_errors else 1
        if size == 1:
            replicated = self.standard_errors and closed >= BURN_IN
            self._merge(self.mean, self.m2, given, [], closed, 1, replicated)
            self.draws += 1
            return
        if not self.block_mean:
            self.block_mean = [torch.empty_like(m) for m in self.mean]
            self.block_m2 = [torch.empty_like(m) for m in self.m2]
        if self.opened == 0:
            for vector in (*self.block_mean, *self.block_m2):
                vector.zero_()
        self._merge(self.block_mean, self.block_m2, given, [], self.opened, 1, False)
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
        self._merge(self.mean, self.m2, self.block_mean, self.block_m2, n, b, replicated)

    def totals(self, index: int) -> tuple[Tensor, Tensor]:
        """Mean and M2 of one parameter over all draws, flat; the state is left as it is."""
        mean, m2 = self.mean[index], self.m2[index]
        if not self.opened:
            return mean, m2
        n, b = self.draws - self.opened, self.opened
        delta = self.block_mean[index] - mean
        return mean + delta * (b / (n + b)), m2 + self.block_m2[index] + delta.square_() * (n * b / (n + b))

    def merge(self, other: Stream) -> None:
        """Take in the draws of another stream over the same parameters (Chan)."""
        if other.draws == 0:
            return
        self.flush()
        self.allocate([m.device for m in other.mean])
        n, b = self.draws, other.draws
        parts = [other.totals(i) for i in range(len(self.mean))]
        self._merge(self.mean, self.m2, [m for m, _ in parts], [s for _, s in parts], n, b, replicated=False)
        self.draws += b
        self.spread = self.spread.merge(other.spread, self.draws)

    def _merge(
        self,
        means: list[Tensor],
        m2s: list[Tensor],
        others: Sequence[Tensor],
        other_m2s: Sequence[Tensor],
        n: int,
        b: int,
        replicated: bool,
    ) -> None:
        """Merge b draws into n, and their replicates into the spread, where asked for."""
        if self.large and all(m.device.type == "cpu" for m in means):
            from gradlab.recorder import compiled

            values = torch.tensor(compiled.update(means, m2s, others, other_m2s, n, b, replicated), dtype=torch.float64)
        else:
            found = passes.update(means, m2s, others, other_m2s, n, b, replicated)
            values = torch.stack([v.to("cpu") for v in found]) if replicated else torch.empty(0)
        if replicated:
            # The replicates of the parameters add up to those of every entity.
            self.spread = self.spread.update(torch.stack([values[rows].sum() for rows in self.entities]), n)
