"""Welford's moments of many parameters, in place, chunk by chunk, with the replicates that standard errors need.

Cost per draw decides whether people leave a recorder on, so the passes of an update run over chunks that stay in the
cache, through scratch memory that is allocated once, and every parameter is read once. ``snr.replicate`` is the plain
form of the replicate here: the tests hold one against the other.

Memory, in float64 copies of the parameters: mean and M2 (2 copies); with standard errors and 64 draws or more also mean
and M2 of the current block (4 copies). Nothing grows with the number of draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gradlab.snr import FLOOR, Spread

CHUNK = 1 << 16
"""Scalars per chunk and CPU thread: 512 KiB of float64, which stays in a second-level cache."""

BURN_IN = 8
"""Draws before the first replicate: fewer do not know where a parameter stands."""

BLOCKS = 32
"""Blocks per doubling of the draws, hence at most 96 that count; single draws are the blocks below 64 draws."""


def block_size(draws: int) -> int:
    """Draws of the block that starts on top of ``draws`` draws: a power of two, 1 below 64."""
    return max(1, 1 << max(0, (draws // BLOCKS).bit_length() - 1))


class _Scratch:
    """Memory for one chunk on one device."""

    def __init__(self, device: torch.device) -> None:
        # Accelerators want few large launches.
        self.size = CHUNK * torch.get_num_threads() if device.type == "cpu" else 1 << 20
        self.d, self.r = (torch.empty(self.size, dtype=torch.float64, device=device) for _ in range(2))
        self.z, self.p, self.c, self.s, self.a = (
            torch.empty(self.size, dtype=torch.float32, device=device) for _ in range(5)
        )

    def chunks(self, size: int) -> Iterator[slice]:
        return (slice(i, min(i + self.size, size)) for i in range(0, size, self.size))


class Stream:
    """Running moments of a list of tensors.

    Attributes:
        draws: draws so far, those of the open block included.
        mean: flat float64 vectors of the closed draws; ``m2`` likewise.
        block_mean: of the open block, empty while blocks are single draws; ``block_m2`` likewise.
        opened: draws in the open block.
        spread: the replicates' spread, by entity.
    """

    def __init__(self, parameters: Sequence[Tensor], entities: Sequence[Sequence[int]], standard_errors: bool) -> None:
        """``entities``: for each row of the summary, the positions of its parameters."""
        self.sizes = [p.numel() for p in parameters]
        self.entities = [torch.tensor(rows) for rows in entities]
        self.standard_errors = standard_errors
        self.draws = self.opened = 0
        self.mean: list[Tensor] = []
        self.m2: list[Tensor] = []
        self.block_mean: list[Tensor] = []
        self.block_m2: list[Tensor] = []
        self.spread = Spread()
        self._scratches: dict[torch.device, _Scratch] = {}

    def _scratch(self, device: torch.device) -> _Scratch:
        found = self._scratches.get(device)
        if found is None or (device.type == "cpu" and found.size != CHUNK * torch.get_num_threads()):
            found = self._scratches[device] = _Scratch(device)
        return found

    def allocate(self, devices: Sequence[torch.device]) -> None:
        """Make room, once; a device without float64 keeps its statistics on the CPU."""
        if not self.mean:
            homes = [torch.device("cpu") if d.type == "mps" else d for d in devices]
            pairs = list(zip(self.sizes, homes, strict=True))
            self.mean = [torch.zeros(size, dtype=torch.float64, device=at) for size, at in pairs]
            self.m2 = [torch.zeros_like(m) for m in self.mean]

    def update(self, gradients: Sequence[Tensor | None]) -> None:
        """One more draw; None is a gradient of 0. Any float dtype, any device, shapes as the parameters'."""
        closed = self.draws - self.opened
        size = block_size(closed) if self.standard_errors else 1
        if size == 1:
            replicated = self.standard_errors and closed >= BURN_IN
            parts = [self._single(i, g, closed, replicated) for i, g in enumerate(gradients)]
            self.draws += 1
            if replicated:
                self._record(parts, closed)
            return
        if not self.block_mean:
            self.block_mean = [torch.empty_like(m) for m in self.mean]
            self.block_m2 = [torch.empty_like(m) for m in self.m2]
        for i, gradient in enumerate(gradients):
            self._grow(i, gradient, self.opened)
        self.draws += 1
        self.opened += 1
        if self.opened >= size:
            self._record(self._close(replicated=True), closed)

    def flush(self) -> None:
        """Close the open block without a replicate."""
        if self.opened:
            self._close(replicated=False)

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
        for i, (mean, m2) in enumerate(zip(self.mean, self.m2, strict=True)):
            other_mean, other_m2 = (t.to(mean.device) for t in other.totals(i))
            delta = other_mean - mean
            mean.add_(delta, alpha=b / (n + b)) if n else mean.copy_(other_mean)
            m2.add_(other_m2).addcmul_(delta, delta, value=n * b / (n + b))
        self.draws += b
        self.spread = self.spread.merge(other.spread, self.draws)

    def _record(self, parts: list[Tensor], draws: int) -> None:
        """Add up the replicates of the parameters to those of every entity."""
        values = torch.stack([p.to("cpu") for p in parts])
        self.spread = self.spread.update(torch.stack([values[rows].sum() for rows in self.entities]), draws)

    def _single(self, index: int, gradient: Tensor | None, n: int, replicated: bool) -> Tensor:
        """Welford of one parameter; the replicate of this draw where asked for."""
        mean, m2 = self.mean[index], self.m2[index]
        flat = None if gradient is None else gradient.reshape(-1)
        scratch = self._scratch(mean.device)
        parts = []
        pieces = (None,) * -(-len(mean) // scratch.size) if flat is None else flat.split(scratch.size)
        for m, s, g in zip(mean.split(scratch.size), m2.split(scratch.size), pieces, strict=True):
            d = scratch.d[: len(m)] if len(m) < scratch.size else scratch.d
            d.zero_() if g is None else d.copy_(g)
            if n == 0:
                m.copy_(d)
                continue
            d.sub_(m)
            s.addcmul_(d, d, value=n / (n + 1))
            if replicated:
                parts.append(_replicate(scratch, d, m, s, None, n, 1))
            m.add_(d, alpha=1 / (n + 1))
        return torch.stack(parts).sum() if parts else mean.new_zeros(())

    def _grow(self, index: int, gradient: Tensor | None, k: int) -> None:
        """Welford of one parameter inside the open block of ``k`` draws."""
        mean, m2 = self.block_mean[index], self.block_m2[index]
        flat = None if gradient is None else gradient.reshape(-1)
        if k == 0:
            mean.zero_() if flat is None else mean.copy_(flat)
            m2.zero_()
            return
        scratch = self._scratch(mean.device)
        for at in scratch.chunks(len(mean)):
            m = mean[at]
            d = scratch.d[: len(m)]
            d.zero_() if flat is None else d.copy_(flat[at])
            d.sub_(m)
            m2[at].addcmul_(d, d, value=k / (k + 1))
            m.add_(d, alpha=1 / (k + 1))

    def _close(self, replicated: bool) -> list[Tensor]:
        """Merge the open block into the totals (Chan), with its replicates where asked for."""
        n, b = self.draws - self.opened, self.opened
        replicates = []
        for mean, m2, block_mean, block_m2 in zip(self.mean, self.m2, self.block_mean, self.block_m2, strict=True):
            scratch = self._scratch(mean.device)
            parts = []
            for at in scratch.chunks(len(mean)):
                m, s = mean[at], m2[at]
                d = torch.sub(block_mean[at], m, out=scratch.d[: len(m)])
                s.add_(block_m2[at]).addcmul_(d, d, value=n * b / (n + b))
                if replicated:
                    parts.append(_replicate(scratch, d, m, s, block_m2[at], n, b))
                m.add_(d, alpha=b / (n + b))
            replicates.append(torch.stack(parts).sum() if parts else mean.new_zeros(()))
        self.opened = 0
        return replicates


def _replicate(
    scratch: _Scratch, delta: Tensor, mean: Tensor, m2: Tensor, block_m2: Tensor | None, n: int, b: int
) -> Tensor:
    """``snr.replicate`` of one chunk, a float64 scalar: ``mean`` before the block, ``m2`` already after it.

    ``block_m2`` None stands for zeros. The root is taken in float64 (float32 cannot hold the square of a gradient of
    1e-30), what follows in float32: a standard error needs three digits. Every pass counts: c, z and their thresholds
    are kept apart from their common factor, which multiplies the sums.
    """
    size = len(mean)
    r, z, p, c = scratch.r[:size], scratch.z[:size], scratch.p[:size], scratch.c[:size]
    root, unit = scratch.s[:size], math.sqrt(n * (n + b - 1))  # c = unit * p, z = unit * alpha * z
    alpha = math.sqrt(b / (n + b))
    root.copy_(torch.rsqrt(m2, out=r)).nan_to_num_(posinf=0.0)  # 1 / std but for a factor; 0 for the dead
    p.copy_(mean).mul_(root)
    z.copy_(delta).mul_(root)
    torch.ops.aten.hardshrink.out(p, FLOOR / unit, out=c).clamp_(-8.0 / unit, 8.0 / unit)
    total = -torch.abs(c, out=scratch.a[:size]).sum().double()
    total += c.add_(z, alpha=alpha).abs_().sum()
    p.abs_()
    square = torch.dot(p, z.mul_(z)).double() * (n * b / (n + b) * (n + b - 1))
    if block_m2 is not None:
        square += torch.dot(p, z.copy_(r.square_().mul_(block_m2)).nan_to_num_(nan=0.0)) * (n + b - 1)
    scale = math.sqrt(n + b - 1)
    return unit * total - 0.5 * math.sqrt((n + b + 1) / (n - 1) / b) * scale * (square - b * p.sum())
