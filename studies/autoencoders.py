"""Autoencoders (Appendix A.10): the transforms of both codecs, trained only on the MSE, without rate and rounding.

The paper takes the lower PSNR of Cheng et al. 2020 as a sign that its gradient is harder to handle. Iterations, batches
and crops are equal.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from gradlab import cli, evaluation
from gradlab.runtime import files
from gradlab.study import Advance, Context, Piece, Tables, Verdict, models, plots
from gradlab.study.verdicts import Pair
from gradlab.study.work import Work
from gradlab.training import PlainLoss, Run, TrainSettings
from gradlab_studies import _methods as methods

BALLE, CHENG = "bmshj2018-hyperprior", "cheng2020-attn"
PRINTED = {BALLE: 48.54, CHENG: 43.27}
"""PSNR in dB, from Appendix A.10."""
CLOSE = 0.2
NAMES = {BALLE: "Balle et al. 2018", CHENG: "Cheng et al. 2020"}
ASSUMED = methods.ASSUMED | {
    "channels": "the paper names none for its autoencoders; quick has its own, gpu and paper those of high rates",
    "learning rate": "that of the profile, for both",
}


@dataclass(frozen=True)
class Settings(methods.Settings):
    """Training of both autoencoders.

    Attributes:
        base: training settings.
        points: iterations at which both are compared.
        channels: channels of ``BALLE``, and of ``CHENG``.
        seed: random seed.
    """

    channels: tuple[tuple[int, ...], tuple[int, ...]] = ((192, 320), (192,))


def _settings(base: TrainSettings, *points: int, **channels: Any) -> Settings:
    """Return settings that train both like ``base``, but only on the MSE and up to the last of ``points``."""
    cosine = points[-1] if base.cosine_steps == base.steps else base.cosine_steps
    plain = replace(base, loss=PlainLoss(), steps=points[-1], snapshots=points[:-1], cosine_steps=cosine)
    return Settings(plain, points, **channels)


PROFILES = {
    "quick": _settings(methods.QUICK, 300, 600, 900, channels=((32, 48), (32,))),
    "gpu": _settings(methods.GPU, 2_500, 5_000),
    "paper": _settings(methods.PAPER, 1_000_000, 1_500_000, 2_000_000),
}
SMALLEST = _settings(methods.SMALLEST, 2, 4, channels=((4, 6), (4,)))


def trained(settings: Settings) -> list[tuple[str, TrainSettings]]:
    """Return both autoencoders, by name."""
    codecs = zip((BALLE, CHENG), settings.channels, strict=True)
    return [
        (f"{NAMES[codec]} as an autoencoder", replace(settings.base, codec=codec, channels=channels))
        for codec, channels in codecs
    ]


def work(settings: Settings) -> list[Work]:
    """Return the work of this study."""
    return models.training_work(trained(settings), rounded=len(settings.points))


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Measure the PSNR of both at every point."""
    runs = models.train_all(context, trained(settings))
    pictures = models.test_pictures(context)

    def rows(run: Run, iteration: int, last: bool, advance: Advance) -> Tables:
        name, codec = run.settings.codec, run.codec(iteration, context.device)
        images = evaluation.reconstruction(codec, pictures, advance)
        means = evaluation.summary(images)
        row = {
            "method": NAMES[name], "codec": name,
            "PSNR": means["psnr"], "PSNR_paper": PRINTED[name] if last else float("nan"),
            "MSE": means["mse"], "MS-SSIM": means["ms_ssim"],
            "parameters": sum(p.numel() for p in (*codec.g_a.parameters(), *codec.g_s.parameters())),
            "latent_channels": run.settings.channels[-1],
            "seed": context.seed, "iterations": iteration, "images": len(pictures),
        }  # fmt: skip
        return {
            "autoencoders": pd.DataFrame([row]),
            "autoencoders_images": images.assign(method=NAMES[name], iterations=iteration),
        }

    def piece(run: Run, iteration: int) -> Piece:
        last = iteration == settings.points[-1]
        key = models.key_of(run, iteration, context) | {"last": last}
        measured = functools.partial(rows, run, iteration, last)
        return Piece(f"{run.folder.name}-{iteration}", measured, key, len(pictures))

    return context.measure("evaluating", [piece(run, iteration) for run in runs for iteration in settings.points])


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide whether Balle et al. 2018 reconstructs better by more than 0.2 dB, at both of the last two points."""
    psnr = tables["autoencoders"].set_index(["codec", "iterations"])["PSNR"]
    return [
        Verdict.compare(
            "as a plain autoencoder Balle et al. 2018 reaches a higher PSNR than Cheng et al. 2020",
            "A.10",
            Pair(psnr[BALLE], psnr[CHENG], paper=(PRINTED[BALLE], PRINTED[CHENG])),
            expect="higher",
            quantity="PSNR of Balle et al. 2018 and Cheng et al. 2020",
            unit="dB",
            smallest=CLOSE,
        )
    ]


def draw(folder: Path) -> None:
    """Draw the PSNR of both over training, and the paper's."""
    table = files.read_csv(folder / "autoencoders.csv")
    figure, ax = plots.figure(height=2.8)
    plots.curves(ax, table, "iterations", "PSNR", None, "method", xlabel="iterations", ylabel="PSNR (dB)",
                 title=f"transforms alone, {table['images'].iloc[0]} images")  # fmt: skip
    plots.save(figure, folder / "autoencoders")


cli.script(__name__)
