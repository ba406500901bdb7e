"""Table 1: what the biased DReG gradient does to a codec's rate and distortion.

Baseline, MS-NIC-MIX with the pathwise gradient, MS-NIC-MIX with DReG, each trained alike and evaluated with bitstreams.

All methods are compared after the same numbers of iterations; an ordering counts where the last two agree.
The listing's weighting (a softmax per term, in bits per pixel) is what the table runs; larger profiles show the
equations' (one weight, in nats) beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gradlab import cli, evaluation
from gradlab.runtime import files
from gradlab.study import Context, Verdict, paper
from gradlab.study.pieces import Tables
from gradlab.study.work import Work
from gradlab.training import TrainSettings
from gradlab_studies import _models as models

ASSUMED = models.ASSUMED
PAPER_COLUMNS = {"bpp": "bpp", "MSE": "mse", "PSNR": "psnr", "R-D cost": "rd_cost"}


@dataclass(frozen=True)
class Settings:
    """Models and sizes.

    Attributes:
        base: the baseline; it may train longer for other tables, and is then read at ``points``.
        points: iterations at which all methods are compared; the last is the table's.
        k: samples of y in MS-NIC-MIX.
        weightings: pairs of weighting and scale; the first is the listing's.
    """

    base: TrainSettings = models.QUICK
    points: tuple[int, ...] = (1800, 2700, 3600)
    k: int = 5
    weightings: tuple[tuple[str, str], ...] = (("per-term", "bpp"),)
    seed: int = 0

    def __post_init__(self) -> None:
        models.check_kept(self.base, *self.points)


BOTH = (("per-term", "bpp"), ("joint", "nats"))
PROFILES = {
    "quick": Settings(),
    "stay": Settings(base=models.STAY, points=(models.STAY.steps,)),
    "gpu": Settings(base=models.GPU, points=(25_000, 50_000), weightings=BOTH),
    "paper": Settings(base=models.PAPER, points=(1_000_000, 1_500_000, 2_000_000), weightings=BOTH),
}
SMALLEST = Settings(base=models.SMALLEST, points=(2, 4), k=2)


def trained(settings: Settings) -> list[tuple[str, str, str, TrainSettings]]:
    """Name, weighting, scale and settings of each model."""
    wanted = [(models.BASELINE, "-", "-", settings.base)]
    for weighting, scale in settings.weightings:
        for name in (models.MIX, models.MIX_DREG):
            multi = models.method(settings.base, name, settings.k, weighting, scale)
            wanted.append((name, weighting, scale, models.shortened(multi, settings.points[-1])))
    return wanted


def work(settings: Settings) -> list[Work]:
    """What it needs."""
    return models.work(((name, s) for name, _, _, s in trained(settings)), evaluate=settings.points)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Train, evaluate with real bitstreams, one row per method and weighting."""
    wanted = trained(settings)
    pictures = models.test_pictures(context)
    wanted_of = models.evaluation_of(work(settings), pictures)
    runs = models.train_all(context, [(name, s) for name, _, _, s in wanted], evaluation=wanted_of)

    def rows(at: int, iteration: int, _: str, found: pd.DataFrame) -> Tables:
        name, weighting, scale, _settings = wanted[at]
        means = evaluation.summary(found)
        row = {
            "method": name,
            "sample_size": settings.k if weighting != "-" else 1,
            "weighting": weighting,
            "scale": scale,
        }
        for column, source in PAPER_COLUMNS.items():
            row |= {column: means[source], f"{column}_paper": paper.value(1, column, method=name)}
        row |= {
            "bpp_estimate": means["bpp_estimate"],
            "bpp_z": means["bpp_z"],
            "MS-SSIM": means["ms_ssim"],
            "psnr_of_mean_mse": means["psnr_of_mean_mse"],
            "seed": context.seed,
            "iterations": iteration,
            "images": len(pictures),
        }
        images = found.assign(method=name, weighting=weighting, iterations=iteration)
        return {"table1": pd.DataFrame([row]), "table1_images": images}

    tables = models.evaluated(context, wanted_of, runs, rows)
    table = tables["table1"]
    last = table[table["iterations"] == settings.points[-1]].reset_index(drop=True)
    training = table.drop(columns=[c for c in table.columns if c.endswith("_paper")])
    return {"table1": last, "table1_training": training, "table1_images": tables["table1_images"]}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """MIX pathwise beats the baseline; MIX DReG is worse than MIX pathwise, and than the baseline."""
    table = tables["table1"].set_index(["method", "weighting"])
    training = tables["table1_training"].set_index(["method", "weighting", "iterations"])["R-D cost"]
    points = sorted(tables["table1_training"]["iterations"].unique())
    weighting = {models.BASELINE: "-", models.MIX: "per-term", models.MIX_DREG: "per-term"}

    def judge(claim: str, better: str, worse: str) -> Verdict:
        def change(column: str) -> float:
            return table.loc[(worse, weighting[worse]), column] / table.loc[(better, weighting[better]), column] - 1

        changes = [training[worse, weighting[worse], p] / training[better, weighting[better], p] - 1 for p in points]
        agreed = all(c > 0 for c in changes[-2:]) or all(c < 0 for c in changes[-2:])
        evidence = (
            f"R-D cost of {worse} over {better}: {', '.join(f'{100 * c:+.1f} %' for c in changes)} after "
            f"{', '.join(map(str, points))} iterations (paper {100 * change('R-D cost_paper'):+.1f} %), one seed"
        )
        return Verdict(claim, "Table 1", changes[-1] > 0 if agreed else None, evidence)

    return [
        judge("MS-NIC-MIX (pathwise) has a lower R-D cost than the baseline", models.MIX, models.BASELINE),
        judge("DReG makes MS-NIC-MIX worse than the pathwise gradient", models.MIX, models.MIX_DREG),
        judge("DReG makes MS-NIC-MIX worse than the baseline", models.BASELINE, models.MIX_DREG),
    ]


def draw(folder: Path) -> None:
    """R-D cost of each method over training."""
    table = files.read_csv(folder / "table1_training.csv")
    joint = table["weighting"] == "joint"
    table.loc[joint, "method"] += ", joint weights in nats"
    models.draw_costs(table, "method", folder / "table1")


cli.script(__name__)
