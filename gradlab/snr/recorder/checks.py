"""Check a draw before it changes the statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradlab.errors import GradlabError, NonFinite, brief
from gradlab.snr.recorder.members import Members


def aligned(members: Members, gradients: Any) -> dict[int, Tensor]:
    """Check everything but the values of gradients from a caller.

    Args:
        members: the recorded parameters.
        gradients: the gradients.

    Returns:
        Gradients by position, without those that are None.

    Raises:
        GradlabError: if ``gradients`` is not a list or tuple, has the wrong length, holds a tensor of the wrong shape
            or type, or only None.
    """
    if not isinstance(gradients, list | tuple):
        raise GradlabError(
            f"gradients is {brief(gradients)}: give a list with one gradient for each of recorder.parameters"
        )
    if len(gradients) != len(members.parameters):
        raise GradlabError(
            f"there are {len(gradients)} gradients for {len(members.parameters)} parameters: give one for each of "
            "recorder.parameters, None for a gradient of 0"
        )
    draw = {}
    for index, (gradient, parameter) in enumerate(zip(gradients, members.parameters, strict=True)):
        if gradient is None:
            continue
        if not isinstance(gradient, Tensor) or not gradient.is_floating_point():
            kind = gradient.dtype if isinstance(gradient, Tensor) else f"a {type(gradient).__name__}"
            raise GradlabError(f"the gradient of {members.label(index)} is {kind}: give a tensor of floats, or None")
        if gradient.shape != parameter.shape:
            raise GradlabError(
                f"the gradient of {members.label(index)} has shape {list(gradient.shape)}, the parameter "
                f"{list(parameter.shape)}: give the gradients in the order of recorder.parameters"
            )
        draw[index] = gradient.detach() if gradient.requires_grad else gradient
    if not draw:
        raise GradlabError(
            "every gradient is None: differentiate a loss that depends on at least one of recorder.parameters"
        )
    return draw


def refuse_non_finite(members: Members, gradients: Mapping[int, Tensor], draw: int) -> None:
    """Raise an error for the first gradient, by position, that is not finite.

    Reads one number from the device if all are finite.

    Args:
        members: the recorded parameters.
        gradients: gradients by position.
        draw: number of the draw, for the error.

    Raises:
        NonFinite: if a gradient is not finite. The message names the parameter and the draw.
    """
    if not gradients:
        return
    norms = torch._foreach_norm(list(gradients.values()))
    if math.isfinite(torch.stack([norm.to(norms[0].device) for norm in norms]).sum()):
        return
    # The norm of finite numbers may overflow: check each gradient.
    for index in sorted(gradients):
        if not torch.isfinite(gradients[index]).all():
            raise NonFinite(
                f"the gradient of {members.label(index)} is not finite in draw {draw}: "
                "the draw was dropped; check the loss and its noise"
            )
