"""Measure the latents of the baseline, MS-NIC-MIX and MS-NIC-DMS over test images, for Tables 6 and 10 and Figure 3.

With the embedded photographs, the "images" are non-overlapping tiles, because a variance over a few images is
unreliable.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from gradlab.evaluation import latents
from gradlab.runtime import files
from gradlab.study import Advance, Context, Piece, Tables, Verdict, models, paper, plots
from gradlab.study.verdicts import Pair
from gradlab.study.work import Work
from gradlab.training import Run, TrainSettings
from gradlab_studies import _methods as methods

ASSUMED = methods.ASSUMED | {
    "dead": f"a dimension whose variance over images is below {latents.DEAD:g}",
    "images": "of one size: portraits turned, larger ones cropped centrally",
}
PAPER_METHODS = {methods.BASELINE: "Balle et al. 2018", methods.MIX: "MS-NIC-MIX", methods.DMS: "MS-NIC-DMS"}
SMALLEST_CHANGE = 2.0  # percent; another seed might reverse a smaller change
TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 20)


@dataclass(frozen=True)
class Settings:
    """Models and images.

    Attributes:
        base: settings of the baseline.
        iterations: iterations after which all models are compared.
        k: samples of y in MS-NIC-MIX.
        k_dms: samples of y, and of z, in MS-NIC-DMS.
        tile: side of the tiles that serve as images, in pixels; 0 uses whole images.
        seed: random seed.
    """

    base: TrainSettings = methods.QUICK
    iterations: int = 3600
    k: int = 5
    k_dms: int = 5
    tile: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        models.check_kept(self.base, self.iterations)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples of each multi-sample method."""
        return {methods.MIX: self.k, methods.DMS: self.k_dms}


# The sample sizes of the paper's latents: "without special mention ... MS-NIC-MIX to 8 and MS-NIC-DMS to 16".
PROFILES = {
    "quick": Settings(k_dms=3),  # for the time of make reproduce: k x l = 9 likelihoods of y per step, not 25
    "stay": Settings(base=methods.STAY, iterations=methods.STAY.steps, k=8, k_dms=8, tile=0),
    # A DMS step with 16 x 16 samples decodes 16 images per crop, hence a quarter of the baseline's iterations.
    "gpu": Settings(base=methods.GPU, iterations=12_500, k=8, k_dms=16, tile=0),
    "paper": Settings(base=methods.PAPER, iterations=methods.PAPER.steps, k=8, k_dms=16, tile=0),
}
SMALLEST = Settings(base=methods.SMALLEST, iterations=4, k=2, k_dms=2)


def trained(settings: Settings) -> list[tuple[str, TrainSettings]]:
    """Return the three models, by name."""
    multi = {name: methods.method(settings.base, name, k) for name, k in settings.sizes.items()}
    shortened = [(name, methods.shortened(model, settings.iterations)) for name, model in multi.items()]
    return [(methods.BASELINE, settings.base), *shortened]


def work(settings: Settings) -> list[Work]:
    """Return the work of this study."""
    return models.training_work(trained(settings), rounded=1)


def measure(
    settings: Settings,
    context: Context,
    name: str,
    extra: Callable[[str, Mapping[str, latents.LatentMoments]], Tables] = lambda method, spread: {},
) -> dict[str, pd.DataFrame]:
    """Measure the statistics of the latents of the three codecs.

    Args:
        settings: settings of the study.
        context: context of the study.
        name: name of the table.
        extra: returns further tables from a method and its moments.
    """
    runs = models.train_all(context, trained(settings))
    pictures = models.test_pictures(context)
    images = latents.tiles(pictures, settings.tile) if settings.tile else pictures

    def rows(method: str, run: Run, advance: Advance) -> Tables:
        spread = latents.moments_over_images(run.codec(settings.iterations, context.device), images, advance)
        statistics = latents.statistics_of(spread).assign(
            sample_size=settings.sizes.get(method, 1), seed=context.seed, iterations=settings.iterations,
            images=len(images),
        )  # fmt: skip
        statistics.insert(0, "method", method)
        return {**extra(method, spread), name: statistics}

    def piece(method: str, run: Run) -> Piece:
        key = models.key_of(run, settings.iterations, context) | {"tile": settings.tile}
        return Piece(run.folder.name, functools.partial(rows, method, run), key, len(images))

    return context.measure("reading latents", [piece(*pair) for pair in zip(PAPER_METHODS, runs, strict=True)])


def table(statistics: pd.DataFrame, n: int, columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Return Table ``n`` of the paper: one row per method, with the paper's numbers next to the measured ones.

    Args:
        statistics: statistics of the latents.
        n: number of the table.
        columns: latent and statistic of each column.
    """
    rows = []
    for method, group in statistics.groupby("method", sort=False):
        values = group.set_index("latent")
        row: dict[str, Any] = {"method": method}
        for column, place in columns.items():
            row[column] = values.loc[place]
            row[f"{column}_paper"] = paper.value(n, column, method=PAPER_METHODS[method])
        for latent in dict.fromkeys(latent for latent, _ in columns.values()):
            for statistic in ("cov_median", "dead", "dimensions"):
                row[f"{statistic}({latent.replace('_hat', '_bar')})"] = values.loc[latent, statistic]
        row |= {name: group[name].iloc[0] for name in ("sample_size", "seed", "iterations", "images")}
        rows.append(row)
    return pd.DataFrame(rows)


def change(
    table: pd.DataFrame, claim: str, source: str, column: str, name: str, expect: Literal["lower", "higher"] = "higher"
) -> Verdict:
    """Decide whether ``column`` of both multi-sample methods is above, or below, the baseline's by more than 2 %."""
    values = table.set_index("method")
    point, printed = table["iterations"].iloc[0], f"{column}_paper"

    def pair(method: str) -> Pair:
        both = values.loc[[method, methods.BASELINE]]
        ours, single = ({point: value} for value in both[column])
        return Pair(ours, single, PAPER_METHODS[method], tuple(both[printed]) if printed in both else None)

    quantity = f"{name} relative to {values.loc[methods.BASELINE, column]:.4g} in single-sample training"
    return Verdict.compare(
        claim,
        source,
        [pair(methods.MIX), pair(methods.DMS)],
        expect=expect,
        quantity=quantity,
        smallest=SMALLEST_CHANGE,
    )


def draw(folder: Path, name: str, columns: Sequence[str]) -> None:
    """Draw each column of both multi-sample methods relative to the baseline, here and in the paper."""
    rows = files.read_csv(folder / f"{name}.csv").set_index("method")
    figure, axes = plots.figure(1, 2, width="page", height=2.7, sharey=True)
    ratios = rows / rows.loc[methods.BASELINE]
    for ax, method in zip(axes, (methods.MIX, methods.DMS), strict=True):
        here, printed = (ratios.loc[method, [column + end for column in columns]].tolist() for end in ("", "_paper"))
        bars = pd.DataFrame({"column": columns, "here": here, "paper": printed}).melt("column")
        plots.bars(ax, bars, "column", "value", hue="variable", yscale="log", base=1,
                   ylabel="ratio to single-sample training",
                   title=f"{PAPER_METHODS[method]}, {rows['images'].iloc[0]} images")  # fmt: skip
        ax.axhline(1, color="0.3", linewidth=0.8)
        ax.tick_params(axis="x", labelrotation=30)
        low, high = ax.get_ylim()
        shown = [tick for tick in TICKS if low <= tick <= high]
        ax.set_yticks(shown, [f"{tick:g}" for tick in shown])
        ax.set_yticks([], minor=True)
    axes[1].set_ylabel("")
    plots.shared_legend(figure, axes)
    plots.save(figure, folder / name)
