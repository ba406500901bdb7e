"""Define ``TrainSettings``: the settings that determine the results of a training run and identify it."""

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
from gradlab.runtime.display import shown
from gradlab.validation import check_fields, checked, known, whole, wholes

WARM_UP = 300
"""Default length of the linear warm-up, in iterations, if the learning rate is scaled by the number of samples."""


@shown
@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings that determine the results of a training run.

    A run is identified by the hash of its settings. Sequences and numpy numbers are converted to plain tuples, ints and
    floats, so that equal settings have equal hashes. Options that do not affect the results are in ``RunOptions``.

    Args:
        codec: name in ``gradlab.codecs.CODECS``, or ``"ssf2020"`` for a P-frame model.
        channels: CompressAI's channel arguments for this codec, e.g. ``(N, M)``.
        direct_y: if False, train the paper's 2-level VAE, where h_a reads a sample of y (see ``gradlab.codecs.build``).
        lam: lambda of the R-D cost, for an MSE on the 0-255 scale.
        loss: training loss (``gl.Loss``), or ``PlainLoss()`` to train only g_a and g_s (Appendix A.10).
        steps: number of iterations.
        batch: crops per iteration.
        crop: side of a crop, in pixels.
        learning_rate: learning rate for one sample.
        scale_learning_rate: whether to multiply the learning rate by ``loss.k``, as in Appendix A.5.
        warm_up: length of the linear warm-up, in iterations. None selects 300 if the learning rate is scaled by k > 1,
            otherwise 0.
        betas: Adam's two decay rates.
        cosine_steps: length of the cosine decay, in iterations; 0 keeps the learning rate constant. The paper does not
            say what follows its 200 epochs of cosine decay; here the rate stays at its final value.
        final_fraction: final learning rate of the cosine decay, as a fraction of the peak.
        clip: maximum gradient norm, for the loss in bits per pixel.
        snapshots: iterations after which the weights are saved.
        precision: precision of the transforms during training: ``"float32"``, ``"tf32"`` or ``"bf16"`` (see
            ``gradlab.codecs.precision``).
        shift: largest motion in pixels, for a P-frame model.
        seed: seed of the weights, crops and noise.
        data: fingerprint of the training images; ``on`` and ``train`` fill it in.

    Raises:
        GradlabError: the codec is unknown, the channels do not fit it, it does not support the loss, a number is out of
            range, or the learning rate would grow with k although the objective only averages over samples.

    Example:
        >>> import gradlab as gl
        >>> settings = gl.TrainSettings(loss=gl.Loss("ms-nic-mix", k=5), lam=0.03, steps=100_000)
        >>> settings.codec, settings.channels, settings.loss.k
        ('bmshj2018-hyperprior', (128, 192), 5)
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
            raise GradlabError(f"snapshots is {self.snapshots}: give iterations from 0 to {self.steps}")
        precision.check(self.precision)
        self._check_codec()
        if not isinstance(self.loss.proxy, str):
            kind = type(self.loss.proxy).__name__
            raise GradlabError(
                f"loss.proxy is a {kind} object: give its name, e.g. 'sga:0.25', so that the run can be identified"
            )
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
            raise GradlabError(f"shift is {self.shift}: only {video.NAME!r} has motion; set shift=0")
        has_z = kinds[self.codec].has_z
        if not self.direct_y and not has_z:
            raise GradlabError(f"direct_y is False, but {self.codec} has no latent z: set direct_y=True")
        if isinstance(self.loss, PlainLoss) and self.codec == video.NAME:
            raise GradlabError(f"{video.NAME} does not support PlainLoss: give loss=Loss(...)")
        self.loss.check(has_z=has_z, direct_y=self.direct_y)

    def on(self, pictures: Sequence[Picture]) -> TrainSettings:
        """Return these settings with the fingerprint of their training images.

        Args:
            pictures: training images.

        Raises:
            GradlabError: the settings already hold the fingerprint of other images.

        Example:
            >>> import gradlab as gl
            >>> settings = gl.TrainSettings().on(gl.data.embedded("train"))
            >>> len(settings.data)
            64
        """
        images = fingerprint(pictures)
        if self.data not in ("", images):
            raise GradlabError(
                f"the training images have the fingerprint {images[:12]}, but the settings hold {self.data[:12]}: "
                "give the images that the settings were made for, or replace(settings, data='')"
            )
        return replace(self, data=images)

    def batches(self, pictures: Sequence[Picture], device: str | torch.device = "cpu") -> Crops | VideoCrops:
        """Return the source of training batches: random crops, or two-frame videos for a P-frame model.

        Args:
            pictures: training images.
            device: device of the batches.

        Raises:
            GradlabError: there are no pictures, or one is smaller than a crop.

        Example:
            >>> import gradlab as gl
            >>> settings = gl.TrainSettings(batch=2, crop=64)
            >>> settings.batches(gl.data.embedded("train")).batch(0).shape
            torch.Size([2, 3, 64, 64])
        """
        if self.codec == video.NAME:
            return VideoCrops(pictures, self.crop, self.batch, self.shift, self.seed, device)
        return Crops(pictures, self.crop, self.batch, self.seed, device=device)

    def rate_at(self, iteration: int) -> float:
        """Return the learning rate of an iteration, counted from 0.

        Args:
            iteration: number of iterations that are finished.

        Example:
            >>> import gradlab as gl
            >>> settings = gl.TrainSettings(learning_rate=1e-4, warm_up=10)
            >>> [round(settings.rate_at(iteration), 6) for iteration in (0, 4, 9, 100)]
            [1e-05, 5e-05, 0.0001, 0.0001]
        """
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
    """Build the untrained model of some settings, with float32 weights.

    Args:
        settings: settings of the run; ``codec``, ``channels``, ``direct_y`` and ``seed`` determine the model.

    Returns:
        The codec, or a ``PFrame`` for ``"ssf2020"``.

    Example:
        >>> import gradlab as gl
        >>> codec = gl.training.build(gl.TrainSettings(codec="small-hyperprior", channels=(6, 4)))
        >>> type(codec).__name__
        'SmallHyperprior'
    """
    if settings.codec == video.NAME:
        return video.build(settings.channels, settings.seed)
    return codecs.build(settings.codec, settings.channels, settings.direct_y, seed=settings.seed)


def trainable(codec: Codec | PFrame) -> dict[str, Tensor]:
    """Return the weights to train, by name: those of the codec's groups, except quantiles of entropy bottlenecks."""
    used = {p for group in codec.groups().values() for n, p in group.named_parameters() if not n.endswith("quantiles")}
    return {name: p for name, p in codec.named_parameters() if p in used}
