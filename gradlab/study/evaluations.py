"""Evaluate trained models with bitstreams, each once: the rows of every image are kept in the folder of its run.

Studies share them, a run that was cut goes on at the next image, and a finished model can be evaluated by other
processes while the next one is trained (``Background``).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import torch

from gradlab import data, evaluation
from gradlab.data import Picture
from gradlab.errors import GradlabError, Stopped
from gradlab.evaluation.bitstream import on_cpu
from gradlab.runtime import distributed
from gradlab.runtime.progress import quiet, skip
from gradlab.study.pieces import Parts, stop_together
from gradlab.training import Run
from gradlab.training.engines.local import end_with_parent

if TYPE_CHECKING:
    import pandas as pd

KEEP_SECONDS = 1.0
MOST_PROCESSES = 4
ROWS = "rows"


def rate_distortion(
    run: Run,
    iteration: int | None,
    pictures: Sequence[Picture],
    advance: Callable[..., Any] = quiet,
    *,
    hyper_input: str = "",
    parts: Parts | None = None,
) -> pd.DataFrame:
    """``gradlab.evaluation.rate_distortion`` of a run's weights; what was evaluated before is read.

    Rows are kept every second, so that a process that is stopped or killed loses an image or two.

    Args:
        run: the trained model; lambda is its own.
        iteration: whose weights; None: those at the end.
        pictures: test images.
        advance: called after each image.
        hyper_input: ``codec.hyper_input``, of a 2-level VAE; the codec's own by default.
        parts: of the study, which notes how rows from elsewhere were made.

    Raises:
        GradlabError: as ``Run.codec`` and ``gradlab.evaluation.rate_distortion``.
        Stopped: by ``advance``; of several processes at the next image.
    """
    import pandas as pd

    if not pictures:
        raise GradlabError("there are no images to evaluate: give at least one")
    group, parts = distributed.group(), parts or Parts()
    name, key = _identity(run, iteration, pictures, hyper_input)
    before = _kept(parts, run, name, key, pictures)
    rows = [] if before is None else [before]
    done = 0 if before is None else len(before)
    if done:
        skip(advance, done, "evaluated before")
    if done == len(pictures):
        return rows[0]
    codec = on_cpu(run.codec(iteration))
    codec.hyper_input = hyper_input or codec.hyper_input

    def keep() -> None:
        with contextlib.suppress(GradlabError):  # the disk is full: whatever comes next will say so
            parts.keep(name, key, {ROWS: pd.concat(rows, ignore_index=True)}, run.folder)

    kept = time.monotonic()
    try:
        for start in range(done, len(pictures), group.size):
            if group.size > 1:
                stop_together()
            several = pictures[start : start + group.size]
            rows.append(evaluation.rate_distortion(codec, several, run.settings.lam, advance))
            if time.monotonic() - kept > KEEP_SECONDS:
                keep()
                kept = time.monotonic()
    finally:
        if len(rows) > bool(done):
            keep()
    return pd.concat(rows, ignore_index=True)


def is_done(
    run: Run, iteration: int | None, pictures: Sequence[Picture], hyper_input: str = "", parts: Parts | None = None
) -> bool:
    """Whether all images were evaluated before."""
    name, key = _identity(run, iteration, pictures, hyper_input)
    rows = _kept(parts or Parts(), run, name, key, pictures)
    return rows is not None and len(rows) == len(pictures)


def _identity(
    run: Run, iteration: int | None, pictures: Sequence[Picture], hyper_input: str
) -> tuple[str, dict[str, Any]]:
    """Name of the file, and what the rows depend on; lambda is one of the settings that the run is named after."""
    at = run.settings.steps if iteration is None else iteration
    images, weights = data.fingerprint(pictures), run.digest(iteration)
    name = f"rate-distortion-{at}-{images[:12]}-{weights[:12]}{'-' * bool(hyper_input)}{hyper_input}"
    return name, {"run": run.folder.name, "weights": weights, "images": images, "hyper_input": hyper_input}


def _kept(
    parts: Parts, run: Run, name: str, key: Mapping[str, Any], pictures: Sequence[Picture]
) -> pd.DataFrame | None:
    """The rows of the first images; None where there are none."""
    rows = (parts.find(name, key, run.folder) or {}).get(ROWS)
    if rows is None or not 0 < len(rows) <= len(pictures):
        return None
    return rows.assign(image=[picture.name for picture in pictures[: len(rows)]])  # "01" is no number


class Background:
    """Evaluates finished models in processes of its own, while other models are trained.

    The rows are in the folders of the runs, where ``rate_distortion`` finds them. An evaluation that fails is left to
    ``rate_distortion``, which then raises the error.

    Args:
        pictures: test images.
        cores: that training leaves free; without any, nothing is done.
        made: how rows are made here (``Parts.made``).
    """

    def __init__(self, pictures: Sequence[Picture], cores: int, made: Mapping[str, Any] | None = None) -> None:
        self._pictures, self._cores, self._parts = list(pictures), cores, Parts(made=made)
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._futures: list[concurrent.futures.Future[None]] = []
        self._over: Any = None

    def __enter__(self) -> Background:
        """Processes begin with the first model."""
        return self

    def begin(self, run: Run, iteration: int, hyper_input: str = "") -> None:
        """Evaluate the weights of a finished run after an iteration, unless that was done before."""
        if not self._cores:
            return
        with contextlib.suppress(GradlabError, BrokenProcessPool):
            if is_done(run, iteration, self._pictures, hyper_input, self._parts):
                return
            if self._pool is None:
                spawn = multiprocessing.get_context("spawn")
                self._over = spawn.Event()
                workers = min(self._cores, MOST_PROCESSES)
                arguments = self._pictures, max(1, self._cores // workers), self._over, self._parts.made
                self._pool = concurrent.futures.ProcessPoolExecutor(workers, spawn, _work, arguments)
            self._futures.append(self._pool.submit(_evaluate, run, iteration, hyper_input))

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
_over: Any = None
_parts = Parts()  # all three of a worker process


def _work(pictures: list[Picture], threads: int, over: Any, made: Mapping[str, Any]) -> None:
    global _pictures, _over, _parts
    _pictures, _over, _parts = pictures, over, Parts(made=made)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends this process
    end_with_parent()
    torch.set_num_threads(threads)


def _evaluate(run: Run, iteration: int, hyper_input: str) -> None:
    def advance(n: int = 1, note: str = "") -> None:
        if _over.is_set():
            raise Stopped("stopped with the process that trains")

    with contextlib.suppress(GradlabError, Stopped):
        rate_distortion(run, iteration, _pictures, advance, hyper_input=hyper_input, parts=_parts)
