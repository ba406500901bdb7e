"""Run R-D sweeps: four methods over the lambdas, for Tables 8 and 9 (points) and Tables 4 and 5 (Bjontegaard metrics).

The two tables of a codec share its models; each model is trained and coded once. All methods are compared after the
same numbers of iterations; an ordering counts if the last two agree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from gradlab import data, evaluation
from gradlab.data import Picture
from gradlab.runtime import files
from gradlab.study import Context, Verdict, models, paper, plots
from gradlab.study.verdicts import Pair, every, last_two, signed
from gradlab.study.work import Work
from gradlab.training import TrainSettings
from gradlab_studies import _methods as methods

LAMBDAS = (0.0016, 0.0032, 0.0075, 0.015, 0.03, 0.045, 0.08)
SPREAD = (0.0016, 0.0075, 0.03, 0.08)
COLUMNS = ("method", "sample_size", "lambda", "bpp", "MSE", "PSNR", "MS-SSIM", "R-D cost", "bpp_y", "bpp_z",
           "bpp_estimate", "psnr_of_mean_mse")  # fmt: skip
PSNR_RATE, SSIM_RATE = "PSNR BD-BR (%)", "MS-SSIM BD-BR (%)"
FIGURES = (PSNR_RATE, "PSNR BD-Metric", SSIM_RATE, "MS-SSIM BD-Metric")
MIX = "MS-NIC-MIX"  # name printed in Tables 4, 5, 8 and 9
METHODS = {methods.BASELINE: methods.BASELINE, methods.IWAE: methods.IWAE, MIX: methods.MIX, methods.DMS: methods.DMS}
MULTI = (methods.IWAE, MIX, methods.DMS)
SEVERE = 10.0
"""Increase of the rate, in percent, that counts as a severe loss."""
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # bits per pixel
FINER = (0.03, 0.05, 0.07, 0.1, 0.13, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.3, 2, 3, 4, 5)
PERCENT = (-80, -40, -20, -10, -5, -2, 0, 2, 5, 10, 20, 50, 100, 200, 500)
MOST = 500.0  # percent; a fit to a few points that fold back may give any number and would set the scale

ASSUMED = methods.ASSUMED | {
    "sample size of IWAE in the sweeps": "5: at lambda 0.015 its row of Table 8 is Table 7's of 5 samples",
    "quick and gpu profiles": "four of the seven lambdas, the fewest that Bjontegaard's figures allow; fewer samples; "
    "one learning rate for every k along one cosine to 2 % of it",
}


@dataclass(frozen=True)
class Settings(methods.Settings):
    """Models and points.

    Attributes:
        base: settings of the baseline, except lambda and channels.
        points: iterations at which all methods are compared; the table shows the last.
        lams: lambdas in ascending order.
        wide: channels for lambdas of at least ``wide_from``.
        wide_from: lambda at which the channels change; None for the same channels at every lambda.
        samples: k of IWAE, of MIX, and of DMS (k = l).
        test_crop: side of the central crop to code, in pixels; 0 codes whole images. A context model decodes position
            by position, in Python.
        seed: random seed.
    """

    points: tuple[int, ...] = (1_500_000, 2_000_000)
    lams: tuple[float, ...] = LAMBDAS
    wide: tuple[int, ...] = (192, 320)
    wide_from: float | None = None
    samples: tuple[int, int, int] = (5, 8, 16)
    test_crop: int = 0

    def __post_init__(self) -> None:
        evaluation.check_lambdas(self.lams)
        super().__post_init__()

    def trained(self, name: str, lam: float) -> TrainSettings:
        """Return the training settings of a method at a lambda."""
        high = self.wide_from is not None and lam >= self.wide_from
        channels = self.wide if high else self.base.channels
        base = replace(self.base, lam=lam, channels=channels)
        return methods.method(base, METHODS[name], self.k(name))

    def k(self, name: str) -> int:
        """Return the sample size of a method; 1 for the baseline."""
        return dict(zip(MULTI, self.samples, strict=True)).get(name, 1)

    def size(self, name: str) -> str:
        """Return the sample size of a method as printed in Table 7."""
        return methods.printed_size(name, self.k(name))


def variants(settings: Settings) -> list[models.Variant]:
    """Return every method at every lambda."""

    def variant(name: str, lam: float) -> models.Variant:
        labels = {"method": name, "sample_size": settings.size(name), "lambda": lam}
        printed = {"method": name, "lam": lam} if lam in LAMBDAS else {}
        return models.Variant(f"{name}, lambda {lam:g}", settings.trained(name, lam), settings.points, labels, printed)

    return [variant(name, lam) for lam in settings.lams for name in METHODS]


def work(settings: Settings) -> list[Work]:
    """Return the work of a sweep."""
    return [item._replace(crop=settings.test_crop) for item in models.evaluation_work(variants(settings))]


def pictures(settings: Settings, context: Context) -> list[Picture]:
    """Load the test images and crop them if requested; the crops are recorded in the provenance."""
    whole = models.test_pictures(context)
    if not settings.test_crop:
        return whole
    cropped = []
    side = settings.test_crop
    for picture in whole:
        top, left = (max(0, (size - side) // 2) for size in picture.pixels.shape[1:])
        cropped.append(picture._replace(pixels=picture.pixels[:, top : top + side, left : left + side].contiguous()))
    context.inputs["test crops"] = data.fingerprint(cropped)
    return cropped


def points(n: int, settings: Settings, context: Context) -> tuple[pd.DataFrame, pd.DataFrame, list[Picture]]:
    """Measure every method at every lambda and iteration, next to the numbers of Table ``n``.

    Returns:
        Means over images, rows per image, and the images.

    Raises:
        Stopped: the deadline has passed; models and coded images are kept.
    """
    images, name = pictures(settings, context), f"table{n}"
    keys = ("method", "lambda", "iterations")
    tables = models.rate_distortion(context, n, variants(settings), COLUMNS, keys=keys, pictures=images)
    place = {method: place for place, method in enumerate(METHODS)}
    table = tables[name].sort_values("method", key=lambda c: c.map(place), kind="stable", ignore_index=True)
    return table, tables[f"{name}_images"], images


def curves(n: int, settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Return the tables of an R-D study.

    They hold points, all iterations, all images, classical codecs, and published curves for Kodak.
    """
    table, per_image, images = points(n, settings, context)
    points_of = {name: len(evaluation.CLASSICAL_CODECS[name].qualities) for name in evaluation.available_codecs()}
    with context.progress.track("classical codecs", sum(points_of.values()) * len(images)) as advance:
        anchors = evaluation.classical_curves(evaluation.classical_codecs(images, advance=advance))
    published = evaluation.published_results()
    if not evaluation.is_kodak([p.name for p in images]) or settings.test_crop:
        published = published.iloc[:0]
    name = f"table{n}"
    return models.last_and_training(name, table, settings.points[-1]) | {
        f"{name}_images": per_image, f"{name}_anchors": anchors, f"{name}_references": published,
    }  # fmt: skip


def deltas(n: int, source: int, settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Return Bjontegaard metrics against the baseline next to Table ``n``'s, from the models of Table ``source``."""
    table, _, _ = points(source, settings, context)
    tables = []
    for iteration in settings.points:
        rows = evaluation.bd_table(table[table["iterations"] == iteration], methods.BASELINE)
        for figure in FIGURES:
            printed = [paper.value(n, figure, method=name) for name in rows["method"]]
            rows.insert(rows.columns.get_loc(figure) + 1, f"{figure}_paper", printed)
        rows.insert(1, "sample_size", [settings.size(name) for name in rows["method"]])
        tables.append(rows.assign(seed=context.seed, iterations=iteration, images=table["images"].iloc[0]))
    return models.last_and_training(f"table{n}", pd.concat(tables, ignore_index=True), settings.points[-1])


def saved(table: pd.DataFrame, name: str, figure: str = PSNR_RATE) -> pd.Series:
    """Return a Bjontegaard metric of a method by pchip, by iterations; NaN if it is undefined."""
    rows = table[(table["method"] == name) & (table["interpolation"] == "pchip")]
    return rows.set_index("iterations")[figure].astype(float).sort_index()


def undefined(table: pd.DataFrame) -> str:
    """Return why pchip gives no BD-rate in PSNR after the last iteration, for the evidence; empty if it gives all."""
    last = table[(table["iterations"] == table["iterations"].max()) & (table["interpolation"] == "pchip")]
    reasons: dict[str, list[str]] = {}
    for row in last[last["method"].isin(MULTI) & last[PSNR_RATE].isna()].to_dict("records"):
        reason = str(row["note"]).partition("; ")[0].partition(": pchip is undefined")[0].removeprefix("PSNR: ")
        reasons.setdefault(reason, []).append(str(row["method"]))
    return "".join(f"; {', '.join(names)}: {reason}" for reason, names in reasons.items())


def below(values: pd.Series, bound: float = 0.0) -> bool | None:
    """Return whether values lie below the bound at the last two points; None if they disagree or are undefined."""
    return last_two([None if math.isnan(value) else value < bound for value in values])


def savings(n: int, table: pd.DataFrame, claim: str, negative: Sequence[pd.Series]) -> list[Verdict]:
    """Decide whether the rates that must be negative for a claim are, and whether IWAE loses at least a tenth."""

    def numbers(name: str) -> str:
        return ", ".join(
            f"{signed(saved(table, name, figure))} in {figure.partition(' BD')[0]} "
            f"(paper {signed([paper.value(n, figure, method=name)])})"
            for figure in (PSNR_RATE, SSIM_RATE)
        )

    iterations = " and ".join(map(str, sorted(table["iterations"].unique())))
    after, end = f"BD-rate, pchip, after {iterations} iterations", f"one seed{undefined(table)}"
    mix, dms, iwae = (f"{name} {numbers(name)}" for name in (MIX, methods.DMS, methods.IWAE))
    severe = below(-saved(table, methods.IWAE), -SEVERE)
    return [
        Verdict(claim, f"Table {n}", every(map(below, negative)), f"{after}: {mix}; {dms}; {end}"),
        Verdict(
            "IWAE without direct-y suffers a severe loss",
            f"Table {n}",
            severe,
            f"{after}: {iwae}, severe being more than {SEVERE:g} % in PSNR; {end}",
        ),
    ]


def costs(n: int, tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Compare the R-D cost of each multi-sample method with the baseline's, for each lambda."""
    by_lambda = tables[f"table{n}_training"].pivot(index="iterations", columns=["lambda", "method"], values="R-D cost")
    verdicts = []
    for name in MULTI:
        expect: Literal["lower", "higher"] = "higher" if name == methods.IWAE else "lower"
        pairs = [
            Pair(by_lambda[lam, name], by_lambda[lam, methods.BASELINE], f"lambda {lam:g}")
            for lam in sorted(tables[f"table{n}"]["lambda"].unique())
        ]
        claim = f"{name} has a {expect} R-D cost than the baseline at every lambda"
        quantity = f"R-D cost of {name} over the baseline's"
        verdicts.append(Verdict.compare(claim, f"Table {n}", pairs, expect=expect, quantity=quantity))
    return verdicts


def draw_curves(n: int, folder: Path) -> None:
    """Draw PSNR and MS-SSIM over rate for the four methods, and below with classical codecs and CompressAI's curves."""
    table = files.read_csv(folder / f"table{n}.csv")
    anchors = files.read_csv(folder / f"table{n}_anchors.csv")
    published = files.read_csv(folder / f"table{n}_references.csv")
    table["label"] = table["method"] + table["sample_size"].map(lambda s: "" if s == "-" else f" (k = {s})")
    anchors["label"] = anchors["codec"] + " (" + anchors["chroma"] + ")"
    figure, axes = plots.figure(2, 2, width="page", height=5.4)
    # In decibels, because all curves crowd just below 1.
    for frame, column in ((table, "MS-SSIM"), (anchors, "ms_ssim"), (published, "ms_ssim")):
        frame[column] = -10 * np.log10(1 - frame[column].astype(float))
    kodak = published[published["model"].isin(["bmshj2018-hyperprior", "cheng2020-attn"])]
    kodak = kodak.assign(label=kodak["model"] + " (CompressAI)")
    decibels = "MS-SSIM, $-10\\,\\log_{10}(1-x)$ (dB)"
    panels = (("PSNR", "psnr", "PSNR (dB)"), ("MS-SSIM", "ms_ssim", decibels))
    for place, (ax, (column, source, ylabel)) in enumerate(zip(axes.flat, panels * 2, strict=True)):
        labels = {"xlabel": "rate (bits per pixel)", "ylabel": ylabel}
        others = [frame for frame in (anchors, kodak) if len(frame)] if place >= len(panels) else []
        plots.curves(ax, table, "bpp", column, None, "label", xscale="log", **labels)
        for frame in others:
            plots.curves(ax, frame, "bpp", source, None, "label", xscale="log", mode="lines", **labels)
        low, high = ax.get_xlim()
        shown = [tick for tick in (TICKS if high > 20 * low else FINER) if low <= tick <= high]
        ax.set_xticks(shown, [f"{tick:g}" for tick in shown])
        ax.set_xticks([], minor=True)
        ax.set_xlim(low, high)
        where = "beside other codecs" if others else f"{table['iterations'].iloc[0]} iterations"
        plots.title(ax, f"n = {table['images'].iloc[0]} images, {where}")
    plots.shared_legend(figure, axes.flat)
    plots.save(figure, folder / f"table{n}")


def draw_deltas(n: int, folder: Path) -> None:
    """Draw BD-rates by each interpolation next to the paper's, on a scale that is linear to 2 % and logarithmic beyond.

    An undefined BD-rate has no bar and is named.
    """
    table = files.read_csv(folder / f"table{n}.csv")
    table = table[table["method"] != methods.BASELINE]
    figure, axes = plots.figure(1, 2, width="page", height=2.9)
    for ax, quality in zip(axes, ("PSNR", "MS-SSIM"), strict=True):
        column = f"{quality} BD-BR (%)"
        here = table.assign(rate=table[column], which="here, " + table["interpolation"])
        printed = table.assign(rate=table[f"{column}_paper"], which="paper")
        drawn = pd.concat([here, printed])[["method", "rate", "which"]].drop_duplicates(ignore_index=True)
        beyond = drawn[drawn["rate"] > MOST]
        drawn["rate"] = drawn["rate"].clip(upper=MOST)
        plots.bars(ax, drawn, "method", "rate", None, "which", xlabel="", ylabel=f"BD-rate in {quality} (%)",
                   yscale="symlog")  # fmt: skip
        ax.axhline(0, color="0.3", linewidth=0.8)
        low, high = 1.3 * min(drawn["rate"].min(), -2), 1.3 * max(drawn["rate"].max(), 2)
        shown = [tick for tick in PERCENT if low <= tick <= high]
        ax.set_yticks(shown, [f"{tick:+d}" if tick else "0" for tick in shown])
        ax.set_yticks([], minor=True)
        ax.set_ylim(low, high)
        lost = table[table[column].isna()].groupby("method", sort=False)["interpolation"].agg(", ".join)
        gaps = [f"{name}: {which} undefined" for name, which in lost.items()]
        gaps += [f"{row.method}, {row.which}: {row.rate:+.0e} %, cut" for row in beyond.itertuples()]
        plots.title(ax, "\n".join(gaps) or f"n = {table['images'].iloc[0]} images")
    plots.shared_legend(figure, axes)
    plots.save(figure, folder / f"table{n}")
