"""A P-frame of the video codec ssf2020 with single-sample training and with MS-NIC-MIX, on pans over photographs.

The paper remarks that the method extends to video, but gives no numbers. Here k samples of the residual's latent are
drawn given all other latents of the frame, like k samples of y in an image codec; objectives, estimators, recorder and
weights are used unchanged. Rates are likelihoods, the previous frame is given without loss, and a whole window of
pixels moves. The study shows that the method runs, not how much it gains on real video.
"""

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
from gradlab.study import Advance, Context, Piece, Tables, Verdict, models, plots
from gradlab.study.work import Work
from gradlab.training import Run, TrainSettings, build
from gradlab_studies import _methods as methods

ASSUMED = {
    "everything": "the paper remarks that MS-NIC extends to video and gives neither a model nor a setting",
    "model": "one P-frame of CompressAI's ssf2020; k samples of the residual's y, one of the motion and of each z",
    "reference": "the frame before as it is, not as a keyframe codec would decode it",
    "videos": "two frames of a window that moves over a photograph by whole pixels, the same in both directions",
    "rates": "likelihoods of rounded latents, no bitstream",
}
MIX, UNTRAINED = methods.MIX, "untrained"

QUICK = TrainSettings(
    codec=video.NAME, channels=(24, 32), crop=128, shift=8, batch=2, steps=300, learning_rate=1e-3,
    scale_learning_rate=False, cosine_steps=300, final_fraction=0.02,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The codec and the videos.

    Attributes:
        base: settings of the codec with single-sample training; ``crop`` is the side of a frame, ``shift`` the largest
            motion.
        k: samples of the residual's latent in MS-NIC-MIX.
        videos: number of test videos.
        batch: number of videos for the recorded gradients and the weights.
        draws: noise draws for the gradients; an eighth of them for the weights.
        seed: random seed.
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


def trained(settings: Settings) -> list[tuple[str, TrainSettings]]:
    """Return the codec trained with both methods."""
    return [(method, methods.method(settings.base, method, settings.k)) for method in (methods.BASELINE, MIX)]


def work(settings: Settings) -> list[Work]:
    """Return the work of this study; test videos and draws of the weights are not timed."""
    return models.training_work(trained(settings), record=settings.draws)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Train with each method, and measure rate, distortion, gradient SNR and weights of the results."""
    test = models.test_pictures(context)
    runs = models.train_all(context, trained(settings))
    base, train = runs[0].settings, models.train_pictures(context, settings.base)
    tested = data.VideoCrops(test, base.crop, settings.videos, base.shift, context.seed, context.device).batch(0)
    crops = data.VideoCrops(train, base.crop, settings.batch, base.shift, context.seed, context.device)
    recorded = crops.batch(base.steps)
    sizes, draws = sorted({2, settings.k}), max(1, settings.draws // 8)

    def rates(method: str, codec: Any, run: TrainSettings, iterations: int, advance: Advance) -> Tables:
        frames = rate_distortion(codec, tested, run.lam, advance)
        mean = frames.mean()
        row = {
            "method": method, "k": run.loss.k, "seed": run.seed, "iterations": iterations, "images": len(frames),
            "R-D cost": mean["rd_cost"], "R-D cost_se": frames["rd_cost"].sem(), "bpp_estimate": mean["bpp"],
            "bpp_residual": mean["bpp_residual"], "bpp_motion": mean["bpp_motion"], "MSE": mean["mse"],
            "PSNR": mean["psnr"], "R-D cost of repeating the frame before": run.lam * mean["mse_repeated"],
        }  # fmt: skip
        return {"video": pd.DataFrame([row]), "video_frames": frames.assign(method=method)}

    def untrained(advance: Advance) -> Tables:
        codec = build(base).to(context.device)
        codec.finish()  # solves the quantiles
        return rates(UNTRAINED, codec.eval(), base, 0, advance)

    def measured(method: str, run: Run, advance: Advance) -> Tables:
        codec, loss, lam = run.codec(device=context.device), run.settings.loss, run.settings.lam
        tables = rates(method, codec, run.settings, run.settings.steps, advance)
        groups = gradients.record(
            codec, recorded, lam, settings.draws, loss=loss, seed=context.seed, advance=advance
        ).summary()
        weights = weight_statistics(codec, recorded, lam, sizes, draws, context.seed, advance=advance)
        return {
            **tables,
            "video_groups": groups.assign(method=method, k=loss.k),
            "video_weights": weights.assign(method=method),
        }

    units = settings.videos + settings.draws + len(sizes) * draws
    pieces = [Piece("untrained", untrained, units=settings.videos)]
    for (method, _), run in zip(trained(settings), runs, strict=True):
        key = models.key_of(run, None, context) | {"settings": provenance.settings_hash(settings)}
        pieces.append(Piece(run.folder.name, functools.partial(measured, method, run), key, units))
    return context.measure("videos, gradients and weights", pieces)


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide whether MS-NIC-MIX trains a P-frame at all, and whether it improves the P-frame."""
    rows = tables["video"].set_index("method")
    frames = tables["video_frames"].pivot(index="video", columns="method", values="rd_cost")
    cost, repeated = rows["R-D cost"], rows.loc[MIX, "R-D cost of repeating the frame before"]
    k, iterations = rows.loc[MIX, "k"], rows.loc[MIX, "iterations"]
    ess = tables["video_weights"].set_index(["method", "k", "weighting", "scale", "term"])["ess"][MIX, k]
    difference = frames[MIX] - frames[methods.BASELINE]
    return [
        Verdict("MS-NIC-MIX trains a P-frame of a video codec", "sections 1, 4.1",
                bool(cost[MIX] < min(repeated, cost[UNTRAINED])),
                f"R-D cost {cost[MIX]:.3f} after {iterations} iterations, {cost[UNTRAINED]:.3f} before them, "
                f"{repeated:.3f} of repeating the frame before; effective sample size of {k}: "
                f"{ess['joint', 'nats', 'all']:.2f} by the equations' weights, "
                f"{ess['per-term', 'bpp', 'distortion']:.2f} by the listing's"),
        # Undecided, because the spread between training runs is not measured and the paper makes no claim.
        Verdict("MS-NIC-MIX has a lower R-D cost on the P-frame than single-sample training",
                "no number in the paper", None,
                f"R-D cost {cost[MIX]:.3f} with MIX, {cost[methods.BASELINE]:.3f} without: difference "
                f"{difference.mean():.4f} +- {difference.sem():.4f} over {len(difference)} videos, but of one "
                f"training run each, of {iterations} iterations"),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw the R-D cost, the gradient SNR of every group, and the effective sample size."""
    names = ("video", "video_groups", "video_weights")
    rows, groups, weights = (files.read_csv(folder / f"{name}.csv") for name in names)
    short = {UNTRAINED: UNTRAINED, methods.BASELINE: "one sample", MIX: f"MIX, k = {rows['k'].max()}"}
    for table in (rows, groups):
        table["training"] = table["method"].map(short)
    kinds = {
        "joint, nats, all": "equations: joint, nats",
        "per-term, bpp, distortion": "listing: per term, bpp (distortion)",
    }
    weights["name"] = (weights["weighting"] + ", " + weights["scale"] + ", " + weights["term"]).map(kinds)
    shown = weights[(weights["method"] == MIX) & weights["name"].notna()]
    figure, axes = plots.figure(1, 3, width="page", height=2.9)
    plots.bars(axes[0], rows, "training", "R-D cost", "R-D cost_se", xlabel="training",
               ylabel="R-D cost (bits per pixel)", title="bars: s.e. over videos")  # fmt: skip
    plots.bars(axes[1], groups, "group", "snr", "snr_se", "training", xlabel="part", ylabel="gradient SNR",
               yscale="log", title=f"n = {groups['draws'].iloc[0]} draws")  # fmt: skip
    decades = np.log10(groups.loc[groups["snr"] > 0, "snr"])
    axes[1].set_ylim(10 ** np.floor(decades.min()), 10 ** np.ceil(decades.max()))
    axes[1].tick_params(axis="x", rotation=45)
    plots.curves(axes[2], shown, "k", "ess", "ess_se", "name", xlabel="samples k of the residual",
                 ylabel="effective sample size", title="how many samples count")  # fmt: skip
    axes[2].set_xticks(sorted(set(weights["k"])))
    plots.shared_legend(figure, axes[1:])
    plots.save(figure, folder / "video")


cli.script(__name__)
