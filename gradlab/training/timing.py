"""Measure the seconds per training iteration of several methods (Appendix A.9)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gradlab.data import Picture
from gradlab.errors import GradlabError
from gradlab.runtime.progress import quiet
from gradlab.training.settings import TrainSettings
from gradlab.training.state import TrainState
from gradlab.training.steps import Step, make_step


class _FixedBatch:
    """Return the same batch in every iteration, to exclude reading and cropping of images from the measurement."""

    def __init__(self, batch: Tensor) -> None:
        self._batch = batch

    def places(self, step: int) -> Tensor:
        return torch.zeros(len(self._batch), 1)

    def cut(self, places: Tensor) -> Tensor:
        return self._batch


def step_times(
    methods: Mapping[str, TrainSettings],
    pictures: list[Picture],
    repetitions: int = 9,
    warm_up: int = 2,
    device: str = "cpu",
    *,
    step: str = "auto",
    clock: Callable[[], float] = time.perf_counter,
    advance: Callable[..., Any] = quiet,
) -> pd.DataFrame:
    """Measure the duration of a training iteration of several methods.

    An iteration is the step that ``train`` uses: loss, gradient, clipping and Adam. The methods alternate, one
    iteration each, so that a temporarily busy machine slows all of them equally. Batches are prepared beforehand.

    Args:
        methods: settings of each method, by name.
        pictures: training images.
        repetitions: timed iterations of each method.
        warm_up: untimed iterations of each method before the timed ones.
        device: torch device.
        step: as ``RunOptions.step``. If ``"auto"`` captures a graph for only some of the methods, all are timed
            eagerly.
        clock: returns the time in seconds; called when the device has finished.
        advance: called after each iteration.

    Returns:
        Columns ``method``, ``seconds`` (median), ``seconds_min``, ``seconds_max``, ``step`` (``"eager"``, ``"graph"``
        or the reason why there is no graph), ``repetitions``, ``threads``.

    Raises:
        GradlabError: there are no methods, fewer than one repetition or a negative warm-up; an image is smaller than a
            crop; or the device does not support a precision.
    """
    if not methods:
        raise GradlabError("methods is empty: give at least one method to time")
    if repetitions < 1 or warm_up < 0:
        raise GradlabError(
            f"repetitions is {repetitions} and warm_up is {warm_up}: give at least 1 repetition and a warm_up of 0 or "
            "more"
        )
    steps = _steps(methods, pictures, device, step)
    if len({kind for _, kind in steps.values()}) > 1:  # e.g. for lack of memory: compare the same kind of step
        for timed, _ in steps.values():
            timed.close()
        steps = _steps(methods, pictures, device, "eager")
    times: dict[str, list[float]] = {name: [] for name in methods}
    for repetition in range(warm_up + repetitions):
        for name, (timed, _) in steps.items():
            with timed.placed():
                _finish(device)
                begin = clock()
                timed()
                _finish(device)
                if repetition >= warm_up:
                    times[name].append(clock() - begin)
                timed.read()
            advance(1, name)
    rows = [(name, statistics.median(t), min(t), max(t), steps[name][1]) for name, t in times.items()]
    table = pd.DataFrame(rows, columns=["method", "seconds", "seconds_min", "seconds_max", "step"])
    return table.assign(repetitions=repetitions, threads=torch.get_num_threads())


def _steps(
    methods: Mapping[str, TrainSettings], pictures: list[Picture], device: str, kind: str
) -> dict[str, tuple[Step, str]]:
    steps = {}
    for name, settings in methods.items():
        batches = _FixedBatch(settings.batches(pictures, device).batch(0))
        steps[name] = make_step(TrainState.new(settings, device), batches, kind, 1)
    return steps


def _finish(device: str) -> None:
    """Wait for the work queued on an accelerator."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()
