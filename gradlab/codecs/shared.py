"""Checks and tensor helpers that image codecs and the P-frame codec share."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, SupportsIndex, TypeVar

import torch
from torch import Tensor, nn

from gradlab.codecs.precision import check_weight_dtype
from gradlab.errors import GradlabError
from gradlab.noise import uniform
from gradlab.validation import whole, wholes

MOST_CHANNELS = 4096
COUNTS = ("no", "one positive integer", "two positive integers")
Model = TypeVar("Model", bound=nn.Module)


def check_input(codec: Any, x: Tensor, kind: str, remedy: str) -> None:
    """Refuse images or frames ``[..., H, W]`` that do not fit a codec.

    Args:
        codec: the ``Codec`` or ``PFrame`` that reads them.
        x: the images or frames.
        kind: ``"images"`` or ``"frames"``, for the error.
        remedy: how to change their size, for the error.

    Raises:
        GradlabError: another type or device than the codec's, no pixels, or a size that is not a multiple of
            ``downsampling_factor``.
    """
    weight, (height, width) = next(codec.parameters()), x.shape[-2:]
    check_weight_dtype(weight)
    if x.dtype != weight.dtype or x.device != weight.device:
        raise GradlabError(
            f"{kind} are {x.dtype} on {x.device} and the codec is {weight.dtype} on {weight.device}: move one there"
        )
    if 0 in x.shape:
        raise GradlabError(f"{kind} have shape {tuple(x.shape)}: give at least one pixel")
    factor = codec.downsampling_factor
    if height % factor or width % factor:
        raise GradlabError(f"{kind} are {height} x {width}: height and width must be multiples of {factor}; {remedy}")


def check_channels(
    name: str, channels: SupportsIndex | Iterable[SupportsIndex], expected: Sequence[str]
) -> tuple[int, ...]:
    """Return the channels if they are as many positive integers as the codec takes.

    Args:
        name: of the codec, for the error.
        channels: as given by the user.
        expected: ``channel_names`` of the codec.

    Raises:
        GradlabError: another number of channels, channels that are no positive integers, or too many of them.
    """
    numbers = tuple(wholes("channels", channels, empty=True))
    if len(numbers) != len(expected) or any(c < 1 for c in numbers):
        given, names = ", ".join(map(str, numbers)), ", ".join(expected)
        raise GradlabError(f"channels of {name} are ({given}): give {COUNTS[len(expected)]} ({names})")
    if max(numbers) > MOST_CHANNELS:
        raise GradlabError(f"{max(numbers)} channels fill any memory: give at most {MOST_CHANNELS}")
    return numbers


def initialise(kind: type[Model], channels: tuple[int, ...], seed: SupportsIndex, **options: Any) -> Model:
    """Build a model with weights drawn from ``seed``; the global generator is left as it was.

    Raises:
        GradlabError: a seed below 0 or beyond 64 bits.
    """
    seed = whole("seed", seed, 0)
    if seed >= 2**63:
        raise GradlabError("the seed is beyond 64 bits: give a whole number from 0 to 2^63 - 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(*channels, **options)


@contextlib.contextmanager
def eval_mode(codec: nn.Module) -> Iterator[None]:
    """Put a codec into evaluation mode for the duration of a block."""
    was_training = codec.training
    codec.eval()
    try:
        yield
    finally:
        codec.train(was_training)


def log_likelihood(x: Tensor, x_hat: Tensor, lam: float) -> Tensor:
    """``[B, K, 1]`` log p(x | y_i) in nats, -ln 2 H W lam MSE_255, of ``x [B, 3, H, W]``, ``x_hat [B, K, 3, H, W]``."""
    mse = ((255 * (x[:, None] - x_hat)) ** 2).mean(dim=(2, 3, 4))
    return (-math.log(2) * x.shape[2] * x.shape[3] * lam * mse)[:, :, None]


def noise_like(t: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """U(-1/2, 1/2) noise with the shape, type and device of ``t``."""
    return uniform(tuple(t.shape), generator, t.dtype, t.device)


def fold(t: Tensor) -> Tensor:
    """``[B, K, ...]`` to ``[B K, ...]``."""
    return t.flatten(0, 1)


def unfold(t: Tensor, batch: int) -> Tensor:
    """``[B K, ...]`` to ``[B, K, ...]``."""
    return t.unflatten(0, (batch, -1))
