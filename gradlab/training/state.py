"""Define ``TrainState``: a codec, its optimizer and its training history, saved as one checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from gradlab.codecs import Codec, PFrame, precision
from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints, provenance
from gradlab.runtime.display import counted, shown
from gradlab.training import settings as settings_
from gradlab.training.settings import TrainSettings, trainable

RESTART = 1000
"""Iterations over which the learning rate rises linearly after a warm restart."""


@shown
@dataclass
class TrainState:
    """State that training changes.

    Attributes:
        settings: settings of the run.
        codec: model in training mode; in channels-last layout on CUDA.
        weights: weights to train, by name.
        optimizer: fused Adam. Its learning rate is a scalar tensor on the device, so that it can change without
            capturing a new graph or synchronising with the host.
        iteration: number of finished iterations.
        log: rows of ``log.csv``.
        restarts: iterations after which training continued with a new optimizer.
        detector: state of the breakdown detector (``gradlab.training.breakdown.Detector``).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import gradlab as gl
        >>> from gradlab.training import TrainState
        >>> settings = gl.TrainSettings(codec="small-hyperprior", channels=(6, 4), learning_rate=1e-3)
        >>> state = TrainState.new(settings)
        >>> state.iteration, state.set_rate()
        (0, 0.001)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     state.save(Path(folder) / "last.safetensors")
        ...     resumed = TrainState.new(settings)
        ...     resumed.load(Path(folder) / "last.safetensors")
        >>> all(a.equal(b) for a, b in zip(state.weights.values(), resumed.weights.values()))
        True
    """

    settings: TrainSettings
    codec: Codec | PFrame
    weights: dict[str, Tensor]
    optimizer: torch.optim.Adam
    iteration: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    restarts: list[int] = field(default_factory=list)
    detector: list[float] = field(default_factory=list)

    @classmethod
    def new(cls, settings: TrainSettings, device: str | torch.device = "cpu") -> TrainState:
        """Build a model and return its state before the first iteration.

        Args:
            settings: settings of the run.
            device: torch device of the model.

        Raises:
            GradlabError: the device does not support the precision.
        """
        precision.check(settings.precision, device)
        codec = settings_.build(settings).to(device).train()
        return cls.of(codec, settings)

    @classmethod
    def of(cls, codec: Codec | PFrame, settings: TrainSettings) -> TrainState:
        """Return the state before the first iteration for an existing codec, in the precision of its weights.

        Args:
            codec: model to train.
            settings: settings of the run.

        Example:
            >>> import gradlab as gl
            >>> settings = gl.TrainSettings(codec="small-hyperprior", channels=(6, 4))
            >>> codec = gl.training.build(settings).double()
            >>> state = gl.training.TrainState.of(codec, settings)
            >>> next(iter(state.weights.values())).dtype
            torch.float64
        """
        codec.precision = settings.precision
        at = next(codec.parameters())
        cuda = at.device.type == "cuda"
        if cuda:
            codec = codec.to(memory_format=torch.channels_last)
        weights = trainable(codec)
        # Fused Adam on CUDA reads the learning rate as float32; on a CPU float64 keeps all digits of the schedule.
        rate = torch.tensor(
            settings.learning_rate, device=at.device, dtype=torch.float64 if at.device.type == "cpu" else torch.float32
        )
        adam = torch.optim.Adam(list(weights.values()), lr=rate, betas=settings.betas, fused=True, capturable=cuda)
        adam._warned_capturable_if_run_uncaptured = True  # type: ignore[attr-defined]  # eager steps are intended
        return cls(settings, codec, weights, adam)

    def _repr_line_(self) -> str:
        return f"{self.settings.codec!r}, {self.iteration:_} of {self.settings.steps:_} iterations, {self.device}"

    def _repr_rows_(self) -> dict[str, object]:
        return {
            "iteration": f"{self.iteration:_} of {self.settings.steps:_}",
            "device": str(self.device),
            "weights": f"{counted(len(self.weights), 'tensor')}, "
            + counted(sum(weight.numel() for weight in self.weights.values()), "scalar"),
            "log": counted(len(self.log), "row"),
            "warm restarts": ", ".join(map(str, self.restarts)) or "none",
            "settings": self.settings,
        }

    @property
    def device(self) -> torch.device:
        """Device of the codec."""
        return next(self.codec.parameters()).device

    def set_rate(self) -> float:
        """Set the learning rate of the next iteration in the optimizer, and return it."""
        rate = self.settings.rate_at(self.iteration)
        if self.restarts:
            # Adam's first steps have full size regardless of the gradient, so a new optimizer needs a warm-up.
            rate *= min(1.0, (self.iteration - self.restarts[-1] + 1) / RESTART)
        self.optimizer.param_groups[0]["lr"].fill_(rate)
        return rate

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint: ``model.<name>`` and ``adam.<moment>.<name>``.

        Example:
            >>> import gradlab as gl
            >>> state = gl.training.TrainState.new(gl.TrainSettings(codec="small-hyperprior", channels=(6, 4)))
            >>> state.load_tensors(state.tensors())
            >>> "model.g_a.0.weight" in state.tensors()
            True
        """
        tensors = {f"model.{name}": value for name, value in self.codec.state_dict().items()}
        for name, parameter in self.weights.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{key}.{name}"] = torch.as_tensor(value)
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the tensors that ``tensors`` returned, from any device.

        Call this before creating a step: a captured graph would not use the new tensors.

        Args:
            tensors: result of ``tensors()``.

        Raises:
            GradlabError: the tensors belong to another model.

        Example:
            >>> import gradlab as gl
            >>> settings = gl.TrainSettings(codec="small-hyperprior", channels=(6, 4))
            >>> state, other = (gl.training.TrainState.new(settings) for _ in range(2))
            >>> other.load_tensors(state.tensors())
        """
        try:
            self.codec.load_state_dict({n[len("model.") :]: t for n, t in tensors.items() if n.startswith("model.")})
        except RuntimeError:
            name = type(self.codec).__name__
            raise GradlabError(f"the tensors do not fit {name}: give the result of tensors() of this model") from None
        moments: dict[int, dict[str, Tensor]] = {}
        for index, (name, parameter) in enumerate(self.weights.items()):
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors.get(f"adam.{key}.{name}")
                if value is not None:
                    # Fused Adam needs the moments in the memory layout of the weights.
                    like = value.clone() if key == "step" else torch.empty_like(parameter).copy_(value)
                    moments.setdefault(index, {})[key] = like.detach()
        # torch moves the step count to the right device.
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically.

        Args:
            path: path of the checkpoint.

        Raises:
            GradlabError: the file cannot be written.
        """
        extra = {"log": self.log, "warm_restarts": self.restarts, "watch": self.detector}
        checkpoints.save(path, self.tensors(), provenance.settings_hash(self.settings), self.iteration, extra)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        If the checkpoint has no optimizer state (see ``gradlab pack``), training continues with a warm restart.

        Args:
            path: path of the checkpoint.

        Raises:
            GradlabError: the file is missing, corrupt, or belongs to other settings.
        """
        stored = checkpoints.load(path, provenance.settings_hash(self.settings))
        self.log, self.detector, self.restarts = map(list, stored.entries("log", "watch", "warm_restarts"))
        self.load_tensors(stored.tensors)
        self.iteration = stored.iteration
        if not self.optimizer.state:
            self.restarts.append(self.iteration)

    def snapshot(self, path: Path) -> None:
        """Write the current weights as a codec that can code bitstreams, without changing the codec in training.

        Args:
            path: path of the file.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> import gradlab as gl
            >>> state = gl.training.TrainState.new(gl.TrainSettings(codec="small-hyperprior", channels=(6, 4)))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     state.snapshot(Path(folder) / "snapshot-0.safetensors")
        """
        checkpoints.save(path, self._finished(), provenance.settings_hash(self.settings), self.iteration)

    def finish(self, path: Path, step: str) -> None:
        """Solve the quantiles, build the coding tables, and write the finished codec.

        Args:
            path: path of the file.
            step: training step that was used, for ``Run.record``.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> import gradlab as gl
            >>> state = gl.training.TrainState.new(gl.TrainSettings(codec="small-hyperprior", channels=(6, 4)))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     state.finish(Path(folder) / "final.safetensors", step="eager")
        """
        device = provenance.device_name(str(self.device))
        if self.device.type != "cpu":
            device += f", torch {provenance.version('torch')}"
        extra = {"warm_restarts": self.restarts, "step": step, "device": device}
        checkpoints.save(path, self._finished(), provenance.settings_hash(self.settings), self.settings.steps, extra)

    def _finished(self) -> dict[str, Tensor]:
        """Return the state dict of a finished copy of the codec, made on the CPU.

        Bitstreams are coded on the CPU. Reading thousands of single numbers from an accelerator would delay every model
        that trains on it.
        """
        twin = copy.deepcopy(self.codec).cpu()
        twin.finish()
        tensors: dict[str, Tensor] = twin.state_dict()
        return tensors
