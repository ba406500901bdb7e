"""Checks of a draw before it changes the statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradlab.errors import GradlabError, NonFinite
from gradlab.snr.recorder.members import Members


def aligned(members: Members, gradients: Any) -> dict[int, Tensor]:
    """Check everything but the values of a caller's gradients; return them by position, without the Nones.

    Raises:
        GradlabError: no list or tuple, another number of gradients, another shape, no float type, or None throughout.
    """
    if not isinstance(gradients, list | tuple):
        raise GradlabError(
            f"the gradients are a {type(gradients).__name__}: give a list, one for each of recorder.parameters"
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
            "every gradient is None: give those of a loss that depends on at least one of recorder.parameters"
        )
    return draw


def refuse_non_finite(members: Members, gradients: Mapping[int, Tensor], draw: int) -> None:
    """Refuse the first gradient, by position, that is not finite; reads one number from the device.

    Raises:
        NonFinite: names the parameter and the draw.
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
                "the draw was dropped; look for the loss or the noise that caused it"
            )
