"""Define hooks that run after each training iteration.

They detect breakdowns, write the log and TensorBoard events, record the gradient SNR, and save snapshots and
checkpoints. A hook is called after every iteration with the metrics that were read in it. On a CPU these are the
metrics of the iteration; on an accelerator there are none in most iterations. A hook that needs the weights requests it
through ``due``, so that the device is read first.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.data import Crops, VideoCrops
from gradlab.errors import needs
from gradlab.noise import stream
from gradlab.runtime import distributed, files
from gradlab.snr import GradientRecorder, SNRMonitor
from gradlab.training import breakdown
from gradlab.training.options import RunOptions
from gradlab.training.run import LAST, Run
from gradlab.training.state import TrainState
from gradlab.training.steps import StepMetrics

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_COLUMNS = ("iteration", "loss", "bpp", "mse", "learning_rate", "gradient_norm")


class Hook(ABC):
    """Base class of hooks, which are called after each iteration."""

    def due(self, done: int) -> bool:
        """Return whether this hook needs the device to be read after an iteration; False by default.

        Args:
            done: number of finished iterations.
        """
        return False

    @abstractmethod
    def __call__(self, rows: list[StepMetrics], stopping: bool) -> None:
        """Process the metrics that were read.

        Args:
            rows: metrics of the iterations since the last reading.
            stopping: whether training stops after this iteration.
        """


class Watch(Hook):
    """Stop training that breaks down; names the iteration and the module, and saves the batch and the weights.

    Raises:
        GradlabError: the loss explodes, or it or a gradient is not finite.
    """

    def __init__(self, state: TrainState, batches: Crops | VideoCrops, run: Run, explosion: float) -> None:
        self._state, self._batches, self._run = state, batches, run
        self.detector = breakdown.Detector(explosion, state.detector)

    def __call__(self, rows: list[StepMetrics], stopping: bool) -> None:
        """Check every iteration that was read."""
        for row in rows:
            problem = self.detector.check(row.loss, row.gradient_norm)
            if problem:
                x = self._batches.batch(row.iteration - 1)
                raise breakdown.breakdown_error(self._run, self._state, x, row.iteration - 1, problem)
        self._state.detector = self.detector.state()


class Log(Hook):
    """Log every n-th iteration to ``log.csv`` and TensorBoard."""

    def __init__(self, state: TrainState, every: int, board: SummaryWriter | None) -> None:
        self._state, self._every, self._board = state, every, board

    def due(self, done: int) -> bool:
        """Return True after every n-th iteration and the last one."""
        return done % self._every == 0 or done == self._state.settings.steps

    def __call__(self, rows: list[StepMetrics], stopping: bool) -> None:
        """Log the rows that are due."""
        for row in rows:
            if self.due(row.iteration):
                entry = {name: getattr(row, name) for name in LOG_COLUMNS}
                self._state.log.append(entry)
                for name in LOG_COLUMNS[1:] if self._board is not None else ():
                    self._board.add_scalar(name, entry[name], row.iteration)  # type: ignore[union-attr]


class Recordings(Hook):
    """Record the gradient SNR every n iterations, on a minibatch that no iteration trains on."""

    def __init__(
        self,
        state: TrainState,
        batches: Crops | VideoCrops,
        run: Run,
        options: RunOptions,
        board: SummaryWriter | None,
    ) -> None:
        settings = state.settings
        self._state, self._unseen = state, batches.batch(settings.steps)
        self._monitor = SNRMonitor(
            state.codec,
            GradientRecorder(state.codec.groups(), exclude=("quantiles",)),
            every=options.snr_every,
            draws=options.snr_draws,
            csv=run.snr(options.snr_every, options.snr_draws),
            tensorboard=board,
            seed=settings.seed,
        )

    def due(self, done: int) -> bool:
        """Return True after every n-th iteration."""
        return done % self._monitor.every == 0

    def __call__(self, rows: list[StepMetrics], stopping: bool) -> None:
        """Record the gradient SNR if it is due."""
        state, settings = self._state, self._state.settings
        # A failed capture leaves CUDA's default generator unusable.
        cuda = state.device.type == "cuda"
        noise = stream(settings.seed, "snr draws", state.iteration, state.device) if cuda else None
        self._monitor.after_step(state.iteration, lambda: settings.loss(state.codec, self._unseen, settings.lam, noise))


class Snapshots(Hook):
    """Save the weights after the iterations in ``settings.snapshots``; only the main process writes them."""

    def __init__(self, state: TrainState, run: Run) -> None:
        self._state, self._run = state, run

    def due(self, done: int) -> bool:
        """Return True after these iterations, except the last, whose weights are the final ones."""
        return done in self._state.settings.snapshots and done < self._state.settings.steps

    def __call__(self, rows: list[StepMetrics], stopping: bool) -> None:
        """Save a snapshot if it is due."""
        if self.due(self._state.iteration) and distributed.group().is_main:
            path = self._run.snapshot(self._state.iteration)
            self._state.snapshot(path)
            self._run.record_digests(path)


class Checkpoints(Hook):
    """Write a checkpoint at fixed time intervals and before a stop, but never while the loss is exploding.

    This hook never requests a reading, because the clocks of several processes differ. It uses the readings that other
    hooks request.
    """

    def __init__(self, state: TrainState, run: Run, seconds: float, detector: breakdown.Detector) -> None:
        self._state, self._run, self._seconds, self._detector = state, run, seconds, detector
        self._last = time.monotonic()

    def __call__(self, rows: list[StepMetrics], stopping: bool) -> None:
        """Write a checkpoint if it is time."""
        if not rows or not self._detector.stable or self._state.iteration >= self._state.settings.steps:
            return
        now = time.monotonic()
        if stopping or now - self._last >= self._seconds:
            write_log(self._run.folder, self._state.log)
            self._state.save(self._run.folder / LAST)
            self._last = now


def write_log(folder: Path, log: list[dict[str, float]]) -> None:
    """Write ``log.csv``."""
    import pandas as pd

    files.write_csv(folder / "log.csv", pd.DataFrame(log, columns=list(LOG_COLUMNS)))


def tensorboard(folder: Path) -> Any:
    """Return a writer of TensorBoard events.

    Raises:
        GradlabError: TensorBoard is not installed.
    """
    with needs("--tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(folder))
