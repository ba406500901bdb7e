"""Hooks after each iteration: breakdown watch, log, TensorBoard, gradient SNR, snapshots, checkpoints.

A hook is called after each iteration with the metrics that were read in it: on a CPU those of the iteration, on an
accelerator mostly none. A hook that needs the weights requests it by ``due``, so that the device is read first.
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
    """Called after each iteration."""

    def due(self, done: int) -> bool:
        """Whether the device must be read after iteration ``done``, counted from 1; by default other hooks decide."""
        return False

    @abstractmethod
    def __call__(self, rows: list[StepMetrics], stopping: bool) -> None:
        """Process the metrics that were read; ``stopping``: this is the last iteration for now."""


class Watch(Hook):
    """Stops training that breaks down, naming the iteration and the module, and saves the batch and the weights.

    Raises:
        GradlabError: a loss or gradient that is not finite, or a loss that explodes.
    """

    def __init__(self, state: TrainState, batches: Crops | VideoCrops, run: Run, explosion: float) -> None:
        self._state, self._batches, self._run = state, batches, run
        self.detector = breakdown.Detector(explosion, state.detector)

    def __call__(self, rows: list[StepMetrics], stopping: bool) -> None:
        """Check each iteration."""
        for row in rows:
            problem = self.detector.check(row.loss, row.gradient_norm)
            if problem:
                x = self._batches.batch(row.iteration - 1)
                raise breakdown.breakdown_error(self._run, self._state, x, row.iteration - 1, problem)
        self._state.detector = self.detector.state()


class Log(Hook):
    """Every n-th iteration: a row of ``log.csv``, and a point of TensorBoard."""

    def __init__(self, state: TrainState, every: int, board: SummaryWriter | None) -> None:
        self._state, self._every, self._board = state, every, board

    def due(self, done: int) -> bool:
        """After every n-th iteration and the last."""
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
    """Gradient SNR every n iterations, on a minibatch that no iteration trains on."""

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
        """After every n-th iteration."""
        return done % self._monitor.every == 0

    def __call__(self, rows: list[StepMetrics], stopping: bool) -> None:
        """Record if it is due."""
        state, settings = self._state, self._state.settings
        # A capture that failed leaves CUDA's default generator unusable.
        cuda = state.device.type == "cuda"
        noise = stream(settings.seed, "snr draws", state.iteration, state.device) if cuda else None
        self._monitor.after_step(state.iteration, lambda: settings.loss(state.codec, self._unseen, settings.lam, noise))


class Snapshots(Hook):
    """The weights after the iterations that the settings list; the main process writes them."""

    def __init__(self, state: TrainState, run: Run) -> None:
        self._state, self._run = state, run

    def due(self, done: int) -> bool:
        """After those iterations except the last, whose weights are the final ones."""
        return done in self._state.settings.snapshots and done < self._state.settings.steps

    def __call__(self, rows: list[StepMetrics], stopping: bool) -> None:
        """Write one if it is due."""
        if self.due(self._state.iteration) and distributed.group().is_main:
            path = self._run.snapshot(self._state.iteration)
            self._state.snapshot(path)
            self._run.record_digests(path)


class Checkpoints(Hook):
    """A checkpoint every so many seconds, and before a stop; never of training that is about to break down.

    Never due by itself, since the clocks of several processes differ: it takes what the other hooks read.
    """

    def __init__(self, state: TrainState, run: Run, seconds: float, detector: breakdown.Detector) -> None:
        self._state, self._run, self._seconds, self._detector = state, run, seconds, detector
        self._last = time.monotonic()

    def __call__(self, rows: list[StepMetrics], stopping: bool) -> None:
        """Write one if it is time."""
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
