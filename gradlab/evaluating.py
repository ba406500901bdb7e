"""Evaluate trained models with bitstreams, each once: the rows of every image are kept in the folder of its run.

Studies share them, a run that was cut goes on at the next image, and other processes can evaluate a model that is
finished while the next one is trained (``Beside``).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gradlab import data, evaluation, ranks, results
from gradlab.data import Picture
from gradlab.errors import GradlabError, Stopped
from gradlab.evaluation.bitstream import coder
from gradlab.progress import quiet, skip
from gradlab.training import Run
from gradlab.training.engines.local import end_with_parent

if TYPE_CHECKING:
    import pandas as pd

KEEP_SECONDS = 1.0
MOST_PROCESSES = 4


def rows_file(run: Run, iteration: int | None, pictures: Sequence[Picture], hyper_input: str = "") -> Path:
    """Where the rows of ``rate_distortion`` are kept: the name tells iteration, images and weights."""
    images, weights = data.fingerprint(pictures)[:12], run.digest(iteration)[:12]
    at = run.settings.steps if iteration is None else iteration
    return run.folder / f"rate-distortion-{at}-{images}-{weights}{'-' * bool(hyper_input)}{hyper_input}.csv"


def rate_distortion(
    run: Run,
    iteration: int | None,
    pictures: Sequence[Picture],
    advance: Callable[..., Any] = quiet,
    *,
    hyper_input: str = "",
) -> pd.DataFrame:
    """``gradlab.evaluation.rate_distortion`` of a run's weights; what was evaluated before is read.

    Rows are kept every second, so that a process that is stopped or killed loses an image or two.

    Args:
        run: the trained model; lambda is its own.
        iteration: whose weights; None: those at the end.
        pictures: test images.
        advance: called after each image.
        hyper_input: ``codec.hyper_input``, of a 2-level VAE; the codec's own by default.

    Raises:
        GradlabError: as ``Run.codec`` and ``gradlab.evaluation.rate_distortion``.
        Stopped: by ``advance``.
    """
    import pandas as pd

    if not pictures:
        raise GradlabError("there are no images to evaluate: give at least one")
    here, path = ranks.here(), rows_file(run, iteration, pictures, hyper_input)
    before: pd.DataFrame | None = here.agreed(_kept(path, pictures) if here.first else None)
    rows = [] if before is None else [before]
    done = 0 if before is None else len(before)
    if done:
        skip(advance, done, "evaluated before")
    if done == len(pictures):
        return rows[0]
    codec = coder(run.codec(iteration))
    codec.hyper_input = hyper_input or codec.hyper_input

    def keep() -> None:
        with contextlib.suppress(GradlabError):  # the disk is full: whatever comes next will say so
            results.write_csv(path, pd.concat(rows, ignore_index=True))

    kept = time.monotonic()
    try:
        for start in range(done, len(pictures), here.size):
            several = pictures[start : start + here.size]
            rows.append(evaluation.rate_distortion(codec, several, run.settings.lam, advance))
            if time.monotonic() - kept > KEEP_SECONDS:
                keep()
                kept = time.monotonic()
    finally:
        if len(rows) > bool(done):
            keep()
    return pd.concat(rows, ignore_index=True)


def _kept(path: Path, pictures: Sequence[Picture]) -> pd.DataFrame | None:
    """The rows of the first images; None where there are none, or where the file is damaged."""
    try:
        rows = results.read_csv(path)
        if not 0 < len(rows) <= len(pictures) or "rd_cost" not in rows:
            return None
        return rows.assign(image=[picture.name for picture in pictures[: len(rows)]])  # "01" is no number
    except GradlabError:
        return None


class Beside:
    """Evaluates finished models in processes of its own, while other models are trained.

    The rows are in the folders of the runs, where ``rate_distortion`` finds them. What fails here, fails there again,
    and is told there.

    Args:
        pictures: test images.
        cores: that training leaves free; without any, nothing is done.
    """

    def __init__(self, pictures: Sequence[Picture], cores: int) -> None:
        self._pictures, self._cores = list(pictures), cores
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._futures: list[concurrent.futures.Future[None]] = []
        self._over: Any = None

    def __enter__(self) -> Beside:
        """Processes begin with the first model."""
        return self

    def begin(self, run: Run, iteration: int, hyper_input: str = "") -> None:
        """Evaluate the weights of a finished run after an iteration, unless that was done before."""
        if not self._cores or self._done(run, iteration, hyper_input):
            return
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._over = spawn.Event()
            workers = min(self._cores, MOST_PROCESSES)
            arguments = self._pictures, max(1, self._cores // workers), self._over
            self._pool = concurrent.futures.ProcessPoolExecutor(workers, spawn, _work, arguments)
        with contextlib.suppress(BrokenProcessPool):
            self._futures.append(self._pool.submit(_evaluate, run, iteration, hyper_input))

    def _done(self, run: Run, iteration: int, hyper_input: str) -> bool:
        rows = _kept(rows_file(run, iteration, self._pictures, hyper_input), self._pictures)
        return rows is not None and len(rows) == len(self._pictures)

    @property
    def left(self) -> int:
        """How many evaluations are not done yet."""
        return sum(not future.done() for future in self._futures)

    def wait(self, advance: Callable[..., Any] = quiet) -> None:
        """Until all are done; counts them.

        Raises:
            Stopped: by ``advance``, every second.
        """
        left = {future for future in self._futures if not future.done()}
        while left:
            ended, left = concurrent.futures.wait(left, 1.0, concurrent.futures.FIRST_COMPLETED)
            advance(len(ended))

    def __exit__(self, *_: object) -> None:
        """The processes end, at the next image."""
        if self._pool is not None:
            self._over.set()
            self._pool.shutdown(cancel_futures=True)


_pictures: list[Picture] = []
_over: Any = None  # both of a worker process


def _work(pictures: list[Picture], threads: int, over: Any) -> None:
    global _pictures, _over
    _pictures, _over = pictures, over
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends this process
    end_with_parent()
    torch.set_num_threads(threads)


def _evaluate(run: Run, iteration: int, hyper_input: str) -> None:
    def advance(n: int = 1, note: str = "") -> None:
        if _over.is_set():
            raise Stopped("stopped with the process that trains")

    with contextlib.suppress(GradlabError, Stopped):
        rate_distortion(run, iteration, _pictures, advance, hyper_input=hyper_input)
