"""Table 1: effect of the biased DReG gradient on the rate and distortion of a codec.

The baseline, MS-NIC-MIX with the pathwise gradient, and MS-NIC-MIX with DReG are trained alike and evaluated with
bitstreams.

All methods are compared after the same numbers of iterations; an ordering counts if the last two agree. The table uses
the weighting of the paper's listing (one softmax per term, in bits per pixel); larger profiles also show the weighting
of the equations (one joint weight, in nats).
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Context, Verdict, models
from gradlab.study.verdicts import Pair
from gradlab.study.work import Work
from gradlab_studies import _methods as methods

ASSUMED = methods.ASSUMED
COLUMNS = ("method", "sample_size", "weighting", "scale", "bpp", "MSE", "PSNR", "R-D cost", "bpp_estimate", "bpp_z",
           "MS-SSIM", "psnr_of_mean_mse")  # fmt: skip


@dataclass(frozen=True)
class Settings(methods.Settings):
    """Models and sizes.

    Attributes:
        base: settings of the baseline, which may train longer for other tables; it is read at ``points``.
        points: iterations at which all methods are compared; the table shows the last.
        k: samples of y in MS-NIC-MIX.
        weightings: pairs of weighting and scale; the first is the listing's.
        seed: random seed.
    """

    points: tuple[int, ...] = (1800, 2700, 3600)
    k: int = 5
    weightings: tuple[tuple[str, str], ...] = (("per-term", "bpp"),)


BOTH = (("per-term", "bpp"), ("joint", "nats"))
PROFILES = {
    "quick": Settings(),
    "stay": Settings(base=methods.STAY, points=(methods.STAY.steps,)),
    "gpu": Settings(base=methods.GPU, points=(25_000, 50_000), weightings=BOTH),
    "paper": Settings(base=methods.PAPER, points=(1_000_000, 1_500_000, 2_000_000), weightings=BOTH),
}
SMALLEST = Settings(base=methods.SMALLEST, points=(2, 4), k=2)


def variants(settings: Settings) -> list[models.Variant]:
    """Return the baseline, and MIX with both gradients in every weighting."""

    def variant(name: str, weighting: str, scale: str, k: int) -> models.Variant:
        run = methods.method(settings.base, name, k, weighting, scale)
        run = run if name == methods.BASELINE else methods.shortened(run, settings.points[-1])
        labels = {"method": name, "sample_size": k, "weighting": weighting, "scale": scale}
        return models.Variant(name, run, settings.points, labels, {"method": name})

    multi = [
        variant(name, weighting, scale, settings.k)
        for weighting, scale in settings.weightings
        for name in (methods.MIX, methods.MIX_DREG)
    ]
    return [variant(methods.BASELINE, "-", "-", 1), *multi]


def work(settings: Settings) -> list[Work]:
    """Return the work of this study."""
    return models.evaluation_work(variants(settings))


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Train all methods and evaluate them with real bitstreams; one row per method and weighting."""
    keys = ("method", "weighting", "iterations")
    tables = models.rate_distortion(context, 1, variants(settings), COLUMNS, keys=keys)
    return models.last_and_training("table1", tables.pop("table1"), settings.points[-1]) | tables


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide whether MIX pathwise beats the baseline, and whether MIX with DReG is worse than both."""
    tables = {name: table[table["weighting"] != "joint"] for name, table in tables.items()}
    costs = tables["table1_training"].pivot(index="iterations", columns="method", values="R-D cost")
    printed = tables["table1"].set_index("method")["R-D cost_paper"]

    def higher(claim: str, worse: str, better: str) -> Verdict:
        pair = Pair(costs[worse], costs[better], paper=(printed[worse], printed[better]))
        return Verdict.compare(claim, "Table 1", pair, expect="higher", quantity=f"R-D cost of {worse} over {better}")

    return [
        higher("MS-NIC-MIX (pathwise) has a lower R-D cost than the baseline", methods.BASELINE, methods.MIX),
        higher("DReG makes MS-NIC-MIX worse than the pathwise gradient", methods.MIX_DREG, methods.MIX),
        higher("DReG makes MS-NIC-MIX worse than the baseline", methods.MIX_DREG, methods.BASELINE),
    ]


def draw(folder: Path) -> None:
    """Draw the R-D cost of each method over training."""
    table = files.read_csv(folder / "table1_training.csv")
    joint = table["weighting"] == "joint"
    table.loc[joint, "method"] += ", joint weights in nats"
    methods.draw_costs(table, "method", folder / "table1")


cli.script(__name__)
