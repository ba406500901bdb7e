"""``RunOptions``: the options of a training run that do not change its results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from gradlab import validation
from gradlab.errors import GradlabError
from gradlab.runtime.progress import quiet
from gradlab.validation import check_fields, known, whole

STEPS = ("auto", "eager", "graph")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a training run is executed; passed as a whole from the command line to the loop.

    Args:
        device: an available torch device.
        resume: continue from the last checkpoint, if there is one; otherwise an unfinished run starts anew.
        deadline: on ``time.monotonic()``; then a checkpoint is written and ``Stopped`` raised. None for no deadline.
        checkpoint_seconds: seconds between checkpoints: a killed run loses at most these, and the iterations since the
            device was read (``log_every``).
        log_every: iterations between rows of the log. On an accelerator, loss and gradient norm stay on the device in
            between, so a breakdown is detected up to this many iterations late.
        snr_every: record the gradient SNR of the codec's groups every so many iterations, on one minibatch that no
            iteration trains on, to ``run.snr(...)``; 0 for never. The weights come out the same.
        snr_draws: gradients of each such point; the cost is that of snr_draws / snr_every more iterations.
        tensorboard: also write TensorBoard events (extra ``gradlab[tensorboard]``).
        explosion: training stops if the loss exceeds its lowest median by this factor; infinity for never.
        step: ``"eager"``, ``"graph"`` (CUDA), or ``"auto"``: the graph on CUDA where it can be captured.
        progress: called as ``progress(n, note)`` after every n iterations.

    Raises:
        GradlabError: a device that is not available, an unknown step, a graph without CUDA, or a number out of range.
    """

    device: str = "cpu"
    resume: bool = False
    deadline: float | None = None
    checkpoint_seconds: float = 60.0
    log_every: int = 50
    snr_every: int = 0
    snr_draws: int = 20
    tensorboard: bool = False
    explosion: float = 20.0
    step: Literal["auto", "eager", "graph"] = "auto"
    progress: Callable[..., Any] = quiet

    def __post_init__(self) -> None:
        known("step", self.step, STEPS)
        check_fields(self)
        for name, least in (("log_every", 1), ("snr_every", 0), ("snr_draws", 2)):
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        device = validation.device(self.device)
        if self.step == "graph" and device.type != "cuda":
            raise GradlabError(f"step 'graph' needs CUDA, but the device is {self.device!r}: give 'auto' or 'eager'")
        if not self.checkpoint_seconds >= 0:
            raise GradlabError(f"checkpoint_seconds is {self.checkpoint_seconds}: give at least 0")
        if math.isnan(self.explosion) or self.explosion <= 1:
            raise GradlabError(f"explosion is {self.explosion}: give a factor above 1, or infinity for none")
