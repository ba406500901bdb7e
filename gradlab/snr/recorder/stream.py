"""Accumulate Welford's moments of many parameters in place, with the replicates that standard errors need.

This module schedules the work. The arithmetic of large models on a CPU is in compiled loops that read every number once
(``compiled``); for small models and on accelerators it is in a few calls of torch (``passes``).

Memory, in float64 copies of the parameters: mean and M2 (2 copies); with standard errors and at least 64 draws, also
mean and M2 of the current block (4 copies). ``passes`` needs working memory of bounded size (``layout.CHUNK``), and a
merge two more copies while it runs. Nothing grows with the number of draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradlab import kernels
from gradlab.errors import GradlabError
from gradlab.snr.definitions import Spread
from gradlab.snr.recorder import passes
from gradlab.snr.recorder.layout import Layout, Moments

LARGE = 1 << 16
"""From this many scalars on, the compiled loops are worth their import, which takes half a second."""

BURN_IN = 8
"""Draws before the first replicate; fewer do not determine the mean of a parameter well enough."""

BLOCKS = 32
"""Blocks per doubling of the draws, so that at most 96 count; below 64 draws every draw is a block."""

VECTORS = ("mean", "m2", "block_mean", "block_m2")
"""Keys of a state whose values are lists of flat vectors, one per parameter."""


def block_size(draws: int) -> int:
    """Return the size of the block that starts after ``draws`` draws: a power of two, 1 below 64 draws."""
    return max(1, 1 << max(0, (draws // BLOCKS).bit_length() - 1))


class Stream:
    """Running moments of a list of tensors.

    Args:
        parameters: the tensors.
        entities: for each row of the summary, the positions of its parameters.
        standard_errors: whether to compute replicates.

    Attributes:
        draws: number of draws so far, including those in the open block.
        moments: moments of the closed draws; empty before the first draw.
        block: moments of the open block; empty while blocks are single draws.
        opened: number of draws in the open block.
        large: whether the arithmetic on a CPU is compiled.
        entities: number of rows of the summary.
        spread: spread of the replicates, by entity.
    """

    def __init__(self, parameters: Sequence[Tensor], entities: Sequence[Sequence[int]], standard_errors: bool) -> None:
        self.shapes = [p.shape for p in parameters]
        self.entities = len(entities)
        self._members = np.concatenate(entities)
        self._starts = np.cumsum([0, *map(len, entities[:-1])])
        self.large = sum(shape.numel() for shape in self.shapes) >= LARGE and kernels.compiles()
        self.standard_errors = standard_errors
        self.draws = self.opened = 0
        self.moments = self.block = Moments(Layout())
        self.spread = Spread()

    def allocate(self, devices: Sequence[torch.device]) -> None:
        """Allocate the moments once; a device without float64 keeps its statistics on the CPU."""
        if not self.moments.mean:
            self.moments = Moments(Layout(self.shapes, devices))

    def update(self, gradients: Sequence[Tensor | None]) -> None:
        """Add a draw in the shapes of the parameters, of any float type and device; None counts as 0."""
        closed = self.draws - self.opened
        size = block_size(closed) if self.standard_errors else 1
        if size == 1:
            self._add(self.moments, gradients, closed, 1, self.standard_errors and closed >= BURN_IN)
            self.draws += 1
            return
        if not self.block.mean:
            self.block = Moments(self.moments.layout)
        if self.opened == 0:
            self.block.zero_()
        self._add(self.block, gradients, self.opened, 1, False)
        self.draws += 1
        self.opened += 1
        if self.opened >= size:
            self._close(replicated=True)

    def totals(self, index: int) -> tuple[Tensor, Tensor]:
        """Return mean and M2 of one parameter over all draws, flat; the state does not change."""
        mean, m2 = self.moments.mean[index], self.moments.m2[index]
        if not self.opened:
            return mean, m2
        n, b = self.draws - self.opened, self.opened
        delta = self.block.mean[index] - mean
        return mean + delta * (b / (n + b)), m2 + self.block.m2[index] + delta.square_() * (n * b / (n + b))

    def merge(self, other: Stream) -> None:
        """Add the draws of another stream over the same parameters (Chan, Golub & LeVeque 1983)."""
        if other.draws == 0:
            return
        if self.opened:
            self._close(replicated=False)
        self.allocate([mean.device for mean in other.moments.mean])
        totals = Moments(self.moments.layout)
        for index in range(len(self.shapes)):
            totals.put(index, *other.totals(index))
        self._add(self.moments, totals, self.draws, other.draws, False)
        self.draws += other.draws
        self.spread = self.spread.merge(other.spread, self.draws)

    def _close(self, replicated: bool) -> None:
        """Add the open block to the closed draws."""
        block, self.opened = self.opened, 0
        self._add(self.moments, self.block, self.draws - block, block, replicated)

    def _add(self, into: Moments, new: Moments | Sequence[Tensor | None], n: int, b: int, replicated: bool) -> None:
        """Add b draws (moments of several, or gradients of one) to the n in ``into``, and record their replicates.

        The replicates of the parameters of an entity add up to the replicate of the entity.
        """
        if self.large and self.moments.layout.on_cpu:
            from gradlab.snr.recorder import compiled

            values = compiled.update(into, new, n, b, replicated)
        else:
            values = passes.update(into, new, n, b, replicated)
        if replicated:
            sums = np.add.reduceat(values[self._members], self._starts)
            self.spread = self.spread.update(torch.from_numpy(sums), n)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data, safe for ``torch.load(weights_only=True)``; tensors are copies."""
        last, pairs, squares = self.spread
        vectors = (self.moments.mean, self.moments.m2, self.block.mean, self.block.m2)
        return {
            "standard_errors": self.standard_errors,
            "draws": self.draws,
            "opened": self.opened,
            **{name: [v.clone() for v in group] for name, group in zip(VECTORS, vectors, strict=True)},
            "last": None if last is None else last.clone(),
            "pairs": dict(pairs),
            "squares": {octave: s.clone() for octave, s in squares.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], devices: Sequence[torch.device]) -> None:
        """Replace the state; nothing changes unless all of it fits.

        Args:
            state: the result of ``state_dict()``.
            devices: devices of the parameters.

        Raises:
            GradlabError: if something is missing or has another shape.
        """
        sizes, entities = [shape.numel() for shape in self.shapes], (self.entities,)
        try:
            draws, opened = int(state["draws"]), int(state["opened"])
            mean, m2, block_mean, block_m2 = ([v.reshape(-1) for v in state[name]] for name in VECTORS)
            pairs = {int(octave): int(n) for octave, n in state["pairs"].items()}
            squares = {int(octave): s.clone() for octave, s in state["squares"].items()}
            last = None if state["last"] is None else state["last"].clone()
            held, held_m2, in_block, in_block_m2 = (
                [len(v) for v in group] for group in (mean, m2, block_mean, block_m2)
            )
            fits = (
                0 <= opened <= draws
                and pairs.keys() == squares.keys()
                and all(s.shape == entities for s in squares.values())
                and (last is None or last.shape == entities)
                and held == held_m2 == (sizes if draws else [])
                and in_block == in_block_m2
                and in_block in (held, [])
                and (opened == 0 or in_block == held)
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GradlabError(f"the recorder's state is damaged ({error!r}): record again") from None
        if not fits:
            raise GradlabError("the recorder's state is damaged (numbers and shapes are inconsistent): record again")
        layout = Layout(self.shapes, devices) if draws else Layout()
        self.moments, self.block = Moments(layout), Moments(layout if block_mean else Layout())
        for moments, means, m2s in ((self.moments, mean, m2), (self.block, block_mean, block_m2)):
            for index, values in enumerate(zip(means, m2s, strict=True)):
                moments.put(index, *values)
        self.draws, self.opened, self.spread = draws, opened, Spread(last, pairs, squares)
