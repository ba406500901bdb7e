"""Real codecs: CompressAI's models behind ``log_terms``. The only room that imports compressai."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch

from gradlab.codecs.hyperprior import Hyperprior, Latents, SmallHyperprior
from gradlab.errors import GradlabError, unknown

CODECS: dict[str, Callable[..., Hyperprior]] = {
    "bmshj2018-hyperprior": Hyperprior,
    "small-hyperprior": SmallHyperprior,
}


def build(name: str, channels: Sequence[int], direct_y: bool = True, seed: int = 0) -> Hyperprior:
    """A codec with freshly drawn weights.

    Args:
        name: one of ``CODECS``: ``"bmshj2018-hyperprior"`` (Balle et al. 2018) or ``"small-hyperprior"`` (for a CPU).
        channels: CompressAI's own arguments in their order, ``(N, M)``.
        direct_y: False is the paper's 2-level VAE.
        seed: of the initial weights; the global generator is left as it was.

    Returns:
        An ``nn.Module`` whose state dict is interchangeable with CompressAI's.

    Raises:
        GradlabError: unknown name, or channels that are not two positive integers.
    """
    if name not in CODECS:
        raise unknown("codec", name, CODECS)
    if len(channels) != 2 or any(int(c) != c or c < 1 for c in channels):
        raise GradlabError(f"channels of {name} are {tuple(channels)}: give two positive integers (N, M)")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CODECS[name](*(int(c) for c in channels), direct_y=direct_y)


def copy_of(codec: Hyperprior) -> Hyperprior:
    """An independent copy: same weights, same device, same mode."""
    return copy.deepcopy(codec)


__all__ = ["CODECS", "Hyperprior", "Latents", "SmallHyperprior", "build", "copy_of"]
