"""Handle breakdowns of training: detect them, locate the module where they begin, and save the evidence."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from gradlab.errors import GradlabError
from gradlab.noise import stream
from gradlab.runtime import checkpoints, provenance
from gradlab.training.run import LAST, Run
from gradlab.training.state import TrainState
from gradlab.training.steps import PURPOSE

FILE = "broken.safetensors"
WINDOW, PATIENCE = 100, 25  # iterations


class Detector:
    """Detect a non-finite loss or gradient, and an exploding loss.

    A loss explodes if it exceeds ``factor`` times the lowest median of any earlier ``WINDOW`` iterations, in
    ``PATIENCE`` consecutive iterations. The median is robust to single very easy or very hard batches, and the patience
    ignores spikes. If the lowest median is not positive, it sets no scale and no explosion is detected.

    Args:
        factor: threshold of an explosion; infinity disables the check.
        state: result of ``state()`` from the run that is resumed.
    """

    def __init__(self, factor: float, state: Sequence[float] = ()) -> None:
        self.factor = factor
        self._lowest, self._recent = (state[0], deque(state[1:], WINDOW)) if state else (math.inf, deque(maxlen=WINDOW))
        self._above = 0

    @property
    def stable(self) -> bool:
        """Whether the last loss was below the threshold, so that a checkpoint written now is good."""
        return self._above == 0

    def state(self) -> list[float]:
        """Return the state with which a resumed run continues detection."""
        return [self._lowest, *self._recent]

    def check(self, loss: float, norm: float) -> str | None:
        """Return a description of the problem in the next iteration, or None if there is none.

        Args:
            loss: loss of the iteration.
            norm: norm of its gradient.
        """
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the norm of the gradient is {norm}"
        if 0 < self._lowest < math.inf and loss > self.factor * self._lowest:
            self._above += 1
            if self._above < PATIENCE:
                return None
            times = f"{self.factor:g} times its lowest median {self._lowest:.4g}"
            return f"the loss has been above {times} for {PATIENCE} iterations and is now {loss:.4g}"
        self._above = 0
        self._recent.append(loss)
        if len(self._recent) == WINDOW:
            self._lowest = min(self._lowest, statistics.median(self._recent))
        return None


def locate(model: nn.Module, loss_of: Callable[[], Tensor]) -> str:
    """Find where a breakdown began by running its iteration again.

    Args:
        model: model with the weights of that iteration; its gradients are overwritten.
        loss_of: returns the loss of the same batch with the same noise.

    Returns:
        A clause for the error message.
    """
    names = {module: name or "the model" for name, module in model.named_modules()}
    weights = dict(model.named_parameters())
    broken = next((name for name, weight in weights.items() if not weight.isfinite().all()), None)
    if broken:
        return f"the weights {broken} are not finite"
    not_finite, largest, gradients = list[str](), list[tuple[float, str]](), list[str]()

    def forward_hook(module: nn.Module, _: Any, output: Any) -> None:
        for tensor in _tensors(output):
            if not tensor.isfinite().all():
                not_finite.append(names[module])
            elif tensor.numel():
                largest.append((float(tensor.detach().abs().max()), names[module]))

    def gradient_hook(name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not gradient.isfinite().all():
                gradients.append(name)

        return hook

    with ExitStack() as hooks:
        for module in names:
            hooks.callback(module.register_forward_hook(forward_hook).remove)
        for name, weight in weights.items():
            if weight.requires_grad:
                hooks.callback(weight.register_hook(gradient_hook(name)).remove)
        loss = loss_of()
        if not_finite:
            return f"the first module with a non-finite output is {not_finite[0]}"
        if not loss.isfinite():
            return "every module output is finite, so the loss overflows in the objective"
        loss.backward()
    if gradients:
        return f"in the backward pass the first non-finite gradient is at {gradients[0]}"
    if not largest:
        return "no module was called"
    size, name = max(largest)
    return f"the largest module output is {size:.3g}, of {name}"


def breakdown_error(run: Run, state: TrainState, batch: Tensor, iteration: int, problem: str) -> GradlabError:
    """Save the batch and the weights of a breakdown, and return an error that says where it began.

    Args:
        run: run whose folder receives ``broken.safetensors`` with ``images`` and ``model.<name>``. Its header holds the
            iteration of the breakdown (from 0), which determines the noise.
        state: state with the weights before the step if a loss or gradient is not finite, or after the step if the loss
            exploded.
        batch: batch of the iteration.
        iteration: number of the iteration, from 0.
        problem: result of ``Detector.check``.
    """
    settings, path, last = state.settings, run.folder / FILE, run.folder / LAST
    noise = stream(settings.seed, PURPOSE, iteration, batch.device)
    place = locate(state.codec, lambda: settings.loss(state.codec, batch, settings.lam, noise))
    message = f"training broke down at iteration {iteration + 1}: {problem}; {place}"
    tensors = {f"model.{name}": value for name, value in state.codec.state_dict().items()} | {"images": batch}
    try:
        checkpoints.save(path, tensors, provenance.settings_hash(settings), iteration, {"error": message})
        saved = f"batch and weights are in {path}"
    except GradlabError as error:
        saved = f"batch and weights could not be saved: {error}"
    good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint had been written"
    return GradlabError(f"{message}; lower the learning rate or clip more ({saved}; {good})")


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in _tensors(part)]
    return []
