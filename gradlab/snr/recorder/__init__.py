"""``GradientRecorder``: the signal-to-noise ratio of any torch model's gradients, per module, in constant memory.

A draw is one backward pass (or several that accumulate) with fresh noise, frozen weights and a frozen minibatch:

    recorder = GradientRecorder({"encoder": model.g_a, "decoder": model.g_s})
    with recorder:
        for _ in range(100):
            loss(model(x)).backward()
            recorder.step()
    print(recorder.summary())

``gradlab.snr.definitions`` defines all columns, and their standard errors (``replicate``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError
from gradlab.runtime.display import counted, shown
from gradlab.snr import definitions
from gradlab.snr.recorder.checks import aligned, refuse_non_finite
from gradlab.snr.recorder.members import Group, Members, resolve
from gradlab.snr.recorder.stream import Stream
from gradlab.validation import checked, known, several

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GradientRecorder", "Group"]

LEVELS = ("group", "module", "parameter")


@shown
class GradientRecorder:
    """Turns repeated noise draws into gradient SNR per group, module and parameter.

    While the context is open, hooks take every finished gradient out of ``.grad``, so that it is empty after each
    backward pass and an optimizer has nothing to step on; earlier gradients are restored on exit. Weights never change.
    The recorder takes the gradient of the loss as it is, averaged over the minibatch or not.

    - A parameter in two groups, or used twice in one model, is stored once and counts in each group.
    - Frozen parameters are skipped. A parameter without gradient in a draw has gradient 0 in it.
    - A masked convolution (a module with ``weight`` and a same-shaped buffer ``mask``) counts its live taps only.
    - Memory, in float64 copies of the parameters: 2, and with standard errors and 64 draws or more 4. On an
      accelerator up to 270 MB of working memory come on top.
    - ``snr_se`` is NaN below 17 draws (8 blocks after a burn-in of 8 draws).

    Args:
        groups: a model (its children are the groups, its own parameters the group ``(own)``), or name -> module,
            iterable of parameters, iterable of (name, parameter), or dict name -> parameter.
        standard_errors: also track ``snr_se``.
        exclude: last name components of parameters to leave out; their gradients are thrown away.

    Raises:
        GradlabError: nothing to record in a group, or a group of an unknown kind.
    """

    @checked
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
        self._suspect: set[int] = set()  # those that may not be finite
        self._stash: list[tuple[Tensor, Tensor | None]] | None = None
        self._handles: list[Any] = []

    @property
    def draws(self) -> int:
        """Number of draws recorded."""
        return self._stream.draws

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Distinct recorded tensors."""
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
        """Hook the parameters and set their ``.grad`` aside."""
        if self._stash is not None:
            raise GradlabError("this recorder is already open: close its context before you open it again")
        self._pending, self._suspect = {}, set()
        self._stash = []
        for parameter in (*self._members.parameters, *self._members.excluded):
            self._stash.append((parameter, parameter.grad))
            parameter.grad = None
            if parameter.requires_grad:  # it may have been frozen since
                hook = parameter.register_post_accumulate_grad_hook(self._take)  # type: ignore[no-untyped-call]
                self._handles.append(hook)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the hooks and restore ``.grad``, after an error too.

        Raises:
            GradlabError: a backward pass was never followed by ``step``.
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
            raise GradlabError("the last backward pass was not recorded: call recorder.step() after every draw")

    def _take(self, parameter: Tensor) -> None:
        """Move a finished gradient out of ``.grad``; several backward passes before a step add up."""
        gradient, parameter.grad = parameter.grad, None
        index = self._position.get(id(parameter))
        if gradient is None or index is None:
            return
        gradient = gradient.detach() if gradient.requires_grad else gradient
        before = self._pending.get(index)
        self._pending[index] = gradient if before is None else before + gradient
        # A gradient that has just been computed is still in the cache of a CPU; all others wait for step.
        hot = before is None and self._stream.large and gradient.device.type == "cpu"
        # Its sum is finite only if all of it is.
        if not (hot and gradient.layout == torch.strided and math.isfinite(gradient.sum())):
            self._suspect.add(index)

    def step(self) -> None:
        """Finish a draw: the sum of all gradients since the last step.

        Raises:
            GradlabError: called outside of the context or without a backward pass; ``NonFinite``, a kind of it, if a
                gradient holds NaN or Inf (the draw is dropped, the statistics stay as they were).
        """
        if self._stash is None:
            raise GradlabError("step() outside of the recorder's context: put the draws inside 'with recorder:'")
        if not self._pending:
            raise GradlabError(
                "step() without a gradient: call backward() on a loss that depends on the recorded parameters first"
            )
        pending, suspect = self._pending, self._suspect
        self._pending, self._suspect = {}, set()
        self._record(pending, suspect)

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Record one draw from gradients computed elsewhere, e.g. by a replayed CUDA graph or ``torch.func``.

        The statistics are the same, bit for bit, as after a backward pass and ``step()``. ``add`` uses no hooks: call
        it inside or outside of the context. The gradients are read and not kept, so the next replay may overwrite
        them:

            with torch.cuda.graph(graph):
                gradients = torch.autograd.grad(loss(model(x)), recorder.parameters)
            for _ in range(100):
                graph.replay()
                recorder.add(gradients)

        Args:
            gradients: one for each of ``recorder.parameters``, in that order: a tensor of the parameter's shape and of
                any float type, or None for a gradient of 0.

        Raises:
            GradlabError: no sequence, another number of gradients, another shape, no float type, or None throughout;
                ``NonFinite``, a kind of it, if a gradient holds NaN or Inf (the draw is dropped).
        """
        self._record(aligned(self._members, gradients), None)

    def _record(self, pending: dict[int, Tensor], suspect: set[int] | None) -> None:
        """Record one draw of gradients by position; check those in ``suspect``, or all, for NaN and Inf."""
        for index, gradient in pending.items():
            dense = gradient.to_dense() if gradient.layout != torch.strided else gradient
            mask = self._members.masks[index]
            pending[index] = dense if mask is None else torch.where(mask != 0, dense, 0)
        doubtful = pending if suspect is None else {i: pending[i] for i in suspect}
        refuse_non_finite(self._members, doubtful, self.draws + 1)
        self._stream.allocate([p.device for p in self._members.parameters])
        self._stream.update([pending.get(i) for i in range(len(self._members.parameters))])

    def summary(self, level: Literal["group", "module", "parameter"] = "group") -> pd.DataFrame:
        """One row per group, per module or per parameter.

        Columns: ``group`` (then ``module``, ``parameter``), ``parameters`` (live taps of trainable tensors), ``dead``,
        ``draws``, ``snr``, ``snr_se``, ``noise_floor``, ``snr_corrected``, ``mean_norm``, ``variance_trace``, as
        ``gradlab.snr.definitions`` defines them. One draw has no standard deviation: ``snr`` and ``variance_trace`` are
        NaN.

        Raises:
            GradlabError: no draws yet, or an unknown level.
        """
        known("level", level, LEVELS)
        if self.draws == 0:
            raise GradlabError("there is nothing to sum up: record at least one draw, better 100")
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
        """Forget all draws and free their memory; the groups stay."""
        self._stream = self._empty(self._stream.standard_errors)

    def _empty(self, standard_errors: bool) -> Stream:
        return Stream(self._members.parameters, [indices for _, indices in self._entities], standard_errors)

    def merge(self, other: GradientRecorder) -> None:
        """Add the draws of another recorder of the same parameters, e.g. of another process (Chan; exact).

        The replicates behind ``snr_se`` are pooled; each uses the draws of its own recorder only.

        Raises:
            GradlabError: the recorders do not record the same parameters, or a recorder is merged with itself.
        """
        if other is self:
            raise GradlabError("a recorder cannot be merged with itself: its draws would count twice")
        if not isinstance(other, GradientRecorder):
            raise GradlabError(f"a {type(other).__name__} cannot be merged into a recorder: give a GradientRecorder")
        self._check_same(other._members.signature, other._stream.standard_errors)
        self._stream.merge(other._stream)

    def _check_same(self, parameters: object, standard_errors: object) -> None:
        signature = self._members.signature
        if parameters != signature:
            others = parameters if isinstance(parameters, list) else []
            odd = next((n for n in [*signature, *others] if (n in signature) != (n in others)), "another order")
            raise GradlabError(f"the recorders hold different parameters ({odd}): build both from the same groups")
        if standard_errors != self._stream.standard_errors:
            raise GradlabError("one recorder has standard errors and the other has not: set standard_errors alike")

    def state_dict(self) -> dict[str, Any]:
        """Return all statistics as tensors, numbers, strings and lists; their size does not grow with the draws."""
        return {"parameters": self._members.signature, **self._stream.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the statistics by those of ``state_dict()``; recording continues to the same numbers.

        Raises:
            GradlabError: a state of other parameters, or damaged.
        """
        self._check_same(state.get("parameters"), state.get("standard_errors"))
        self._stream.load_state_dict(state, [p.device for p in self._members.parameters])
