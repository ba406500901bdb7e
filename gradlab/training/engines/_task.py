"""A training run as a task: what it needs, and what the process does that takes it."""

from __future__ import annotations

import functools
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gradlab import data
from gradlab.data import Picture
from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import determinism, heartbeat, provenance, signals
from gradlab.runtime.progress import Progress, skip
from gradlab.training.loop import Training, training
from gradlab.training.options import RunOptions
from gradlab.training.run import Run, run_of
from gradlab.training.settings import TrainSettings

TOKEN = ".seen"
LOOK_SECONDS = 2.0
RETRIES = 3
"""How often a run is taken up again after its process died."""


class Task(NamedTuple):
    """A training run.

    Attributes:
        name: in the terminal.
        settings: what is trained; its ``data`` is the fingerprint of the sweep's images (``settings.on``).
        snr: iterations between records of the gradient SNR (0: none), and draws of each.
        within: folder below that of all runs; for a second training, beside which the first stays.
    """

    name: str
    settings: TrainSettings
    snr: tuple[int, int] = (0, 2)
    within: str = ""

    def run(self, runs: Path) -> Run:
        """Where it lives."""
        return run_of(self.settings, runs / self.within)


@dataclass(frozen=True)
class Sweep:
    """Training runs on the same images.

    Attributes:
        tasks: the runs; the ``data`` of their settings is the fingerprint of the images.
        runs: folder of all runs.
        images: folder of the images; None stands for the embedded photographs.
        pictures: the same, loaded.
        progress: shows how far the runs have come.
        study: for which they are done.
        options: how each is done; its ``progress`` and ``snr_every`` are the tasks' own.
        deterministic: whether other processes, too, are to compute the same bits every time.
        finished: called in this process with each task that is done.
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


class Order(NamedTuple):
    """A task for another process, in plain data.

    Attributes:
        task: the run.
        runs: absolute path of the folder of all runs.
        token: what the file ``TOKEN`` in it says to whoever sees the folder.
        images: absolute path, or None.
        study, options, deterministic: as of the sweep, without progress and deadline.
        until: deadline in seconds since 1970, or None.
        shares: how many processes share the cores of this machine; 0 where the engine divides them itself.
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
    """How an order ended: ``"done"``, ``"stopped"`` or ``"failed"`` with a sentence."""

    status: str
    sentence: str = ""


def doing(task: Task, runs: Path, pictures: Sequence[Picture], options: RunOptions, study: str) -> Training:
    """Train one model in this process, an iteration at a time, and say so in its folder."""
    run = task.run(runs)
    with heartbeat.running(run.folder, task.settings.steps, study) as pulse:
        every, draws = task.snr
        mine = replace(options, snr_every=every, snr_draws=draws, progress=Both(pulse, options.progress))
        yield from training(task.settings, pictures, runs / task.within, mine)


def do(task: Task, runs: Path, pictures: Sequence[Picture], options: RunOptions, study: str) -> None:
    """Train one model in this process to its end."""
    for _ in doing(task, runs, pictures, options, study):
        pass


class Both:
    """Tells two of what is done, in turn."""

    def __init__(self, one: Any, other: Any) -> None:
        self._them = one, other

    def __call__(self, n: int = 1, note: str = "") -> None:
        for advance in self._them:
            advance(n, note)

    def skip(self, n: int, note: str = "") -> None:
        for advance in self._them:
            skip(advance, n, note)


class _Withdrawal:
    """Ends the work when whoever ordered it has taken the order back, and with it the file that says so."""

    def __init__(self, order: Order) -> None:
        self._order, self._next = order, 0.0

    def __call__(self, n: int = 1, note: str = "") -> None:
        now = time.monotonic()
        if now > self._next:
            self._next = now + LOOK_SECONDS
            if not _sees(Path(self._order.runs) / TOKEN, self._order.token):
                raise Stopped("stopped with the process that ordered it")

    def skip(self, n: int, note: str = "") -> None:
        pass


def carry_out(order: Order) -> Outcome:
    """Do an order in this process, whoever did a part of it before: from the last checkpoint, if there is one."""
    with signals.handled(), determinism.deterministic_mode(order.deterministic):
        return _carry_out(order)


def _carry_out(order: Order) -> Outcome:
    if order.shares and not order.deterministic and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, provenance.cores() // order.shares))
    deadline = None if order.until is None else time.monotonic() + order.until - time.time()
    try:
        if not _sees(Path(order.runs) / TOKEN, order.token):
            raise GradlabError(
                f"the machine {socket.gethostname()} does not see {order.runs}: on a cluster the output folder must "
                "lie on a disk that all machines share"
            )
        signals.raise_if_stopped(deadline)
        pictures = _pictures(order.images, order.task.settings.crop)
        if data.fingerprint(pictures) != order.task.settings.data:
            raise GradlabError(
                f"the machine {socket.gethostname()} sees other training images than the one that ordered the run: "
                "give a folder that all machines share"
            )
        options = replace(order.options, resume=True, deadline=deadline, progress=_Withdrawal(order))
        do(order.task, Path(order.runs), pictures, options, order.study)
        return Outcome("done")
    except Stopped as stopped:
        return Outcome("stopped", str(stopped))
    except GradlabError as error:
        return Outcome("failed", str(error))
    except Exception as error:  # one run's trouble, e.g. memory that is too small, is not that of the others
        traceback.print_exc()
        return Outcome("failed", f"{type(error).__name__}: {error}".partition("\n")[0])


def _sees(path: Path, token: str) -> bool:
    try:
        return path.read_text() == token
    except OSError:
        return False


@functools.lru_cache(maxsize=1)
def _pictures(images: str | None, crop: int) -> list[Picture]:
    """A process that does one order after the other reads the images once."""
    return data.load(images, "train", crop)
