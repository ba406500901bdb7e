"""A recorder's statistics as plain data: tensors, numbers and lists, safe for ``torch.load(weights_only=True)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.snr.definitions import Spread
from gradlab.snr.recorder.layout import Layout, Moments
from gradlab.snr.recorder.stream import Stream

VECTORS = ("mean", "m2", "block_mean", "block_m2")


def pack(signature: list[str], stream: Stream) -> dict[str, Any]:
    """The state of a stream; tensors are copies."""
    spread = stream.spread
    return {
        "parameters": signature,
        "standard_errors": stream.standard_errors,
        "draws": stream.draws,
        "opened": stream.opened,
        **{name: [v.clone() for v in vectors] for name, vectors in zip(VECTORS, _vectors(stream), strict=True)},
        "last": None if spread.last is None else spread.last.clone(),
        "pairs": dict(spread.pairs),
        "squares": {octave: s.clone() for octave, s in spread.squares.items()},
    }


def load(stream: Stream, state: Mapping[str, Any], devices: Sequence[torch.device]) -> None:
    """Replace the state of ``stream``; nothing is changed unless all of it fits.

    Raises:
        GradlabError: something is missing or has another shape.
    """
    try:
        draws, opened = int(state["draws"]), int(state["opened"])
        vectors: dict[str, list[Tensor]] = {name: list(state[name]) for name in VECTORS}
        pairs = {int(o): int(n) for o, n in state["pairs"].items()}
        squares = {int(o): s.clone() for o, s in state["squares"].items()}
        last = None if state["last"] is None else state["last"].clone()
        entities = (stream.entities,)
        sizes = [shape.numel() for shape in stream.shapes]
        fits = (
            0 <= opened <= draws
            and pairs.keys() == squares.keys()
            and all(s.shape == entities for s in squares.values())
            and (last is None or last.shape == entities)
            and (draws == 0) == (not vectors["mean"])
            and (opened == 0 or bool(vectors["block_mean"]))
            and (bool(vectors["mean"]) or not vectors["block_mean"])
            and all([v.numel() for v in each] in ([], sizes) for each in vectors.values())
        )
        for a, b in (("mean", "m2"), ("block_mean", "block_m2")):
            fits = fits and [v.shape for v in vectors[a]] == [v.shape for v in vectors[b]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GradlabError(f"the recorder's state is damaged ({error!r}): record again") from None
    if not fits:
        raise GradlabError("the recorder's state is damaged (numbers and shapes do not fit together): record again")
    layout = Layout(stream.shapes, devices) if draws else Layout()
    moments, block = Moments(layout), Moments(layout if vectors["block_mean"] else Layout())
    for into, means, m2s in ((moments, "mean", "m2"), (block, "block_mean", "block_m2")):
        for index, (mean, m2) in enumerate(zip(vectors[means], vectors[m2s], strict=True)):
            into.put(index, mean.reshape(-1), m2.reshape(-1))
    stream.moments, stream.block = moments, block
    stream.draws, stream.opened, stream.spread = draws, opened, Spread(last, pairs, squares)


def _vectors(stream: Stream) -> list[list[Tensor]]:
    return [stream.moments.mean, stream.moments.m2, stream.block.mean, stream.block.m2]
