"""Record the signal-to-noise ratio of the gradients of any torch model, per module and in constant memory.

A draw is one backward pass (or several that accumulate) with fresh noise, frozen weights and a frozen minibatch:

    recorder = GradientRecorder({"encoder": model.g_a, "decoder": model.g_s})
    with recorder:
        for _ in range(100):
            loss(model(x)).backward()
            recorder.step()
    print(recorder.summary())

``gradlab.snr.definitions`` defines all columns and their standard errors (``replicate``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError, brief
from gradlab.runtime.display import counted, shown
from gradlab.snr import definitions
from gradlab.snr.recorder.checks import aligned, refuse_non_finite
from gradlab.snr.recorder.members import Group, Members, resolve
from gradlab.snr.recorder.stream import Stream
from gradlab.validation import known, several

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GradientRecorder", "Group"]

LEVELS = ("group", "module", "parameter")


@shown
class GradientRecorder:
    """Turn repeated noise draws into gradient SNR per group, module and parameter.

    While the context is open, hooks move every finished gradient out of ``.grad``, so ``.grad`` is None after each
    backward pass and an optimizer has nothing to step on. Earlier gradients are restored on exit. Weights never change.
    The recorder uses the gradient of the loss as it is, whether or not the loss averages over the minibatch.

    - A parameter in two groups, or used twice in one model, is stored once and counts in each group.
    - Frozen parameters are skipped. A parameter without a gradient in some draw has gradient 0 in that draw.
    - For a masked convolution (a module with a ``weight`` and a same-shaped buffer ``mask``), only unmasked taps count.
    - The memory is 2 float64 copies of the parameters, or 4 with standard errors and at least 64 draws. An accelerator
      needs up to 270 MB of working memory in addition.
    - ``snr_se`` is NaN for fewer than 16 draws (8 blocks after a burn-in of 8 draws).

    Args:
        groups: a model (its children are the groups, its own parameters form the group ``(own)``), or a dict from group
            name to a module, an iterable of parameters, an iterable of (name, parameter), or a dict of parameters.
        standard_errors: whether to compute ``snr_se``.
        exclude: names of parameters to leave out (the last component of the dotted name). Their gradients are
            discarded.

    Raises:
        GradlabError: if a group has nothing to record or is of an unsupported type.

    Example:
        >>> import torch
        >>> import gradlab as gl
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        >>> recorder = gl.GradientRecorder({"encoder": model[0], "decoder": model[1]})
        >>> with recorder:
        ...     for _ in range(20):
        ...         noise = torch.randn(4, 2, generator=generator)
        ...         model(1 + noise).square().mean().backward()
        ...         recorder.step()
        >>> recorder.summary()[["group", "parameters", "draws"]].to_dict("records")
        [{'group': 'encoder', 'parameters': 9, 'draws': 20}, {'group': 'decoder', 'parameters': 4, 'draws': 20}]
    """

    def __init__(
        self,
        groups: nn.Module | Mapping[str, Group],
        standard_errors: bool = True,
        *,
        exclude: str | Iterable[str] = (),
    ) -> None:
        self._members: Members = resolve(groups, tuple(several("exclude", exclude, str, "names", empty=True)))
        self._entities = self._members.entities()
        self._stream = self._empty(standard_errors)
        self._position = {id(p): i for i, p in enumerate(self._members.parameters)}
        self._pending: dict[int, Tensor] = {}  # gradients since the last step, by position
        self._suspect: set[int] = set()  # positions of gradients that may not be finite
        self._stash: list[tuple[Tensor, Tensor | None]] | None = None
        self._handles: list[Any] = []

    @property
    def draws(self) -> int:
        """The number of recorded draws."""
        return self._stream.draws

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The distinct recorded tensors, in the order that ``add`` expects gradients."""
        return self._members.parameters

    def _repr_line_(self) -> str:
        sizes = self._members.sizes()
        scalars = counted(sum(p.numel() for p in self.parameters), "scalar")
        held = f"{counted(len(sizes), 'group')}, {counted(len(self.parameters), 'tensor')}, {scalars}"
        return f"{held}, {counted(self.draws, 'draw')}, {'closed' if self._stash is None else 'open'}"

    def _repr_rows_(self) -> dict[str, object]:
        return {
            "draws": f"{self.draws:_}",
            "context": "closed" if self._stash is None else "open",
            "standard errors": self._stream.standard_errors,
            "devices": ", ".join(sorted({str(p.device) for p in self.parameters})),
            "excluded": counted(len(self._members.excluded), "tensor"),
            "groups": self._members.sizes(),
        }

    def __enter__(self) -> GradientRecorder:
        """Register hooks on the parameters and set their ``.grad`` aside."""
        if self._stash is not None:
            raise GradlabError("the recorder is already open: close its context before opening it again")
        self._pending, self._suspect = {}, set()
        self._stash = []
        for parameter in (*self._members.parameters, *self._members.excluded):
            self._stash.append((parameter, parameter.grad))
            parameter.grad = None
            if parameter.requires_grad:  # may have been frozen in the meantime
                hook = parameter.register_post_accumulate_grad_hook(self._take)  # type: ignore[no-untyped-call]
                self._handles.append(hook)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the hooks and restore ``.grad``, also after an error.

        Raises:
            GradlabError: if the last backward pass was not followed by ``step``.
        """
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for parameter, gradient in self._stash or ():
            parameter.grad = gradient
        self._stash = None
        pending = self._pending
        self._pending, self._suspect = {}, set()
        if pending and kind is None:
            raise GradlabError("the last backward pass is not recorded: call recorder.step() after every draw")

    def _take(self, parameter: Tensor) -> None:
        """Move a finished gradient out of ``.grad``; gradients of several backward passes before a step add up."""
        gradient, parameter.grad = parameter.grad, None
        index = self._position.get(id(parameter))
        if gradient is None or index is None:
            return
        gradient = gradient.detach() if gradient.requires_grad else gradient
        before = self._pending.get(index)
        self._pending[index] = gradient if before is None else before + gradient
        # A new gradient is still in the CPU cache, so it is checked now; all others are checked in step.
        hot = before is None and self._stream.large and gradient.device.type == "cpu"
        # The sum is finite only if every element is.
        if not (hot and gradient.layout == torch.strided and math.isfinite(gradient.sum())):
            self._suspect.add(index)

    def step(self) -> None:
        """Finish a draw: record the sum of all gradients since the last step.

        Raises:
            GradlabError: if the context is not open, or there was no backward pass.
            NonFinite: if a gradient holds NaN or Inf. The draw is dropped and the statistics stay as they were.
        """
        if self._stash is None:
            raise GradlabError("step() is called outside the recorder's context: put the draws inside 'with recorder:'")
        if not self._pending:
            raise GradlabError(
                "step() is called without a gradient: first call backward() on a loss that depends on the recorded "
                "parameters"
            )
        pending, suspect = self._pending, self._suspect
        self._pending, self._suspect = {}, set()
        self._record(pending, suspect)

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Record one draw from gradients computed elsewhere, e.g. by a replayed CUDA graph or ``torch.func``.

        The statistics are bitwise equal to those after a backward pass and ``step()``. ``add`` uses no hooks, so it
        works inside and outside the context. It reads the gradients and does not keep them, so the next replay may
        overwrite them:

            with torch.cuda.graph(graph):
                gradients = torch.autograd.grad(loss(model(x)), recorder.parameters)
            for _ in range(100):
                graph.replay()
                recorder.add(gradients)

        Args:
            gradients: one gradient for each of ``recorder.parameters``, in that order: a tensor of the parameter's
                shape and of any floating-point type, or None for a gradient of 0.

        Raises:
            GradlabError: if ``gradients`` is not a list or tuple, has the wrong length, holds a tensor of the wrong
                shape or type, or only None.
            NonFinite: if a gradient holds NaN or Inf. The draw is dropped.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> recorder = gl.GradientRecorder(torch.nn.Linear(2, 1))
            >>> recorder.add([torch.ones(1, 2), None])
            >>> recorder.draws
            1
        """
        self._record(aligned(self._members, gradients), None)

    def _record(self, pending: dict[int, Tensor], suspect: set[int] | None) -> None:
        """Record one draw of gradients by position, after checking those in ``suspect`` (or all) for NaN and Inf."""
        for index, gradient in pending.items():
            dense = gradient.to_dense() if gradient.layout != torch.strided else gradient
            mask = self._members.masks[index]
            pending[index] = dense if mask is None else torch.where(mask != 0, dense, 0)
        doubtful = pending if suspect is None else {i: pending[i] for i in suspect}
        refuse_non_finite(self._members, doubtful, self.draws + 1)
        self._stream.allocate([p.device for p in self._members.parameters])
        self._stream.update([pending.get(i) for i in range(len(self._members.parameters))])

    def summary(self, level: Literal["group", "module", "parameter"] = "group") -> pd.DataFrame:
        """Return one row per group, module or parameter.

        Args:
            level: ``"group"``, ``"module"`` or ``"parameter"``.

        Returns:
            The columns ``group`` (then ``module``, ``parameter``), ``parameters`` (the number of trainable scalars,
            without masked taps), ``dead``, ``draws``, ``snr``, ``snr_se``, ``noise_floor``, ``snr_corrected``,
            ``mean_norm`` and ``variance_trace``, as defined in ``gradlab.snr.definitions``. After a single draw,
            ``snr`` and ``variance_trace`` are NaN, because one draw has no standard deviation.

        Raises:
            GradlabError: if there are no draws yet, or the level is unknown.
        """
        known("level", level, LEVELS)
        if self.draws == 0:
            raise GradlabError("the recorder has no draws: record at least one, better 100")
        import pandas as pd

        tallies = []
        for index, mask in enumerate(self._members.masks):
            mean, m2 = self._stream.totals(index)
            flat = None if mask is None else mask.reshape(-1).to(mean.device)
            tallies.append(definitions.tally(mean, m2, self.draws, flat))
        depth = LEVELS.index(level) + 1
        rows = []
        for entity, (names, indices) in enumerate(self._entities):
            if len(names) != depth:
                continue
            group = definitions.merge(tallies[i] for i in indices)
            rows.append(
                dict(zip(LEVELS, names, strict=False))
                | {
                    "parameters": group.parameters,
                    "dead": definitions.dead(group),
                    "draws": self.draws,
                    "snr": definitions.snr(group),
                    "snr_se": self._stream.spread.standard_error(entity, group.live, self.draws),
                    "noise_floor": definitions.noise_floor(self.draws),
                    "snr_corrected": definitions.snr_corrected(group),
                    "mean_norm": definitions.mean_norm(group),
                    "variance_trace": definitions.variance_trace(group),
                }
            )
        return pd.DataFrame(rows)

    def reset(self) -> None:
        """Forget all draws and free their memory; the groups stay.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> recorder = gl.GradientRecorder(torch.nn.Linear(2, 1))
            >>> recorder.add([torch.ones(1, 2), None])
            >>> recorder.reset()
            >>> recorder.draws
            0
        """
        self._stream = self._empty(self._stream.standard_errors)

    def _empty(self, standard_errors: bool) -> Stream:
        return Stream(self._members.parameters, [indices for _, indices in self._entities], standard_errors)

    def merge(self, other: GradientRecorder) -> None:
        """Add the draws of another recorder of the same parameters, e.g. from another process.

        The moments are merged exactly (Chan, Golub & LeVeque 1983). The replicates behind ``snr_se`` are pooled; each
        of them uses the draws of its own recorder only.

        Args:
            other: the recorder to add; it stays as it is.

        Raises:
            GradlabError: if the recorders record different parameters, or ``other`` is this recorder.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> model = torch.nn.Linear(2, 1)
            >>> first, second = gl.GradientRecorder(model), gl.GradientRecorder(model)
            >>> for recorder in (first, second):
            ...     recorder.add([torch.ones(1, 2), None])
            >>> first.merge(second)
            >>> first.draws
            2
        """
        if other is self:
            raise GradlabError("other is this recorder, whose draws would count twice: give another recorder")
        if not isinstance(other, GradientRecorder):
            raise GradlabError(f"other is {brief(other)}: give a GradientRecorder")
        self._check_same(other._members.signature, other._stream.standard_errors)
        self._stream.merge(other._stream)

    def _check_same(self, parameters: object, standard_errors: object) -> None:
        signature = self._members.signature
        if parameters != signature:
            others = parameters if isinstance(parameters, list) else []
            odd = next((n for n in [*signature, *others] if (n in signature) != (n in others)), "another order")
            raise GradlabError(f"the recorders hold different parameters ({odd}): build both from the same groups")
        if standard_errors != self._stream.standard_errors:
            raise GradlabError("only one of the recorders has standard errors: use the same standard_errors for both")

    def state_dict(self) -> dict[str, Any]:
        """Return all statistics as tensors, numbers, strings and lists.

        Returns:
            A dict that ``torch.save`` can write. Its size does not grow with the number of draws.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> model = torch.nn.Linear(2, 1)
            >>> recorder = gl.GradientRecorder(model)
            >>> recorder.add([torch.ones(1, 2), None])
            >>> resumed = gl.GradientRecorder(model)
            >>> resumed.load_state_dict(recorder.state_dict())
            >>> resumed.draws
            1
        """
        return {"parameters": self._members.signature, **self._stream.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the statistics with those from ``state_dict()``.

        Recording then continues to the same numbers as without the interruption.

        Args:
            state: the result of ``state_dict()`` of a recorder of the same parameters.

        Raises:
            GradlabError: if the state belongs to other parameters, or is damaged.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> model = torch.nn.Linear(2, 1)
            >>> recorder = gl.GradientRecorder(model)
            >>> recorder.add([torch.ones(1, 2), None])
            >>> resumed = gl.GradientRecorder(model)
            >>> resumed.load_state_dict(recorder.state_dict())
            >>> resumed.draws
            1
        """
        if not isinstance(state, Mapping):
            raise GradlabError(f"state is {brief(state)}: give what state_dict() returned")
        self._check_same(state.get("parameters"), state.get("standard_errors"))
        self._stream.load_state_dict(state, [p.device for p in self._members.parameters])
