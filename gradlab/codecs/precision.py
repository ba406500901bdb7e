"""Precision of a codec's transforms. Latents, noise, likelihoods and distortion always stay in float32.

==========  ======================================================================================
float32     full precision, even where cuDNN uses TF32 by default
tf32        convolutions multiply 10-bit mantissas (NVIDIA, compute capability 8.0 or later)
bf16        transforms under bfloat16 autocast, with outputs converted back to float32
==========  ======================================================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError, unknown

PRECISIONS = ("float32", "tf32", "bf16")
FIRST_WITH_TF32 = (8, 0)
"""Compute capability of NVIDIA's Ampere, the first architecture with TF32 and bfloat16."""


def check(precision: str, device: str | torch.device | None = None) -> None:
    """Raise an error for a precision that is unknown or not supported by the device.

    Args:
        precision: one of ``PRECISIONS``.
        device: device of the transforms; None checks only the name.

    Raises:
        GradlabError: the precision is unknown, or the device does not support it.

    Example:
        >>> from gradlab.codecs import precision
        >>> precision.check("bf16", "cpu")
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if device is None or precision == "float32":
        return
    target = torch.device(device)
    if target.type == "cuda":
        if torch.cuda.get_device_capability(target) < FIRST_WITH_TF32:
            raise GradlabError(
                f"precision {precision!r} needs compute capability 8.0, which {torch.cuda.get_device_name(target)} "
                "lacks: give --precision float32"
            )
    elif precision == "tf32" or target.type != "cpu":
        raise GradlabError(
            f"precision {precision!r} is not available on device {str(device)!r}: give float32 (--precision float32)"
        )


@contextlib.contextmanager
def cudnn_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Set the precision of cuDNN inside a ``with`` block, and enable its benchmark mode unless it is deterministic.

    Matrix products stay in float32; in training, only the entropy bottleneck uses them. This has no effect on devices
    other than CUDA.

    Args:
        precision: one of ``PRECISIONS``.
        device: device of the transforms.

    Example:
        >>> import torch
        >>> from gradlab.codecs.precision import cudnn_precision
        >>> with cudnn_precision("tf32", torch.device("cpu")):
        ...     pass
    """
    if device.type != "cuda":
        yield
        return
    cudnn, kind = torch.backends.cudnn, "tf32" if precision == "tf32" else "ieee"
    benchmark = cudnn.benchmark
    flags = _flags(kind)
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in flags]
    try:
        cudnn.benchmark = not cudnn.deterministic
        for owner, name, value in flags:
            setattr(owner, name, value)
        yield
    finally:
        cudnn.benchmark = benchmark
        for owner, name, value in before:
            setattr(owner, name, value)


def _flags(kind: str) -> list[tuple[Any, str, Any]]:
    """Return owner, name and value of torch's flags. Torch 2.9 introduced new flags, which must not be mixed with the
    old."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):
        parts = ((cudnn.conv, kind), (cudnn.rnn, kind), (matmul, "ieee"))
        return [(owner, "fp32_precision", value) for owner, value in parts]
    return [(cudnn, "allow_tf32", kind == "tf32"), (matmul, "allow_tf32", False)]


def run_transform(module: nn.Module, x: Tensor, precision: str) -> Tensor:
    """Run a transform and return its output in the dtype of its input, even under autocast.

    Args:
        module: transform, for example ``codec.g_a``.
        x: input of the transform.
        precision: one of ``PRECISIONS``. Only ``"bf16"`` has an effect here; see ``cudnn_precision`` for the others.

    Returns:
        The output in the dtype of ``x``.

    Example:
        >>> import torch
        >>> from gradlab.codecs.precision import run_transform
        >>> run_transform(torch.nn.Linear(2, 3), torch.ones(1, 2), "bf16").dtype
        torch.float32
    """
    if precision != "bf16":
        return module(x).to(x.dtype)
    with torch.autocast(x.device.type, torch.bfloat16):
        return module(x).to(x.dtype)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return a context that disables autocast.

    Args:
        device: device whose autocast is disabled.

    Returns:
        A context manager.

    Example:
        >>> import torch
        >>> from gradlab.codecs.precision import without_autocast
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(torch.device("cpu")):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    if not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def check_weight_dtype(weight: Tensor) -> None:
    """Raise an error if the weights of a codec have 16 bits.

    Args:
        weight: any weight of the codec.

    Raises:
        GradlabError: the weights are float16 or bfloat16.

    Example:
        >>> import torch
        >>> from gradlab.codecs.precision import check_weight_dtype
        >>> check_weight_dtype(torch.zeros(1))
    """
    if weight.dtype in (torch.float16, torch.bfloat16):
        raise GradlabError(
            f"the codec is {weight.dtype}, so log-weights would overflow and noise would be lost to rounding: "
            "call codec.float(), and set codec.precision = 'bf16' for 16-bit transforms"
        )
