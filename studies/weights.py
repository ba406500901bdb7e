"""Effective sample size of the importance weights on a codec, over image size and k, in all weightings and scales.

The equations use one softmax of log w in nats per image; the listing of Appendix A.5 uses one softmax per term in bits
per pixel. At the size of a photograph, the first is almost one-hot and the second almost flat.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gradlab import cli, data
from gradlab.evaluation.importance_weights import weight_statistics
from gradlab.runtime import files
from gradlab.study import Advance, Context, Piece, Tables, Verdict, models, plots
from gradlab.study.work import Work
from gradlab.training import TrainSettings
from gradlab_studies import _methods as methods

ASSUMED = methods.ASSUMED | {"weights": "of MS-NIC-MIX: one z shared by the k samples of y"}


@dataclass(frozen=True)
class Settings:
    """The codec and the sizes.

    Attributes:
        base: settings of the codec.
        sizes: sides of the crops, in pixels.
        k: numbers of samples.
        batch: crops per size.
        draws: noise draws per crop and k.
        seed: random seed.
    """

    base: TrainSettings = methods.QUICK
    sizes: tuple[int, ...] = (32, 64, 128, 256)
    k: tuple[int, ...] = (2, 5, 8, 16)
    batch: int = 4
    draws: int = 8
    seed: int = 0


PROFILES = {
    "quick": Settings(),
    "gpu": Settings(base=methods.GPU, sizes=(64, 128, 256), draws=32),
    "paper": Settings(base=methods.PAPER, sizes=(64, 128, 256), draws=32),
}
SMALLEST = Settings(base=methods.SMALLEST, sizes=(32, 64), k=(2, 3), batch=1, draws=2)


def work(settings: Settings) -> list[Work]:
    """Return the model of this study; the draws of the weights are not timed."""
    return models.training_work([(methods.BASELINE, settings.base)])


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Measure the statistics of the weights at every image size."""
    (run,) = models.train_all(context, [(methods.BASELINE, settings.base)])
    codec = run.codec(device=context.device)
    pictures = models.test_pictures(context)

    def rows(size: int, advance: Advance) -> Tables:
        x = data.Crops(pictures, size, settings.batch, context.seed, device=context.device).batch(0)
        table = weight_statistics(
            codec, x, settings.base.lam, settings.k, settings.draws, context.seed, advance=advance
        )
        table.insert(0, "size", size)
        return {"weights": table}

    key = models.key_of(run, None, context)
    key |= {"batch": settings.batch, "k": list(settings.k), "draws": settings.draws}
    units = len(settings.k) * settings.draws
    pieces = [Piece(f"{size}-pixels", functools.partial(rows, size), key, units) for size in settings.sizes]
    return context.measure("draws of the weights", pieces)


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide whether k samples count as k, with the weights of the equations and with those of the listing.

    Uses the largest size and k.
    """
    table = tables["weights"]
    size, k = table["size"].max(), table["k"].max()
    ess = table[(table["size"] == size) & (table["k"] == k)].set_index(["weighting", "scale", "term"])["ess"]
    joint, listing = ess["joint", "nats", "all"], ess["per-term", "bpp", "distortion"]
    apart = bool(listing < 0.95 * k)
    are = "differ" if apart else "are flat, an average of k single-sample losses"
    where = f"of {k} at {size} x {size} pixels"
    return [
        Verdict("the importance weights of the equations (joint, nats) use more than one sample", "eqs. 12-17",
                bool(joint > 1.5), f"effective sample size {joint:.2f} {where}"),
        Verdict("the weights of the listing (per term, bits per pixel) tell samples apart", "Appendix A.5", apart,
                f"effective sample size {listing:.2f} {where}: the weights {are}"),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw the effective sample size over image size at the largest k, and over k at the largest size."""
    table = files.read_csv(folder / "weights.csv")
    table["name"] = table["weighting"] + ", " + table["scale"]
    per_term = table["weighting"] == "per-term"
    table.loc[per_term, "name"] += ", " + table["term"]
    figure, axes = plots.figure(1, 2, width="page", height=2.9)
    size, k = table["size"].max(), table["k"].max()
    for ax, rows, column, xlabel, title in (
        (axes[0], table[table["k"] == k], "size", "crop (pixels per side)", f"k = {k}"),
        (axes[1], table[table["size"] == size], "k", "samples k", f"{size} x {size} pixels"),
    ):
        # Bars, because half of these series are equal and lines would hide each other.
        plots.bars(ax, rows, column, "ess", "ess_se", "name", xlabel=xlabel, ylabel="effective sample size",
                   title=title)  # fmt: skip
    plots.shared_legend(figure, axes)
    plots.save(figure, folder / "weights")


cli.script(__name__)
