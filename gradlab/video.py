"""A P-frame with multiple samples: synthetic pans, training, rate and distortion by likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradlab import checkpoints, ranks, results
from gradlab.codecs import PFrame, video
from gradlab.data import Crops, Picture
from gradlab.errors import GradlabError, Stopped
from gradlab.evaluation import mse_255, psnr, to_8_bit
from gradlab.noise import stream
from gradlab.progress import skip
from gradlab.training import breakdown
from gradlab.training.loop import TrainSettings, broken, descend, set_state, state_of, told

if TYPE_CHECKING:
    import pandas as pd

NAME = "ssf2020"


class Pans:
    """Batches of two-frame videos, free of state: a window moves over a photograph by whole pixels.

    Args:
        pictures: where the windows are.
        size: height and width of a frame, pixels.
        batch: videos per batch.
        shift: the largest motion along each axis, pixels; each whole number up to it is as likely.
        seed: the user's seed.
        device: where batches appear.

    Raises:
        GradlabError: as for ``Crops`` of ``size + shift`` pixels, or a negative shift.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        size: int,
        batch: int,
        shift: int,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        """Move the pictures to ``device``."""
        if shift < 0:
            raise GradlabError(f"shift is {shift}: give the largest motion in pixels, at least 0")
        self.size, self.shift, self.seed = size, shift, seed
        self._crops = Crops(pictures, size + shift, batch, seed, device=device)

    def batch(self, step: int) -> Tensor:
        """``[B, 2, 3, size, size]`` in [0, 1]: the batch of ``step``, in any order of calls."""
        areas = self._crops.batch(step)
        motion = torch.randint(-self.shift, self.shift + 1, (len(areas), 2), generator=stream(self.seed, "pans", step))
        videos = torch.empty(len(areas), 2, 3, self.size, self.size, device=areas.device)
        for area, (down, right), frames in zip(areas, motion.tolist(), videos, strict=True):
            for frame, top, left in ((0, max(0, -down), max(0, -right)), (1, max(0, down), max(0, right))):
                frames[frame] = area[:, top : top + self.size, left : left + self.size]
        return videos


def untrained(settings: TrainSettings, device: str = "cpu") -> PFrame:
    """The codec that ``train`` starts from, its quantiles solved, in evaluation mode.

    Raises:
        GradlabError: another codec than ``"ssf2020"``.
    """
    if settings.codec != NAME:
        raise GradlabError(f"the codec is {settings.codec!r}: a P-frame is trained with {NAME!r}")
    codec = video.build(settings.channels, settings.seed).to(device)
    codec.finish()
    return codec.eval()


def train(
    settings: TrainSettings,
    pictures: Sequence[Picture],
    shift: int,
    *,
    folder: Path | None = None,
    device: str = "cpu",
    resume: bool = False,
    deadline: float | None = None,
    advance: Callable[..., Any] = lambda n=1, note="": None,
    checkpoint_every: int = 500,
) -> PFrame:
    """Train the P-frame of ``ssf2020`` on pans, or return the one that was trained in this folder.

    Args:
        settings: as for an image codec; ``codec`` must be ``"ssf2020"``, ``crop`` is the side of a frame.
        pictures: what the pans go over.
        shift: the largest motion, pixels.
        folder: where the checkpoint lives, of this training alone; None for a training without.
        device: where to train.
        resume: continue from the checkpoint, if there is one; otherwise an unfinished training starts anew.
        deadline: ``time.monotonic()`` after which a checkpoint is written and ``Stopped`` raised.
        advance: called as ``advance(n, note)`` after every n iterations.
        checkpoint_every: iterations between checkpoints.

    Returns:
        The codec in evaluation mode, its quantiles solved.

    Raises:
        GradlabError: another codec, pictures smaller than a pan, a checkpoint that is corrupt or of other settings, a
            loss or gradient that is not finite or explodes.
        Stopped: the deadline has passed or a signal has come.
    """
    codec = untrained(settings, device).train()
    pans = Pans(pictures, settings.crop, settings.batch, shift, settings.seed, device)
    # Of the parts for keyframes nothing is trained, of the bottlenecks all but the quantiles.
    used = {p for group in codec.groups().values() for n, p in group.named_parameters() if not n.endswith("quantiles")}
    weights: dict[str, Tensor] = {name: p for name, p in codec.named_parameters() if p in used}
    adam = torch.optim.Adam(list(weights.values()), lr=settings.learning_rate, betas=settings.betas)
    keep, watch, start = f"{results.settings_hash(settings)}-{shift}", breakdown.Watch(20.0), 0
    last = None if folder is None else results.ensure_folder(folder) / "last.safetensors"
    here = ranks.here()
    if last and here.agreed(last.exists()):
        stored = checkpoints.load(last, keep)
        if resume or stored.iteration == settings.steps:
            set_state(stored.tensors, codec, adam, weights)
            start, watch = stored.iteration, breakdown.Watch(20.0, stored.extra["watch"])
            skip(advance, start, "resumed")
    for iteration in range(start, settings.steps):
        for group in adam.param_groups:
            group["lr"] = settings.rate_at(iteration)
        x, noise = pans.batch(iteration), stream(settings.seed, "training noise", iteration, device)
        seen, norm = descend(codec, adam, weights, x, settings, noise)
        if wrong := watch.see(seen["loss"], norm):
            raise broken(folder, codec, x, settings, iteration, wrong, keep)
        done, stop = iteration + 1, told(advance, seen["loss"], deadline)
        if last and here.first and watch.calm and (stop or done % checkpoint_every == 0 or done == settings.steps):
            checkpoints.save(last, state_of(codec, adam, weights), keep, done, {"watch": watch.state()})
        if stop and done < settings.steps:
            here.wait()
            raise Stopped(f"stopped {stop} after iteration {done} of {settings.steps}")
    codec.finish()
    if here.size > 1:  # each trained the whole, and on accelerators they differ in the last digits
        codec.load_state_dict(here.agreed({name: value.cpu() for name, value in codec.state_dict().items()}))
    return codec.eval()


def rate_distortion(codec: PFrame, videos: Tensor, lam: float) -> pd.DataFrame:
    """Rate by likelihoods and distortion of the rounded last frame of each video.

    Args:
        codec: the codec, its quantiles solved.
        videos: ``[B, T, 3, H, W]`` in [0, 1], T at least 2.
        lam: lambda of the R-D cost.

    Returns:
        Per video: ``bpp`` = ``bpp_residual`` + ``bpp_motion`` (each with its hyperprior), ``mse`` (0-255, 8-bit),
        ``psnr`` (dB), ``rd_cost`` = bpp + lam * mse, and ``mse_repeated``, of the frame before in its place.

    Raises:
        GradlabError: lam not positive, a video of one frame or of another shape.
    """
    import pandas as pd

    if not lam > 0:
        raise GradlabError(f"lam is {lam}: lambda must be positive")
    rows = []
    for index, one in enumerate(videos):
        frame = codec.rounded(one[None])
        pixels = one.shape[-2] * one.shape[-1]
        residual, motion = float(frame.residual_bits) / pixels, float(frame.motion_bits) / pixels
        x, repeated = to_8_bit(one[-1:]), to_8_bit(one[-2:-1])
        mse = mse_255(x, to_8_bit(frame.x_hat))
        rows.append(
            {
                "video": index,
                "bpp": residual + motion,
                "bpp_residual": residual,
                "bpp_motion": motion,
                "mse": mse,
                "psnr": psnr(mse),
                "rd_cost": residual + motion + lam * mse,
                "mse_repeated": mse_255(x, repeated),
            }
        )
    return pd.DataFrame(rows)
