"""What to do when training breaks down: notice, find the module where it began, and keep the evidence."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from torch import Tensor, nn

from gradlab.errors import GradlabError
from gradlab.noise import stream
from gradlab.runtime import checkpoints, provenance
from gradlab.training.run import LAST, Run
from gradlab.training.state import TrainState
from gradlab.training.steps import PURPOSE

FILE = "broken.safetensors"
WINDOW, PATIENCE = 100, 25  # iterations


class Watch:
    """Notices a loss or a gradient that is not finite, and a loss that explodes.

    It explodes when it exceeds ``factor`` times the lowest median of any ``WINDOW`` iterations before, for ``PATIENCE``
    iterations on end. The median does not see a batch that is very easy or very hard, and the patience lets a spike
    pass. A loss whose lowest median is not positive has no such scale, and is not watched.

    Args:
        factor: how much is an explosion; infinity for none.
        state: what ``state`` gave, of the run that is resumed.
    """

    def __init__(self, factor: float, state: Sequence[float] = ()) -> None:
        self.factor = factor
        self._lowest, self._recent = (state[0], deque(state[1:], WINDOW)) if state else (math.inf, deque(maxlen=WINDOW))
        self._above = 0

    @property
    def calm(self) -> bool:
        """Whether the last loss was ordinary, so that a checkpoint made now is a good one."""
        return self._above == 0

    def state(self) -> list[float]:
        """What a resumed run needs to judge as this one would."""
        return [self._lowest, *self._recent]

    def see(self, loss: float, norm: float) -> str | None:
        """What is wrong, if anything, with the loss and the norm of the gradient of the next iteration."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the norm of the gradient is {norm}"
        if 0 < self._lowest < math.inf and loss > self.factor * self._lowest:
            self._above += 1
            if self._above < PATIENCE:
                return None
            times = f"{self.factor:g} times its lowest median {self._lowest:.4g}"
            return f"the loss has been above {times} for {PATIENCE} iterations and is {loss:.4g}"
        self._above = 0
        self._recent.append(loss)
        if len(self._recent) == WINDOW:
            self._lowest = min(self._lowest, statistics.median(self._recent))
        return None


class _Seen(NamedTuple):
    """The first module whose output is not finite, and the largest finite output of any: name and magnitude."""

    bad: list[str]
    largest: list[tuple[float, str]]


def where(model: nn.Module, loss_of: Callable[[], Tensor]) -> str:
    """Where a breakdown began, by running its iteration again; a clause for the error.

    Args:
        model: with the weights of that iteration; its gradients are spent.
        loss_of: the loss of the same batch and the same noise.
    """
    names = {module: name or "the model" for name, module in model.named_modules()}
    weights = dict(model.named_parameters())
    broken = next((name for name, weight in weights.items() if not weight.isfinite().all()), None)
    if broken:
        return f"the weights {broken} are not finite"
    seen, gradients = _Seen([], []), list[str]()

    def after(module: nn.Module, _: Any, output: Any) -> None:
        for tensor in _tensors(output):
            if not tensor.isfinite().all():
                seen.bad.append(names[module])
            elif tensor.numel():
                seen.largest.append((float(tensor.detach().abs().max()), names[module]))

    def backward(name: str) -> Callable[[Tensor], None]:
        def note(gradient: Tensor) -> None:
            if not gradient.isfinite().all():
                gradients.append(name)

        return note

    with ExitStack() as hooks:
        for module in names:
            hooks.callback(module.register_forward_hook(after).remove)
        for name, weight in weights.items():
            if weight.requires_grad:
                hooks.callback(weight.register_hook(backward(name)).remove)
        loss = loss_of()
        if seen.bad:
            return f"the first module whose output is not finite is {seen.bad[0]}"
        if not loss.isfinite():
            return "the output of every module is finite, so the loss overflows where the objective is formed"
        loss.backward()
    if gradients:
        return f"on the way back the first gradient that is not finite is that of {gradients[0]}"
    if not seen.largest:
        return "no module was called"
    size, name = max(seen.largest)
    return f"the largest output of a module is {size:.3g}, of {name}"


def keep(run: Run, state: TrainState, batch: Tensor, iteration: int, wrong: str) -> GradlabError:
    """Save the batch and the weights of a breakdown, and make the error that says where to look.

    Args:
        run: ``broken.safetensors`` in its folder gets ``images``, ``model.<name>`` and, as its iteration, that of the
            breakdown (from 0), from which the noise follows.
        state: with the weights before the step, where a loss or gradient is not finite; where only the size exploded,
            the weights have stepped.
        batch: of the iteration.
        iteration: counted from 0.
        wrong: what ``Watch.see`` said.
    """
    settings, folder = state.settings, run.folder
    noise = stream(settings.seed, PURPOSE, iteration, batch.device)

    def loss() -> Tensor:
        return settings.loss(state.codec, batch, settings.lam, noise)

    message = f"training broke off at iteration {iteration + 1}: {wrong}; {where(state.codec, loss)}"
    tensors: Mapping[str, Tensor] = {f"model.{name}": value for name, value in state.codec.state_dict().items()}
    try:
        checkpoints.save(
            folder / FILE,
            {**tensors, "images": batch},
            provenance.settings_hash(settings),
            iteration,
            {"error": message},
        )
        kept = f"batch and weights are in {folder / FILE}"
    except GradlabError as error:
        kept = f"batch and weights could not be saved: {error}"
    last = folder / LAST
    good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint had been written"
    return GradlabError(f"{message}; lower the learning rate or clip more ({kept}; {good})")


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in _tensors(part)]
    return []
