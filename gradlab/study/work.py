"""Time a training iteration, a noise draw and a coded image on a device, to estimate how long a study takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gradlab import evaluation
from gradlab.evaluation import gradients
from gradlab.training import RunOptions, TrainSettings, build
from gradlab.training.timing import step_times

if TYPE_CHECKING:
    from gradlab.codecs import Codec
    from gradlab.data import Picture


class Work(NamedTuple):
    """Training or measurement that a study needs.

    Attributes:
        kind: ``"train"`` (iterations), ``"record"`` (gradients of noise draws), ``"evaluate"`` (test images coded with
            bitstreams) or ``"round"`` (test images rounded, without a bitstream).
        name: name of the model.
        settings: training settings of the model.
        units: number of iterations or draws; for ``"round"`` the number of passes over the test images.
        points: for ``"evaluate"``, pairs of an iteration and a ``hyper_input``; studies share their rows.
        crop: for ``"evaluate"``, side of the coded crop in pixels; 0 codes whole images.
        watched: for ``"train"``, whether the gradient SNR is recorded; a model that was trained without recording is
            trained again.
    """

    kind: Literal["train", "record", "evaluate", "round"]
    name: str
    settings: TrainSettings
    units: int = 0
    points: tuple[tuple[int, str], ...] = ()
    crop: int = 0
    watched: bool = False


UNITS = {"train": "iterations", "record": "draws", "evaluate": "bitstreams", "round": "rounded images"}


class Timer:
    """Time one unit of each kind of work, once for models that take the same time.

    Args:
        pictures: training images.
        image: test image to code.
        options: device and step of training.
        say: called with a line before each timing.
    """

    def __init__(
        self, pictures: list[Picture], image: Picture, options: RunOptions, say: Callable[[str], object]
    ) -> None:
        self._pictures, self._image, self._say = pictures, image, say
        self._device, self._step = options.device, options.step
        self._known: dict[tuple[str, TrainSettings], float] = {}

    def seconds(self, kind: str, settings: TrainSettings, name: str) -> float:
        """Return the seconds per unit.

        Args:
            kind: as in ``Work``.
            settings: training settings of the model.
            name: name of the model.
        """
        alike = replace(
            settings, lam=0.01, steps=1, snapshots=(), cosine_steps=0, learning_rate=1e-4, warm_up=0, seed=0, data=""
        )
        if kind in ("evaluate", "round"):
            alike = replace(alike, loss=type(alike.loss)(), batch=1)
        if (kind, alike) not in self._known:
            self._say(f"timing {UNITS[kind]} of {name}")
            ways = {"train": self._train, "record": self._record, "evaluate": self._evaluate, "round": self._round}
            self._known[kind, alike] = ways[kind](alike)
        return self._known[kind, alike]

    def _train(self, settings: TrainSettings) -> float:
        fast = self._device.startswith("cuda")
        times = step_times(
            {"": settings}, self._pictures, 20 if fast else 3, 5 if fast else 1, self._device,
            step=self._step,
        )  # fmt: skip
        return float(times["seconds"].iloc[0])

    def _record(self, settings: TrainSettings) -> float:
        codec: Any = build(settings).to(self._device)
        batch = settings.batches(self._pictures, self._device).batch(0)
        few, many = (2, 34) if self._device.startswith("cuda") else (2, 4)

        def record(draws: int) -> float:
            return _seconds(lambda: gradients.record(codec, batch, settings.lam, draws, loss=settings.loss).summary())

        record(few)
        return max(record(many) - record(few), 0.0) / (many - few)  # the difference cancels the work done once

    def _evaluate(self, settings: TrainSettings) -> float:
        codec = self._codec(settings, "cpu")  # bitstreams are coded on the CPU
        return _seconds(lambda: evaluation.rate_distortion(codec, [self._image], settings.lam))

    def _round(self, settings: TrainSettings) -> float:
        codec = self._codec(settings, self._device)
        evaluation.reconstruction(codec, [self._image])  # the first call is slow on an accelerator
        return _seconds(lambda: evaluation.deterministic_rounding(codec, [self._image], settings.lam))

    def _codec(self, settings: TrainSettings, device: str) -> Codec:
        codec: Any = build(settings)
        codec.finish()
        return codec.to(device).eval()


def _seconds(work: Callable[[], object]) -> float:
    """Return the shorter of two timings, so that a momentarily busy machine does not lengthen it."""
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)
