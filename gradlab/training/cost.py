"""How long an iteration of training takes, method beside method (Appendix A.9)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from gradlab.data import Crops, Picture
from gradlab.errors import GradlabError
from gradlab.noise import stream
from gradlab.training.loop import TrainSettings, build, descend, optimizer

if TYPE_CHECKING:
    import pandas as pd


def step_times(
    methods: Mapping[str, TrainSettings],
    pictures: list[Picture],
    repetitions: int = 9,
    warm_up: int = 2,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    advance: Callable[..., Any] = lambda n=1, note="": None,
) -> pd.DataFrame:
    """Seconds that an iteration takes: loss, gradient, clipping and Adam, as in ``train``; crops are cut before.

    The methods take turns, one iteration each, so that a machine that is busy for a while slows all of them alike.

    Args:
        methods: settings by name.
        pictures: training images.
        repetitions: iterations of each that count.
        warm_up: iterations of each that do not, before.
        device: where to train.
        clock: seconds; read when the device has finished.
        advance: called after each iteration.

    Returns:
        Columns ``method``, ``seconds`` (median), ``seconds_min``, ``seconds_max``, ``repetitions``, ``threads``.

    Raises:
        GradlabError: no methods, fewer than one repetition or a negative warm-up, images smaller than a crop.
    """
    import pandas as pd

    if not methods:
        raise GradlabError("there is no method to time: give at least one")
    if repetitions < 1 or warm_up < 0:
        raise GradlabError(f"{repetitions} repetitions after {warm_up} of warm-up: time at least 1 after at least 0")
    batches = {name: Crops(pictures, s.crop, s.batch, s.seed, device=device).batch(0) for name, s in methods.items()}
    models = {}
    for name, settings in methods.items():
        codec = build(settings).to(device).train()
        models[name] = (codec, *optimizer(codec, settings))
    took: dict[str, list[float]] = {name: [] for name in methods}
    for repetition in range(warm_up + repetitions):
        for name, settings in methods.items():
            noise = stream(settings.seed, "training noise", repetition, device)
            _finish(device)
            begin = clock()
            descend(*models[name], batches[name], settings, noise)
            _finish(device)
            if repetition >= warm_up:
                took[name].append(clock() - begin)
            advance(1, name)
    rows = [
        {"method": name, "seconds": statistics.median(t), "seconds_min": min(t), "seconds_max": max(t)}
        for name, t in took.items()
    ]
    return pd.DataFrame(rows).assign(repetitions=repetitions, threads=torch.get_num_threads())


def _finish(device: str) -> None:
    """Wait for what was queued on an accelerator."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()
