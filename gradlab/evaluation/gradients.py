"""Record the gradient SNR of a codec, group by group, on real images (Tables 2, 3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Literal, SupportsIndex, get_args

import torch
from torch import Tensor

from gradlab.codecs import Codec, Loss, PFrame, PlainLoss
from gradlab.codecs.precision import cudnn_precision
from gradlab.errors import GradlabError
from gradlab.evaluation.metrics import check_lambda
from gradlab.noise import seed_of, stream
from gradlab.runtime import distributed
from gradlab.runtime.cuda_graph import Replay
from gradlab.runtime.progress import quiet
from gradlab.snr import moments
from gradlab.snr.recorder import GradientRecorder
from gradlab.validation import checked, known, several, whole

Batches = Tensor | Callable[[int], Tensor]
AnyLoss = Loss | PlainLoss
Model = Codec | PFrame


@checked
def record(
    codec: Codec | PFrame,
    batches: Tensor | Callable[[int], Tensor],
    lam: float,
    draws: SupportsIndex,
    *,
    loss: Loss | PlainLoss | None = None,
    seed: SupportsIndex = 0,
    advance: Callable[..., Any] = quiet,
) -> GradientRecorder:
    """Record ``draws`` gradients of the codec with its weights frozen.

    Draw t takes its noise from ``(seed, "recording", t)``, so two models (or one model with and without direct-y) can
    be recorded on the same noise and on the same images.

    Several processes (``gradlab.runtime.distributed``) take the draws in turns, and each merges all of them: mean and
    variance equal those of one process up to rounding; ``snr_se`` uses the replicates of each process
    (``GradientRecorder.merge``).

    Args:
        codec: the codec; its weights do not change.
        batches: one minibatch ``[B, 3, H, W]`` (videos for a P-frame) for all draws (noise alone; the draws then share
            the encoder's forward), or ``draw -> minibatch`` (noise and minibatch), on CUDA of one shape.
        lam: lambda of the R-D cost.
        draws: how many gradients, at least 2.
        loss: whose gradient is recorded; ``Loss()``, the single-sample bound, by default.
        seed: of the noise.
        advance: called after each draw.

    Returns:
        The recorder, over the codec's groups (Table 3: y infer, y gen, z infer, z gen, z prior).

    Raises:
        GradlabError: fewer than 2 draws, a gradient that is not finite, or on CUDA minibatches of several shapes.
    """
    draws, seed = whole("draws", draws, 2), whole("seed", seed, 0)
    loss, group = loss or Loss(), distributed.group()
    device = next(codec.parameters()).device
    recorder = GradientRecorder(codec.groups(), exclude=("quantiles",))
    with group.shared_errors(), cudnn_precision(codec.precision, device), contextlib.ExitStack() as hooks:
        draw: Callable[[int], None] | None = None
        if device.type == "cuda" and group.size == 1:
            try:
                graph = _Graph(codec, batches, lam, loss, recorder, seed)
                draw = graph.draw
                hooks.callback(graph.join)
            except RuntimeError as error:  # drawn eagerly, to the same numbers
                advance(0, f"eager, since a graph was not captured: {error}".partition("\n")[0])
        if draw is None:
            draw = _eager(codec, batches, lam, loss, recorder, seed)
            hooks.enter_context(recorder)
        for t in range(group.rank, draws, group.size):
            draw(t)
            advance(min(group.size, draws - t))
    return recorder if group.size == 1 else _merged(recorder, codec, group)


def _eager(
    codec: Model, batches: Batches, lam: float, loss: AnyLoss, recorder: GradientRecorder, seed: int
) -> Callable[[int], None]:
    """Return a function that records draw t by a backward pass through the recorder's hooks."""
    shared = _shared(codec, batches, loss)

    def draw(t: int) -> None:
        x = batches(t) if callable(batches) else batches
        value = loss(codec, x, lam, stream(seed, "recording", t, x.device), **shared)
        value.backward(retain_graph=bool(shared))
        recorder.step()

    return draw


class _Graph:
    """Draws as replays of one CUDA graph.

    Raises:
        RuntimeError: the draw cannot be captured.
    """

    def __init__(
        self, codec: Model, batches: Batches, lam: float, loss: AnyLoss, recorder: GradientRecorder, seed: int
    ) -> None:
        self._batches, self._recorder, self._seed = batches, recorder, seed
        self._x = batches(0).clone() if callable(batches) else batches
        self._noise = torch.Generator(self._x.device)
        gradients: list[Tensor | None] = [None for _ in recorder.parameters]
        side = torch.cuda.Stream(self._x.device)
        _wait(side, self._x.device)
        with torch.cuda.stream(side):  # the backward pass runs where the forward pass ran
            shared = _shared(codec, batches, loss)

        def body() -> None:
            value = loss(codec, self._x, lam, self._noise, **shared)
            trained = [p for p in recorder.parameters if p.requires_grad]
            results = torch.autograd.grad(value, trained, retain_graph=bool(shared), allow_unused=True)
            by_parameter = dict(zip(map(id, trained), results, strict=True))
            gradients[:] = [by_parameter.get(id(p)) for p in recorder.parameters]

        self._replay: Replay | None = Replay(body, self._noise, side)
        self._gradients = gradients

    def draw(self, t: int) -> None:
        """Record draw t."""
        assert self._replay is not None
        with self._replay.placed():
            if callable(self._batches):
                x = self._batches(t)
                if x.shape != self._x.shape:
                    raise GradlabError(
                        f"the minibatch of draw {t} is {tuple(x.shape)} and that of draw 0 {tuple(self._x.shape)}: "
                        "on CUDA give minibatches of one shape"
                    )
                self._x.copy_(x)
            self._noise.manual_seed(seed_of(self._seed, "recording", t))
            self._replay()
            self._recorder.add(self._gradients)

    def join(self) -> None:
        """Before the recorder is read elsewhere: wait for the draws, and end the graph.

        The encoder's forward pass, which the draws share, would keep its gradients on the stream of this graph.
        """
        if self._replay is not None:
            self._replay.join()
        self._replay = None


def _wait(side: torch.cuda.Stream, device: torch.device) -> None:
    side.wait_stream(torch.cuda.current_stream(device))


def _shared(codec: Model, batches: Batches, loss: AnyLoss) -> dict[str, Tensor]:
    """Run the encoder once if draws differ in noise alone: its output is the same in each of them."""
    if callable(batches) or not isinstance(codec, Codec) or not isinstance(loss, Loss):
        return {}
    return {"encoded": codec.encode(batches)}


def _merged(recorder: GradientRecorder, codec: Codec | PFrame, group: distributed.ProcessGroup) -> GradientRecorder:
    """Merge the draws of all processes in the order of their ranks, two states at a time; the same in each process."""
    whole, part = (GradientRecorder(codec.groups(), exclude=("quantiles",)) for _ in range(2))
    for rank in range(group.size):
        part.load_state_dict(group.broadcast(recorder.state_dict() if rank == group.rank else {}, rank))
        whole.merge(part)
    return whole


@checked
@torch.no_grad()
def mean_loss(
    codec: Codec,
    x: Tensor,
    lam: float,
    draws: SupportsIndex,
    *,
    loss: Loss | None = None,
    seed: SupportsIndex = 0,
    advance: Callable[..., Any] = quiet,
) -> tuple[float, float]:
    """Average the loss over images and draws of the noise, in bits per pixel: the R-D cost that training sees.

    Args:
        codec: the codec.
        x: ``[B, 3, H, W]`` images in [0, 1].
        lam: lambda of the R-D cost.
        draws: of the noise, at least 2; those of :func:`record` at the same seed.
        loss: ``Loss()`` by default, whose value is the R-D cost of one sample: minus the ELBO.
        seed: of the noise.
        advance: called after each draw.

    Returns:
        The mean, and its standard error over draws.

    Raises:
        GradlabError: fewer than 2 draws.
    """
    draws, seed = whole("draws", draws, 2), whole("seed", seed, 0)
    check_lambda(lam)
    device, state, loss = next(codec.parameters()).device, moments.HigherMoments.init(), loss or Loss()
    with cudnn_precision(codec.precision, device):
        for t in range(draws):
            state = state.update(loss(codec, x, lam, stream(seed, "recording", t, device)).double()[None].cpu())
            advance(1)
    return float(state.mean), float(state.mean_se())


Setting = Literal["direct-y", "2-level"]


@checked
def compare_direct_y(
    codec: Codec,
    batches: Tensor | Callable[[int], Tensor],
    lam: float,
    draws: SupportsIndex,
    settings: Setting | Iterable[Setting] = ("direct-y", "2-level"),
    **options: Any,
) -> dict[str, GradientRecorder]:
    """Record gradients with the direct-y switch on and off, at the same weights, noise and images.

    Comparing two trained models would confound the switch with their different weights. Here only the input of h_a
    differs. The switch also moves the mean gradient, so compare ``variance_trace`` before any ratio.

    Args:
        codec: the codec; its ``direct_y`` is restored.
        batches, lam, draws, options: as for ``record``.
        settings: which positions of the switch; one, or several.
    """
    switches = [known("setting", s, get_args(Setting)) for s in several("settings", settings, str, "names", empty=True)]
    before = codec.direct_y
    try:
        recorders: dict[str, GradientRecorder] = {}
        for setting in switches:
            codec.direct_y = setting == "direct-y"
            recorders[setting] = record(codec, batches, lam, draws, **options)
        return recorders
    finally:
        codec.direct_y = before
