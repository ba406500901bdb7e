"""Define ``RunOptions``: options of a training run that do not affect its results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from gradlab import validation
from gradlab.errors import GradlabError
from gradlab.runtime.display import shown
from gradlab.runtime.progress import quiet
from gradlab.validation import check_fields, known, whole

STEPS = ("auto", "eager", "graph")


@shown
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options that control how a training run is executed.

    The same record travels from the command line to the training loop.

    Args:
        device: available torch device.
        resume: whether to continue from the last checkpoint if there is one. If False, an unfinished run starts again.
        deadline: time at which to write a checkpoint and raise ``Stopped``, on the clock of ``time.monotonic()``; None
            for no deadline.
        checkpoint_seconds: minimum seconds between checkpoints. A killed run loses at most this time plus the
            iterations since the device was last read (see ``log_every``).
        log_every: iterations between rows of the log. On an accelerator, loss and gradient norm stay on the device in
            between, so a breakdown is detected up to this many iterations late.
        snr_every: iterations between recordings of the gradient SNR of the codec's groups; 0 disables them. The
            recordings use one minibatch that no iteration trains on, are written to ``run.snr(...)``, and do not change
            the weights.
        snr_draws: gradients per recording. The relative overhead is about ``snr_draws / snr_every``.
        tensorboard: whether to also write TensorBoard events; needs TensorBoard.
        explosion: stop training if the loss stays above this multiple of its lowest median; infinity disables the
            check.
        step: ``"eager"``, ``"graph"`` (CUDA graph), or ``"auto"`` to use a CUDA graph if it can be captured.
        progress: called as ``progress(n, note)`` after every ``n`` iterations.

    Raises:
        GradlabError: the device is not available, the step is unknown or needs CUDA, or a number is out of range.

    Example:
        >>> import gradlab as gl
        >>> options = gl.training.RunOptions(log_every=100, checkpoint_seconds=300)
        >>> options.device, options.resume
        ('cpu', False)
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
