"""Training: what identifies a run, its options, the loop, and where it is done."""

from __future__ import annotations

from gradlab.training.loop import (
    WARM_UP,
    Run,
    TrainSettings,
    build,
    descend,
    loss_of,
    optimizer,
    run_of,
    set_state,
    state_of,
    train,
)

__all__ = [
    "WARM_UP",
    "Run",
    "TrainSettings",
    "build",
    "descend",
    "loss_of",
    "optimizer",
    "run_of",
    "set_state",
    "state_of",
    "train",
]
