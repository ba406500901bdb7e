"""What identifies a training run, and where it lives on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gradlab import checkpoints, codecs, results
from gradlab.arguments import check_fields, checked
from gradlab.codecs import Codec
from gradlab.errors import GradlabError
from gradlab.estimators import estimator
from gradlab.objectives import objective
from gradlab.posteriors import Quantized
from gradlab.proxies import proxy
from gradlab.terms import LogTerms


@dataclass(frozen=True)
class TrainSettings:
    """What decides the numbers of a training run, and nothing else.

    Attributes:
        codec, channels, direct_y: the model (``gradlab.codecs.build``).
        lam: lambda of the R-D cost, MSE on the 0-255 scale.
        objective, estimator, weighting, scale, k, l: what is maximised and how its gradient is taken.
        allow_biased: needed by estimators whose requirement the unit box breaks (DReG), and by proxies whose derivative
            is not that of their forward pass (straight-through).
        proxy: what stands in for rounding y (``gradlab.proxies``).
        steps, batch, crop: iterations, crops per iteration, pixels per side of a crop.
        learning_rate: for one sample; multiplied by k if ``scale_learning_rate`` (Appendix A.5: linear in the sample
            size).
        cosine_steps: the learning rate falls along a cosine to ``final_fraction`` of itself in so many iterations and
            stays there; 0 keeps it constant. The paper is silent about what follows its 200 epochs of cosine.
        clip: largest gradient norm, in bits per pixel.
        snapshots: iterations after which the weights are kept.
        plain: train g_a and g_s alone on the MSE, without noise, rate or rounding (Appendix A.10).
        seed: of weights, crops and noise.
        data: fingerprint of the training images.
    """

    codec: str = "bmshj2018-hyperprior"
    channels: tuple[int, ...] = (128, 192)
    direct_y: bool = True
    lam: float = 0.015
    objective: str = "elbo"
    estimator: str = "pathwise"
    weighting: str = "joint"
    scale: str = "bpp"
    k: int = 1
    l: int = 1
    allow_biased: bool = False
    proxy: str = "noise"
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
    plain: bool = False
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("steps", "batch", "crop", "k", "l"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise GradlabError(f"{name} is {value}: it must be a whole number of at least 1")
        if not 0 < self.lam < math.inf:
            raise GradlabError(f"lam is {self.lam}: lambda must be positive and finite")
        if not self.learning_rate > 0:
            raise GradlabError(f"learning_rate is {self.learning_rate}: it must be positive")
        if any(not 0 <= s <= self.steps for s in self.snapshots):
            raise GradlabError(f"snapshots {self.snapshots} must lie between 0 and steps = {self.steps}")
        sampled = (self.objective, self.estimator, self.k, self.l, self.proxy)
        if self.plain and sampled != ("elbo", "pathwise", 1, 1, "noise"):
            raise GradlabError(
                "a plain autoencoder has no samples to weight: leave objective, estimator, k, l and proxy alone"
            )
        posterior = Quantized(torch.zeros(()), proxy(self.proxy))
        lacking = estimator(self.estimator).undefined(posterior, self.k)
        if lacking:
            raise GradlabError(
                f"estimator {self.estimator!r} is undefined for a codec at k = {self.k}: it needs "
                f"{' and '.join(lacking)}; train with another"
            )
        missing = estimator(self.estimator).unmet(posterior, self.k)
        objective(self.objective)
        if missing and not self.allow_biased:
            where = "the unit box" if self.proxy == "noise" else f"proxy {self.proxy!r}"
            raise GradlabError(
                f"estimator {self.estimator!r} is biased for {where}: it needs {' and '.join(missing)}; "
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

    @property
    def warm_restarts(self) -> tuple[int, ...]:
        """Iterations after which training went on with a new optimizer; empty for a run in one piece, or resumed."""
        return tuple(checkpoints.load(self.folder / "final.safetensors").extra.get("warm_restarts", ()))

    def snr(self, every: int, draws: int) -> Path:
        """The CSV of the gradient SNR recorded during training, ``draws`` gradients every ``every`` iterations."""
        return self.folder / f"snr-{every}x{draws}.csv"

    def codec(self, iteration: int | None = None, device: str = "cpu") -> Codec:
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


@checked
def build(settings: TrainSettings) -> Codec:
    """The untrained model of these settings."""
    return codecs.build(settings.codec, settings.channels, settings.direct_y, seed=settings.seed)


@checked
def run_of(settings: TrainSettings, runs: Path) -> Run:
    """Where the run of these settings lives below ``runs``."""
    label = "plain" if settings.plain else "direct" if settings.direct_y else "2level"
    name = f"{label}-{settings.objective}-{settings.estimator}-k{settings.k}-{results.settings_hash(settings)}"
    return Run(runs / name, settings)


def mean_loss(terms: LogTerms, objective_name: str, estimator_name: str, weighting: str, scale: str) -> Tensor:
    """What training descends and the recorder records: minus the surrogate, averaged over images, in bits per pixel.

    Bits per pixel whatever the objective's own scale, so that learning rates, clipping and gradient variances mean the
    same at every crop size.
    """
    # A plain tensor: what a SurrogateLoss has to say of itself has been said.
    value = estimator(estimator_name)(terms, objective_name, weighting, scale).as_subclass(Tensor)
    return -value.mean() / (1.0 if scale == "bpp" else math.log(2) * terms.pixels)
