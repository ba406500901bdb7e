"""Represent a training run as a task, and execute it in this process or in a worker."""

from __future__ import annotations

import functools
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from gradlab import data
from gradlab.data import Picture
from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import determinism, heartbeat, provenance, signals
from gradlab.runtime.progress import Combined, Progress
from gradlab.training.loop import Training, training
from gradlab.training.options import RunOptions
from gradlab.training.run import Run, run_of
from gradlab.training.settings import TrainSettings

TOKEN_FILE = ".seen"
TOKEN_SECONDS = 2.0
RETRIES = 3
"""Number of times that a run is continued after its process died."""


class Task(NamedTuple):
    """A training run.

    Attributes:
        name: name to show in the terminal.
        settings: settings of the run; ``data`` is the fingerprint of the sweep's images (``settings.on``).
        snr: iterations between recordings of the gradient SNR (0 for none), and draws per recording.
        within: subfolder of the folder of all runs, for a second training of the same model.
    """

    name: str
    settings: TrainSettings
    snr: tuple[int, int] = (0, 2)
    within: str = ""

    def run(self, runs: Path) -> Run:
        """Return the run on disk."""
        return run_of(self.settings, runs / self.within)


@dataclass(frozen=True)
class Sweep:
    """Training runs on the same images.

    Attributes:
        tasks: the runs; ``data`` of their settings is the fingerprint of the images.
        runs: folder of all runs.
        images: folder of the images; None for the embedded photographs.
        pictures: the same images, loaded.
        progress: shows the progress of the runs.
        study: study that the runs are trained for.
        options: options of each run; ``progress`` and ``snr_every`` are replaced by those of the task.
        deterministic: whether worker processes compute bitwise reproducible results.
        finished: called in this process with each finished task.
    """

    tasks: tuple[Task, ...]
    runs: Path
    images: Path | None
    pictures: list[Picture]
    progress: Progress
    study: str = ""
    options: RunOptions = field(default_factory=RunOptions)
    deterministic: bool = False
    finished: Callable[[Task], None] = lambda task: None

    def distinct(self) -> list[Task]:
        """Return the tasks without duplicate runs; a duplicate would wait for its own lock."""
        return list({task.run(self.runs).folder: task for task in self.tasks}.values())

    def pending(self) -> list[Task]:
        """Return the unfinished tasks without duplicate runs."""
        return [task for task in self.distinct() if not task.run(self.runs).done]


class WorkerTask(NamedTuple):
    """A task for another process, in plain data.

    Attributes:
        task: the run.
        runs: absolute path of the folder of all runs.
        token: content of ``TOKEN_FILE`` in that folder; when it changes or disappears, the task is withdrawn.
        images: absolute path of the images, or None.
        study: as in ``Sweep``.
        until: deadline in seconds since 1970, or None.
        options: as in ``Sweep``, without progress and deadline.
        deterministic: as in ``Sweep``.
        shares: number of processes that share the cores of this machine; 0 if the engine assigns cores itself.
    """

    task: Task
    runs: str
    token: str
    images: str | None
    study: str
    until: float | None
    options: RunOptions
    deterministic: bool
    shares: int = 0


class Outcome(NamedTuple):
    """How a task ended.

    Attributes:
        status: ``"done"``, ``"stopped"`` or ``"failed"``.
        message: the reason, if the task was stopped or failed.
    """

    status: str
    message: str = ""


def train_task(task: Task, runs: Path, pictures: Sequence[Picture], options: RunOptions, study: str) -> Training:
    """Train one model in this process, one iteration at a time, and keep the state in its folder up to date.

    Args:
        task: the run.
        runs: folder of all runs.
        pictures: training images.
        options: as for ``gradlab.training.train``.
        study: study that the run is trained for.
    """
    with heartbeat.running(task.run(runs).folder, task.settings.steps, study) as beat:
        every, draws = task.snr
        options = replace(options, snr_every=every, snr_draws=draws, progress=Combined(beat, options.progress))
        yield from training(task.settings, pictures, runs / task.within, options)


def execute(task: WorkerTask) -> Outcome:
    """Train a model in this worker process, continuing from the last checkpoint if there is one."""
    with signals.handled(), determinism.deterministic_mode(task.deterministic):
        try:
            _execute(task)
            return Outcome("done")
        except Stopped as stopped:
            return Outcome("stopped", str(stopped))
        except GradlabError as error:
            return Outcome("failed", str(error))
        except Exception as error:  # e.g. not enough memory for one run; the others may continue
            traceback.print_exc()
            return Outcome("failed", f"{type(error).__name__}: {error}".partition("\n")[0])


def _execute(task: WorkerTask) -> None:
    if task.shares and not task.deterministic and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, provenance.cores() // task.shares))
    deadline = None if task.until is None else time.monotonic() + task.until - time.time()
    runs = Path(task.runs)
    if not _has_token(runs, task.token):
        raise GradlabError(
            f"the machine {socket.gethostname()} does not see {task.runs}: use an output folder that all machines of "
            "the cluster share"
        )
    signals.raise_if_stopped(deadline)
    pictures = _pictures(task.images, task.task.settings.crop)
    if data.fingerprint(pictures) != task.task.settings.data:
        raise GradlabError(
            f"the machine {socket.gethostname()} sees other training images than the machine that started the run: "
            "use a folder of images that all machines share"
        )
    checked_at = 0.0

    def check_token(n: int = 1, note: str = "") -> None:
        nonlocal checked_at
        now = time.monotonic()
        if now > checked_at + TOKEN_SECONDS:
            checked_at = now
            if not _has_token(runs, task.token):
                raise Stopped("stopped because the process that started it has ended")

    options = replace(task.options, resume=True, deadline=deadline, progress=check_token)
    for _ in train_task(task.task, runs, pictures, options, task.study):
        pass


def _has_token(runs: Path, token: str) -> bool:
    """Return whether this machine sees the folder of the runs, and its tasks have not been withdrawn."""
    try:
        return (runs / TOKEN_FILE).read_text() == token
    except OSError:
        return False


@functools.lru_cache(maxsize=1)
def _pictures(images: str | None, crop: int) -> list[Picture]:
    """Load the training images; a process that executes several tasks reads them once."""
    return data.load(images, "train", crop)
