"""Gradient SNR of a codec, group by group: the recorder at work on real images (Tables 2, 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gradlab import moments, ranks
from gradlab.arguments import checked
from gradlab.codecs import Codec, PFrame
from gradlab.errors import GradlabError
from gradlab.noise import stream
from gradlab.proxies import Proxy
from gradlab.recorder import GradientRecorder
from gradlab.training.settings import mean_loss


@checked
def record(
    codec: Codec | PFrame,
    batches: Tensor | Callable[[int], Tensor],
    lam: float,
    draws: int,
    *,
    objective: str = "elbo",
    estimator: str = "pathwise",
    weighting: str = "joint",
    scale: str = "bpp",
    k: int = 1,
    l: int = 1,
    proxy: str | Proxy = "noise",
    seed: int = 0,
    advance: Callable[..., Any] = lambda n=1, note="": None,
) -> GradientRecorder:
    """Record ``draws`` gradients of the codec with its weights frozen.

    Draw t takes its noise from ``(seed, "recording", t)``, so two models (or one model with and without direct-y) can
    be recorded on the same noise and on the same images.

    Several processes (``gradlab.ranks``) take the draws in turns, and each merges all of them: mean and variance are
    those of one process to rounding, ``snr_se`` rests on each process's own replicates (``GradientRecorder.merge``).

    Args:
        codec: the codec; its weights are left as they are.
        batches: one minibatch ``[B, 3, H, W]`` (videos for a P-frame) for all draws (noise alone; the draws then share
            the encoder's forward), or ``draw -> minibatch`` (noise and minibatch).
        lam: lambda of the R-D cost.
        draws: how many gradients, at least 2.
        objective, estimator, weighting, scale, k, l, proxy: as in training.
        seed: of the noise.
        advance: called after each draw.

    Returns:
        The recorder, over the codec's groups (Table 3: y infer, y gen, z infer, z gen, z prior).

    Raises:
        GradlabError: fewer than 2 draws, or a gradient that is not finite.
    """
    if draws < 2:
        raise GradlabError(f"draws is {draws}: a signal-to-noise ratio needs at least 2")
    device, here = next(codec.parameters()).device, ranks.here()
    recorder = GradientRecorder(codec.groups(), exclude=("quantiles",))
    # Where the noise alone changes, so does nothing in the encoder: its forward runs once, to the same numbers.
    shared = {} if callable(batches) or isinstance(codec, PFrame) else {"encoded": codec.g_a(batches)}
    with here.together(), recorder:
        for t in range(here.rank, draws, here.size):
            x = batches(t) if callable(batches) else batches
            terms, _ = codec.log_terms(x, lam, k, l, stream(seed, "recording", t, device), proxy, **shared)
            mean_loss(terms, objective, estimator, weighting, scale).backward(retain_graph=bool(shared))
            recorder.step()
            advance(min(here.size, draws - t))
    return recorder if here.size == 1 else _merged(recorder, codec, here)


def _merged(mine: GradientRecorder, codec: Codec | PFrame, here: ranks.Ranks) -> GradientRecorder:
    """The draws of all processes, the same in each: merged in the order of the ranks, two states at a time."""
    whole, part = (GradientRecorder(codec.groups(), exclude=("quantiles",)) for _ in range(2))
    for rank in range(here.size):
        part.load_state_dict(here.agreed(mine.state_dict() if rank == here.rank else {}, rank))
        whole.merge(part)
    return whole


@checked
@torch.no_grad()
def cost(
    codec: Codec, x: Tensor, lam: float, draws: int, *, proxy: str | Proxy = "noise", seed: int = 0
) -> tuple[float, float]:
    """R-D cost that training sees, bits per pixel: the mean of minus the ELBO over images, and over draws of the noise.

    Args:
        codec: the codec.
        x: ``[B, 3, H, W]`` images in [0, 1].
        lam: lambda of the R-D cost.
        draws: of the noise, at least 1; those of :func:`record` at the same seed.
        proxy: what stands in for rounding.
        seed: of the noise.

    Returns:
        The mean, and its standard error over draws.

    Raises:
        GradlabError: fewer than 2 draws.
    """
    if draws < 2:
        raise GradlabError(f"draws is {draws}: a standard error needs at least 2")
    if not 0 < lam < math.inf:
        raise GradlabError(f"lam is {lam}: lambda must be positive and finite")
    device, state = next(codec.parameters()).device, moments.HigherMoments.init()
    for t in range(draws):
        terms, _ = codec.log_terms(x, lam, generator=stream(seed, "recording", t, device), proxy=proxy)
        state = state.update(mean_loss(terms, "elbo", "pathwise", "joint", "bpp").double()[None].cpu())
    return float(state.mean), float(state.mean_se())


Setting = Literal["direct-y", "2-level"]


@checked
def at_same_weights(
    codec: Codec,
    batches: Tensor | Callable[[int], Tensor],
    lam: float,
    draws: int,
    settings: Sequence[Setting] = ("direct-y", "2-level"),
    **options: Any,
) -> dict[str, GradientRecorder]:
    """The same weights, noise and images with the direct-y switch on and off: what the switch itself does.

    Each model at its own weights confounds the switch with where training took it. Here nothing differs but what h_a
    reads. The switch also moves the mean gradient, so compare ``variance_trace`` before any ratio.

    Args:
        codec: the codec; its switch is put back.
        batches, lam, draws, options: as for ``record``.
        settings: which positions of the switch.
    """
    before = codec.direct_y
    try:
        found: dict[str, GradientRecorder] = {}
        for setting in settings:
            codec.direct_y = setting == "direct-y"
            found[setting] = record(codec, batches, lam, draws, **options)
        return found
    finally:
        codec.direct_y = before
