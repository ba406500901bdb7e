"""How long an iteration of training takes, method beside method (Appendix A.9)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradlab.data import Picture
from gradlab.errors import GradlabError
from gradlab.runtime.progress import quiet
from gradlab.training.settings import TrainSettings
from gradlab.training.state import TrainState
from gradlab.training.steps import Step, step_of

if TYPE_CHECKING:
    import pandas as pd


class _Same:
    """One batch, again and again: what reading and cutting images takes is no cost of a method."""

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
    wanted: str = "auto",
    clock: Callable[[], float] = time.perf_counter,
    advance: Callable[..., Any] = quiet,
) -> pd.DataFrame:
    """Seconds that an iteration takes: loss, gradient, clipping and Adam, by the step that ``train`` takes.

    The methods take turns, one iteration each, so that a machine that is busy for a while slows all of them alike.
    Crops are cut before.

    Args:
        methods: settings by name.
        pictures: training images.
        repetitions: iterations of each that count.
        warm_up: iterations of each that do not, before.
        device: where to train.
        wanted: the step (``RunOptions.step``); where ``"auto"`` finds a graph for some methods alone, all are eager.
        clock: seconds; read when the device has finished.
        advance: called after each iteration.

    Returns:
        Columns ``method``, ``seconds`` (median), ``seconds_min``, ``seconds_max``, ``step`` (``"eager"``, ``"graph"``
        or why there is no graph), ``repetitions``, ``threads``.

    Raises:
        GradlabError: no methods, fewer than one repetition or a negative warm-up, images smaller than a crop, a
            precision that the device lacks.
    """
    import pandas as pd

    if not methods:
        raise GradlabError("there is no method to time: give at least one")
    if repetitions < 1 or warm_up < 0:
        raise GradlabError(f"{repetitions} repetitions after {warm_up} of warm-up: time at least 1 after at least 0")
    steps = _steps(methods, pictures, device, wanted)
    if len({computed for _, computed in steps.values()}) > 1:  # for want of memory, say: time like with like
        for step, _ in steps.values():
            step.close()
        steps = _steps(methods, pictures, device, "eager")
    took: dict[str, list[float]] = {name: [] for name in methods}
    for repetition in range(warm_up + repetitions):
        for name, (step, _) in steps.items():
            with step.placed():
                _finish(device)
                begin = clock()
                step()
                _finish(device)
                if repetition >= warm_up:
                    took[name].append(clock() - begin)
                step.read()
            advance(1, name)
    rows = [
        {
            "method": name,
            "seconds": statistics.median(t),
            "seconds_min": min(t),
            "seconds_max": max(t),
            "step": steps[name][1],
        }
        for name, t in took.items()
    ]
    return pd.DataFrame(rows).assign(repetitions=repetitions, threads=torch.get_num_threads())


def _steps(
    methods: Mapping[str, TrainSettings], pictures: list[Picture], device: str, wanted: str
) -> dict[str, tuple[Step, str]]:
    found = {}
    for name, settings in methods.items():
        batches = _Same(settings.batches(pictures, device).batch(0))
        found[name] = step_of(TrainState.new(settings, device), batches, wanted, 1)
    return found


def _finish(device: str) -> None:
    """Wait for what was queued on an accelerator."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()
