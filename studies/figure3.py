"""Figure 3: histograms of the log variance of each dimension of y and z, for single-sample training and MS-NIC.

The variance is over test images. Uses the models of Tables 1, 6 and 10.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from gradlab import cli
from gradlab.evaluation import latents
from gradlab.runtime import files
from gradlab.study import Context, Tables, Verdict, plots
from gradlab_studies import _latents as shared
from gradlab_studies._latents import Settings

ASSUMED = shared.ASSUMED
LOW, HIGH, BINS = 1e-8, 1e4, 72
PROFILES = dict(shared.PROFILES)
SMALLEST = shared.SMALLEST
work = shared.work


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Measure the rows of the histograms, and the statistics of Tables 6 and 10 for the same models."""
    edges = np.geomspace(LOW, HIGH, BINS + 1)

    def histograms(method: str, spread: Mapping[str, latents.LatentMoments]) -> Tables:
        tables = []
        for latent in ("y", "z"):
            # Values beyond the range are counted in the outermost bins, so that none are dropped.
            counts, _ = np.histogram(np.clip(spread[latent].variance.numpy(), LOW, HIGH), edges)
            bins = {"low": edges[:-1], "high": edges[1:], "dimensions": counts}
            tables.append(pd.DataFrame({"method": method, "latent": latent, **bins}))
        table = pd.concat(tables)
        return {"figure3": table[table["dimensions"] > 0]}

    tables = shared.measure(settings, context, "figure3_statistics", histograms)
    images = tables["figure3_statistics"]["images"].iloc[0]
    rows = tables["figure3"].assign(images=images, iterations=settings.iterations, seed=context.seed)
    return tables | {"figure3": rows}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide the claim of section 5.3 and A.7 that the latents of MS-NIC vary more from image to image."""
    statistics = tables["figure3_statistics"]
    return [
        shared.change(statistics[statistics["latent"] == latent],
                      f"the latent {latent} of MS-NIC has a higher variance than that of single-sample training",
                      "section 5.3, Table 10", "variance", f"mean variance of {latent}")
        for latent in ("y", "z")
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw two panels, y and z, with the outlines of all methods."""
    table = files.read_csv(folder / "figure3.csv")
    table["variance"] = np.sqrt(table["low"] * table["high"])
    figure, axes = plots.figure(1, 2, width="page", height=2.8)
    width = math.log10(table["high"].iloc[0] / table["low"].iloc[0])
    for ax, latent in zip(axes, ("y", "z"), strict=True):
        rows = table[table["latent"] == latent]
        bins = max(2, round(math.log10(rows["high"].max() / rows["low"].min()) / width))
        plots.histograms(ax, rows, "variance", "method", weight="dimensions", bins=bins,
                         xlabel=f"variance of a dimension of {latent} over images (steps$^2$)",
                         title=f"latent {latent}, {table['images'].iloc[0]} images")  # fmt: skip
        ax.set_ylim(top=1.35 * ax.get_ylim()[1])  # leave space for the legend
    plots.save(figure, folder / "figure3")


cli.script(__name__)
