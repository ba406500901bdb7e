"""``TrainState``: a codec, its optimizer and the history of its training, as one checkpoint."""

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
"""Iterations over which the learning rate rises after a warm restart."""


@shown
@dataclass
class TrainState:
    """The state that training changes.

    Attributes:
        settings: of the run.
        codec: in training mode; on CUDA in channels-last layout.
        weights: the trained weights, by name.
        optimizer: fused Adam; its learning rate is a scalar tensor on the device, so that it can change without
            re-recording a graph or synchronising with the host.
        iteration: number of finished iterations.
        log: rows of ``log.csv``.
        restarts: iterations after which training went on with a new optimizer.
        detector: state of the breakdown detector (``gradlab.training.breakdown.Detector``).
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
        """Return the state before the first iteration.

        Raises:
            GradlabError: a precision that the device lacks.
        """
        precision.check(settings.precision, device)
        codec = settings_.build(settings).to(device).train()
        return cls.of(codec, settings)

    @classmethod
    def of(cls, codec: Codec | PFrame, settings: TrainSettings) -> TrainState:
        """Return the state before the first iteration of an existing codec, in the precision of its weights."""
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
        """Where the codec is."""
        return next(self.codec.parameters()).device

    def set_rate(self) -> float:
        """Set the learning rate of the next iteration in the optimizer, and return it."""
        rate = self.settings.rate_at(self.iteration)
        if self.restarts:
            # Adam's first steps have full size whatever the gradient, so a new optimizer starts gently.
            rate *= min(1.0, (self.iteration - self.restarts[-1] + 1) / RESTART)
        self.optimizer.param_groups[0]["lr"].fill_(rate)
        return rate

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint: ``model.<name>`` and ``adam.<moment>.<name>``."""
        tensors = {f"model.{name}": value for name, value in self.codec.state_dict().items()}
        for name, parameter in self.weights.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{key}.{name}"] = torch.as_tensor(value)
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of ``tensors()``, from any device.

        Call it before a step is made: a recorded graph would not use the new tensors.

        Raises:
            GradlabError: the state of another model.
        """
        try:
            self.codec.load_state_dict({n[len("model.") :]: t for n, t in tensors.items() if n.startswith("model.")})
        except RuntimeError:
            name = type(self.codec).__name__
            raise GradlabError(f"this is the state of another model than {name}: give what tensors() gave") from None
        moments: dict[int, dict[str, Tensor]] = {}
        for index, (name, parameter) in enumerate(self.weights.items()):
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors.get(f"adam.{key}.{name}")
                if value is not None:
                    # Fused Adam wants the moments in the layout of the weights.
                    like = value.clone() if key == "step" else torch.empty_like(parameter).copy_(value)
                    moments.setdefault(index, {})[key] = like.detach()
        # torch puts the step count on the right device.
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def save(self, path: Path) -> None:
        """Write a checkpoint, atomically.

        Raises:
            GradlabError: the disk refuses.
        """
        extra = {"log": self.log, "warm_restarts": self.restarts, "watch": self.detector}
        checkpoints.save(path, self.tensors(), provenance.settings_hash(self.settings), self.iteration, extra)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; without the optimizer's state (``gradlab pack``) this is a warm restart.

        Raises:
            GradlabError: a file that is missing, corrupt or of other settings.
        """
        stored = checkpoints.load(path, provenance.settings_hash(self.settings))
        self.log, self.detector, self.restarts = map(list, stored.entries("log", "watch", "warm_restarts"))
        self.load_tensors(stored.tensors)
        self.iteration = stored.iteration
        if not self.optimizer.state:
            self.restarts.append(self.iteration)

    def snapshot(self, path: Path) -> None:
        """Write the current weights as a codec that can write bitstreams; the codec in training is not changed."""
        checkpoints.save(path, self._finished(), provenance.settings_hash(self.settings), self.iteration)

    def finish(self, path: Path, step: str) -> None:
        """Solve the quantiles, build the coder's tables, and write the finished codec.

        Args:
            path: the file.
            step: how it was trained, for ``Run.record``.
        """
        device = provenance.device_name(str(self.device))
        if self.device.type != "cpu":
            device += f", torch {provenance.version('torch')}"
        extra = {"warm_restarts": self.restarts, "step": step, "device": device}
        checkpoints.save(path, self._finished(), provenance.settings_hash(self.settings), self.settings.steps, extra)

    def _finished(self) -> dict[str, Tensor]:
        """Return the state of a finished copy, made on the CPU.

        Bitstreams are coded there, and reading thousands of single numbers from an accelerator would delay all models
        that train on it.
        """
        twin = copy.deepcopy(self.codec).cpu()
        twin.finish()
        tensors: dict[str, Tensor] = twin.state_dict()
        return tensors
