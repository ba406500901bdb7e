"""One training loop, for every codec, objective and estimator.

A run is identified by the hash of its settings, so that studies that need the same model share it. Every random number
derives from (seed, purpose, iteration): a killed run resumes to the same numbers, bit for bit on a CPU.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradlab import checkpoints, codecs, locks, ranks, results, stopping
from gradlab.arguments import checked
from gradlab.codecs import Codec, PFrame
from gradlab.data import Crops, Picture
from gradlab.errors import GradlabError, Stopped
from gradlab.live import SNRMonitor
from gradlab.noise import stream
from gradlab.progress import skip
from gradlab.training import breakdown
from gradlab.training.settings import Run, TrainSettings, build, mean_loss, run_of

__all__ = [
    "Run",
    "TrainSettings",
    "build",
    "descend",
    "loss_of",
    "optimizer",
    "run_of",
    "set_state",
    "state_of",
    "train",
]

WARM_UP = 1000
"""Iterations over which the learning rate rises after a warm restart."""
Loss = Callable[[Tensor, torch.Generator | None], tuple[Tensor, dict[str, float]]]
LOG_COLUMNS = ("iteration", "loss", "bpp", "mse", "learning_rate", "gradient_norm")


@checked
def loss_of(
    codec: Codec | PFrame, x: Tensor, settings: TrainSettings, generator: torch.Generator | None
) -> tuple[Tensor, dict[str, float]]:
    """The training loss, bits per pixel, averaged over images; and what the log shows of it.

    Args:
        codec: the model.
        x: ``[B, 3, H, W]`` in [0, 1].
        settings: objective, estimator, weighting, scale, k, l and lambda.
        generator: of the noise.
    """
    if settings.plain:
        loss = settings.lam * ((255 * (x - codec.g_s(codec.g_a(x)))) ** 2).mean()
        return loss, {"loss": loss.item(), "bpp": 0.0, "mse": loss.item() / settings.lam}
    terms, _ = codec.log_terms(x, settings.lam, settings.k, settings.l, generator, settings.proxy)
    loss = mean_loss(terms, settings.objective, settings.estimator, settings.weighting, settings.scale)
    per_pixel = math.log(2) * terms.pixels
    with torch.no_grad():
        rate = torch.as_tensor(terms.log_py + terms.log_pz).mean().item() / -per_pixel
        mse = terms.log_lik.mean().item() / (-per_pixel * settings.lam)
    return loss, {"loss": loss.item(), "bpp": rate, "mse": mse}


@checked
def optimizer(codec: Codec, settings: TrainSettings) -> tuple[torch.optim.Adam, dict[str, Tensor]]:
    """Adam, and the weights it trains by name: all but the entropy bottleneck's quantiles."""
    weights: dict[str, Tensor] = {n: p for n, p in codec.named_parameters() if not n.endswith("quantiles")}
    return torch.optim.Adam(
        list(weights.values()), lr=settings.learning_rate, betas=settings.betas, fused=True
    ), weights


@checked
def descend(
    codec: Codec | PFrame,
    adam: torch.optim.Adam,
    weights: Mapping[str, Tensor],
    x: Tensor,
    settings: TrainSettings,
    noise: torch.Generator | None,
    loss: Loss | None = None,
) -> tuple[dict[str, float], float]:
    """One iteration of training; where the loss or the gradient is not finite the weights stay as they are.

    Args:
        codec: the model; ``adam`` and ``weights`` are its ``optimizer``.
        adam: steps at the learning rate that its groups hold.
        weights: whose gradient is clipped to ``settings.clip``.
        x: ``[B, 3, H, W]`` in [0, 1].
        settings: as for ``loss_of``.
        noise: generator of the noise.
        loss: in place of ``loss_of``, that of a process that holds some rows of the batch (``ranks.data_parallel``).

    Returns:
        What ``loss_of`` shows for the log, and the norm of the gradient before it was clipped.
    """
    value, seen = loss_of(codec, x, settings, noise) if loss is None else loss(x, noise)
    adam.zero_grad(set_to_none=True)
    value.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(list(weights.values()), settings.clip))
    if math.isfinite(seen["loss"]) and math.isfinite(norm):
        adam.step()
    return seen, norm


@checked
def state_of(codec: nn.Module, adam: torch.optim.Adam, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint holds: ``model.<name>`` and ``adam.<moment>.<name>``."""
    tensors = {f"model.{name}": value for name, value in codec.state_dict().items()}
    for name, parameter in weights.items():
        for key, value in adam.state[parameter].items():
            tensors[f"adam.{key}.{name}"] = torch.as_tensor(value)
    return tensors


@checked
def set_state(
    tensors: Mapping[str, Tensor], codec: nn.Module, adam: torch.optim.Adam, weights: Mapping[str, Tensor]
) -> None:
    """Puts back what ``state_of`` gave.

    Raises:
        GradlabError: the state of another model.
    """
    try:
        codec.load_state_dict({n[len("model.") :]: t for n, t in tensors.items() if n.startswith("model.")})
    except RuntimeError:
        name = type(codec).__name__
        raise GradlabError(f"this is the state of another model than {name}: give what state_of() gave") from None
    for name, parameter in weights.items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors.get(f"adam.{key}.{name}")
            if value is not None:
                adam.state[parameter][key] = value.to(parameter.device) if key != "step" else value


@checked
def train(
    settings: TrainSettings,
    pictures: list[Picture],
    runs: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    deadline: float | None = None,
    advance: Callable[..., Any] = lambda n=1, note="": None,
    checkpoint_every: int = 500,
    log_every: int = 50,
    tensorboard: bool = False,
    explosion: float = 20.0,
    snr_every: int = 0,
    snr_draws: int = 20,
) -> Run:
    """Train to the end, or return the run that is already there.

    While another process trains the same run, this one waits for it.

    Where ``torchrun`` or SLURM started several processes (``gradlab.ranks``), all call this alike and share each batch:
    crops and noise are those of one process, gradients are averaged, the first process writes, and when the time is up
    for one it is up for all.

    Args:
        settings: the run's identity.
        pictures: training images; their fingerprint must be ``settings.data`` where that is given.
        runs: folder of all runs.
        device: where to train.
        resume: continue from the last checkpoint, if there is one; otherwise an unfinished run starts anew. One without
            the optimizer's state (``gradlab pack``) is a warm restart, which ``Run.warm_restarts`` tells.
        deadline: ``time.monotonic()`` after which a checkpoint is written and ``Stopped`` raised, as it is after the
            signals of ``gradlab.stopping``.
        advance: called as ``advance(n, note)`` after every n iterations.
        checkpoint_every: iterations between checkpoints.
        log_every: iterations between rows of the log.
        tensorboard: also write TensorBoard events (extra ``gradlab[tensorboard]``).
        explosion: a loss so many times its lowest median is an explosion (``gradlab.training.breakdown.Watch``).
        snr_every: record the gradient SNR of the codec's groups every so many iterations, on one minibatch that no
            iteration trains on, to ``run.snr(...)``; 0 for never. The weights come out the same.
        snr_draws: gradients of each such point; the cost is that of snr_draws / snr_every more iterations.

    Raises:
        GradlabError: images smaller than a crop, a corrupt checkpoint or one of other settings, or a loss or gradient
            that is not finite or explodes: with the iteration and the module where it began. The batch is in
            ``broken.safetensors``, the last good checkpoint stays. Of several processes: a batch that they cannot
            share, or a folder that one of them does not see.
        Stopped: the deadline has passed or a signal has come; a checkpoint was written.
    """
    run, here = run_of(settings, runs), ranks.here()
    here.rows(settings.batch)
    if not here.agreed(run.done):
        results.ensure_folder(run.folder)

        def waiting(holder: str) -> None:
            stopping.check(deadline)
            advance(0, f"waiting for {holder}")

        with contextlib.ExitStack() as held:
            with here.together():
                if here.first:
                    held.enter_context(locks.hold(run.folder, "wait until it has ended", waiting))
            if not here.agreed(run.done):
                _train(
                    run,
                    pictures,
                    device,
                    resume,
                    deadline,
                    advance,
                    checkpoint_every,
                    log_every,
                    tensorboard,
                    explosion,
                    (snr_every, snr_draws),
                )
                return run
    checkpoints.load(run.folder / "final.safetensors", results.settings_hash(settings))
    skip(advance, settings.steps, "already trained")
    return run


def _train(
    run: Run,
    pictures: list[Picture],
    device: str,
    resume: bool,
    deadline: float | None,
    advance: Callable[..., Any],
    checkpoint_every: int,
    log_every: int,
    tensorboard: bool,
    explosion: float,
    snr: tuple[int, int],
) -> None:
    settings, here, (snr_every, snr_draws) = run.settings, ranks.here(), snr
    rows = here.rows(settings.batch)
    if snr_every and here.size > 1:
        raise GradlabError(f"{here.size} processes cannot watch the SNR of one training: start one process")
    results.write_json(run.folder / "settings.json", asdict(settings))
    here.wait()
    if not (run.folder / "settings.json").exists():
        raise GradlabError(f"process {here.rank} does not see {run.folder}: all machines must share the output folder")
    crops = Crops(pictures, settings.crop, settings.batch, settings.seed, device=device)
    codec = build(settings).to(device).train()
    adam, weights = optimizer(codec, settings)
    last = run.folder / "last.safetensors"
    start = 0
    log: list[dict[str, float]] = []
    restarts: list[int] = []
    watch = breakdown.Watch(explosion)
    if here.agreed(resume and last.exists()):
        start, log, restarts, watched = _restore(last, settings, codec, adam, weights)
        watch = breakdown.Watch(explosion, watched)
        skip(advance, start, "resumed")
    board = _tensorboard(run.folder) if tensorboard and here.first else None
    loss = here.data_parallel(codec, lambda x, noise: loss_of(codec, x, settings, noise))
    keep = results.settings_hash(settings)
    monitor, unseen = None, crops.batch(settings.steps) if snr_every else None
    if unseen is not None:
        monitor = SNRMonitor(codec, codec.groups(), every=snr_every, draws=snr_draws, exclude=("quantiles",),
                             csv=run.snr(snr_every, snr_draws), tensorboard=board, seed=settings.seed)  # fmt: skip
    for iteration in range(start, settings.steps):
        if iteration in settings.snapshots and here.first:
            _snapshot(run.folder, codec, keep, iteration)
        rate = settings.rate_at(iteration) * _warm_up(iteration, restarts)
        for group in adam.param_groups:
            group["lr"] = rate
        x, noise = crops.batch(iteration), stream(settings.seed, "training noise", iteration, device, here.part)
        seen, norm = descend(codec, adam, weights, x[rows], settings, noise, loss)
        wrong = watch.see(seen["loss"], norm)
        if wrong:
            raise broken(run.folder, codec, x, settings, iteration, wrong, keep)
        done = iteration + 1
        if done % log_every == 0 or done == settings.steps:
            row = {"iteration": done, **seen, "learning_rate": rate, "gradient_norm": norm}
            log.append(row)
            if board is not None:
                for name in LOG_COLUMNS[1:]:
                    board.add_scalar(name, row[name], done)
        if monitor is not None and unseen is not None:
            monitor.after_step(done, lambda: loss_of(codec, unseen, settings, None)[0])
        stop = told(advance, seen["loss"], deadline)
        if done < settings.steps and watch.calm and (stop or done % checkpoint_every == 0) and here.first:
            _save(last, settings, codec, adam, weights, done, log, restarts, watch)
        if stop and done < settings.steps:
            here.wait()
            raise Stopped(f"stopped {stop} after iteration {done} of {settings.steps}")
    if board is not None:
        board.close()
    if here.first:
        codec.finish()
        _write_log(run.folder, log)
        extra = {"warm_restarts": restarts}
        checkpoints.save(run.folder / "final.safetensors", codec.state_dict(), keep, settings.steps, extra)
        results.remove(last)
    here.wait()


def told(advance: Callable[..., Any], loss: float, deadline: float | None) -> str | None:
    """Counts an iteration that is done, and says why training is to stop after it, the same in all processes."""
    stop = stopping.cause(deadline)
    try:
        advance(1, f"loss {loss:.3f}")
    except Stopped:  # a signal, in between: the checkpoint comes first
        stop = stopping.cause(deadline) or "early"
    return ranks.here().cause(stop)


def broken(
    folder: Path | None,
    codec: Codec | PFrame,
    x: Tensor,
    settings: TrainSettings,
    iteration: int,
    wrong: str,
    keep: str,
) -> GradlabError:
    """The error for a breakdown, from the same noise again; where only the size exploded the weights have stepped.

    Args:
        folder: where the batch and the weights are kept; None keeps nothing.
        codec, x, settings, iteration: of the breakdown; iterations count from 0.
        wrong: what ``breakdown.Watch.see`` said.
        keep: the hash that the run's checkpoints carry.
    """
    noise = stream(settings.seed, "training noise", iteration, x.device)

    def again() -> Tensor:
        return loss_of(codec, x, settings, noise)[0]

    if folder is not None:
        return breakdown.keep(folder, codec, x, again, iteration, wrong, keep)
    where = breakdown.where(codec, again)
    return GradlabError(f"training broke off at iteration {iteration + 1}: {wrong}; {where}; lower the learning rate")


def _snapshot(folder: Path, codec: Codec, keep: str, iteration: int) -> None:
    """The weights so far, as a codec that can write bitstreams; the model in training is left as it is."""
    copy = codecs.copy_of(codec)
    copy.finish()
    checkpoints.save(folder / f"snapshot-{iteration}.safetensors", copy.state_dict(), keep, iteration)


def _save(
    path: Path,
    settings: TrainSettings,
    codec: Codec,
    adam: torch.optim.Adam,
    weights: Mapping[str, Tensor],
    done: int,
    log: list[dict[str, float]],
    restarts: list[int],
    watch: breakdown.Watch,
) -> None:
    tensors = state_of(codec, adam, weights)
    _write_log(path.parent, log)
    extra = {"log": log, "warm_restarts": restarts, "watch": watch.state()}
    checkpoints.save(path, tensors, results.settings_hash(settings), done, extra)


def _restore(
    path: Path, settings: TrainSettings, codec: Codec, adam: torch.optim.Adam, weights: Mapping[str, Tensor]
) -> tuple[int, list[dict[str, float]], list[int], list[float]]:
    stored = checkpoints.load(path, results.settings_hash(settings))
    set_state(stored.tensors, codec, adam, weights)
    restarts = list(stored.extra.get("warm_restarts", []))
    if not adam.state:
        restarts.append(stored.iteration)
    return stored.iteration, list(stored.extra["log"]), restarts, list(stored.extra.get("watch", []))


def _warm_up(iteration: int, restarts: list[int]) -> float:
    """After a restart without the optimizer's state the learning rate rises linearly: Adam's first steps have full size
    whatever the gradient."""
    return min(1.0, (iteration - restarts[-1] + 1) / WARM_UP) if restarts else 1.0


def _write_log(folder: Path, log: list[dict[str, float]]) -> None:
    import pandas as pd

    results.write_csv(folder / "log.csv", pd.DataFrame(log, columns=list(LOG_COLUMNS)))


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise GradlabError("TensorBoard is not installed: pip install 'gradlab[tensorboard]'") from None
    return SummaryWriter(str(folder))
