"""What a draw must be before it changes the statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gradlab.errors import NonFinite
from gradlab.recorder.members import Members


def refuse_non_finite(members: Members, gradients: Mapping[int, Tensor], draw: int) -> None:
    """Raise for the first gradient, by position, that is not finite; reads one number per device.

    Raises:
        NonFinite: names the parameter and the draw.
    """
    by_device: dict[torch.device, list[int]] = {}
    for index in sorted(gradients):
        by_device.setdefault(gradients[index].device, []).append(index)
    for indices in by_device.values():
        norms = torch._foreach_norm([gradients[i] for i in indices])
        if math.isfinite(torch.stack(norms).sum()):
            continue
        # The norm of finite numbers may overflow: look at each.
        for index in indices:
            if not torch.isfinite(gradients[index]).all():
                raise NonFinite(
                    f"the gradient of {members.label(index)} is not finite in draw {draw}: "
                    "the draw was dropped; look for the loss or the noise that caused it"
                )
