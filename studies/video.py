"""A P-frame of the video codec ssf2020 with single-sample training and with MS-NIC-MIX, on a pan over photographs.

The paper remarks that the method carries over to video, and shows no number. Here k samples of the residual's latent
are taken given everything else of the frame, as k samples of y are in an image codec; objectives, estimators, the
recorder and the weights are used unchanged. Rates are likelihoods, the frame before is given as it is, and a whole
window of pixels moves: that the method runs is shown, not what it gains on real video.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradlab import cli, data
from gradlab.codecs import video
from gradlab.evaluation import gradients
from gradlab.evaluation.importance_weights import weight_statistics
from gradlab.evaluation.video import rate_distortion
from gradlab.runtime import files, provenance
from gradlab.study import Context, Verdict, plots
from gradlab.study.pieces import Piece, Tables, joined
from gradlab.study.work import Work
from gradlab.training import Run, TrainSettings, build
from gradlab_studies import _models as models

ASSUMED = {
    "everything": "the paper remarks that MS-NIC extends to video and gives neither a model nor a setting",
    "model": "one P-frame of CompressAI's ssf2020; k samples of the residual's y, one of the motion and of each z",
    "reference": "the frame before as it is, not as a keyframe codec would decode it",
    "videos": "two frames of a window that moves over a photograph by whole pixels, the same in both directions",
    "rates": "likelihoods of rounded latents, no bitstream",
}
MIX, UNTRAINED = models.MIX, "untrained"

QUICK = TrainSettings(
    codec=video.NAME,
    channels=(24, 32),
    crop=128,
    shift=8,
    batch=2,
    steps=300,
    learning_rate=1e-3,
    scale_learning_rate=False,
    cosine_steps=300,
    final_fraction=0.02,
)


@dataclass(frozen=True)
class Settings:
    """The codec and the videos.

    Attributes:
        base: the codec, trained single-sample; ``crop`` is the side of a frame, ``shift`` the largest motion.
        k: samples of MS-NIC-MIX.
        videos: test videos.
        batch: videos whose gradients are recorded and whose weights are counted.
        draws: noise draws of either.
    """

    base: TrainSettings = QUICK
    k: int = 5
    videos: int = 32
    batch: int = 2
    draws: int = 64
    seed: int = 0


_GPU = replace(QUICK, channels=(128, 192), batch=8, steps=10_000, cosine_steps=10_000, learning_rate=1e-4)
PROFILES = {"quick": Settings(), "gpu": Settings(base=_GPU, videos=128, batch=8, draws=512)}
SMALLEST = Settings(base=replace(QUICK, channels=(4, 6), batch=1, steps=3), k=2, videos=2, batch=1, draws=4)


def work(settings: Settings) -> list[Work]:
    """What it needs; the test videos and the draws of weights are not timed."""
    wanted = [(method, models.method(settings.base, method, settings.k)) for method in (models.BASELINE, MIX)]
    return models.work(wanted, record=settings.draws)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Train by each method; rate and distortion, gradient SNR and weights of what comes out."""
    test = models.test_pictures(context)
    runs = models.train_all(context, [(m, models.method(settings.base, m, settings.k)) for m in (models.BASELINE, MIX)])
    base, pictures = runs[0].settings, models.train_pictures(context, settings.base)
    side, shift = base.crop, base.shift
    tested = data.VideoCrops(test, side, settings.videos, shift, context.seed, context.device).batch(0)
    recorded = data.VideoCrops(pictures, side, settings.batch, shift, context.seed, context.device)

    def untrained() -> Tables:
        found = rate_distortion(_untrained(base, context.device), tested, base.lam)
        return {"video": _row(UNTRAINED, base, found, 0), "video_frames": found.assign(method=UNTRAINED)}

    def trained(method: str, run: Run) -> Tables:
        codec: Any = run.codec(device=context.device)
        with_ = run.settings
        batch = recorded.batch(with_.steps)
        sizes, draws = sorted({2, settings.k}), max(1, settings.draws // 8)
        total = settings.videos + settings.draws + len(sizes) * draws
        with context.progress.track(f"videos, gradients and weights, {method}", total) as advance:
            found = rate_distortion(codec, tested, with_.lam, advance)
            groups = gradients.record(
                codec, batch, with_.lam, settings.draws, loss=with_.loss, seed=context.seed, advance=advance
            ).summary()
            weights = weight_statistics(codec, batch, with_.lam, sizes, draws, context.seed, advance=advance)
        return {
            "video": _row(method, with_, found, with_.steps),
            "video_frames": found.assign(method=method),
            "video_groups": groups.assign(method=method, k=with_.loss.k),
            "video_weights": weights.assign(method=method),
        }

    key = {"settings": provenance.settings_hash(settings)}
    pieces = [Piece("untrained", untrained)]
    for method, run in zip((models.BASELINE, MIX), runs, strict=True):
        measured = functools.partial(trained, method, run)
        pieces.append(Piece(run.folder.name, measured, key | models.key_of(run, None, context)))
    return joined(context.parts.each(pieces))


def _untrained(settings: TrainSettings, device: str) -> Any:
    """The codec that training starts from, its quantiles solved."""
    codec = build(settings).to(device)
    codec.finish()
    return codec.eval()


def _row(method: str, run: TrainSettings, found: pd.DataFrame, iterations: int) -> pd.DataFrame:
    mean, se = found.mean(), found.sem()
    row = {
        "method": method,
        "k": run.loss.k,
        "seed": run.seed,
        "iterations": iterations,
        "images": len(found),
        "R-D cost": mean["rd_cost"],
        "R-D cost_se": se["rd_cost"],
        "bpp_estimate": mean["bpp"],
        "bpp_residual": mean["bpp_residual"],
        "bpp_motion": mean["bpp_motion"],
        "MSE": mean["mse"],
        "PSNR": mean["psnr"],
        "R-D cost of repeating the frame before": run.lam * mean["mse_repeated"],
    }
    return pd.DataFrame([row])


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Does MS-NIC-MIX train a P-frame at all, and is the P-frame the better for it?"""
    rows = tables["video"].set_index("method")
    frames = tables["video_frames"].pivot(index="video", columns="method", values="rd_cost")
    weights = tables["video_weights"]
    cost, repeated = rows["R-D cost"], rows.loc[MIX, "R-D cost of repeating the frame before"]
    k, iterations = int(rows.loc[MIX, "k"]), int(rows.loc[MIX, "iterations"])
    mine = weights[(weights["method"] == MIX) & (weights["k"] == k)]
    ess = mine.set_index(["weighting", "scale", "term"])["ess"]
    difference = frames[MIX] - frames[models.BASELINE]
    return [
        Verdict(
            "MS-NIC-MIX trains a P-frame of a video codec",
            "sections 1, 4.1",
            bool(cost[MIX] < min(repeated, cost[UNTRAINED])),
            f"R-D cost {cost[MIX]:.3f} after {iterations} iterations, {cost[UNTRAINED]:.3f} before them, "
            f"{repeated:.3f} of repeating the frame before; effective sample size of {k}: "
            f"{ess[('joint', 'nats', 'all')]:.2f} by the equations' weights, "
            f"{ess[('per-term', 'bpp', 'distortion')]:.2f} by the listing's",
        ),
        Verdict(
            "MS-NIC-MIX has a lower R-D cost on the P-frame than single-sample training",
            "no number in the paper",
            None,  # the spread between training runs is not measured, and the paper claims nothing
            f"R-D cost {cost[MIX]:.3f} with MIX, {cost[models.BASELINE]:.3f} without: difference "
            f"{difference.mean():.4f} +- {difference.sem():.4f} over {len(difference)} videos, but of one "
            f"training run each, of {iterations} iterations",
        ),
    ]


def draw(folder: Path) -> None:
    """R-D cost, gradient SNR of every group, and how many of the k samples count."""
    names = ("video", "video_groups", "video_weights")
    rows, groups, weights = (files.read_csv(folder / f"{name}.csv") for name in names)
    short = {UNTRAINED: UNTRAINED, models.BASELINE: "one sample", MIX: f"MIX, k = {rows['k'].max()}"}
    for table in (rows, groups):
        table["training"] = table["method"].map(short)
    weights["name"] = weights["weighting"] + ", " + weights["scale"]
    equations, listing = weights["name"] == "joint, nats", weights["name"] == "per-term, bpp"
    weights.loc[equations, "name"] = "equations: joint, nats"
    weights.loc[listing, "name"] = "listing: per term, bpp (distortion)"
    shown = (weights["method"] == MIX) & (equations | (listing & (weights["term"] == "distortion")))
    figure, axes = plots.figure(1, 3, width="page", height=2.9)
    plots.bars(axes[0], rows, "training", "R-D cost", "R-D cost_se", xlabel="training",
               ylabel="R-D cost (bits per pixel)")  # fmt: skip
    plots.title(axes[0], "bars: s.e. over videos")
    plots.bars(
        axes[1], groups, "group", "snr", "snr_se", "training", xlabel="part", ylabel="gradient SNR", yscale="log"
    )
    decades = np.log10(groups.loc[groups["snr"] > 0, "snr"])
    axes[1].set_ylim(10 ** np.floor(decades.min()), 10 ** np.ceil(decades.max()))
    axes[1].tick_params(axis="x", rotation=45)
    plots.title(axes[1], f"n = {groups['draws'].iloc[0]} draws")
    plots.title(axes[2], "how many samples count")
    plots.curves(axes[2], weights[shown], "k", "ess", "ess_se", "name", xlabel="samples k of the residual",
                 ylabel="effective sample size")  # fmt: skip
    axes[2].set_xticks(sorted(set(weights["k"])))
    plots.shared_legend(figure, axes[1:])
    plots.save(figure, folder / "video")


cli.script(__name__)
