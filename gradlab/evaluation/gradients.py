"""Gradient SNR of a codec on real images, for each group of modules (Tables 2 and 3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, get_args

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

if TYPE_CHECKING:
    from jaxtyping import Float

Batches = Tensor | Callable[[int], Tensor]
AnyLoss = Loss | PlainLoss
Model = Codec | PFrame


@checked
def record(
    codec: Codec | PFrame,
    batches: Float[Tensor, "batch *frames 3 height width"] | Callable[[int], Tensor],
    lam: float,
    draws: SupportsIndex,
    *,
    loss: Loss | PlainLoss | None = None,
    seed: SupportsIndex = 0,
    advance: Callable[..., Any] = quiet,
) -> GradientRecorder:
    """Record gradients of a codec over repeated noise draws, with frozen weights.

    Draw t takes its noise from the stream ``(seed, "recording", t)``. Two models, or one model with and without
    direct-y, can therefore be recorded with the same noise on the same images.

    In a distributed run (``gradlab.runtime.distributed``), processes take draws in turn, and each process merges the
    draws of all. Means and variances equal those of a single process up to rounding error. ``snr_se`` is based on the
    replicates of each process (see ``GradientRecorder.merge``).

    Args:
        codec: codec to record. Its weights do not change.
        batches: a minibatch ``[batch, 3, height, width]`` of images in [0, 1] that all draws use, or a function from
            the index of a draw to its minibatch. With one minibatch only the noise varies, and draws share the
            encoder's forward pass. P-frame codecs take videos ``[batch, frames, 3, height, width]``. On CUDA all
            minibatches must have the same shape.
        lam: R-D trade-off parameter lambda.
        draws: number of gradients to record, at least 2.
        loss: loss whose gradient is recorded; by default ``Loss()``, the single-sample bound.
        seed: seed of the noise.
        advance: progress callback, called after each draw.

    Returns:
        A recorder with the groups of the codec. Hyperpriors have the groups of Table 3, ``y infer``, ``y gen``,
        ``z infer``, ``z gen`` and ``z prior``.

    Raises:
        GradlabError: ``draws`` is below 2, a gradient is not finite, or minibatches on CUDA differ in shape.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> recorder = gl.record(codec, torch.rand(1, 3, 32, 48), lam=0.01, draws=4)
        >>> recorder.summary()["group"].tolist()
        ['y infer', 'y gen', 'z infer', 'z gen', 'z prior']
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
            except RuntimeError as error:  # eager draws give the same numbers
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
    """Return a function that records draw t by a backward pass under the recorder's hooks."""
    shared = _shared(codec, batches, loss)

    def draw(t: int) -> None:
        x = batches(t) if callable(batches) else batches
        value = loss(codec, x, lam, stream(seed, "recording", t, x.device), **shared)
        value.backward(retain_graph=bool(shared))
        recorder.step()

    return draw


class _Graph:
    """Record draws by replaying one CUDA graph.

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
        with torch.cuda.stream(side):  # autograd runs the backward pass on the stream of the forward pass
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
                        f"the minibatch of draw {t} has shape {tuple(x.shape)}, but draw 0 had {tuple(self._x.shape)}: "
                        "on CUDA give minibatches of the same shape"
                    )
                self._x.copy_(x)
            self._noise.manual_seed(seed_of(self._seed, "recording", t))
            self._replay()
            self._recorder.add(self._gradients)

    def join(self) -> None:
        """Wait for the draws and release the graph; call this before the recorder is read on another stream.

        Otherwise the autograd graph of the shared encoder pass would keep accumulating gradients on the stream of this
        graph."""
        if self._replay is not None:
            self._replay.join()
        self._replay = None


def _wait(side: torch.cuda.Stream, device: torch.device) -> None:
    side.wait_stream(torch.cuda.current_stream(device))


def _shared(codec: Model, batches: Batches, loss: AnyLoss) -> dict[str, Tensor]:
    """Run the encoder once if draws differ only in their noise, because its output is then the same for all of them."""
    if callable(batches) or not isinstance(codec, Codec) or not isinstance(loss, Loss):
        return {}
    return {"encoded": codec.encode(batches)}


def _merged(recorder: GradientRecorder, codec: Codec | PFrame, group: distributed.ProcessGroup) -> GradientRecorder:
    """Merge the draws of all processes in rank order, so that every process gets the same result.

    At most two recorder states are in memory at a time.
    """
    whole, part = (GradientRecorder(codec.groups(), exclude=("quantiles",)) for _ in range(2))
    for rank in range(group.size):
        part.load_state_dict(group.broadcast(recorder.state_dict() if rank == group.rank else {}, rank))
        whole.merge(part)
    return whole


@checked
@torch.no_grad()
def mean_loss(
    codec: Codec,
    x: Float[Tensor, "batch 3 height width"],
    lam: float,
    draws: SupportsIndex,
    *,
    loss: Loss | None = None,
    seed: SupportsIndex = 0,
    advance: Callable[..., Any] = quiet,
) -> tuple[float, float]:
    """Estimate the expected loss over the noise, in bits per pixel.

    Args:
        codec: codec to evaluate.
        x: images in [0, 1].
        lam: R-D trade-off parameter lambda.
        draws: number of noise draws, at least 2. They are the draws of :func:`record` with the same seed.
        loss: loss to average; by default ``Loss()``, minus the single-sample ELBO, whose value is the R-D cost in
            training.
        seed: seed of the noise.
        advance: progress callback, called after each draw.

    Returns:
        The mean over images and draws, and its standard error over draws.

    Raises:
        GradlabError: ``draws`` is below 2, or ``lam`` is not positive.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> from gradlab.evaluation.gradients import mean_loss
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> mean, standard_error = mean_loss(codec, torch.rand(1, 3, 32, 48), lam=0.01, draws=4)
        >>> mean > standard_error > 0
        True
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
    batches: Float[Tensor, "batch *frames 3 height width"] | Callable[[int], Tensor],
    lam: float,
    draws: SupportsIndex,
    settings: Setting | Iterable[Setting] = ("direct-y", "2-level"),
    **options: Any,
) -> dict[str, GradientRecorder]:
    """Record gradients with direct-y on and off, with the same weights, noise and images.

    Comparing two trained models would confound the effect of direct-y with the effect of their different weights. Here
    only the input of h_a differs. Because direct-y also changes the mean gradient, compare ``variance_trace`` before
    any ratio.

    Args:
        codec: codec to record. Its ``direct_y`` is restored afterwards.
        batches: minibatch, or function from the index of a draw to its minibatch; see ``record``.
        lam: R-D trade-off parameter lambda.
        draws: number of gradients to record for each setting, at least 2.
        settings: settings to record, ``"direct-y"``, ``"2-level"`` or both.
        **options: further arguments of ``record``.

    Returns:
        The recorder of each setting.

    Raises:
        GradlabError: see ``record``; also if the codec has no z and ``settings`` contains ``"2-level"``.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> from gradlab.evaluation.gradients import compare_direct_y
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> list(compare_direct_y(codec, torch.rand(1, 3, 32, 48), lam=0.01, draws=2))
        ['direct-y', '2-level']

    Source:
        Section 2.3 and Table 3 of the paper.
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
