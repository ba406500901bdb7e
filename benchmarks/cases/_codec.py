"""The codec, the crops and the loss that the cases on codecs share."""

from __future__ import annotations

from typing import Any

from harness import Options

LAM = 0.015


def channels(options: Options) -> tuple[int, int]:
    """(N, M) of ScaleHyperprior."""
    return (16, 24) if options.quick else (128, 192)


def codec(options: Options) -> Any:
    """gradlab's, in training mode."""
    import gradlab as gl

    return gl.codecs.build("bmshj2018-hyperprior", channels(options)).train()


def crops(options: Options, batch: int = 8) -> Any:
    """``[8, 3, 64, 64]`` of the embedded photographs."""
    import gradlab as gl

    return gl.data.Crops(gl.data.embedded("train"), size=64, batch=batch, seed=1).batch(0)


def loss(model: Any, x: Any, draw: int, objective: str = "elbo", k: int = 1, l: int = 1) -> Any:
    """The training loss on the noise of a draw."""
    from gradlab.codecs import Loss
    from gradlab.noise import stream

    return Loss(objective, k=k, l=l)(model, x, LAM, stream(0, "recording", draw))


def clear(model: Any) -> None:
    """No gradients, and no memory for them."""
    for parameter in model.parameters():
        parameter.grad = None
