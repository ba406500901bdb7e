"""One iteration of training without a host synchronisation, eager or as a CUDA graph.

A step has two parts: ``prepare`` writes the inputs of the iteration into tensors with fixed addresses (places of the
crops, learning rate, seed of the noise), and ``body`` does the device's work: crops, noise, loss, gradient, clipping,
Adam. Loss, rate, distortion and gradient norm collect on the device until ``read``.

An iteration whose loss or gradient is not finite changes no weight, nor does any after it, so that at the next ``read``
the weights are still those that it began with. Fused Adam does this on the device (``found_inf``, as gradient scalers
use it).
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gradlab.codecs import LossParts, precision
from gradlab.errors import GradlabError
from gradlab.noise import seed_of, stream
from gradlab.runtime import distributed
from gradlab.runtime.cuda_graph import WARM_UP, Replay
from gradlab.training.state import TrainState

PURPOSE = "training noise"


class Batches(Protocol):
    """Where batches come from: ``gradlab.data.Crops`` or ``VideoCrops``."""

    def places(self, step: int) -> Tensor:
        """Return the places of a batch, ``[B, ...]`` on the CPU."""

    def cut(self, places: Tensor) -> Tensor:
        """Return the batch at these places, ``[B, ...]`` on the device."""


class StepMetrics(NamedTuple):
    """Metrics of an iteration.

    Attributes:
        iteration: counted from 1.
        loss, bpp, mse: as in ``gradlab.codecs.LossParts``.
        learning_rate: of the iteration.
        gradient_norm: before clipping.
    """

    iteration: int
    loss: float
    bpp: float
    mse: float
    learning_rate: float
    gradient_norm: float


class Step:
    """The eager step, the reference.

    Args:
        state: of the run.
        batches: on the device of the codec.
        capacity: iterations between two readings, at most.
    """

    def __init__(self, state: TrainState, batches: Batches, capacity: int = 1) -> None:
        self.state, self.batches = state, batches
        self.device, group = state.device, distributed.group()
        settings = state.settings
        # Every process draws the places of the whole batch and cuts its own rows.
        self._share = group.rows(settings.batch)
        self._places = batches.places(0)[self._share].to(self.device)
        self._noise = stream(settings.seed, PURPOSE, 0, self.device, group.part)
        self._loss = group.data_parallel(state.codec, functools.partial(_parts, state))
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        self._rows = torch.zeros(capacity, 4, dtype=exact, device=self.device)
        self._at = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._found_inf = torch.zeros((), device=self.device)
        state.optimizer.found_inf = self._found_inf  # type: ignore[attr-defined]
        self._queued: list[tuple[int, float]] = []

    @property
    def synchronous(self) -> bool:
        """Whether reading costs nothing, because the host does the work itself."""
        return self.device.type == "cpu"

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """The context of everything that touches the weights while this step trains them: precision and stream."""
        with precision.cudnn_precision(self.state.settings.precision, self.device):
            yield

    def __call__(self) -> None:
        """Do the next iteration, and count it."""
        self.prepare()
        self.run()
        self.state.iteration += 1

    def prepare(self) -> None:
        """Write the inputs of the iteration."""
        iteration = self.state.iteration
        self._places.copy_(self.batches.places(iteration)[self._share], non_blocking=True)
        self._noise.manual_seed(seed_of(self.state.settings.seed, PURPOSE, iteration))
        self._queued.append((iteration + 1, self.state.set_rate()))

    def run(self) -> None:
        """Queue the device's work."""
        self.body()

    def body(self) -> None:
        """Do the device's work of one iteration; nothing in it waits for the device."""
        state = self.state
        x = self.batches.cut(self._places)
        if self.device.type == "cuda" and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        loss, logged = self._loss(x.to(next(state.codec.parameters()).dtype), self._noise)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(state.weights.values()), state.settings.clip)
        row = torch.cat([logged, norm.detach().to(logged.dtype)[None]])
        finite = torch.isfinite(row[0]) & torch.isfinite(row[3])
        self._found_inf.copy_(torch.maximum(self._found_inf, (~finite).to(self._found_inf.dtype)))
        state.optimizer.step()
        self._rows.index_copy_(0, self._at, row[None])
        self._at.add_(1)

    def read(self) -> list[StepMetrics]:
        """Return the metrics of the iterations since the last reading; waits for the device."""
        queued, self._queued = self._queued, []
        if not queued:
            return []
        rows = self._rows[: len(queued)].tolist()
        self._at.zero_()
        return [
            StepMetrics(iteration, loss, bpp, mse, rate, norm)
            for (iteration, rate), (loss, bpp, mse, norm) in zip(queued, rows, strict=True)
        ]

    def close(self) -> None:
        """Free what the device holds for this step."""


def _parts(state: TrainState, x: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the loss, and ``[3]`` loss, rate and distortion for the log."""
    settings = state.settings
    parts: LossParts = settings.loss.parts(state.codec, x, settings.lam, noise)
    return parts.loss, torch.stack([parts.loss.detach().to(parts.bpp.dtype), parts.bpp, parts.mse])


class GraphStep(Step):
    """The same step recorded as a CUDA graph and replayed on a stream of its own.

    Raises:
        RuntimeError: the step cannot be captured; the weights are as they were.
    """

    def __init__(self, state: TrainState, batches: Batches, capacity: int = 1) -> None:
        super().__init__(state, batches, max(capacity, WARM_UP))
        self._found_inf.fill_(1)  # the warm-up trains nothing
        with super().placed():
            self._replay: Replay | None = Replay(self.body, self._noise)
        with self.placed():
            self._found_inf.zero_()
            self._at.zero_()

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """Return the same context, on the stream of the graph."""
        assert self._replay is not None
        with super().placed(), self._replay.placed():
            yield

    def run(self) -> None:
        """Queue a replay."""
        assert self._replay is not None
        self._replay()

    def close(self) -> None:
        """Give back the memory of the graph: a collection during another capture would end that capture."""
        self._replay = None


def make_step(state: TrainState, batches: Batches, kind: str, capacity: int) -> tuple[Step, str]:
    """Make the step that the device and the options allow.

    Args:
        state, batches, capacity: of the step.
        kind: ``"auto"``, ``"eager"`` or ``"graph"``.

    Returns:
        The step, and ``"graph"``, ``"eager"`` or why no graph was captured.

    Raises:
        GradlabError: a graph was requested and cannot be captured.
    """
    if kind == "eager" or state.device.type != "cuda":
        return Step(state, batches, capacity), "eager"
    if distributed.group().size > 1:
        reason = f"{distributed.group().size} processes share the batch"
    else:
        try:
            return GraphStep(state, batches, capacity), "graph"
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            state.optimizer.zero_grad(set_to_none=True)
    gc.collect()  # what the attempt holds
    torch.cuda.empty_cache()
    if kind == "graph":
        raise GradlabError(f"the training step cannot be captured as a graph ({reason}): give --step eager")
    return Step(state, batches, capacity), f"eager, since a graph was not captured: {reason}"
