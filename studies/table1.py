"""Table 1: what the biased DReG gradient does to a codec's rate and distortion.

Baseline, MS-NIC-MIX with the pathwise gradient, MS-NIC-MIX with DReG, each trained alike and evaluated with bitstreams.

All rows are compared after the same number of iterations. The listing's weighting (a softmax per term, in bits per
pixel) is what the table runs; larger profiles show the equations' (one weight, in nats) beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab import evaluation, paper, results, study
from gradlab.study import Context, Verdict
from gradlab.training import TrainSettings
from gradlab_studies import _models as models

if TYPE_CHECKING:
    import pandas as pd

ASSUMED = models.ASSUMED
PAPER_COLUMNS = {"bpp": "bpp", "MSE": "mse", "PSNR": "psnr", "R-D cost": "rd_cost"}
# Below this relative difference of R-D cost one seed of a short run decides nothing.
DECIDABLE = 0.01


@dataclass(frozen=True)
class Settings:
    """Models and sizes.

    Attributes:
        base: the baseline; it may train longer for other tables, and is then read at ``iterations``.
        iterations: when all rows are compared.
        k: samples of y in MS-NIC-MIX.
        weightings: pairs of weighting and scale; the first is the listing's.
    """

    base: TrainSettings = models.QUICK
    iterations: int = 2500
    k: int = 5
    weightings: tuple[tuple[str, str], ...] = (("per-term", "bpp"),)
    seed: int = 0


BOTH = (("per-term", "bpp"), ("joint", "nats"))
PROFILES = {
    "quick": Settings(),
    "gpu": Settings(base=models.GPU, iterations=models.GPU.steps, weightings=BOTH),
    "paper": Settings(base=models.PAPER, iterations=models.PAPER.steps, weightings=BOTH),
}
SMALLEST = Settings(base=models.SMALLEST, iterations=4, k=2)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Train, evaluate with real bitstreams, one row per method and weighting."""
    import pandas as pd

    wanted = [(models.BASELINE, "-", "-", settings.base)]
    for weighting, scale in settings.weightings:
        for name in (models.MIX, models.MIX_DREG):
            multi = models.method(settings.base, name, settings.k, weighting, scale)
            wanted.append((name, weighting, scale, models.shortened(multi, settings.iterations)))
    runs = models.train_all(context, [(name, s) for name, _, _, s in wanted])
    pictures = models.test_pictures(context)
    rows, per_image = [], []
    with context.progress.track("evaluating", len(wanted) * len(pictures)) as advance:
        for (name, weighting, scale, _), run in zip(wanted, runs, strict=True):
            codec = run.codec(settings.iterations, context.device)
            found = evaluation.rate_distortion(codec, pictures, settings.base.lam, advance)
            found.insert(0, "method", name)
            found.insert(1, "weighting", weighting)
            per_image.append(found)
            means = evaluation.summary(found.drop(columns=["method", "weighting"]))
            row = {"method": name, "sample_size": settings.k if weighting != "-" else 1, "weighting": weighting,
                   "scale": scale}  # fmt: skip
            for column, source in PAPER_COLUMNS.items():
                row[column] = means[source]
                row[f"{column}_paper"] = paper.value(1, column, method=name)
            row |= {"bpp_estimate": means["bpp_estimate"], "bpp_z": means["bpp_z"], "MS-SSIM": means["ms_ssim"],
                    "psnr_of_mean_mse": means["psnr_of_mean_mse"], "seed": context.seed,
                    "iterations": settings.iterations, "images": len(pictures)}  # fmt: skip
            rows.append(row)
    return {"table1": pd.DataFrame(rows), "table1_images": pd.concat(per_image, ignore_index=True)}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """MIX pathwise beats the baseline; MIX DReG is worse than MIX pathwise, and than the baseline."""
    table = tables["table1"]
    listing = table[table["weighting"].isin(["-", "per-term"])].set_index("method")
    cost = listing["R-D cost"]

    def judge(claim: str, better: str, worse: str, says: str) -> Verdict:
        change = cost[worse] / cost[better] - 1
        theirs = listing.loc[worse, "R-D cost_paper"] / listing.loc[better, "R-D cost_paper"] - 1
        holds = None if abs(change) < DECIDABLE else bool(change > 0)
        evidence = (
            f"R-D cost of {says}: {100 * change:+.1f} % (paper {100 * theirs:+.1f} %), "
            f"{listing['iterations'].iloc[0]} iterations, one seed"
        )
        return Verdict(claim, "Table 1", holds, evidence)

    return [
        judge(
            "MS-NIC-MIX (pathwise) has a lower R-D cost than the baseline",
            models.MIX,
            models.BASELINE,
            "the baseline against MIX",
        ),
        judge(
            "DReG makes MS-NIC-MIX worse than the pathwise gradient",
            models.MIX,
            models.MIX_DREG,
            "DReG against pathwise",
        ),
        judge(
            "DReG makes MS-NIC-MIX worse than the baseline",
            models.BASELINE,
            models.MIX_DREG,
            "DReG against the baseline",
        ),
    ]


def draw(folder: Path) -> None:
    """R-D cost of each method, split into rate and weighted distortion."""
    from gradlab import plots

    table = results.read_csv(folder / "table1.csv")
    table["label"] = table["method"].str.replace("MS-NIC-MIX ", "MIX\n", regex=False)
    table.loc[table["weighting"] == "joint", "label"] += "\njoint, nats"
    figure, ax = plots.figure()
    parts = []
    for part, values in (("bpp", table["bpp"]), ("lambda x MSE", table["R-D cost"] - table["bpp"])):
        parts.append(table[["label"]].assign(part=part, value=values))
    import pandas as pd

    plots.bars(ax, pd.concat(parts), "label", "value", hue="part", xlabel="", ylabel="bits per pixel")
    images, iterations = table["images"].iloc[0], table["iterations"].iloc[0]
    plots.title(ax, f"n = {images} images, {iterations} iterations")
    plots.save(figure, folder / "table1")


if __name__ == "__main__":
    study.script(__file__)
