"""Figure 3: histograms of the log variance of each dimension of y and z over test images, single-sample beside MS-NIC.

Reuses the models of Table 1. With the embedded photographs the "images" are non-overlapping tiles of the test
photographs, since a variance over three images says little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gradlab import cli, latents, results
from gradlab.study import Context, Verdict
from gradlab.training import TrainSettings
from gradlab_studies import _models as models

if TYPE_CHECKING:
    import pandas as pd

ASSUMED = models.ASSUMED | {"dead": f"a dimension whose variance over images is below {latents.DEAD:g}"}
LOW, HIGH = 1e-8, 1e4


@dataclass(frozen=True)
class Settings:
    """Models and images.

    Attributes:
        base: the baseline, read at ``iterations``.
        iterations: when all are compared.
        k: samples of y in MS-NIC-MIX.
        tile: side of the tiles that stand for images, in pixels; 0 takes whole images.
        bins: of the histograms, from 1e-8 to 1e4.
    """

    base: TrainSettings = models.QUICK
    iterations: int = 3600
    k: int = 5
    tile: int = 128
    bins: int = 72
    seed: int = 0


PROFILES = {
    "quick": Settings(),
    "gpu": Settings(base=models.GPU, iterations=models.GPU.steps, k=8, tile=0),
    "paper": Settings(base=models.PAPER, iterations=models.PAPER.steps, k=8, tile=0),
}
SMALLEST = Settings(base=models.SMALLEST, iterations=4, k=2, tile=128, bins=12)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Histogram rows (what the figure is drawn from), and the statistics of Tables 6 and 10 for the same models."""
    import pandas as pd

    names = (models.BASELINE, models.MIX)
    wanted = [
        settings.base,
        models.shortened(models.method(settings.base, models.MIX, settings.k), settings.iterations),
    ]
    runs = models.train_all(context, list(zip(names, wanted, strict=True)))
    pictures = models.test_pictures(context)
    images = latents.tiles(pictures, settings.tile) if settings.tile else pictures
    edges = np.geomspace(LOW, HIGH, settings.bins + 1)
    rows, tables = [], []
    with context.progress.track("latent statistics", 2 * len(names)) as advance:
        for name, run in zip(names, runs, strict=True):
            codec = run.codec(settings.iterations, context.device)
            found = latents.spread(codec, images)
            for latent in ("y", "z"):
                # Values beyond the range are counted in the outermost bins: nothing is dropped.
                values = np.clip(found[latent].variance.numpy(), LOW, HIGH)
                counts, _ = np.histogram(values, edges)
                rows += [
                    {"method": name, "latent": latent, "low": low, "high": high, "dimensions": int(n)}
                    for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)
                    if n > 0
                ]
            advance(1, name)
            tables.append(latents.statistics(codec, images).assign(method=name, images=len(images)))
            advance(1, name)
    statistics = pd.concat(tables, ignore_index=True)
    statistics = statistics[["method", *(c for c in statistics.columns if c != "method")]]
    histogram = pd.DataFrame(rows).assign(images=len(images), iterations=settings.iterations, seed=context.seed)
    return {"figure3": histogram, "figure3_statistics": statistics}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Section 5.3 and A.7: the latents of MS-NIC vary more from image to image."""
    statistics = tables["figure3_statistics"].set_index(["method", "latent"])
    found = []
    for latent in ("y", "z"):
        single, multi = (statistics.loc[(name, latent), "variance"] for name in (models.BASELINE, models.MIX))
        change = multi / single - 1
        holds = None if abs(change) < 0.02 else bool(change > 0)
        evidence = (
            f"mean variance {single:.4g} (single-sample), {multi:.4g} (MS-NIC-MIX): {100 * change:+.1f} %, one seed"
        )
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
    """Two panels, y and z, outlines of both methods."""
    from gradlab import plots

    table = results.read_csv(folder / "figure3.csv")
    table["variance"] = np.sqrt(table["low"] * table["high"])
    figure, axes = plots.figure(1, 2, width="page", height=2.8)
    width = math.log10(table["high"].iloc[0] / table["low"].iloc[0])
    for ax, latent in zip(axes, ("y", "z"), strict=True):
        rows = table[(table["latent"] == latent) & (table["dimensions"] > 0)]
        decades = math.log10(rows["high"].max() / rows["low"].min())
        shown = max(2, round(decades / width))
        plots.histograms(ax, rows, "variance", "method", weight="dimensions", bins=shown,
                         xlabel=f"variance of a dimension of {latent} over images")  # fmt: skip
        ax.set_ylim(top=1.35 * ax.get_ylim()[1])  # room for the legend
        plots.title(ax, f"latent {latent}, {table['images'].iloc[0]} images")
    plots.save(figure, folder / "figure3")


if __name__ == "__main__":
    cli.script(__file__)
