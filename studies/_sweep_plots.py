"""Figures of the R-D sweeps, from their CSVs alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from gradlab.runtime import files
from gradlab.study import plots
from gradlab_studies import _models as models

TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # bits per pixel
FINER = (0.03, 0.05, 0.07, 0.1, 0.13, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.3, 2, 3, 4, 5)
PERCENT = (-80, -40, -20, -10, -5, -2, 0, 2, 5, 10, 20, 50, 100, 200, 500)
MOST = 500.0  # percent; a fit of a few points that fold back may give any number, and would set the scale


def draw_curves(n: int, folder: Path) -> None:
    """PSNR and MS-SSIM over rate: the four methods; below, with classical codecs and CompressAI's published curves."""
    table = files.read_csv(folder / f"table{n}.csv")
    anchors = files.read_csv(folder / f"table{n}_anchors.csv")
    published = files.read_csv(folder / f"table{n}_references.csv")
    table["label"] = table["method"] + table["sample_size"].map(lambda s: "" if s == "-" else f" (k = {s})")
    anchors["label"] = anchors["codec"] + " (" + anchors["chroma"] + ")"
    figure, axes = plots.figure(2, 2, width="page", height=5.4)
    # In decibels, since all curves crowd below 1.
    for frame, column in ((table, "MS-SSIM"), (anchors, "ms_ssim"), (published, "ms_ssim")):
        frame[column] = -10 * np.log10(1 - frame[column].astype(float))
    rate = "rate (bits per pixel)"
    decibels = "MS-SSIM, $-10\\,\\log_{10}(1-x)$ (dB)"
    panels = (("PSNR", "psnr", "PSNR (dB)"), ("MS-SSIM", "ms_ssim", decibels))
    for ax, (column, theirs, label), beside in zip(axes.flat, panels * 2, (False, False, True, True), strict=True):
        plots.curves(ax, table, "bpp", column, None, "label", xlabel=rate, ylabel=label, xscale="log")
        if beside:
            plots.curves(ax, anchors, "bpp", theirs, None, "label", xlabel=rate, ylabel=label, xscale="log",
                         mode="lines")  # fmt: skip
        if beside and len(published):
            kodak = published[published["model"].isin(["bmshj2018-hyperprior", "cheng2020-attn"])]
            kodak = kodak.assign(label=kodak["model"] + " (CompressAI)")
            plots.curves(ax, kodak, "bpp", theirs, None, "label", xlabel=rate, ylabel=label, xscale="log",
                         mode="lines")  # fmt: skip
        low, high = ax.get_xlim()
        shown = [tick for tick in (TICKS if high > 20 * low else FINER) if low <= tick <= high]
        ax.set_xticks(shown, [f"{tick:g}" for tick in shown])
        ax.set_xticks([], minor=True)
        ax.set_xlim(low, high)
        where = "beside other codecs" if beside else f"{table['iterations'].iloc[0]} iterations"
        plots.title(ax, f"n = {table['images'].iloc[0]} images, {where}")
    plots.shared_legend(figure, axes.flat)
    plots.save(figure, folder / f"table{n}")


def draw_deltas(n: int, folder: Path) -> None:
    """BD-rates by each interpolation beside the paper's, in a scale linear to 2 % and logarithmic beyond; what is
    undefined has no bar and is named.
    """
    table = files.read_csv(folder / f"table{n}.csv")
    table = table[table["method"] != models.BASELINE]
    figure, axes = plots.figure(1, 2, width="page", height=2.9)
    for ax, quality in zip(axes, ("PSNR", "MS-SSIM"), strict=True):
        column = f"{quality} BD-BR (%)"
        bars = [
            pd.DataFrame(
                {"method": table["method"], "rate": table[column], "which": "here, " + table["interpolation"]}
            ),
            pd.DataFrame({"method": table["method"], "rate": table[f"{column}_paper"], "which": "paper"}),
        ]
        drawn = pd.concat(bars, ignore_index=True).drop_duplicates()
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
