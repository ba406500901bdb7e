"""Figure 3: histograms of the log variance of each dimension of y and z over test images, single-sample beside MS-NIC.

Reuses the models of Tables 1, 6 and 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradlab import cli
from gradlab.codecs import Codec
from gradlab.evaluation import latents
from gradlab.runtime import files
from gradlab.runtime.progress import Advance
from gradlab.study import Context, Verdict, plots
from gradlab.study.pieces import Tables
from gradlab_studies import _latents as shared
from gradlab_studies import _models as models
from gradlab_studies._latents import Settings

ASSUMED = shared.ASSUMED
LOW, HIGH, BINS = 1e-8, 1e4, 72
PROFILES = dict(shared.PROFILES)
SMALLEST = shared.SMALLEST
work = shared.work


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Histogram rows (what the figure is drawn from), and the statistics of Tables 6 and 10 for the same models."""
    edges = np.geomspace(LOW, HIGH, BINS + 1)

    def read(name: str, codec: Codec, images: Sequence[Any], advance: Advance) -> Tables:
        spread = latents.moments_over_images(codec, images, advance)
        rows = []
        for latent in ("y", "z"):
            # Values beyond the range are counted in the outermost bins: nothing is dropped.
            values = np.clip(spread[latent].variance.numpy(), LOW, HIGH)
            counts, _ = np.histogram(values, edges)
            rows += [
                {"method": name, "latent": latent, "low": low, "high": high, "dimensions": int(n)}
                for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)
                if n > 0
            ]
        histogram = pd.DataFrame(rows).assign(images=len(images), iterations=settings.iterations, seed=context.seed)
        statistics = shared.statistics(settings, context, name, spread, len(images))
        return {"figure3": histogram, "figure3_statistics": statistics}

    return shared.each(settings, context, read)


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Section 5.3 and A.7: the latents of MS-NIC vary more from image to image."""
    statistics = tables["figure3_statistics"].set_index(["method", "latent"])
    found = []
    for latent in ("y", "z"):
        single = statistics.loc[(models.BASELINE, latent), "variance"]
        multi = {name: statistics.loc[(name, latent), "variance"] / single - 1 for name in (models.MIX, models.DMS)}
        each = {None if abs(c) < shared.SMALLEST_CHANGE else bool(c > 0) for c in multi.values()}
        holds = each.pop() if len(each) == 1 else None
        said = ", ".join(f"{100 * c:+.1f} % {shared.PAPER_METHODS[name]}" for name, c in multi.items())
        evidence = f"mean variance of {single:.4g} in single-sample training: {said}, one seed"
        found.append(
            Verdict(
                f"the latent {latent} of MS-NIC has a higher variance than that of single-sample training",
                "section 5.3, Table 10",
                holds,
                evidence,
            )
        )
    return found


def draw(folder: Path) -> None:
    """Two panels, y and z, outlines of all methods."""
    table = files.read_csv(folder / "figure3.csv")
    table["variance"] = np.sqrt(table["low"] * table["high"])
    figure, axes = plots.figure(1, 2, width="page", height=2.8)
    width = math.log10(table["high"].iloc[0] / table["low"].iloc[0])
    for ax, latent in zip(axes, ("y", "z"), strict=True):
        rows = table[(table["latent"] == latent) & (table["dimensions"] > 0)]
        decades = math.log10(rows["high"].max() / rows["low"].min())
        shown = max(2, round(decades / width))
        plots.histograms(ax, rows, "variance", "method", weight="dimensions", bins=shown,
                         xlabel=f"variance of a dimension of {latent} over images (steps$^2$)")  # fmt: skip
        ax.set_ylim(top=1.35 * ax.get_ylim()[1])  # room for the legend
        plots.title(ax, f"latent {latent}, {table['images'].iloc[0]} images")
    plots.save(figure, folder / "figure3")


cli.script(__name__)
