"""Gradient SNR of the hyperprior's five groups during training, with and without direct-y.

Table 3 has three points of training; here the monitor (``gl.SNRMonitor``) records many points during training, on one
minibatch that no iteration trains on. The models are those of Tables 2 and 3, because a monitor does not change the
weights.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Context, Verdict, models, plots
from gradlab.study.verdicts import CLEAR, unanimous
from gradlab.study.work import Work
from gradlab.training import TrainSettings
from gradlab_studies import _methods as methods

ASSUMED = methods.ASSUMED | {"minibatch": "one, seen by no iteration: the SNR is that of the noise alone"}
GROUPS = ("y infer", "y gen", "z infer", "z gen", "z prior")
METHODS = (methods.TWO_LEVEL, methods.BASELINE)


@dataclass(frozen=True)
class Settings:
    """Models and points.

    Attributes:
        base: settings of the direct-y model.
        every: iterations between points.
        draws: gradients per point, at least 17 for standard errors.
        seed: random seed.
    """

    base: TrainSettings = methods.QUICK
    every: int = 150
    draws: int = 32
    seed: int = 0


PROFILES = {
    "quick": Settings(),
    "gpu": Settings(base=methods.GPU, every=1000),
    "paper": Settings(base=methods.PAPER, every=20_000, draws=100),
}
SMALLEST = Settings(base=methods.SMALLEST, every=2, draws=3)


def trained(settings: Settings) -> list[tuple[str, TrainSettings]]:
    """Return both models, by name."""
    return [(name, methods.method(settings.base, name)) for name in METHODS]


def work(settings: Settings) -> list[Work]:
    """Return the work of this study: the models, and the gradients that are recorded during training."""
    points = settings.base.steps // settings.every
    return models.training_work(trained(settings), record=points * settings.draws, watched=True)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Train both models with the monitor, or read its earlier recordings."""
    runs = models.train_all(context, trained(settings), (settings.every, settings.draws))
    tables = [files.read_csv(run.snr(settings.every, settings.draws)) for run in runs]
    for name, table in zip(METHODS, tables, strict=True):
        table.insert(1, "method", name)
    return {"snr-training": pd.concat(tables, ignore_index=True).assign(seed=context.seed)}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide Table 3's ordering at every point of training."""
    table = tables["snr-training"]
    table = table[table["group"] == "z infer"].pivot(index="iteration", columns="method")
    snr = table["snr"]
    gap = snr[methods.BASELINE] - snr[methods.TWO_LEVEL]
    clear = gap[gap.abs() > CLEAR * (table["snr_se"] ** 2).sum(axis=1, skipna=False) ** 0.5]
    lower, higher = int((clear > 0).sum()), int((clear < 0).sum())
    holds = unanimous(clear > 0)
    evidence = (
        f"of {len(gap)} points the SNR of z infer without direct-y is lower at {lower}, higher at {higher}, within two "
        f"standard errors at {len(gap) - lower - higher}; mean over the points "
        f"{snr[methods.TWO_LEVEL].mean():.2f} without, {snr[methods.BASELINE].mean():.2f} with, one seed"
    )
    return [Verdict("without direct-y the SNR of z infer is lower throughout training", "Table 3", holds, evidence)]


def draw(folder: Path) -> None:
    """Draw one panel per group: SNR over the iterations for both models, with the noise floor dotted."""
    table = files.read_csv(folder / "snr-training.csv")
    figure, axes = plots.figure(2, 3, width="page", height=4.2)
    panels = list(axes.flat)
    for ax, group in zip(panels, GROUPS, strict=False):
        plots.curves(ax, table[table["group"] == group], "iteration", "snr", "snr_se", "method",
                     xlabel="iterations", ylabel="gradient SNR", yscale="log", order=METHODS[::-1],
                     title=f"{group}, n = {table['draws'].iloc[0]} draws")  # fmt: skip
        ax.axhline(table["noise_floor"].iloc[0], color="0.4", linewidth=0.8, linestyle=":", label="noise floor")
    plots.shared_legend(figure, panels[:-1], at=panels[-1])
    plots.save(figure, folder / "snr-training")


cli.script(__name__)
