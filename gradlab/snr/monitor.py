"""Monitor gradient SNR while a model trains: open a recorder every n iterations of any training loop.

    monitor = SNRMonitor(model, {"encoder": model.g_a, "decoder": model.g_s}, every=500, draws=20, csv="snr.csv")
    for batch in loader:
        ...                                                  # forward, backward, optimizer.step()
        monitor.step(lambda: loss(model(batch)))

The monitor does not change training: it restores ``.grad``, buffers (running statistics) and random streams, so the
weights are bitwise equal with and without it.

*Cost.* ``draws`` extra forward and backward passes every ``every`` iterations, an overhead of about draws / every (4 %
for 20 draws every 500 iterations); ``monitor.cost`` reports the measured share. While it records, memory holds two
float64 copies of the recorded parameters, and on an accelerator some hundred megabytes of working memory.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError, NonFinite
from gradlab.noise import stream
from gradlab.runtime import files
from gradlab.runtime.display import counted, shown
from gradlab.snr.recorder import GradientRecorder, Group
from gradlab.validation import checked, several, whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SNRMonitor", "undisturbed"]

Loss = Callable[[], Tensor]


@runtime_checkable
class Board(Protocol):
    """A writer of scalars, e.g. ``torch.utils.tensorboard.SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Add a point to a curve."""


@contextlib.contextmanager
def undisturbed(model: nn.Module, seed: int = 0, generators: Iterable[torch.Generator] = ()) -> Iterator[None]:
    """Restore on exit what a forward pass changes, and derive random numbers inside from ``seed`` alone.

    Restores the buffers of the model and the random streams of torch (CPU and CUDA), numpy, Python and ``generators``.
    Does not restore gradients (the recorder does) or attributes that are not buffers, such as a plain counter.

    Args:
        model: the model that owns the buffers.
        seed: seed of the random numbers inside.
        generators: further random streams that the loss draws from.

    Example:
        >>> import torch
        >>> from gradlab.snr.monitor import undisturbed
        >>> model = torch.nn.BatchNorm1d(2)
        >>> with undisturbed(model):
        ...     _ = model(torch.randn(8, 2))
        >>> int(model.num_batches_tracked)
        0
    """
    buffers = [(m._buffers, name, b, None if b is None else b.clone()) for m in model.modules()
               for name, b in m._buffers.items()]  # fmt: skip
    cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    streams = [torch.random.default_generator, *cuda, *generators]
    states = [(generator, generator.get_state()) for generator in streams]
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  (others may draw from it)
    seeds = torch.randint(2**32, (len(streams) + 2,), generator=stream(seed, "snr monitor")).tolist()
    try:
        for generator, new in zip(streams, seeds, strict=False):
            generator.manual_seed(new)
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
                holder[name] = buffer  # the module may have replaced the buffer instead of writing to it


@shown
class SNRMonitor:
    """Record the gradient SNR of each group every ``every`` iterations, to a CSV file and to TensorBoard.

    Each point consists of ``draws`` gradients of the loss at the current weights, each with fresh noise. Its rows are
    those of ``GradientRecorder.summary``, with the iteration as the first column. If the loss has no noise, there is no
    SNR and the parameters count as ``dead``, unless the loss draws another minibatch at each call. Draws with a
    non-finite gradient are left out of the statistics and of the column ``draws``.

    The CSV file is rewritten at every point. When training resumes from a checkpoint, rows of earlier iterations are
    kept and later ones dropped. The noise of a point depends on ``(seed, iteration)`` alone, so a resumed run writes
    the same file. In a run with several processes, each process records its own minibatch and only the first one
    writes.

    Args:
        model: the model that is trained; its buffers are restored. Pass the inner module of a DistributedDataParallel.
        groups: as in ``GradientRecorder``, by default the children of the model; or a ``GradientRecorder``, e.g. one
            with ``exclude``, whose draws so far are discarded.
        every: iterations between points.
        draws: gradients per point, at least 2; standard errors need at least 16.
        csv: path of the CSV file, or None.
        tensorboard: a ``SummaryWriter``, or any object with its ``add_scalar``; receives ``snr/<group>`` and
            ``snr/noise floor``.
        generators: random streams, other than the global ones, that the loss draws from.
        seed: seed of the noise.

    Raises:
        GradlabError: if ``every`` or ``draws`` is too small, there is nothing to record, or the CSV file is damaged.

    Example:
        >>> import torch
        >>> import gradlab as gl
        >>> model = torch.nn.Linear(2, 1)
        >>> monitor = gl.SNRMonitor(model, every=2, draws=4)
        >>> for _ in range(2):
        ...     point = monitor.step(lambda: model(torch.randn(8, 2)).square().mean())
        >>> point[["iteration", "group", "draws"]].to_dict("records")
        [{'iteration': 2, 'group': '(own)', 'draws': 4}]
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        groups: nn.Module | Mapping[str, Group] | GradientRecorder | None = None,
        *,
        every: SupportsIndex = 500,
        draws: SupportsIndex = 20,
        csv: str | Path | None = None,
        tensorboard: Board | None = None,
        generators: torch.Generator | Iterable[torch.Generator] = (),
        seed: SupportsIndex = 0,
    ) -> None:
        self.model, self.every = model, whole("every", every, 1, "iterations")
        self.draws, self.seed = whole("draws", draws, 2), whole("seed", seed, 0)
        self.iteration = 0
        groups = model if groups is None else groups
        self._recorder = groups if isinstance(groups, GradientRecorder) else GradientRecorder(groups)
        self._generators = several("generators", generators, torch.Generator, "torch generators", empty=True)
        self._board = tensorboard
        self._csv = None if csv is None else Path(csv)
        self._rows: list[dict[str, Any]] = []
        if self._csv is not None and self._csv.exists():
            self._rows = files.read_csv(self._csv).to_dict("records")
            if not all("iteration" in row for row in self._rows):
                raise GradlabError(f"{self._csv} was not written by a monitor: give another file")
        self._begun = False
        self._born, self._spent, self._elapsed = time.perf_counter(), 0.0, 0.0

    @property
    def cost(self) -> float:
        """The measured share of the time since the monitor was created that it has used; 0 before the first point."""
        return self._spent / self._elapsed if self._elapsed else 0.0

    def step(self, loss: Loss) -> pd.DataFrame | None:
        """Count one complete iteration of training, and record a point if it is due.

        After a resume, set ``monitor.iteration`` to the number of iterations already done.

        Args:
            loss: function that returns the training loss; see :meth:`after_step`.

        Returns:
            The rows of the point, or None between points.

        Raises:
            GradlabError: under the same conditions as :meth:`after_step`.
        """
        return self.after_step(self.iteration + 1, loss)

    def after_step(self, iteration: int, loss: Loss) -> pd.DataFrame | None:
        """Record a point if ``iteration`` is a multiple of ``every``. Call it after each iteration.

        Args:
            iteration: the iteration that is complete, including the optimizer's step; counted from 1.
            loss: function that returns the training loss, a scalar, with fresh noise at each call. Use the minibatch of
                the iteration, or a fixed one for curves without the variation between minibatches.

        Returns:
            The rows of the point, or None between points.

        Raises:
            GradlabError: if the loss is not a scalar or does not depend on the recorded parameters, if all of these are
                frozen, or if the file cannot be written.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> model = torch.nn.Linear(2, 1)
            >>> monitor = gl.SNRMonitor(model, every=100, draws=4)
            >>> point = monitor.after_step(200, lambda: model(torch.randn(8, 2)).square().mean())
            >>> int(point["iteration"][0])
            200
        """
        iteration = whole("iteration", iteration)
        if not self._begun:
            self._begin(iteration)
        again, self.iteration = iteration == self.iteration, iteration  # several minibatches may form one iteration
        point = None
        if iteration % self.every == 0 and not again:
            before = self._now()
            point = self._record(iteration, loss)
            self._spent += self._now() - before
        self._elapsed = time.perf_counter() - self._born
        return point

    def lightning(self, loss: Callable[[Any, Any], Tensor]) -> Any:
        """Return a callback for ``Trainer(callbacks=[...])`` of Lightning, or of any trainer with the same interface.

        Iterations are the trainer's ``global_step``, i.e. optimizer steps. The loss is evaluated in the precision of
        the weights.

        Args:
            loss: function ``(module, batch) -> scalar`` that returns the training loss, without logging.

        Returns:
            The callback.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> monitor = gl.SNRMonitor(torch.nn.Linear(2, 1))
            >>> callback = monitor.lightning(lambda module, batch: module(batch).square().mean())
            >>> type(callback).__name__
            'LiveSNR'
        """
        return _callback(self, loss)

    def _repr_line_(self) -> str:
        points = counted(len({row["iteration"] for row in self._rows}), "point")
        return f"every={self.every}, draws={self.draws}, {points}, cost {self.cost:.1%}"

    def _repr_rows_(self) -> dict[str, object]:
        return {
            "model": type(self.model).__name__,
            "every": counted(self.every, "iteration"),
            "draws per point": self.draws,
            "iteration": self.iteration,
            "points": len({row["iteration"] for row in self._rows}),
            "cost": f"{self.cost:.1%} of the time",
            "csv": "none" if self._csv is None else str(self._csv),
            "tensorboard": "none" if self._board is None else type(self._board).__name__,
            "seed": self.seed,
            "recorder": self._recorder,
        }

    def _begin(self, iteration: int) -> None:
        """Drop the rows of an earlier run from this first iteration on."""
        self._begun = True
        kept = [row for row in self._rows if row["iteration"] < iteration]
        if len(kept) < len(self._rows):
            self._rows = kept
            self._write()

    def _record(self, iteration: int, loss: Loss) -> pd.DataFrame:
        import pandas as pd

        recorder = self._recorder
        recorder.reset()
        inputs = [p for p in recorder.parameters if p.requires_grad]  # some may have been frozen in the meantime
        if not inputs:
            raise GradlabError("every recorded parameter is frozen: unfreeze some, or train without the monitor")
        for parameter in inputs:
            if getattr(parameter, "_post_accumulate_grad_hooks", None):
                raise GradlabError(
                    "a parameter has a hook that acts on its finished gradient (an optimizer in the backward pass?) "
                    "and would act on the monitor's draws too: remove the hook, or train without the monitor"
                )
        seed = int(torch.randint(2**62, (), generator=stream(self.seed, "snr monitor", iteration)))
        with undisturbed(self.model, seed, self._generators), recorder, torch.enable_grad():
            for _ in range(self.draws):
                value = loss()
                if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                    raise GradlabError(
                        "loss does not return a scalar tensor with a graph: return the training loss, not detached"
                    )
                # Differentiate with respect to the recorded parameters only; all others keep their gradient.
                value.backward(inputs=inputs)
                with contextlib.suppress(NonFinite):
                    recorder.step()
        if recorder.draws < 2:
            return pd.DataFrame()
        point = recorder.summary()
        recorder.reset()  # free the memory until the next point
        point.insert(0, "iteration", iteration)
        rows = point.to_dict("records")
        self._rows += rows
        self._write()
        if self._board is not None and _first():
            for row in rows:
                self._board.add_scalar(f"snr/{row['group']}", row["snr"], iteration)
            self._board.add_scalar("snr/noise floor", rows[0]["noise_floor"], iteration)
        return point

    def _write(self) -> None:
        if self._csv is not None and _first():
            import pandas as pd

            columns = None if self._rows else ["iteration", "group"]
            files.write_csv(self._csv, pd.DataFrame(self._rows, columns=columns))

    def _now(self) -> float:
        """Return the time in seconds, after waiting for the accelerator to finish."""
        if any(p.is_cuda for p in self._recorder.parameters):
            torch.cuda.synchronize()
        return time.perf_counter()


def _first() -> bool:
    """Return whether this process writes files."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def _callback(monitor: SNRMonitor, loss: Callable[[Any, Any], Tensor]) -> Any:
    base: Any = object
    # Try the package that is already imported first: a Trainer accepts callbacks of its own package only.
    names = sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules)
    for name in names:
        with contextlib.suppress(ImportError):
            base = importlib.import_module(name).Callback
            break

    class LiveSNR(base):
        """Calls the monitor after every iteration."""

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """Record on this minibatch, after the optimizer's step."""
            if trainer.global_step:
                monitor.after_step(trainer.global_step, lambda: loss(module, batch))

    return LiveSNR()
