"""Latents of the baseline, MS-NIC-MIX and MS-NIC-DMS over test images: what Tables 6 and 10 and Figure 3 share.

With the embedded photographs the "images" are non-overlapping tiles of them, since a variance over a few images says
little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gradlab.codecs import Codec
from gradlab.evaluation import latents
from gradlab.runtime import files
from gradlab.runtime.progress import Advance
from gradlab.study import Context, Verdict, paper, plots
from gradlab.study.pieces import Piece, Tables, joined
from gradlab.study.work import Work
from gradlab.training import Run, TrainSettings
from gradlab_studies import _models as models

ASSUMED = models.ASSUMED | {
    "dead": f"a dimension whose variance over images is below {latents.DEAD:g}",
    "images": "of one size: portraits turned, larger ones cropped centrally",
}
PAPER_METHODS = {models.BASELINE: "Balle et al. 2018", models.MIX: "MS-NIC-MIX", models.DMS: "MS-NIC-DMS"}
SMALLEST_CHANGE = 0.02
TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 20)


@dataclass(frozen=True)
class Settings:
    """Models and images.

    Attributes:
        base: the baseline, read at ``iterations``.
        iterations: when all are compared.
        k: samples of y in MS-NIC-MIX.
        k_dms: samples of y, and of z, in MS-NIC-DMS.
        tile: side of the tiles that stand for images, in pixels; 0 takes whole images.
    """

    base: TrainSettings = models.QUICK
    iterations: int = 3600
    k: int = 5
    k_dms: int = 5
    tile: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        models.check_kept(self.base, self.iterations)


# The sample sizes of the paper's latents: "without special mention ... MS-NIC-MIX to 8 and MS-NIC-DMS to 16".
PROFILES = {
    "quick": Settings(k_dms=3),  # make reproduce holds it: k x l = 9 likelihoods of y a step, not 25
    "stay": Settings(base=models.STAY, iterations=models.STAY.steps, k=8, k_dms=8, tile=0),
    # A step of DMS with 16 x 16 samples decodes 16 images a crop: a quarter of the baseline's iterations.
    "gpu": Settings(base=models.GPU, iterations=12_500, k=8, k_dms=16, tile=0),
    "paper": Settings(base=models.PAPER, iterations=models.PAPER.steps, k=8, k_dms=16, tile=0),
}
SMALLEST = Settings(base=models.SMALLEST, iterations=4, k=2, k_dms=2)


def trained(settings: Settings) -> list[tuple[str, TrainSettings]]:
    """The three models, by name."""
    wanted = [(models.BASELINE, settings.base)]
    for name, k in ((models.MIX, settings.k), (models.DMS, settings.k_dms)):
        wanted.append((name, models.shortened(models.method(settings.base, name, k), settings.iterations)))
    return wanted


def work(settings: Settings) -> list[Work]:
    """What it needs."""
    return models.work(trained(settings), rounded=1)


Read = Callable[[str, Codec, Sequence[Any], Advance], Tables]
"""The rows of a study, from the name of a method, its codec, and what its latents are read from."""


def each(settings: Settings, context: Context, read: Read) -> dict[str, pd.DataFrame]:
    """``read`` for each of the three codecs after ``iterations``, a piece of the study each."""
    wanted = trained(settings)
    runs = models.train_all(context, wanted)
    pictures = models.test_pictures(context)
    images = latents.tiles(pictures, settings.tile) if settings.tile else pictures

    def piece(name: str, run: Run) -> Piece:
        def rows() -> Tables:
            return read(name, run.codec(settings.iterations, context.device), images, advance)

        key = models.key_of(run, settings.iterations, context) | {"tile": settings.tile}
        return Piece(run.folder.name, rows, key, len(images))

    with context.progress.track("reading latents", len(wanted) * len(images)) as advance:
        pieces = [piece(name, run) for (name, _), run in zip(wanted, runs, strict=True)]
        return joined(context.parts.each(pieces, advance))


def statistics(
    settings: Settings, context: Context, name: str, spread: Mapping[str, latents.LatentMoments], images: int
) -> pd.DataFrame:
    """``gradlab.evaluation.latents.statistics`` of a method, with what the numbers are of."""
    k = {models.MIX: settings.k, models.DMS: settings.k_dms}
    found = latents.statistics_of(spread)
    found.insert(0, "method", name)
    return found.assign(sample_size=k.get(name, 1), seed=context.seed, iterations=settings.iterations, images=images)


def table(found: pd.DataFrame, n: int, columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Table ``n`` of the paper: one row per method, ``columns`` from their latent and statistic, the paper's beside."""
    rows = []
    for method, mine in found.groupby("method", sort=False):
        mine = mine.set_index("latent")
        row: dict[str, Any] = {"method": method}
        for column, (latent, statistic) in columns.items():
            row[column] = mine.loc[latent, statistic]
            row[f"{column}_paper"] = paper.value(n, column, method=PAPER_METHODS[method])
        for latent in dict.fromkeys(latent for latent, _ in columns.values()):
            shown = latent.replace("_hat", "_bar")
            for statistic in ("cov_median", "dead", "dimensions"):
                row[f"{statistic}({shown})"] = mine.loc[latent, statistic]
        row |= {name: mine[name].iloc[0] for name in ("sample_size", "seed", "iterations", "images")}
        rows.append(row)
    return pd.DataFrame(rows)


def change(table: pd.DataFrame, claim: str, source: str, column: str, sign: int, name: str) -> Verdict:
    """Whether ``column`` of both multi-sample methods lies above the baseline's (``sign`` 1) or below it (-1).

    Undecided where the methods disagree or a change is below 2 %, which another seed might turn.
    """
    at = table.set_index("method")
    holds, said = set(), []
    for method in (models.MIX, models.DMS):
        ours, theirs = (at.loc[method, c] / at.loc[models.BASELINE, c] - 1 for c in (column, f"{column}_paper"))
        holds.add(None if abs(ours) < SMALLEST_CHANGE else bool(sign * ours > 0))
        said.append(f"{100 * ours:+.1f} % {PAPER_METHODS[method]} (paper {100 * theirs:+.1f} %)")
    single = at.loc[models.BASELINE, column]
    evidence = f"{name} of {single:.4g} in single-sample training: {', '.join(said)}, one seed"
    return Verdict(claim, source, holds.pop() if len(holds) == 1 else None, evidence)


def draw(folder: Path, name: str, columns: Sequence[str]) -> None:
    """Each column of both multi-sample methods over the baseline's, here and in the paper."""
    rows = files.read_csv(folder / f"{name}.csv").set_index("method")
    figure, axes = plots.figure(1, 2, width="page", height=2.7, sharey=True)
    for ax, method in zip(axes, (models.MIX, models.DMS), strict=True):
        ratios = [
            {"column": column, "of": of, "ratio": rows.loc[method, c] / rows.loc[models.BASELINE, c]}
            for column in columns
            for of, c in (("here", column), ("paper", f"{column}_paper"))
        ]
        plots.bars(ax, pd.DataFrame(ratios), "column", "ratio", hue="of", xlabel="", yscale="log", base=1,
                   ylabel="ratio to single-sample training")  # fmt: skip
        ax.axhline(1, color="0.3", linewidth=0.8)
        ax.tick_params(axis="x", labelrotation=30)
        low, high = ax.get_ylim()
        shown = [tick for tick in TICKS if low <= tick <= high]
        ax.set_yticks(shown, [f"{tick:g}" for tick in shown])
        ax.set_yticks([], minor=True)
        plots.title(ax, f"{PAPER_METHODS[method]}, {rows['images'].iloc[0]} images")
    axes[1].set_ylabel("")
    plots.shared_legend(figure, axes)
    plots.save(figure, folder / name)
