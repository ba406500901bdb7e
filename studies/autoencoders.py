"""Autoencoders (Appendix A.10): the transforms of both codecs trained on the MSE alone, with no rate and no rounding.

The paper takes a lower PSNR of Cheng et al. 2020 for a sign that its gradient is harder to deal with. Equal iterations,
equal batches, the same crops.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from gradlab import cli, evaluation
from gradlab.runtime import files
from gradlab.study import Context, Verdict, plots
from gradlab.study.pieces import Piece, Tables, joined
from gradlab.study.work import Work
from gradlab.training import PlainLoss, Run, TrainSettings
from gradlab_studies import _models as models

BALLE, CHENG = "bmshj2018-hyperprior", "cheng2020-attn"
PRINTED = {BALLE: 48.54, CHENG: 43.27}
"""Appendix A.10, PSNR in dB."""
CLOSE = 0.2
NAMES = {BALLE: "Balle et al. 2018", CHENG: "Cheng et al. 2020"}
ASSUMED = models.ASSUMED | {
    "channels": "the paper names none for its autoencoders; quick has its own, gpu and paper those of high rates",
    "learning rate": "that of the profile, for both",
}


@dataclass(frozen=True)
class Settings:
    """Training of both.

    Attributes:
        base: how both are trained.
        channels: of ``BALLE``, and of ``CHENG``.
        points: iterations at which both are compared; the last is the table's.
    """

    base: TrainSettings
    channels: tuple[tuple[int, ...], tuple[int, ...]]
    points: tuple[int, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        models.check_kept(self.base, *self.points)


def _plain(base: TrainSettings, steps: int, snapshots: tuple[int, ...]) -> TrainSettings:
    cosine = steps if base.cosine_steps == base.steps else base.cosine_steps
    return replace(base, loss=PlainLoss(), steps=steps, snapshots=snapshots, cosine_steps=cosine)


PROFILES = {
    "quick": Settings(_plain(models.QUICK, 900, (300, 600)), ((32, 48), (32,)), (300, 600, 900)),
    "gpu": Settings(_plain(models.GPU, 5_000, (2_500,)), ((192, 320), (192,)), (2_500, 5_000)),
    "paper": Settings(
        _plain(models.PAPER, 2_000_000, (1_000_000, 1_500_000)),
        ((192, 320), (192,)),
        (1_000_000, 1_500_000, 2_000_000),
    ),
}
SMALLEST = Settings(_plain(models.SMALLEST, 4, (2,)), ((4, 6), (4,)), (2, 4))


def trained(settings: Settings) -> dict[str, TrainSettings]:
    """Both autoencoders, by codec."""
    return {
        codec: replace(settings.base, codec=codec, channels=channels)
        for codec, channels in zip((BALLE, CHENG), settings.channels, strict=True)
    }


def work(settings: Settings) -> list[Work]:
    """What it needs."""
    wanted = ((NAMES[codec], s) for codec, s in trained(settings).items())
    return models.work(wanted, rounded=len(settings.points))


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """PSNR of both at every point."""
    wanted = trained(settings)
    runs = models.train_all(context, [(f"{NAMES[c]} as an autoencoder", s) for c, s in wanted.items()])
    pictures = models.test_pictures(context)

    def rows(run: Run, iteration: int) -> Tables:
        name, codec = run.settings.codec, run.codec(iteration, context.device)
        found = evaluation.reconstruction(codec, pictures, advance)
        means = evaluation.summary(found)
        transforms = [*codec.g_a.parameters(), *codec.g_s.parameters()]
        row = {
            "method": NAMES[name],
            "codec": name,
            "PSNR": means["psnr"],
            "PSNR_paper": PRINTED[name] if iteration == settings.points[-1] else float("nan"),
            "MSE": means["mse"],
            "MS-SSIM": means["ms_ssim"],
            "parameters": sum(p.numel() for p in transforms),
            "latent_channels": run.settings.channels[-1],
            "seed": context.seed,
            "iterations": iteration,
            "images": len(pictures),
        }
        images = found.assign(method=NAMES[name], iterations=iteration)
        return {"autoencoders": pd.DataFrame([row]), "autoencoders_images": images}

    with context.progress.track("evaluating", len(wanted) * len(settings.points) * len(pictures)) as advance:
        pieces = [
            Piece(
                f"{run.folder.name}-{iteration}",
                functools.partial(rows, run, iteration),
                models.key_of(run, iteration, context) | {"last": iteration == settings.points[-1]},
                len(pictures),
            )
            for run in runs
            for iteration in settings.points
        ]
        return joined(context.parts.each(pieces, advance))


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Whether Balle et al. 2018 reconstructs better, at the last two points alike and by more than 0.2 dB."""
    table = tables["autoencoders"].set_index(["codec", "iterations"])["PSNR"]
    points = sorted(tables["autoencoders"]["iterations"].unique())
    gaps = [table[BALLE, p] - table[CHENG, p] for p in points]
    agreed = all(g > CLOSE for g in gaps[-2:]) or all(g < -CLOSE for g in gaps[-2:])
    evidence = (
        f"PSNR {table[BALLE, points[-1]]:.2f} and {table[CHENG, points[-1]]:.2f} dB (paper {PRINTED[BALLE]} and "
        f"{PRINTED[CHENG]}); the gap is {', '.join(f'{g:+.2f}' for g in gaps)} dB after "
        f"{', '.join(map(str, points))} iterations, one seed"
    )
    claim = "as a plain autoencoder Balle et al. 2018 reaches a higher PSNR than Cheng et al. 2020"
    return [Verdict(claim, "A.10", gaps[-1] > 0 if agreed else None, evidence)]


def draw(folder: Path) -> None:
    """PSNR of both over training, and the paper's."""
    table = files.read_csv(folder / "autoencoders.csv")
    figure, ax = plots.figure(height=2.8)
    plots.curves(ax, table, "iterations", "PSNR", None, "method", xlabel="iterations", ylabel="PSNR (dB)")
    plots.title(ax, f"transforms alone, {table['images'].iloc[0]} images")
    plots.save(figure, folder / "autoencoders")


cli.script(__name__)
