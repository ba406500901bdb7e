"""One training loop, for every codec, objective and estimator.

A run is identified by the hash of its settings, so that studies that need the same model share it. Every random number
derives from (seed, purpose, iteration): a killed run resumes to the same numbers, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradlab import checkpoints, codecs, results
from gradlab.codecs import Hyperprior
from gradlab.data import Crops, Picture
from gradlab.errors import GradlabError, Stopped
from gradlab.estimators import estimator
from gradlab.noise import stream
from gradlab.objectives import objective
from gradlab.posteriors import Box

# Bits per pixel, whatever the objective's own unit: learning rates and clipping mean the same at every crop size.
LOSS_SCALE = {"nats": math.log(2), "bpp": 1.0}
LOG_COLUMNS = ("iteration", "loss", "bpp", "mse", "learning_rate", "gradient_norm")


@dataclass(frozen=True)
class TrainSettings:
    """What decides the numbers of a training run, and nothing else.

    Attributes:
        codec, channels, direct_y: the model (``gradlab.codecs.build``).
        lam: lambda of the R-D cost, MSE on the 0-255 scale.
        objective, estimator, weighting, scale, k, l: what is maximised and how its gradient is taken.
        allow_biased: needed by estimators whose requirement the unit box breaks (DReG).
        steps, batch, crop: iterations, crops per iteration, pixels per side of a crop.
        learning_rate: for one sample; multiplied by k if ``scale_learning_rate`` (Appendix A.5: linear in the sample
            size).
        cosine_steps: the learning rate falls along a cosine to ``final_fraction`` of itself in so many iterations and
            stays there; 0 keeps it constant. The paper is silent about what follows its 200 epochs of cosine.
        clip: largest gradient norm, in bits per pixel.
        snapshots: iterations after which the weights are kept.
        seed: of weights, crops and noise.
        data: fingerprint of the training images.
    """

    codec: str = "bmshj2018-hyperprior"
    channels: tuple[int, int] = (128, 192)
    direct_y: bool = True
    lam: float = 0.015
    objective: str = "elbo"
    estimator: str = "pathwise"
    weighting: str = "joint"
    scale: str = "bpp"
    k: int = 1
    l: int = 1
    allow_biased: bool = False
    steps: int = 1000
    batch: int = 8
    crop: int = 256
    learning_rate: float = 1e-4
    scale_learning_rate: bool = True
    betas: tuple[float, float] = (0.90, 0.95)
    cosine_steps: int = 0
    final_fraction: float = 0.1
    clip: float = 1.0
    snapshots: tuple[int, ...] = ()
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "crop", "k", "l"):
            if getattr(self, name) < 1:
                raise GradlabError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not self.lam > 0:
            raise GradlabError(f"lam is {self.lam}: lambda must be positive")
        if not self.learning_rate > 0:
            raise GradlabError(f"learning_rate is {self.learning_rate}: it must be positive")
        if any(not 0 <= s <= self.steps for s in self.snapshots):
            raise GradlabError(f"snapshots {self.snapshots} must lie between 0 and steps = {self.steps}")
        missing = estimator(self.estimator).unmet(Box(torch.zeros(())), self.k)
        objective(self.objective)
        if missing and not self.allow_biased:
            raise GradlabError(
                f"estimator {self.estimator!r} is biased for the unit box: it needs {' and '.join(missing)}; "
                "train with another, or with allow_biased=True"
            )

    def rate_at(self, iteration: int) -> float:
        """Learning rate of the iteration (counted from 0)."""
        peak = self.learning_rate * (self.k if self.scale_learning_rate else 1)
        if self.cosine_steps == 0:
            return peak
        progress = min(1.0, iteration / self.cosine_steps)
        return peak * (self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class Run:
    """A trained model on disk.

    Attributes:
        folder: holds ``log.csv``, ``settings.json``, ``final.safetensors`` and ``snapshot-<iteration>.safetensors``.
        settings: what it was trained with.
    """

    folder: Path
    settings: TrainSettings

    @property
    def done(self) -> bool:
        """Whether the run is complete."""
        return (self.folder / "final.safetensors").exists()

    def codec(self, iteration: int | None = None, device: str = "cpu") -> Hyperprior:
        """The model after ``iteration`` (a snapshot), or at the end; in evaluation mode, ready to compress.

        Raises:
            GradlabError: no such snapshot, or a file that is corrupt or of other settings.
        """
        last = iteration is None or iteration == self.settings.steps
        path = self.folder / ("final.safetensors" if last else f"snapshot-{iteration}.safetensors")
        stored = checkpoints.load(path, results.settings_hash(self.settings))
        model = build(self.settings)
        model.load_state_dict(stored.tensors)
        return model.to(device).eval()


def build(settings: TrainSettings) -> Hyperprior:
    """The untrained model of these settings."""
    return codecs.build(settings.codec, settings.channels, settings.direct_y, seed=settings.seed)


def run_of(settings: TrainSettings, runs: Path) -> Run:
    """Where the run of these settings lives below ``runs``."""
    label = "direct" if settings.direct_y else "2level"
    name = f"{label}-{settings.objective}-{settings.estimator}-k{settings.k}-{results.settings_hash(settings)}"
    return Run(runs / name, settings)


def loss_of(
    codec: Hyperprior, x: Tensor, settings: TrainSettings, generator: torch.Generator | None
) -> tuple[Tensor, dict[str, float]]:
    """The training loss, bits per pixel, averaged over images; and what the log shows of it.

    Args:
        codec: the model.
        x: ``[B, 3, H, W]`` in [0, 1].
        settings: objective, estimator, weighting, scale, k, l and lambda.
        generator: of the noise.
    """
    terms, _ = codec.log_terms(x, settings.lam, settings.k, settings.l, generator)
    value = estimator(settings.estimator)(terms, settings.objective, settings.weighting, settings.scale)
    unit = LOSS_SCALE[settings.scale] * (terms.pixels if settings.scale == "nats" else 1)
    # A plain tensor: what a SurrogateLoss has to say of itself has been said.
    loss = -(value.as_subclass(Tensor) / unit).mean()
    per_pixel = math.log(2) * terms.pixels
    with torch.no_grad():
        rate = torch.as_tensor(terms.log_py + terms.log_pz).mean().item() / -per_pixel
        mse = terms.log_lik.mean().item() / (-per_pixel * settings.lam)
    return loss, {"loss": loss.item(), "bpp": rate, "mse": mse}


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
    weights = {name: p for name, p in codec.named_parameters() if not name.endswith("quantiles")}
    adam = torch.optim.Adam(list(weights.values()), lr=settings.learning_rate, betas=settings.betas)
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
        loss, seen = loss_of(codec, crops.batch(iteration), settings, noise)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(list(weights.values()), settings.clip))
        if not (math.isfinite(seen["loss"]) and math.isfinite(norm)):
            raise GradlabError(_blown_up(weights, iteration, seen["loss"], last))
        adam.step()
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


def _snapshot(folder: Path, codec: Hyperprior, keep: str, iteration: int) -> None:
    """The weights so far, as a codec that can write bitstreams; the model in training is left as it is."""
    copy = codecs.copy_of(codec)
    copy.finish()
    checkpoints.save(folder / f"snapshot-{iteration}.safetensors", copy.state_dict(), keep, iteration)


def _save(
    path: Path,
    settings: TrainSettings,
    codec: Hyperprior,
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
    path: Path, settings: TrainSettings, codec: Hyperprior, adam: torch.optim.Adam, weights: Mapping[str, Tensor]
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
