"""Figure 4: histogram of y - round(y) on the first test image, with and without the elements that round to 0.

The paper's explanation of Table 11: the error of rounding is not the uniform noise of training. Uses the baseline of
Table 1.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradlab import cli
from gradlab.evaluation import latents
from gradlab.runtime import files
from gradlab.study import Context, Tables, Verdict, models, plots
from gradlab.study.verdicts import every
from gradlab.study.work import Work
from gradlab.training import TrainSettings
from gradlab_studies import _methods as methods

ASSUMED = methods.ASSUMED | {
    "concentrated": "at least twice the uniform share lies within 0.1 of 0",
    "uniform": "at most 5 % of the elements would have to move for a uniform histogram (total variation)",
}
NEAR, UNIFORM = 0.1, 0.05
PANELS = dict(zip(latents.KEPT, ("every element of y", "elements with |y| at least 1/2"), strict=True))


@dataclass(frozen=True)
class Settings:
    """The model and the histogram.

    Attributes:
        base: settings of the baseline.
        iterations: iterations after which the baseline is read.
        bins: number of bins between -1/2 and 1/2; a multiple of 10, so that 0.1 is an edge.
        seed: random seed.
    """

    base: TrainSettings = methods.QUICK
    iterations: int = 3600
    bins: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        models.check_kept(self.base, self.iterations)


PROFILES = {
    "quick": Settings(),
    "gpu": Settings(base=methods.GPU, iterations=methods.GPU.steps),
    "paper": Settings(base=methods.PAPER, iterations=methods.PAPER.steps),
}
SMALLEST = Settings(base=methods.SMALLEST, iterations=4, bins=10)


def work(settings: Settings) -> list[Work]:
    """Return the work of this study."""
    return models.training_work([(methods.BASELINE, settings.base)], rounded=1)


def measure(settings: Settings, context: Context) -> Tables:
    """Measure both histograms of the first image, and in a second table of every test image."""
    (run,) = models.train_all(context, [(methods.BASELINE, settings.base)])
    pictures = models.test_pictures(context)
    with context.progress.track("reading latents", len(pictures)) as advance:
        codec = run.codec(settings.iterations, context.device)
        rows = latents.residuals(codec, pictures, settings.bins, advance)
    rows = rows.assign(iterations=settings.iterations, seed=context.seed)
    return {"figure4": rows[rows["image"] == pictures[0].name], "figure4_images": rows}


def verdicts(tables: Tables) -> list[Verdict]:
    """Decide the claims of A.8.3: concentrated at 0, and uniform if |y| is at least 1/2."""
    table, (whole, large) = tables["figure4"], latents.KEPT
    bins = table["low"].nunique()
    counts = table.groupby("kept")["count"].sum()
    shares = table["count"] / table["kept"].map(counts.clip(lower=1))
    within = (table["low"] > -NEAR - 1e-9) & (table["high"] < NEAR + 1e-9)
    near = shares[within].groupby(table["kept"]).sum()
    moved = (shares - 1 / bins).abs().groupby(table["kept"]).sum() / 2
    concentrated = bool(near[whole] > 2 * 2 * NEAR)
    # Expected value for an exactly uniform sample of this size: half of the sum of E|share - 1/bins|.
    chance = (bins / (2 * math.pi * max(counts[large], 1))) ** 0.5
    uniform = None if chance > UNIFORM / 2 else bool(moved[large] < UNIFORM)
    first = (
        f"{100 * near[whole]:.0f} % of {counts[whole]} elements lie within {NEAR:g} of 0, where "
        f"{100 * 2 * NEAR:.0f} % would if uniform"
    )
    second = (
        f"of the {counts[large]} elements with |y| >= 1/2, {100 * near[large]:.0f} % do, and {100 * moved[large]:.1f} "
        f"% would have to move for a uniform histogram ({100 * chance:.1f} % by chance alone)"
    )
    return [
        Verdict("y - round(y) is concentrated at 0", "Figure 4", concentrated, first),
        Verdict("y - round(y) is uniform where |y| is at least 1/2", "Figure 4", uniform, second),
        Verdict("y - round(y) is concentrated at 0, and uniform where |y| is at least 1/2", "A.8.3, Figure 4",
                every([concentrated, uniform]), f"{first}; {second}"),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw two panels as in the paper, with the density of the training noise."""
    table = files.read_csv(folder / "figure4.csv")
    figure, axes = plots.figure(1, 2, width="page", height=2.6)
    for ax, (kept, name) in zip(axes, PANELS.items(), strict=True):
        rows = table[table["kept"] == kept]
        edges = np.append(rows["low"].to_numpy(), rows["high"].iloc[-1])
        density = rows["count"] / max(rows["count"].sum(), 1) / np.diff(edges)
        with plots.style():
            ax.stairs(density, edges, fill=True, alpha=0.5, label=f"y - round(y), n = {rows['count'].sum()}")
            ax.axhline(1, color="0.2", linestyle="--", linewidth=1.0, label="noise of training, U(-1/2, 1/2)")
            ax.set(xlabel="y - round(y) (quantization steps)", ylabel="density (1 / step)")
            ax.set(xlim=(-0.5, 0.5), ylim=(0, 1.35 * max(1, density.max())), title=f"{name}, {rows['image'].iloc[0]}")
            ax.legend(loc="upper right")
    plots.save(figure, folder / "figure4")


cli.script(__name__)
