"""Table 2: rate and distortion with direct-y and without it (the 2-level VAE)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gradlab import cli, evaluation
from gradlab.runtime import files
from gradlab.study import Context, Verdict, paper
from gradlab.study.pieces import Tables
from gradlab.study.work import Work
from gradlab.training import TrainSettings
from gradlab_studies import _models as models

ASSUMED = models.ASSUMED | {
    "z of the 2-level VAE at test time": "h_a(|round(y)|), as training feeds h_a the noisy y; h_a(|y|) beside it, "
    "which decodes as well",
}
PAPER_COLUMNS = {"bpp": "bpp", "MSE": "mse", "PSNR": "psnr", "R-D cost": "rd_cost"}
PAPER_METHODS = {models.TWO_LEVEL: "2-level VAE", models.BASELINE: "Balle et al. 2018"}


@dataclass(frozen=True)
class Settings:
    """The direct-y model and, but for the switch, its twin.

    Attributes:
        base: the direct-y model.
        points: iterations at which both are compared; the last is the table's.
    """

    base: TrainSettings = models.QUICK
    points: tuple[int, ...] = (900, 1800, 3600)
    seed: int = 0

    def __post_init__(self) -> None:
        models.check_kept(self.base, *self.points)


PROFILES = {
    "quick": Settings(),
    "stay": Settings(base=models.STAY, points=(models.STAY.steps,)),
    "gpu": Settings(base=models.GPU, points=(25_000, 50_000)),
    "paper": Settings(base=models.PAPER, points=(50_000, 500_000, 1_000_000, 2_000_000)),
}
SMALLEST = Settings(base=models.SMALLEST, points=(2, 6))


def trained(settings: Settings) -> list[tuple[str, TrainSettings]]:
    """Both models, by name."""
    return [(name, models.method(settings.base, name)) for name in PAPER_METHODS]


def work(settings: Settings) -> list[Work]:
    """What it needs."""
    found = models.work(trained(settings), evaluate=settings.points)
    points = tuple((point, hyper_input) for point in settings.points for hyper_input in ("", "mean"))
    return [one._replace(points=points) if one[:2] == ("evaluate", models.TWO_LEVEL) else one for one in found]


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Both models at every point of training that is kept, with real bitstreams."""
    pictures, points = models.test_pictures(context), settings.points
    wanted = models.evaluation_of(work(settings), pictures)
    runs = models.train_all(context, trained(settings), evaluation=wanted)

    def rows(at: int, iteration: int, hyper_input: str, found: pd.DataFrame) -> Tables:
        name, means = list(PAPER_METHODS)[at], evaluation.summary(found)
        reads = "round(y)" if name == models.TWO_LEVEL and not hyper_input else "y"
        row: dict[str, Any] = {"method": name, "h_a reads": reads}
        for column, source in PAPER_COLUMNS.items():
            last = iteration == points[-1] and not hyper_input
            row[column] = means[source]
            row[f"{column}_paper"] = paper.value(2, column, method=PAPER_METHODS[name]) if last else math.nan
        row |= {"bpp_y": means["bpp_y"], "bpp_z": means["bpp_z"], "bpp_estimate": means["bpp_estimate"],
                "seed": context.seed, "iterations": iteration, "images": len(pictures)}  # fmt: skip
        return {"table2": pd.DataFrame([row])}

    table = models.evaluated(context, wanted, runs, rows)["table2"]
    return {"table2": table.sort_values("iterations", kind="stable", ignore_index=True)}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Without direct-y the R-D cost is higher, and it is the rate that pays."""
    table = tables["table2"]
    one = table[table["method"] == models.BASELINE].set_index("iterations")
    two = table[table["h_a reads"] == "round(y)"].set_index("iterations")
    points = sorted(one.index)
    found = []
    for column, what in (("R-D cost", "the R-D cost"), ("bpp", "the rate")):
        changes = [two.loc[p, column] / one.loc[p, column] - 1 for p in points]
        theirs = two.loc[points[-1], f"{column}_paper"] / one.loc[points[-1], f"{column}_paper"] - 1
        agreed = all(c > 0 for c in changes[-2:]) or all(c < 0 for c in changes[-2:])
        evidence = (
            f"without over with direct-y: {', '.join(f'{100 * c:+.1f} %' for c in changes)} after "
            f"{', '.join(map(str, points))} iterations (paper {100 * theirs:+.1f} %), one seed"
        )
        holds = changes[-1] > 0 if agreed else None
        found.append(Verdict(f"without direct-y {what} is higher", "Table 2", holds, evidence))
    return found


def draw(folder: Path) -> None:
    """R-D cost over training, with and without direct-y."""
    table = files.read_csv(folder / "table2.csv")
    table["label"] = table["method"] + ", h_a reads " + table["h_a reads"]
    baseline_first = sorted(dict.fromkeys(table["label"]), key=lambda label: not label.startswith(models.BASELINE))
    models.draw_costs(table, "label", folder / "table2", baseline_first)


cli.script(__name__)
