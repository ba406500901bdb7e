"""The precision of a codec's transforms; latents, noise, likelihoods and distortion are always float32.

==========  ======================================================================================
float32     full precision, also where cuDNN uses TF32 by default
tf32        convolutions multiply 10-bit mantissas (NVIDIA, compute capability 8.0 or later)
bf16        transforms under bfloat16 autocast, their outputs back in float32
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
"""Compute capability of NVIDIA's Ampere, the first with TF32 and bfloat16."""


def check(precision: str, device: str | torch.device | None = None) -> None:
    """Refuse a precision that is unknown or that the device does not support.

    Args:
        precision: one of ``PRECISIONS``.
        device: where the transforms run; None checks the name alone.

    Raises:
        GradlabError: unknown precision, or one that the device lacks.
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
    """Set cuDNN to a precision, and benchmark its algorithms for each shape unless cuDNN is deterministic.

    Matrix products stay in float32; training has none but those of the entropy bottleneck. No effect on devices other
    than CUDA.
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
    """Owner, name and value of torch's flags. Torch 2.9 introduced new ones, which must not be mixed with the old."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):
        parts = ((cudnn.conv, kind), (cudnn.rnn, kind), (matmul, "ieee"))
        return [(owner, "fp32_precision", value) for owner, value in parts]
    return [(cudnn, "allow_tf32", kind == "tf32"), (matmul, "allow_tf32", False)]


def run_transform(module: nn.Module, x: Tensor, precision: str) -> Tensor:
    """Run a transform and return its output in the type of ``x``, whatever autocast lowers inside."""
    if precision != "bf16":
        return module(x).to(x.dtype)
    with torch.autocast(x.device.type, torch.bfloat16):
        return module(x).to(x.dtype)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Disable a user's autocast in the returned context."""
    if not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def check_weight_dtype(weight: Tensor) -> None:
    """Refuse a codec whose weights have 16 bits.

    Raises:
        GradlabError: float16 or bfloat16 weights.
    """
    if weight.dtype in (torch.float16, torch.bfloat16):
        raise GradlabError(
            f"the codec is {weight.dtype}, in which log-weights overflow and noise is rounded away: "
            "call codec.float(), and set codec.precision = 'bf16' for transforms of 16 bits"
        )
