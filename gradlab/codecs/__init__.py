"""Real codecs: CompressAI's models behind ``log_terms``. The only room that imports compressai."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from gradlab.codecs.base import Codec, Latents
from gradlab.codecs.context import Autoregressive, ChengAnchor, ChengAttention
from gradlab.codecs.factorized import Factorized
from gradlab.codecs.hyperprior import Hyperprior, MeanScale, SmallHyperprior
from gradlab.codecs.loading import load_into
from gradlab.codecs.loss import Loss, LossParts, PlainLoss
from gradlab.codecs.video import PFrame
from gradlab.errors import GradlabError, unknown
from gradlab.validation import checked

CODECS: dict[str, type[Codec]] = {
    "bmshj2018-factorized": Factorized,
    "bmshj2018-hyperprior": Hyperprior,
    "small-hyperprior": SmallHyperprior,
    "mbt2018-mean": MeanScale,
    "mbt2018": Autoregressive,
    "cheng2020-anchor": ChengAnchor,
    "cheng2020-attn": ChengAttention,
}
"""Name -> codec, as ``build`` and ``load`` know them."""
MOST_CHANNELS = 4096
NUMBERS = ("no", "one positive integer", "two positive integers")


@checked
def build(name: str, channels: Sequence[int], direct_y: bool = True, seed: int = 0) -> Codec:
    """A codec with freshly drawn weights.

    Args:
        name: one of ``CODECS``: ``"bmshj2018-factorized"``, ``"bmshj2018-hyperprior"`` (Balle et al. 2018),
            ``"small-hyperprior"`` (the same for a CPU), ``"mbt2018-mean"``, ``"mbt2018"`` (Minnen et al. 2018),
            ``"cheng2020-anchor"`` or ``"cheng2020-attn"`` (Cheng et al. 2020, single Normal).
        channels: CompressAI's own arguments in their order: ``(N, M)``, or ``(N,)`` for cheng2020.
        direct_y: False is the paper's 2-level VAE; the factorised prior has none.
        seed: of the initial weights; the global generator is left as it was.

    Returns:
        An ``nn.Module`` whose state dict is interchangeable with CompressAI's.

    Raises:
        GradlabError: unknown name, channels that are not as many positive integers as the codec takes, or
            ``direct_y=False`` without z.
    """
    check_channels(name, channels)
    if not -(2**63) <= seed < 2**63:
        raise GradlabError("the seed is beyond 64 bits: give a whole number from 0 to 2^63 - 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CODECS[name](*(int(c) for c in channels), direct_y=direct_y)


def check_channels(name: str, channels: Sequence[int]) -> None:
    """Refuse what no image codec can be built from.

    Raises:
        GradlabError: unknown name, or channels that are not as many positive integers as the codec takes.
    """
    if name not in CODECS:
        raise unknown("codec", name, CODECS)
    expected = CODECS[name].channel_names
    if len(channels) != len(expected) or any(int(c) != c or c < 1 for c in channels):
        given, wanted = ", ".join(map(str, channels)), ", ".join(expected)
        raise GradlabError(f"channels of {name} are ({given}): give {NUMBERS[len(expected)]} ({wanted})")
    if max(channels) > MOST_CHANNELS:
        raise GradlabError(f"{max(channels)} channels fill any memory: give at most {MOST_CHANNELS}")


@checked
def load(path: str | Path, name: str, channels: Sequence[int] | None = None, direct_y: bool = True) -> Codec:
    """A codec with the weights of a checkpoint: CompressAI's own or one that gradlab wrote.

    Pickles are read as tensors alone (``weights_only``): nothing in a file is executed.

    Args:
        path: ``*.pth.tar`` or ``*.pth`` (a state dict, or a dict that holds one as ``state_dict``; DataParallel's
            prefix and CompressAI's older names are understood), or gradlab's ``*.safetensors``.
        name: its architecture, one of ``CODECS``.
        channels: as for ``build``; None takes them from the weights.
        direct_y: how h_a is fed from now on; CompressAI's models were trained with direct-y.

    Returns:
        The codec in evaluation mode; ``finish()`` it if the checkpoint was written before its coding tables were.

    Raises:
        GradlabError: unknown name; a file that is missing, corrupt, or holds more than tensors; weights of another
            architecture or of other channels.
    """
    if name not in CODECS:
        raise unknown("codec", name, CODECS)
    codec = load_into(Path(path), name, channels, CODECS, build)
    codec.direct_y = direct_y
    return codec


@checked
def copy_of(codec: Codec) -> Codec:
    """An independent copy: same weights, same device, same mode."""
    return copy.deepcopy(codec)


__all__ = [
    "CODECS",
    "Codec",
    "Hyperprior",
    "Latents",
    "Loss",
    "LossParts",
    "PFrame",
    "PlainLoss",
    "SmallHyperprior",
    "build",
    "copy_of",
    "load",
]
