"""Evaluate trained models with bitstreams once, and keep the rows of every image in the folder of the run.

Studies share these rows. An interrupted evaluation continues at the next image, and other processes can evaluate a
finished model while the next one is trained (``Background``).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pandas as pd
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
    """Evaluate the weights of a run with ``gradlab.evaluation.rate_distortion``; existing rows are read.

    Rows are saved every second, so that a process that is stopped or killed loses only an image or two.

    Args:
        run: the trained model, whose settings also define lambda.
        iteration: iteration of the weights; None for the final weights.
        pictures: test images.
        advance: called after each image.
        hyper_input: ``codec.hyper_input`` of a 2-level VAE; the codec's own by default.
        parts: parts of the study, which record how rows from elsewhere were made.

    Returns:
        One row per image.

    Raises:
        GradlabError: as for ``Run.codec`` and ``gradlab.evaluation.rate_distortion``.
        Stopped: ``advance`` raised it; several processes stop at the next image.
    """
    if not pictures:
        raise GradlabError("there are no images to evaluate: give at least one")
    group, parts = distributed.group(), parts or Parts()
    name, key = _identity(run, iteration, pictures, hyper_input)
    kept = _kept(parts, run, name, key, pictures)
    rows = [] if kept is None else [kept]
    done = sum(map(len, rows))
    if done:
        skip(advance, done, "evaluated before")
    if done == len(pictures):
        return rows[0]
    codec = on_cpu(run.codec(iteration))
    codec.hyper_input = hyper_input or codec.hyper_input

    def keep() -> None:
        with contextlib.suppress(GradlabError):  # if the disk is full, the next write reports it
            parts.keep(name, key, {ROWS: pd.concat(rows, ignore_index=True)}, run.folder)

    last = time.monotonic()
    try:
        for start in range(done, len(pictures), group.size):
            if group.size > 1:
                stop_together()
            batch = pictures[start : start + group.size]
            rows.append(evaluation.rate_distortion(codec, batch, run.settings.lam, advance))
            if time.monotonic() - last > KEEP_SECONDS:
                keep()
                last = time.monotonic()
    finally:
        if len(rows) > bool(done):
            keep()
    return pd.concat(rows, ignore_index=True)


def is_done(
    run: Run, iteration: int | None, pictures: Sequence[Picture], hyper_input: str = "", parts: Parts | None = None
) -> bool:
    """Return whether all images have been evaluated.

    Args:
        run: as for ``rate_distortion``.
        iteration: as for ``rate_distortion``.
        pictures: as for ``rate_distortion``.
        hyper_input: as for ``rate_distortion``.
        parts: as for ``rate_distortion``.
    """
    name, key = _identity(run, iteration, pictures, hyper_input)
    rows = _kept(parts or Parts(), run, name, key, pictures)
    return rows is not None and len(rows) == len(pictures)


def _identity(
    run: Run, iteration: int | None, pictures: Sequence[Picture], hyper_input: str
) -> tuple[str, dict[str, Any]]:
    """Return the file name of the rows, and everything they depend on; the name of the run covers lambda."""
    at = run.settings.steps if iteration is None else iteration
    images, weights = data.fingerprint(pictures), run.digest(iteration)
    name = f"rate-distortion-{at}-{images[:12]}-{weights[:12]}{'-' * bool(hyper_input)}{hyper_input}"
    return name, {"run": run.folder.name, "weights": weights, "images": images, "hyper_input": hyper_input}


def _kept(
    parts: Parts, run: Run, name: str, key: Mapping[str, Any], pictures: Sequence[Picture]
) -> pd.DataFrame | None:
    """Return the saved rows of the first images, or None if there are none."""
    rows = (parts.find(name, key, run.folder) or {}).get(ROWS)
    if rows is None or not 0 < len(rows) <= len(pictures):
        return None
    return rows.assign(image=[picture.name for picture in pictures[: len(rows)]])  # a name like "01" is not a number


class Background:
    """Evaluate finished models in other processes while more models are trained.

    The rows go to the folders of the runs, where ``rate_distortion`` finds them. If an evaluation fails,
    ``rate_distortion`` repeats it and raises the error.

    Args:
        pictures: test images.
        cores: number of cores that training leaves free; with 0, nothing is evaluated in the background.
        made: device and commit, for the provenance (``Parts.made``).
    """

    def __init__(self, pictures: Sequence[Picture], cores: int, made: Mapping[str, Any] | None = None) -> None:
        self._pictures, self._cores, self._parts = list(pictures), cores, Parts(made=made)
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._futures: list[concurrent.futures.Future[None]] = []
        self._stop: Any = None

    def __enter__(self) -> Background:
        """Return self; processes start with the first model."""
        return self

    def begin(self, run: Run, iteration: int, hyper_input: str = "") -> None:
        """Start to evaluate the weights of a finished run, unless all rows exist.

        Args:
            run: the run.
            iteration: iteration of the weights.
            hyper_input: as for ``rate_distortion``.
        """
        if not self._cores:
            return
        with contextlib.suppress(GradlabError, BrokenProcessPool):
            if is_done(run, iteration, self._pictures, hyper_input, self._parts):
                return
            if self._pool is None:
                spawn = multiprocessing.get_context("spawn")
                self._stop = spawn.Event()
                workers = min(self._cores, MOST_PROCESSES)
                arguments = self._pictures, max(1, self._cores // workers), self._stop, self._parts.made
                self._pool = concurrent.futures.ProcessPoolExecutor(workers, spawn, _work, arguments)
            self._futures.append(self._pool.submit(_evaluate, run, iteration, hyper_input))

    @property
    def left(self) -> int:
        """Number of unfinished evaluations."""
        return sum(not future.done() for future in self._futures)

    def wait(self, advance: Callable[..., Any] = quiet) -> None:
        """Wait until all evaluations are done, and count them.

        Raises:
            Stopped: ``advance``, which is called every second, raised it.
        """
        left = {future for future in self._futures if not future.done()}
        while left:
            ended, left = concurrent.futures.wait(left, 1.0, concurrent.futures.FIRST_COMPLETED)
            advance(len(ended))

    def __exit__(self, *_: object) -> None:
        """Stop the processes at the next image."""
        if self._pool is not None:
            self._stop.set()
            self._pool.shutdown(cancel_futures=True)


_pictures: list[Picture] = []
_stop: Any = None
_parts = Parts()  # these three variables are set in worker processes


def _work(pictures: list[Picture], threads: int, stop: Any, made: Mapping[str, Any]) -> None:
    global _pictures, _stop, _parts
    _pictures, _stop, _parts = pictures, stop, Parts(made=made)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops this process
    end_with_parent()
    torch.set_num_threads(threads)


def _evaluate(run: Run, iteration: int, hyper_input: str) -> None:
    def advance(n: int = 1, note: str = "") -> None:
        if _stop.is_set():
            raise Stopped("stopped with the process that trains")

    with contextlib.suppress(GradlabError, Stopped):
        rate_distortion(run, iteration, _pictures, advance, hyper_input=hyper_input, parts=_parts)
