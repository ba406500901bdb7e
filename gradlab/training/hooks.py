"""What happens after an iteration: the breakdown watch, the log, TensorBoard, gradient SNR, snapshots, checkpoints.

A hook is called after each iteration with the rows that were read in it: on a CPU those of the iteration, on an
accelerator none most of the time. A hook that needs the weights says so by ``due``, so that the device is read first.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gradlab.data import Crops, VideoCrops
from gradlab.errors import GradlabError
from gradlab.noise import stream
from gradlab.runtime import distributed, files
from gradlab.snr import GradientRecorder, SNRMonitor
from gradlab.training import breakdown
from gradlab.training.options import RunOptions
from gradlab.training.run import LAST, Run
from gradlab.training.state import TrainState
from gradlab.training.steps import Seen

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_COLUMNS = ("iteration", "loss", "bpp", "mse", "learning_rate", "gradient_norm")


class Hook(Protocol):
    """Called after each iteration."""

    def due(self, done: int) -> bool:
        """Whether this hook needs the device to be read after iteration ``done``, counted from 1."""

    def __call__(self, rows: list[Seen], stopping: bool) -> None:
        """Take in the rows that were read; ``stopping`` says that this is the last iteration for now."""


class Watch:
    """Ends training that breaks down, naming the iteration and the module, and keeps the batch and the weights.

    Raises:
        GradlabError: a loss or gradient that is not finite, or a loss that explodes.
    """

    def __init__(self, state: TrainState, batches: Crops | VideoCrops, run: Run, explosion: float) -> None:
        self._state, self._batches, self._run = state, batches, run
        self._watch = breakdown.Watch(explosion, state.watched)

    @property
    def calm(self) -> bool:
        """Whether the last loss was ordinary, so that a checkpoint made now is a good one."""
        return self._watch.calm

    def due(self, done: int) -> bool:
        """It judges whatever is read."""
        return False

    def __call__(self, rows: list[Seen], stopping: bool) -> None:
        """Judge each iteration."""
        for row in rows:
            wrong = self._watch.see(row.loss, row.gradient_norm)
            if wrong:
                x = self._batches.batch(row.iteration - 1)
                raise breakdown.keep(self._run, self._state, x, row.iteration - 1, wrong)
        self._state.watched = self._watch.state()


class Log:
    """Every n-th iteration becomes a row of ``log.csv``, and a point of TensorBoard."""

    def __init__(self, state: TrainState, every: int, board: SummaryWriter | None) -> None:
        self._state, self._every, self._board = state, every, board

    def due(self, done: int) -> bool:
        """After every n-th iteration and the last."""
        return done % self._every == 0 or done == self._state.settings.steps

    def __call__(self, rows: list[Seen], stopping: bool) -> None:
        """Keep the rows that are due."""
        for row in rows:
            if self.due(row.iteration):
                entry = {name: getattr(row, name) for name in LOG_COLUMNS}
                self._state.log.append(entry)
                for name in LOG_COLUMNS[1:] if self._board is not None else ():
                    self._board.add_scalar(name, entry[name], row.iteration)  # type: ignore[union-attr]


class Recordings:
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

    def __call__(self, rows: list[Seen], stopping: bool) -> None:
        """Record where it is due."""
        state, settings = self._state, self._state.settings
        # A capture that failed leaves CUDA's default generator unusable.
        cuda = state.device.type == "cuda"
        noise = stream(settings.seed, "snr draws", state.iteration, state.device) if cuda else None
        self._monitor.after_step(state.iteration, lambda: settings.loss(state.codec, self._unseen, settings.lam, noise))


class Snapshots:
    """The weights after the iterations that the settings name; the first process writes them."""

    def __init__(self, state: TrainState, run: Run) -> None:
        self._state, self._run = state, run

    def due(self, done: int) -> bool:
        """After those iterations, but the last: its weights are the run's own."""
        return done in self._state.settings.snapshots and done < self._state.settings.steps

    def __call__(self, rows: list[Seen], stopping: bool) -> None:
        """Write one where it is due."""
        if self.due(self._state.iteration) and distributed.group().is_main:
            path = self._run.snapshot(self._state.iteration)
            self._state.snapshot(path)
            self._run.note(path)


class Checkpoints:
    """A checkpoint every so many seconds, and before a stop; never of training that is about to break down."""

    def __init__(self, state: TrainState, run: Run, seconds: float, watch: Watch) -> None:
        self._state, self._run, self._seconds, self._watch = state, run, seconds, watch
        self._last = time.monotonic()

    def due(self, done: int) -> bool:
        """It takes whatever is read: all processes of a run read at the same iterations."""
        return False

    def __call__(self, rows: list[Seen], stopping: bool) -> None:
        """Write one where it is time."""
        if not rows or not self._watch.calm or self._state.iteration >= self._state.settings.steps:
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
    """A writer of TensorBoard events.

    Raises:
        GradlabError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise GradlabError("TensorBoard is not installed: pip install 'gradlab[tensorboard]'") from None
    return SummaryWriter(str(folder))
