"""Table 2: rate and distortion with and without direct-y (the 2-level VAE)."""

from pathlib import Path

import pandas as pd

from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Context, Verdict, models
from gradlab.study.verdicts import Pair
from gradlab.study.work import Work
from gradlab_studies import _methods as methods

ASSUMED = methods.ASSUMED | {
    "z of the 2-level VAE at test time": "h_a(|round(y)|), as training feeds h_a the noisy y; h_a(|y|) beside it, "
    "which decodes as well",
}
COLUMNS = ("method", "h_a reads", "bpp", "MSE", "PSNR", "R-D cost", "bpp_y", "bpp_z", "bpp_estimate")
PROFILES = {
    "quick": methods.Settings(),
    "stay": methods.Settings(base=methods.STAY, points=(methods.STAY.steps,)),
    "gpu": methods.Settings(base=methods.GPU, points=(25_000, 50_000)),
    "paper": methods.Settings(base=methods.PAPER, points=(50_000, 500_000, 1_000_000, 2_000_000)),
}
SMALLEST = methods.Settings(base=methods.SMALLEST, points=(2, 6))


def variants(settings: methods.Settings) -> list[models.Variant]:
    """Return the 2-level VAE with either input of h_a, and the baseline."""

    def variant(name: str, reads: str, hyper_input: str = "") -> models.Variant:
        printed = {} if hyper_input else {"method": methods.PAPER_METHODS[name]}
        labels = {"method": name, "h_a reads": reads}
        return models.Variant(name, methods.method(settings.base, name), settings.points, labels, printed, hyper_input)

    return [
        variant(methods.TWO_LEVEL, "round(y)"),
        variant(methods.TWO_LEVEL, "y", hyper_input="mean"),
        variant(methods.BASELINE, "y"),
    ]


def work(settings: methods.Settings) -> list[Work]:
    """Return the work of this study."""
    return models.evaluation_work(variants(settings))


def measure(settings: methods.Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Evaluate both models with real bitstreams at every saved point of training."""
    table = models.rate_distortion(context, 2, variants(settings), COLUMNS)["table2"]
    return {"table2": table.sort_values("iterations", kind="stable", ignore_index=True)}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide whether the R-D cost is higher without direct-y, and whether the rate is."""
    table = tables["table2"]
    without = table[table["h_a reads"] == "round(y)"].set_index("iterations")
    baseline = table[table["method"] == methods.BASELINE].set_index("iterations")

    def higher(column: str, what: str) -> Verdict:
        printed = without[f"{column}_paper"].dropna().iloc[-1], baseline[f"{column}_paper"].dropna().iloc[-1]
        return Verdict.compare(
            f"without direct-y {what} is higher", "Table 2", Pair(without[column], baseline[column], paper=printed),
            expect="higher", quantity=f"{column} without over with direct-y",
        )  # fmt: skip

    return [higher("R-D cost", "the R-D cost"), higher("bpp", "the rate")]


def draw(folder: Path) -> None:
    """Draw the R-D cost over training, with and without direct-y."""
    table = files.read_csv(folder / "table2.csv")
    table["label"] = table["method"] + ", h_a reads " + table["h_a reads"]
    baseline_first = sorted(dict.fromkeys(table["label"]), key=lambda label: not label.startswith(methods.BASELINE))
    methods.draw_costs(table, "label", folder / "table2", baseline_first)


cli.script(__name__)
