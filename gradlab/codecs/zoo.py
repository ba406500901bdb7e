"""The image codecs by name: build one with fresh weights, or load a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import SupportsIndex

from torch import Tensor

from gradlab.codecs.base import Codec
from gradlab.codecs.context import Autoregressive, ChengAnchor, ChengAttention
from gradlab.codecs.factorized import Factorized
from gradlab.codecs.hyperprior import Hyperprior, MeanScale, SmallHyperprior
from gradlab.codecs.loading import read_state_dict
from gradlab.codecs.shared import check_channels, initialise
from gradlab.errors import GradlabError
from gradlab.validation import checked, known, wholes

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


@checked
def build(
    name: str, channels: SupportsIndex | Iterable[SupportsIndex], direct_y: bool = True, seed: SupportsIndex = 0
) -> Codec:
    """Build a codec with freshly drawn weights.

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
    kind = CODECS[known("codec", name, CODECS)]
    return initialise(kind, check_channels(name, channels, kind.channel_names), seed, direct_y=direct_y)


@checked
def load(
    path: str | Path,
    name: str,
    channels: SupportsIndex | Iterable[SupportsIndex] | None = None,
    direct_y: bool = True,
) -> Codec:
    """Load a codec with the weights of a checkpoint, CompressAI's or gradlab's.

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
    known("codec", name, CODECS)
    state = read_state_dict(Path(path))
    codec = _with_weights(name, state)
    if codec is None:
        others = [other for other in CODECS if other != name and _with_weights(other, state)]
        looks = f"it looks like {' or '.join(others)}" if others else f"it is none of {', '.join(CODECS)}"
        raise GradlabError(f"checkpoint {path} is not of {name}: {looks}")
    given, actual = None if channels is None else tuple(wholes("channels", channels)), CODECS[name].channels_of(state)
    if given not in (None, actual):
        raise GradlabError(
            f"checkpoint {path} has channels {actual}, not {given}: leave channels out to take them from it"
        )
    codec.direct_y = direct_y
    return codec


def _with_weights(name: str, state: Mapping[str, Tensor]) -> Codec | None:
    """The codec ``name`` with these weights, or None where names or shapes are of another architecture."""
    try:
        channels = CODECS[name].channels_of(state)
        # One tensor of a damaged file may claim channels whose model fills the memory; the others do not bear it out.
        if sum(t.numel() for t in state.values()) < 9 * channels[0] ** 2 + channels[0] * channels[-1]:
            return None
        codec = build(name, channels)
        codec.load_state_dict(dict(state))
    except (KeyError, IndexError, ValueError, RuntimeError):  # a name, a shape, or channels that are missing or wrong
        return None
    return codec.eval()
