"""Image codecs by name: build one with random weights or load a checkpoint."""

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
"""Image codecs by the names that ``build`` and ``load`` accept."""


@checked
def build(
    name: str, channels: SupportsIndex | Iterable[SupportsIndex], direct_y: bool = True, seed: SupportsIndex = 0
) -> Codec:
    """Build a codec with random weights.

    Args:
        name: architecture, one of ``CODECS``: ``"bmshj2018-factorized"`` or ``"bmshj2018-hyperprior"`` (Balle et al.
            2018), ``"small-hyperprior"`` (a smaller hyperprior for CPUs), ``"mbt2018-mean"`` or ``"mbt2018"`` (Minnen
            et al. 2018), ``"cheng2020-anchor"`` or ``"cheng2020-attn"`` (Cheng et al. 2020, with a single Normal).
        channels: CompressAI's arguments in their order: ``(N, M)``, or ``(N,)`` for cheng2020.
        direct_y: whether h_a reads the mean of y. False gives the 2-level VAE of the paper, which the factorised prior
            does not support.
        seed: seed of the initial weights. The global generator is not modified.

    Returns:
        A codec whose state dict can be exchanged with CompressAI's model.

    Raises:
        GradlabError: the name is unknown, ``channels`` does not hold as many positive integers as the codec takes, or
            ``direct_y`` is False for a codec without z.

    Example:
        >>> import gradlab as gl
        >>> codec = gl.codecs.build("bmshj2018-hyperprior", channels=(8, 12))
        >>> type(codec).__name__, codec.downsampling_factor
        ('Hyperprior', 64)
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
    """Load a codec from a checkpoint of CompressAI or gradlab.

    Pickles are loaded with ``weights_only=True``, so nothing in a file is executed.

    Args:
        path: a ``.pth`` or ``.pth.tar`` file with a state dict, or with a dictionary that holds one under
            ``"state_dict"``; or a ``.safetensors`` file that gradlab wrote. DataParallel's prefix and CompressAI's
            older parameter names are accepted.
        name: architecture, one of ``CODECS``.
        channels: see ``build``; by default inferred from the weights.
        direct_y: whether h_a reads the mean of y. CompressAI's models were trained with direct-y.

    Returns:
        The codec in evaluation mode. Call ``finish()`` if the checkpoint does not hold coding tables.

    Raises:
        GradlabError: the name is unknown; the file is missing, corrupt, or holds anything but tensors; or the weights
            belong to another architecture or have other numbers of channels.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(codec.state_dict(), Path(folder) / "weights.pth")
        ...     again = gl.codecs.load(Path(folder) / "weights.pth", "small-hyperprior")
        >>> torch.equal(again.g_a[0].weight, codec.g_a[0].weight)
        True
    """
    known("codec", name, CODECS)
    state = read_state_dict(Path(path))
    codec = _with_weights(name, state)
    if codec is None:
        others = [other for other in CODECS if other != name and _with_weights(other, state)]
        looks = f"give the name {' or '.join(others)}" if others else f"it matches none of {', '.join(CODECS)}"
        raise GradlabError(f"the weights of checkpoint {path} do not fit {name}: {looks}")
    given, actual = None if channels is None else tuple(wholes("channels", channels)), CODECS[name].channels_of(state)
    if given not in (None, actual):
        raise GradlabError(f"checkpoint {path} has channels {actual}, not {given}: omit channels to infer them")
    codec.direct_y = direct_y
    return codec


def _with_weights(name: str, state: Mapping[str, Tensor]) -> Codec | None:
    """Build a codec with these weights; return None if their names or shapes belong to another architecture."""
    try:
        channels = CODECS[name].channels_of(state)
        # One tensor of a damaged file may imply channels whose model would not fit into memory. Compare the total size.
        if sum(t.numel() for t in state.values()) < 9 * channels[0] ** 2 + channels[0] * channels[-1]:
            return None
        codec = build(name, channels)
        codec.load_state_dict(dict(state))
    except (KeyError, IndexError, ValueError, RuntimeError):  # missing names, wrong shapes or invalid channels
        return None
    return codec.eval()
