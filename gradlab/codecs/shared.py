"""Checks and tensor helpers that image codecs and the P-frame codec share."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

import torch
from torch import Tensor, nn

from gradlab.codecs.precision import check_weight_dtype
from gradlab.errors import GradlabError
from gradlab.noise import uniform
from gradlab.validation import whole, wholes

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

MOST_CHANNELS = 4096
COUNTS = ("no", "one positive integer", "two positive integers")
Model = TypeVar("Model", bound=nn.Module)


def check_input(codec: Any, x: Shaped[Tensor, "... height width"], kind: str, remedy: str) -> None:
    """Raise an error for images or frames that do not fit a codec.

    Args:
        codec: the ``Codec`` or ``PFrame`` that reads the images.
        x: images or frames; the last two axes are height and width.
        kind: ``"images"`` or ``"frames"``, for the error message.
        remedy: how to change their size, for the error message.

    Raises:
        GradlabError: the dtype or device differs from that of the weights, the weights are float16 or bfloat16, there
            are no pixels, or height or width is not a multiple of ``downsampling_factor``.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> from gradlab.codecs.shared import check_input
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> check_input(codec, torch.rand(1, 3, 32, 48), "images", "crop or pad them")
    """
    weight, (height, width) = next(codec.parameters()), x.shape[-2:]
    check_weight_dtype(weight)
    if x.dtype != weight.dtype or x.device != weight.device:
        raise GradlabError(
            f"the {kind} are {x.dtype} on {x.device}, but the codec is {weight.dtype} on {weight.device}: "
            "convert or move one of them"
        )
    if 0 in x.shape:
        raise GradlabError(f"the {kind} have shape {tuple(x.shape)}: give at least one pixel")
    factor = codec.downsampling_factor
    if height % factor or width % factor:
        raise GradlabError(
            f"the {kind} are {height} x {width}, but height and width must be multiples of {factor}: {remedy}"
        )


def rows_of(codec: Any) -> dict[str, object]:
    """Describe a ``Codec`` or ``PFrame`` for a notebook, without a look at its weights."""
    return {
        "channels": ", ".join(f"{n} = {c}" for n, c in zip(codec.channel_names, codec.channels, strict=True)),
        "parameters": f"{sum(p.numel() for p in codec.parameters()):_}",
        "device": str(next(codec.parameters()).device),
        "precision": codec.precision,
        "mode": "training" if codec.training else "evaluation",
    }


def check_channels(
    name: str, channels: SupportsIndex | Iterable[SupportsIndex], expected: Sequence[str]
) -> tuple[int, ...]:
    """Convert numbers of channels to integers, and check that there are as many as the codec takes.

    Args:
        name: name of the codec, for the error message.
        channels: numbers of channels given by the user.
        expected: ``channel_names`` of the codec.

    Returns:
        The numbers of channels.

    Raises:
        GradlabError: ``channels`` has another length, holds anything but positive integers, or exceeds the maximum.

    Example:
        >>> from gradlab.codecs.shared import check_channels
        >>> check_channels("mbt2018", [128, 192], ("N", "M"))
        (128, 192)
    """
    numbers = tuple(wholes("channels", channels, empty=True))
    if len(numbers) != len(expected) or any(c < 1 for c in numbers):
        given, names = ", ".join(map(str, numbers)), ", ".join(expected)
        raise GradlabError(f"the channels of {name} are ({given}): give {COUNTS[len(expected)]} ({names})")
    if max(numbers) > MOST_CHANNELS:
        raise GradlabError(f"a number of channels is {max(numbers)}: give at most {MOST_CHANNELS}")
    return numbers


def initialise(kind: type[Model], channels: tuple[int, ...], seed: SupportsIndex, **options: Any) -> Model:
    """Build a model with initial weights drawn from a seed, without modifying the global generator.

    Args:
        kind: class of the model.
        channels: positional arguments of the class.
        seed: seed of the initial weights.
        **options: keyword arguments of the class.

    Returns:
        The model.

    Raises:
        GradlabError: the seed is negative or does not fit into 64 bits.

    Example:
        >>> import torch
        >>> from gradlab.codecs.shared import initialise
        >>> a, b = (initialise(torch.nn.Linear, (2, 3), seed=0) for _ in range(2))
        >>> torch.equal(a.weight, b.weight)
        True
    """
    seed = whole("seed", seed, 0)
    if seed >= 2**63:
        raise GradlabError("the seed does not fit into 64 bits: give a whole number from 0 to 2^63 - 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(*channels, **options)


@contextlib.contextmanager
def eval_mode(codec: nn.Module) -> Iterator[None]:
    """Put a codec into evaluation mode inside a ``with`` block.

    Args:
        codec: codec whose mode is restored at the end of the block.

    Example:
        >>> import gradlab as gl
        >>> from gradlab.codecs.shared import eval_mode
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> with eval_mode(codec):
        ...     codec.training
        False
        >>> codec.training
        True
    """
    was_training = codec.training
    codec.eval()
    try:
        yield
    finally:
        codec.train(was_training)


def log_likelihood(
    x: Float[Tensor, "batch 3 height width"], x_hat: Float[Tensor, "batch k 3 height width"], lam: float
) -> Float[Tensor, "batch k 1"]:
    """Compute log p(x | y_i) = -ln(2) H W lam MSE in nats, with the MSE on the 0-255 scale.

    Args:
        x: original images in [0, 1].
        x_hat: decoded samples.
        lam: R-D trade-off parameter lambda.

    Returns:
        The log-likelihoods.

    Example:
        >>> import torch
        >>> from gradlab.codecs.shared import log_likelihood
        >>> x = torch.zeros(1, 3, 8, 8)
        >>> round(float(log_likelihood(x, x[:, None] + 1 / 255, lam=1.0)), 3)  # -ln(2) 8 * 8
        -44.361
    """
    mse = ((255 * (x[:, None] - x_hat)) ** 2).mean(dim=(2, 3, 4))
    return (-math.log(2) * x.shape[2] * x.shape[3] * lam * mse)[:, :, None]


def noise_like(t: Float[Tensor, "*shape"], generator: torch.Generator | None = None) -> Float[Tensor, "*shape"]:
    """Draw noise U(-1/2, 1/2) with the shape, dtype and device of a tensor.

    Args:
        t: tensor of any shape.
        generator: generator of the noise; the global one by default.

    Returns:
        The noise.

    Example:
        >>> import torch
        >>> from gradlab.codecs.shared import noise_like
        >>> u = noise_like(torch.zeros(2, 3), torch.Generator().manual_seed(0))
        >>> tuple(u.shape), bool((u.abs() <= 0.5).all())
        ((2, 3), True)
    """
    return uniform(tuple(t.shape), generator, t.dtype, t.device)


def fold(t: Shaped[Tensor, "batch samples ..."]) -> Shaped[Tensor, "merged ..."]:
    """Merge the batch axis and the sample axis: ``[batch, k, ...]`` to ``[batch * k, ...]``.

    Args:
        t: tensor with batch and sample axes.

    Returns:
        A view or a copy of ``t``.

    Example:
        >>> import torch
        >>> from gradlab.codecs.shared import fold
        >>> tuple(fold(torch.zeros(2, 5, 3)).shape)
        (10, 3)
    """
    return t.flatten(0, 1)


def unfold(t: Shaped[Tensor, "merged ..."], batch: int) -> Shaped[Tensor, "batch samples ..."]:
    """Split the batch axis from the sample axis: ``[batch * k, ...]`` to ``[batch, k, ...]``.

    Args:
        t: tensor with merged axes.
        batch: size of the batch.

    Returns:
        A view of ``t``.

    Example:
        >>> import torch
        >>> from gradlab.codecs.shared import unfold
        >>> tuple(unfold(torch.zeros(10, 3), batch=2).shape)
        (2, 5, 3)
    """
    return t.unflatten(0, (batch, -1))
