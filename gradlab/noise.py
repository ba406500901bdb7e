"""Base noise, drawn apart from the transform so that estimators can share draws.

Every random stream is derived from ``(seed, purpose, index)``: adding a study, an estimator or a
worker never changes the numbers of another.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from gradlab.errors import GradlabError, unknown


def stream(seed: int, purpose: str, index: int = 0, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator whose state depends on ``(seed, purpose, index)`` alone.

    Args:
        seed: the user's seed.
        purpose: what the numbers are for, e.g. ``"compare"`` or ``"crops"``.
        index: which of the streams of that purpose, e.g. the iteration.
        device: where the numbers are drawn.
    """
    digest = hashlib.sha256(f"{int(seed)}/{purpose}/{int(index)}".encode()).digest()
    generator = torch.Generator(device=device)
    # 63 bits: manual_seed takes a signed 64-bit integer.
    generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return generator


def uniform(
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Noise of the unit box, U(-1/2, 1/2), of ``shape``."""
    device = generator.device if generator is not None else device
    return torch.rand(shape, generator=generator, dtype=dtype, device=device).sub_(0.5)


def normal(
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Standard normal noise of ``shape``."""
    device = generator.device if generator is not None else device
    return torch.randn(shape, generator=generator, dtype=dtype, device=device)


BASE = {"uniform": uniform, "normal": normal}


def draw(
    kind: str,
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Base noise by the name that a posterior gives it (``"uniform"`` or ``"normal"``).

    Raises:
        GradlabError: unknown kind, or a shape with a size below 1.
    """
    if kind not in BASE:
        raise unknown("base noise", kind, BASE)
    if any(size < 1 for size in shape):
        raise GradlabError(f"noise of shape {tuple(shape)} is empty: every size must be at least 1")
    return BASE[kind](shape, generator, dtype, device)
