"""Perform one training iteration without host synchronisation, eagerly or as a CUDA graph.

A step has two parts. ``prepare`` writes the inputs of the iteration into tensors with fixed addresses: positions of the
crops, learning rate, noise seed. ``body`` does the work on the device: crops, noise, loss, gradient, clipping, Adam.
Loss, rate, distortion and gradient norm accumulate on the device until ``read``.

If the loss or gradient of an iteration is not finite, neither this iteration nor any later one changes the weights. At
the next ``read`` the weights are still those from before that iteration. Fused Adam implements this on the device
through ``found_inf``, as for gradient scalers.
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
    """Source of training batches: ``gradlab.data.Crops`` or ``VideoCrops``."""

    def places(self, step: int) -> Tensor:
        """Return the positions of the crops of a batch, ``[B, ...]`` on the CPU."""

    def cut(self, places: Tensor) -> Tensor:
        """Return the batch at these positions, ``[B, ...]`` on the device."""


class StepMetrics(NamedTuple):
    """Metrics of one iteration.

    Attributes:
        iteration: number of the iteration, from 1.
        loss: as in ``gradlab.codecs.LossParts``.
        bpp: as in ``gradlab.codecs.LossParts``.
        mse: as in ``gradlab.codecs.LossParts``.
        learning_rate: learning rate of the iteration.
        gradient_norm: norm of the gradient before clipping.
    """

    iteration: int
    loss: float
    bpp: float
    mse: float
    learning_rate: float
    gradient_norm: float


class Step:
    """Perform iterations eagerly; this is the reference implementation.

    Args:
        state: state of the run.
        batches: source of batches, on the device of the codec.
        capacity: maximum number of iterations between two calls of ``read``.
    """

    def __init__(self, state: TrainState, batches: Batches, capacity: int = 1) -> None:
        self.state, self.batches = state, batches
        self.device, group = state.device, distributed.group()
        settings = state.settings
        # Every process draws the positions of the whole batch and cuts only its own rows.
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
        """Whether ``read`` is free because the host itself does the work."""
        return self.device.type == "cpu"

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """Return the context for all code that touches the weights during training; sets precision and stream."""
        with precision.cudnn_precision(self.state.settings.precision, self.device):
            yield

    def __call__(self) -> None:
        """Perform the next iteration and count it."""
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
        """Queue the work of the iteration on the device."""
        self.body()

    def body(self) -> None:
        """Do the device's work of one iteration without waiting for the device."""
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
        """Return the metrics of the iterations since the last call; waits for the device."""
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
        """Free the device resources of this step."""


def _parts(state: TrainState, x: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the loss, and a vector ``[3]`` of loss, rate and distortion for the log."""
    settings = state.settings
    parts: LossParts = settings.loss.parts(state.codec, x, settings.lam, noise)
    return parts.loss, torch.stack([parts.loss.detach().to(parts.bpp.dtype), parts.bpp, parts.mse])


class GraphStep(Step):
    """Perform iterations by replaying a CUDA graph of ``Step.body`` on its own stream.

    Raises:
        RuntimeError: the step cannot be captured; the weights are unchanged.
    """

    def __init__(self, state: TrainState, batches: Batches, capacity: int = 1) -> None:
        super().__init__(state, batches, max(capacity, WARM_UP))
        self._found_inf.fill_(1)  # keep the weights unchanged during the warm-up
        with super().placed():
            self._replay: Replay | None = Replay(self.body, self._noise)
        with self.placed():
            self._found_inf.zero_()
            self._at.zero_()

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """Return the context of ``Step.placed`` on the stream of the graph."""
        assert self._replay is not None
        with super().placed(), self._replay.placed():
            yield

    def run(self) -> None:
        """Queue one replay of the graph."""
        assert self._replay is not None
        self._replay()

    def close(self) -> None:
        """Free the memory of the graph, since collecting it during another capture would abort that capture."""
        self._replay = None


def make_step(state: TrainState, batches: Batches, kind: str, capacity: int) -> tuple[Step, str]:
    """Create the step that the device and the options allow.

    Args:
        state: as for ``Step``.
        batches: as for ``Step``.
        kind: ``"auto"``, ``"eager"`` or ``"graph"``.
        capacity: as for ``Step``.

    Returns:
        The step, and ``"graph"``, ``"eager"`` or the reason why no graph was captured.

    Raises:
        GradlabError: ``kind`` is ``"graph"``, but the step cannot be captured.
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
    gc.collect()  # free the memory of the failed attempt
    torch.cuda.empty_cache()
    if kind == "graph":
        raise GradlabError(f"the training step cannot be captured as a CUDA graph ({reason}): give --step eager")
    return Step(state, batches, capacity), f"eager, since a graph was not captured: {reason}"
