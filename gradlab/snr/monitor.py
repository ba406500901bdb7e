"""Gradient SNR while a model trains: ``SNRMonitor``, a recorder that opens every n iterations, for any training loop.

    monitor = SNRMonitor(model, {"encoder": model.g_a, "decoder": model.g_s}, every=500, draws=20, csv="snr.csv")
    for batch in loader:
        ...                                                  # forward, backward, optimizer.step()
        monitor.step(lambda: loss(model(batch)))

Training goes on as if nobody had looked: ``.grad``, buffers (running statistics) and random streams are put back, so
that the weights are the same bit for bit with the monitor and without it.

*Cost.* ``draws`` forward and backward passes every ``every`` iterations: about draws / every of the time of training
(4 % for 20 draws every 500); ``monitor.cost`` is the share that was measured. Memory: while it records, two float64
copies of the recorded parameters, and on an accelerator some hundred megabytes of working memory.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError, NonFinite
from gradlab.noise import stream
from gradlab.runtime import files
from gradlab.snr.recorder import GradientRecorder, Group
from gradlab.validation import checked_after

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SNRMonitor", "undisturbed"]

Loss = Callable[[], Tensor]


@runtime_checkable
class Board(Protocol):
    """What takes scalars, e.g. ``torch.utils.tensorboard.SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """One point of a curve."""


@contextlib.contextmanager
def undisturbed(model: nn.Module, seed: int = 0, generators: Iterable[torch.Generator] = ()) -> Iterator[None]:
    """Whatever a forward pass changes is put back on exit; inside, random numbers derive from ``seed`` alone.

    Put back are the model's buffers and the random streams of torch (CPU and CUDA), numpy, Python and ``generators``.
    Gradients are left to the recorder, attributes that are no buffers (a counter, say) to whoever wrote them.

    Args:
        model: whose buffers.
        seed: of the random numbers inside.
        generators: further streams that the loss draws from.
    """
    buffers = [(m._buffers, name, b, None if b is None else b.clone()) for m in model.modules()
               for name, b in m._buffers.items()]  # fmt: skip
    cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    streams = [torch.random.default_generator, *cuda, *generators]
    states = [(generator, generator.get_state()) for generator in streams]
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  (it is what others may draw from)
    seeds = torch.randint(2**32, (len(streams) + 2,), generator=stream(seed, "snr monitor")).tolist()
    try:
        for generator, each in zip(streams, seeds, strict=False):
            generator.manual_seed(each)
        random.seed(seeds[-1])
        np.random.seed(seeds[-2])  # noqa: NPY002
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        with torch.no_grad():
            for holder, name, buffer, value in buffers:
                if buffer is not None and value is not None:
                    buffer.copy_(value)
                holder[name] = buffer  # it may have been replaced rather than written to


class SNRMonitor:
    """Records the gradient SNR of each group every ``every`` iterations, to a CSV and to TensorBoard.

    One point is ``draws`` gradients of the loss at the weights that training has reached, each with fresh noise; the
    rows are those of ``GradientRecorder.summary``, with the iteration before them. A loss without noise has no SNR:
    its parameters are ``dead``, unless the loss draws another minibatch each time.

    The CSV is written whole at every point. When training goes on from a checkpoint, the rows before it are kept, and
    those from its first iteration on are dropped; the noise of a point depends on ``(seed, iteration)`` alone, so that
    a resumed run writes the same file. With several processes each records its own minibatch, and the first writes.

    Draws whose gradient is not finite are left out and not counted in the column ``draws``.

    Args:
        model: what trains; its buffers are put back. Under DistributedDataParallel the inner module.
        groups: as for ``GradientRecorder``; the model's children by default.
        every: iterations between points.
        draws: gradients of a point, at least 2; 17 or more for standard errors.
        csv: the file, or None.
        tensorboard: a ``SummaryWriter`` or what has its ``add_scalar``; gets ``snr/<group>`` and ``snr/noise floor``.
        exclude: last name components of parameters to leave out.
        generators: streams, besides the global ones, that the loss draws from.
        seed: of the noise.

    Raises:
        GradlabError: ``every`` or ``draws`` too small, nothing to record, or a CSV that is damaged.
    """

    @checked_after
    def __init__(
        self,
        model: nn.Module,
        groups: nn.Module | Mapping[str, Group] | None = None,
        *,
        every: int = 500,
        draws: int = 20,
        csv: str | Path | None = None,
        tensorboard: Board | None = None,
        exclude: Iterable[str] = (),
        generators: Iterable[torch.Generator] = (),
        seed: int = 0,
    ) -> None:
        """Checks all that it is given and reads the rows of an earlier run; records nothing yet."""
        if every < 1:
            raise GradlabError(f"every is {every}: record every so many iterations, at least 1")
        if draws < 2:
            raise GradlabError(f"draws is {draws}: a signal-to-noise ratio needs at least 2")
        self.model, self.every, self.draws, self.seed = model, every, draws, seed
        self.iteration = 0
        if isinstance(groups, Mapping):  # an iterator could be read once only
            groups = {n: g if isinstance(g, nn.Module | Mapping) else [*g] for n, g in groups.items()}  # type: ignore[misc]
        self._groups = model if groups is None else groups
        self._exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self._generators, self._board = tuple(generators), tensorboard
        self._csv = None if csv is None else Path(csv)
        self._parameters = GradientRecorder(self._groups, exclude=self._exclude).parameters  # refuses what is wrong now
        self._rows: list[dict[str, Any]] = []
        if self._csv is not None and self._csv.exists():
            self._rows = files.read_csv(self._csv).to_dict("records")
            if not all("iteration" in row for row in self._rows):
                raise GradlabError(f"{self._csv} is not of a monitor: give another file")
        self._begun = False
        self._born, self._spent, self._elapsed = time.perf_counter(), 0.0, 0.0

    @property
    def cost(self) -> float:
        """Share of the time since the monitor was made that it has taken, measured; 0 before its first point."""
        return self._spent / self._elapsed if self._elapsed else 0.0

    def step(self, loss: Loss) -> pd.DataFrame | None:
        """Counts an iteration of training that is complete; see :meth:`after_step`.

        After a resume set ``monitor.iteration`` to the iterations that are behind.
        """
        return self.after_step(self.iteration + 1, loss)

    def after_step(self, iteration: int, loss: Loss) -> pd.DataFrame | None:
        """Records a point if ``iteration``, counted from 1, is a multiple of ``every``. Call it after each iteration.

        Args:
            iteration: of training, complete with the optimizer's step.
            loss: gives the training loss, a scalar, with fresh noise at each call; on the minibatch of the iteration
                or, for curves without the minibatch's own ups and downs, on a fixed one.

        Returns:
            The rows of the point, or None between points.

        Raises:
            GradlabError: the loss is no scalar or does not depend on the recorded parameters, or the disk refuses.
        """
        if not self._begun:
            self._begin(iteration)
        again, self.iteration = iteration == self.iteration, iteration  # several minibatches make up one iteration
        found = None
        if iteration % self.every == 0 and not again:
            before = self._now()
            found = self._record(iteration, loss)
            self._spent += self._now() - before
        self._elapsed = time.perf_counter() - self._born
        return found

    def lightning(self, loss: Callable[[Any, Any], Tensor]) -> Any:
        """A callback for ``Trainer(callbacks=[...])`` of Lightning, where it is installed, or of what calls like it.

        Iterations are the trainer's ``global_step``, i.e. steps of the optimizer. The loss is evaluated in the
        precision of the weights.

        Args:
            loss: ``(module, batch) -> scalar``, the training loss, without logging.
        """
        return _callback(self, loss)

    def _begin(self, iteration: int) -> None:
        """The first iteration tells whether training started anew or goes on, and from where."""
        self._begun = True
        kept = [row for row in self._rows if row["iteration"] < iteration]
        if len(kept) < len(self._rows):
            self._rows = kept
            self._write()

    def _record(self, iteration: int, loss: Loss) -> pd.DataFrame:
        recorder = GradientRecorder(self._groups, exclude=self._exclude)
        inputs = [p for p in self._parameters if p.requires_grad]  # some may have been frozen since
        for parameter in inputs:
            if getattr(parameter, "_post_accumulate_grad_hooks", None):
                raise GradlabError(
                    "a parameter has a hook that acts on its finished gradient (an optimizer in the backward pass?), "
                    "which would act on the monitor's draws too: train without it, or without the monitor"
                )
        seed = int(torch.randint(2**62, (), generator=stream(self.seed, "snr monitor", iteration)))
        with undisturbed(self.model, seed, self._generators), recorder, torch.enable_grad():
            for _ in range(self.draws):
                value = loss()
                if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                    raise GradlabError("the loss of a monitor must be a scalar tensor with a graph: return the loss")
                # To the recorded parameters alone: whoever else is in the graph keeps the gradient that it has.
                value.backward(inputs=inputs)
                with contextlib.suppress(NonFinite):
                    recorder.step()
        if recorder.draws < 2:
            import pandas as pd

            return pd.DataFrame()
        found = recorder.summary()
        found.insert(0, "iteration", iteration)
        self._rows += found.to_dict("records")
        self._write()
        if self._board is not None and _first():
            for row in found.to_dict("records"):
                self._board.add_scalar(f"snr/{row['group']}", row["snr"], iteration)
            self._board.add_scalar("snr/noise floor", found["noise_floor"].iloc[0], iteration)
        return found

    def _write(self) -> None:
        if self._csv is not None and _first():
            import pandas as pd

            columns = None if self._rows else ["iteration", "group"]
            files.write_csv(self._csv, pd.DataFrame(self._rows, columns=columns))

    def _now(self) -> float:
        """Seconds, with the accelerator's work done."""
        if any(p.is_cuda for p in self._parameters):
            torch.cuda.synchronize()
        return time.perf_counter()


def _first() -> bool:
    """Whether this is the process that writes."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not there or torch.distributed.get_rank() == 0


def _callback(monitor: SNRMonitor, loss: Callable[[Any, Any], Tensor]) -> Any:
    base: Any = object
    # The package that is in use first: a Trainer takes callbacks of its own package only.
    names = sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules)
    for name in names:
        with contextlib.suppress(ImportError):
            base = importlib.import_module(name).Callback
            break

    class LiveSNR(base):
        """Tells the monitor of every iteration."""

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """After the optimizer's step, with the minibatch still there."""
            if trainer.global_step:
                monitor.after_step(trainer.global_step, lambda: loss(module, batch))

    return LiveSNR()
