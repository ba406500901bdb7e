"""Table 2: rate and distortion with direct-y and without it (the 2-level VAE)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Context, Verdict
from gradlab.study.verdicts import Pair
from gradlab.study.work import Work
from gradlab.training import TrainSettings
from gradlab_studies import _models as models
from gradlab_studies._models import Settings

ASSUMED = models.ASSUMED | {
    "z of the 2-level VAE at test time": "h_a(|round(y)|), as training feeds h_a the noisy y; h_a(|y|) beside it, "
    "which decodes as well",
}
METHODS = (models.TWO_LEVEL, models.BASELINE)
COLUMNS = models.RATE_DISTORTION | {name: name for name in ("bpp_y", "bpp_z", "bpp_estimate")}
PROFILES = {
    "quick": Settings(),
    "stay": Settings(base=models.STAY, points=(models.STAY.steps,)),
    "gpu": Settings(base=models.GPU, points=(25_000, 50_000)),
    "paper": Settings(base=models.PAPER, points=(50_000, 500_000, 1_000_000, 2_000_000)),
}
SMALLEST = Settings(base=models.SMALLEST, points=(2, 6))


def trained(settings: Settings) -> list[tuple[str, TrainSettings]]:
    """Both models, by name."""
    return [(name, models.method(settings.base, name)) for name in METHODS]


def work(settings: Settings) -> list[Work]:
    """What it needs."""
    items = models.work(trained(settings), evaluate=settings.points)
    points = tuple((point, hyper_input) for point in settings.points for hyper_input in ("", "mean"))
    return [item._replace(points=points) if item[:2] == ("evaluate", models.TWO_LEVEL) else item for item in items]


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Both models at every point of training that is kept, with real bitstreams."""

    def row(at: int, iteration: int, hyper_input: str, means: Mapping[str, float]) -> dict[str, Any]:
        name = METHODS[at]
        reads = "round(y)" if name == models.TWO_LEVEL and not hyper_input else "y"
        printed = iteration == settings.points[-1] and not hyper_input
        where = {"method": models.PAPER_METHODS[name]} if printed else {}
        return {"method": name, "h_a reads": reads} | models.beside_paper(2, COLUMNS, means, **where)

    table = models.rate_distortion(context, "table2", work(settings), row)["table2"]
    return {"table2": table.sort_values("iterations", kind="stable", ignore_index=True)}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Without direct-y the R-D cost is higher, and it is the rate that pays."""
    table = tables["table2"]
    without = table[table["h_a reads"] == "round(y)"].set_index("iterations")
    baseline = table[table["method"] == models.BASELINE].set_index("iterations")

    def higher(column: str, what: str) -> Verdict:
        printed = without[f"{column}_paper"].dropna().iloc[-1], baseline[f"{column}_paper"].dropna().iloc[-1]
        return Verdict.compare(
            f"without direct-y {what} is higher", "Table 2", Pair(without[column], baseline[column], paper=printed),
            expect="higher", quantity=f"{column} without over with direct-y",
        )  # fmt: skip

    return [higher("R-D cost", "the R-D cost"), higher("bpp", "the rate")]


def draw(folder: Path) -> None:
    """R-D cost over training, with and without direct-y."""
    table = files.read_csv(folder / "table2.csv")
    table["label"] = table["method"] + ", h_a reads " + table["h_a reads"]
    baseline_first = sorted(dict.fromkeys(table["label"]), key=lambda label: not label.startswith(models.BASELINE))
    models.draw_costs(table, "label", folder / "table2", baseline_first)


cli.script(__name__)
