"""``TrainSettings``: the settings that determine the results of a training run, and identify it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gradlab import codecs
from gradlab.codecs import Codec, Loss, PFrame, PlainLoss, precision, video
from gradlab.codecs.shared import check_channels
from gradlab.data import Crops, Picture, VideoCrops, fingerprint
from gradlab.errors import GradlabError
from gradlab.validation import check_fields, checked, known, whole, wholes

WARM_UP = 300
"""Iterations of the linear warm-up where the learning rate is scaled by the number of samples."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings that determine the results of a training run, and no others.

    Sequences and numpy integers are coerced, so that equal settings have the same hash.

    Args:
        codec: one of ``gradlab.codecs.CODECS``, or ``"ssf2020"`` for a P-frame.
        channels: the codec's own arguments.
        direct_y: False is the paper's 2-level VAE (``gradlab.codecs.build``).
        lam: lambda of the R-D cost, MSE on the 0-255 scale.
        loss: the loss (``gl.Loss``); ``PlainLoss()`` trains g_a and g_s alone (Appendix A.10).
        steps: iterations.
        batch: crops per iteration.
        crop: pixels per side of a crop.
        learning_rate: for one sample; multiplied by k if ``scale_learning_rate`` (Appendix A.5: linear in the sample
            size).
        scale_learning_rate: see ``learning_rate``.
        warm_up: iterations over which the learning rate rises linearly; None: 300 where it is scaled by k > 1, else 0.
        betas: of Adam.
        cosine_steps: iterations over which the learning rate falls along a cosine to ``final_fraction`` of its peak,
            where it then stays; 0 for a constant rate. The paper does not say what follows its 200 epochs of cosine.
        final_fraction: see ``cosine_steps``.
        clip: largest gradient norm, in bits per pixel.
        snapshots: iterations after which the weights are saved.
        precision: of the transforms in training (``gradlab.codecs.precision``): ``"float32"``, ``"tf32"``, ``"bf16"``.
        shift: of a P-frame, the largest motion in pixels.
        seed: of weights, crops and noise.
        data: fingerprint of the training images; ``on`` and ``train`` fill it in.

    Raises:
        GradlabError: an unknown codec, channels that do not fit it, a loss that it does not support, a learning rate
            that would grow with k without need, or a number out of range.
    """

    codec: str = "bmshj2018-hyperprior"
    channels: tuple[int, ...] = (128, 192)
    direct_y: bool = True
    lam: float = 0.015
    loss: Loss | PlainLoss = field(default_factory=Loss)
    steps: int = 1000
    batch: int = 8
    crop: int = 256
    learning_rate: float = 1e-4
    scale_learning_rate: bool = True
    warm_up: int | None = None
    betas: tuple[float, float] = (0.90, 0.95)
    cosine_steps: int = 0
    final_fraction: float = 0.1
    clip: float = 1.0
    snapshots: tuple[int, ...] = ()
    precision: str = "float32"
    shift: int = 0
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        self._coerce()
        if not 0 < self.lam < math.inf:
            raise GradlabError(f"lam is {self.lam}: lambda must be positive and finite")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise GradlabError(f"{name} is {getattr(self, name)}: it must be positive and finite")
        if not 0 <= self.final_fraction <= 1:
            raise GradlabError(f"final_fraction is {self.final_fraction}: give a fraction from 0 to 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise GradlabError(f"betas are {self.betas}: give two numbers from 0 to below 1")
        if any(not 0 <= s <= self.steps for s in self.snapshots):
            raise GradlabError(f"snapshots {self.snapshots} must lie between 0 and steps = {self.steps}")
        precision.check(self.precision)
        self._check_codec()
        if not isinstance(self.loss.proxy, str):
            kind = type(self.loss.proxy).__name__
            raise GradlabError(f"loss.proxy is a {kind}: name it, e.g. 'sga:0.25', so that the run can be identified")
        k, averages = self.loss.k, isinstance(self.loss, Loss) and self.loss.objective == "elbo"
        if averages and k > 1 and self.scale_learning_rate:
            raise GradlabError(
                f"loss.k is {k} with objective 'elbo', which only averages the gradients of its samples, but the "
                f"learning rate would grow {k}-fold: set scale_learning_rate=False, or another objective"
            )

    def _coerce(self) -> None:
        for name in ("channels", "snapshots"):
            object.__setattr__(self, name, tuple(wholes(name, getattr(self, name), empty=True)))
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))
        least = {"steps": 1, "batch": 1, "crop": 1, "cosine_steps": 0, "shift": 0, "seed": 0, "warm_up": 0}
        for name in (name for name in least if getattr(self, name) is not None):
            object.__setattr__(self, name, whole(name, getattr(self, name), least[name]))
        for name in ("lam", "learning_rate", "final_fraction", "clip"):
            object.__setattr__(self, name, float(getattr(self, name)))

    def _check_codec(self) -> None:
        kinds: dict[str, type[Codec | PFrame]] = {**codecs.CODECS, video.NAME: PFrame}
        known("codec", self.codec, kinds)
        check_channels(self.codec, self.channels, kinds[self.codec].channel_names)
        if self.shift and self.codec != video.NAME:
            raise GradlabError(f"shift is {self.shift}: motion is for {video.NAME!r} alone, set shift = 0")
        has_z = kinds[self.codec].has_z
        if not self.direct_y and not has_z:
            raise GradlabError(f"{self.codec} has no z that could read a sample of y: leave direct_y at True")
        if isinstance(self.loss, PlainLoss) and self.codec == video.NAME:
            raise GradlabError(f"{video.NAME} has no plain autoencoder: give loss=Loss(...)")
        self.loss.check(has_z=has_z, direct_y=self.direct_y)

    def on(self, pictures: Sequence[Picture]) -> TrainSettings:
        """Return these settings with the fingerprint of their training images.

        Raises:
            GradlabError: the settings are of other images.
        """
        images = fingerprint(pictures)
        if self.data not in ("", images):
            raise GradlabError(
                f"the training images have the fingerprint {images[:12]}, but the settings are of {self.data[:12]}: "
                "give the images that they were made for, or replace(settings, data='')"
            )
        return replace(self, data=images)

    def batches(self, pictures: Sequence[Picture], device: str | torch.device = "cpu") -> Crops | VideoCrops:
        """Return the training batches: crops, or videos for a P-frame.

        Raises:
            GradlabError: no pictures, or one that is too small.
        """
        if self.codec == video.NAME:
            return VideoCrops(pictures, self.crop, self.batch, self.shift, self.seed, device)
        return Crops(pictures, self.crop, self.batch, self.seed, device=device)

    def rate_at(self, iteration: int) -> float:
        """Return the learning rate of an iteration, counted from 0."""
        scaled = self.scale_learning_rate and self.loss.k > 1
        peak = self.learning_rate * (self.loss.k if scaled else 1)
        rising = self.warm_up if self.warm_up is not None else WARM_UP if scaled else 0
        if iteration < rising:
            peak *= (iteration + 1) / rising
        if self.cosine_steps == 0:
            return peak
        progress = min(1.0, iteration / self.cosine_steps)
        return peak * (self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))


@checked
def build(settings: TrainSettings) -> Codec | PFrame:
    """Build the untrained model of these settings, in float32."""
    if settings.codec == video.NAME:
        return video.build(settings.channels, settings.seed)
    return codecs.build(settings.codec, settings.channels, settings.direct_y, seed=settings.seed)


def trainable(codec: Codec | PFrame) -> dict[str, Tensor]:
    """Return the trained weights by name: those of the codec's groups except the entropy bottlenecks' quantiles."""
    used = {p for group in codec.groups().values() for n, p in group.named_parameters() if not n.endswith("quantiles")}
    return {name: p for name, p in codec.named_parameters() if p in used}
