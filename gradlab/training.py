"""One training loop, for every codec, objective and estimator.

A run is identified by the hash of its settings, so that studies that need the same model share it. Every random number
derives from (seed, purpose, iteration): a killed run resumes to the same numbers, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradlab import checkpoints, codecs, results
from gradlab.codecs import Codec, PFrame
from gradlab.data import Crops, Picture
from gradlab.errors import GradlabError, Stopped
from gradlab.noise import stream
from gradlab.runs import Run, TrainSettings, build, mean_loss, run_of

__all__ = ["Run", "TrainSettings", "build", "descend", "loss_of", "optimizer", "run_of", "train"]

LOG_COLUMNS = ("iteration", "loss", "bpp", "mse", "learning_rate", "gradient_norm")


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


def optimizer(codec: Codec, settings: TrainSettings) -> tuple[torch.optim.Adam, dict[str, Tensor]]:
    """Adam, and the weights it trains by name: all but the entropy bottleneck's quantiles."""
    weights: dict[str, Tensor] = {n: p for n, p in codec.named_parameters() if not n.endswith("quantiles")}
    return torch.optim.Adam(
        list(weights.values()), lr=settings.learning_rate, betas=settings.betas, fused=True
    ), weights


def descend(
    codec: Codec,
    adam: torch.optim.Adam,
    weights: Mapping[str, Tensor],
    x: Tensor,
    settings: TrainSettings,
    noise: torch.Generator | None,
) -> tuple[dict[str, float], float]:
    """One iteration of training; where the loss or the gradient is not finite the weights stay as they are.

    Args:
        codec: the model; ``adam`` and ``weights`` are its ``optimizer``.
        adam: steps at the learning rate that its groups hold.
        weights: whose gradient is clipped to ``settings.clip``.
        x: ``[B, 3, H, W]`` in [0, 1].
        settings: as for ``loss_of``.
        noise: generator of the noise.

    Returns:
        What ``loss_of`` shows for the log, and the norm of the gradient before it was clipped.
    """
    loss, seen = loss_of(codec, x, settings, noise)
    adam.zero_grad(set_to_none=True)
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(list(weights.values()), settings.clip))
    if math.isfinite(seen["loss"]) and math.isfinite(norm):
        adam.step()
    return seen, norm


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
) -> Run:
    """Train to the end, or return the run that is already there.

    Args:
        settings: the run's identity.
        pictures: training images; their fingerprint must be ``settings.data`` where that is given.
        runs: folder of all runs.
        device: where to train.
        resume: continue from the last checkpoint, if there is one; otherwise an unfinished run starts anew.
        deadline: ``time.monotonic()`` after which a checkpoint is written and ``Stopped`` raised.
        advance: called as ``advance(n, note)`` after every n iterations.
        checkpoint_every: iterations between checkpoints.
        log_every: iterations between rows of the log.
        tensorboard: also write TensorBoard events (extra ``gradlab[tensorboard]``).

    Raises:
        GradlabError: images smaller than a crop, a non-finite loss or gradient (with the iteration and the parameter),
            a corrupt checkpoint or one of other settings.
        Stopped: the deadline has passed; a checkpoint was written.
    """
    run = run_of(settings, runs)
    if run.done:
        checkpoints.load(run.folder / "final.safetensors", results.settings_hash(settings))
        advance(settings.steps, "already trained")
        return run
    results.ensure_folder(run.folder)
    results.write_json(run.folder / "settings.json", asdict(settings))
    crops = Crops(pictures, settings.crop, settings.batch, settings.seed, device=device)
    codec = build(settings).to(device).train()
    adam, weights = optimizer(codec, settings)
    last = run.folder / "last.safetensors"
    start = 0
    log: list[dict[str, float]] = []
    if resume and last.exists():
        start, log = _restore(last, settings, codec, adam, weights)
        advance(start, "resumed")
    board = _tensorboard(run.folder) if tensorboard else None
    keep = results.settings_hash(settings)
    for iteration in range(start, settings.steps):
        if iteration in settings.snapshots:
            _snapshot(run.folder, codec, keep, iteration)
        for group in adam.param_groups:
            group["lr"] = settings.rate_at(iteration)
        noise = stream(settings.seed, "training noise", iteration, device)
        seen, norm = descend(codec, adam, weights, crops.batch(iteration), settings, noise)
        if not (math.isfinite(seen["loss"]) and math.isfinite(norm)):
            raise GradlabError(_blown_up(weights, iteration, seen["loss"], last))
        done = iteration + 1
        if done % log_every == 0 or done == settings.steps:
            row = {"iteration": done, **seen, "learning_rate": settings.rate_at(iteration), "gradient_norm": norm}
            log.append(row)
            if board is not None:
                for name in LOG_COLUMNS[1:]:
                    board.add_scalar(name, row[name], done)
        advance(1, f"loss {seen['loss']:.3f}")
        late = deadline is not None and time.monotonic() > deadline
        if done < settings.steps and (late or done % checkpoint_every == 0):
            _save(last, settings, codec, adam, weights, done, log)
        if late and done < settings.steps:
            raise Stopped(f"stopped at the time limit after iteration {done} of {settings.steps}")
    if board is not None:
        board.close()
    codec.finish()
    _write_log(run.folder, log)
    checkpoints.save(run.folder / "final.safetensors", codec.state_dict(), keep, settings.steps)
    last.unlink(missing_ok=True)
    return run


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
) -> None:
    tensors = {f"model.{name}": value for name, value in codec.state_dict().items()}
    for name, parameter in weights.items():
        for key, value in adam.state[parameter].items():
            tensors[f"adam.{key}.{name}"] = torch.as_tensor(value)
    _write_log(path.parent, log)
    checkpoints.save(path, tensors, results.settings_hash(settings), done, {"log": log})


def _restore(
    path: Path, settings: TrainSettings, codec: Codec, adam: torch.optim.Adam, weights: Mapping[str, Tensor]
) -> tuple[int, list[dict[str, float]]]:
    stored = checkpoints.load(path, results.settings_hash(settings))
    codec.load_state_dict({n[len("model.") :]: t for n, t in stored.tensors.items() if n.startswith("model.")})
    for name, parameter in weights.items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = stored.tensors.get(f"adam.{key}.{name}")
            if value is not None:
                adam.state[parameter][key] = value.to(parameter.device) if key != "step" else value
    return stored.iteration, list(stored.extra["log"])


def _write_log(folder: Path, log: list[dict[str, float]]) -> None:
    import pandas as pd

    results.write_csv(folder / "log.csv", pd.DataFrame(log, columns=list(LOG_COLUMNS)))


def _blown_up(weights: Mapping[str, Tensor], iteration: int, loss: float, last: Path) -> str:
    bad = next((n for n, p in weights.items() if p.grad is not None and not torch.isfinite(p.grad).all()), None)
    where = f"the gradient of {bad} is not finite" if bad else f"the loss is {loss}"
    kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint had been written"
    return f"training broke off at iteration {iteration + 1}: {where}; lower the learning rate or clip more ({kept})"


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise GradlabError("TensorBoard is not installed: pip install 'gradlab[tensorboard]'") from None
    return SummaryWriter(str(folder))
