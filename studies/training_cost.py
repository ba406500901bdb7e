"""Training cost (Appendix A.9): time of an iteration over k, MS-NIC-MIX and MS-NIC-DMS beside a batch k times as large.

Medians of iterations that take turns, with the fastest and the slowest; the device and the threads are in the
provenance. The encoder runs once for all samples; what k costs is the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Context, Verdict, plots
from gradlab.training import TrainSettings, timing
from gradlab_studies import _models as models

ASSUMED = models.ASSUMED | {"training time": "of one iteration on the same batch of images; reading them is left out"}
METHODS = (models.MIX, models.DMS, models.BIG_BATCH)
PRINTED = {8: 1.5, 16: 3.0}
"""Appendix A.9: what MS-NIC-MIX with so many samples takes, over single-sample training."""
TOLERANCE = 0.15


@dataclass(frozen=True)
class Settings:
    """Methods and repetitions.

    Attributes:
        base: single-sample training.
        sizes: k.
        repetitions: iterations of each method that count; ``warm_up`` that do not, before.
    """

    base: TrainSettings = models.QUICK
    sizes: tuple[int, ...] = (2, 4, 8, 16)
    repetitions: int = 9
    warm_up: int = 2
    seed: int = 0


PROFILES = {
    "quick": Settings(),
    "gpu": Settings(base=models.GPU, repetitions=50, warm_up=10),
    "paper": Settings(base=models.PAPER, repetitions=200, warm_up=20),
}
SMALLEST = Settings(base=models.SMALLEST, sizes=(2, 3), repetitions=2, warm_up=1)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """One row per method and k."""
    wanted = {(models.BASELINE, 1): settings.base}
    for k in settings.sizes:
        wanted |= {(name, k): models.method(settings.base, name, k) for name in METHODS}
    pictures = models.train_pictures(context, settings.base)
    total = len(wanted) * (settings.repetitions + settings.warm_up)
    with context.progress.track("timing iterations", total) as advance:
        named = {f"{name}, {k}": models.identified(s, context) for (name, k), s in wanted.items()}
        table = timing.step_times(
            named, pictures, settings.repetitions, settings.warm_up, context.device, advance=advance
        )
    table["method"], table["k"] = zip(*wanted, strict=True)
    single = table["seconds"].iloc[0]
    for column in ("seconds", "seconds_min", "seconds_max"):
        # Every time over the baseline's median: the range is that of the method itself.
        table[column.replace("seconds", "ratio")] = table[column] / single
    printed = [PRINTED.get(k) if name == models.MIX else None for name, k in wanted]
    table["ratio_paper"] = table["k"].map(lambda _: float("nan")) if not any(printed) else printed
    table["ratio_paper"] = table["ratio_paper"].astype("float64")
    first = ["method", "k", "seconds", "seconds_min", "seconds_max", "ratio", "ratio_min", "ratio_max", "ratio_paper"]
    table = table[[*first, "repetitions", "threads", "step"]]
    return {"training-cost": table.assign(batch=settings.base.batch, crop=settings.base.crop, device=context.device)}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """A.9: 1.5 times at 8 samples, 3 times at 16; both faster than a batch times k; DMS a little slower than MIX."""
    table = tables["training-cost"]
    ratio = table.set_index(["method", "k"])["ratio"]
    known = table[table["ratio_paper"].notna()]
    where = f"batch {table['batch'].iloc[0]}, crops of {table['crop'].iloc[0]}, {table['device'].iloc[0]}"
    said = ", ".join(
        f"{r.ratio:.2f} with {r.k} ({r.ratio_min:.2f} to {r.ratio_max:.2f}; paper {r.ratio_paper:g})"
        for r in known.itertuples()
    )
    near = (known["ratio"] / known["ratio_paper"] - 1).abs() < TOLERANCE
    sizes = sorted(table.loc[table["k"] > 1, "k"])
    sizes = list(dict.fromkeys(sizes))
    mix, dms, big = ([ratio[name, k] for k in sizes] for name in METHODS)

    def each(values: list[float]) -> str:
        return ", ".join(f"{v:.2f}" for v in values)

    listed = f"k = {', '.join(map(str, sizes))}"
    return [
        Verdict(
            "MIX with 8 samples takes 1.5 times the training time, with 16 samples 3 times",
            "A.9",
            bool(near.all()) if len(near) else None,
            f"time of an iteration over single-sample training: {said or 'neither size was timed'}; {where}",
        ),
        Verdict(
            "MIX takes less time than a batch k times as large",
            "A.9",
            _slower(big, mix),
            f"over single-sample training, MIX {each(mix)}, batch times k {each(big)} at {listed}",
        ),
        Verdict(
            "DMS takes less time than a batch k times as large",
            "A.9",
            _slower(big, dms),
            f"over single-sample training, DMS {each(dms)}, batch times k {each(big)} at {listed}; "
            "DMS evaluates p(y | z) for each of the k * k pairs",
        ),
        Verdict(
            "DMS is slower than MIX",
            "A.9",
            _slower(dms, mix),
            f"over single-sample training, MIX {each(mix)}, DMS {each(dms)} at {listed}",
        ),
    ]


def _slower(one: list[float], other: list[float]) -> bool | None:
    """Whether ``one`` takes longer at every k where they differ by a tenth; undecided where they never do."""
    apart = [a > b for a, b in zip(one, other, strict=True) if max(a, b) > 1.1 * min(a, b)]
    return all(apart) if apart else None


def draw(folder: Path) -> None:
    """Time over k, with the range of the repetitions, and the paper's two points."""
    table = files.read_csv(folder / "training-cost.csv")
    figure, ax = plots.figure(height=3.0)
    single = table[table["method"] == models.BASELINE]
    # Every line begins at k = 1, which is the baseline.
    parts = [part for name in METHODS for part in (single.assign(method=name), table[table["method"] == name])]
    lines = pd.concat(parts)
    plots.curves(ax, lines, "k", "ratio", None, "method", xlabel="samples k, or factor of the batch",
                 ylabel="time of an iteration,\nover single-sample training", xscale="log", yscale="log")  # fmt: skip
    with plots.style():
        for name, line in zip(METHODS, list(ax.containers), strict=True):
            rows = table[table["method"] == name]
            ax.vlines(rows["k"], rows["ratio_min"], rows["ratio_max"], color=line[0].get_color(), linewidth=0.9)
        printed = table[table["ratio_paper"].notna()]
        ax.plot(printed["k"], printed["ratio_paper"], linestyle="none", marker="*", color="0.1", markersize=8,
                label="MS-NIC-MIX in the paper")  # fmt: skip
    ticks = sorted(set(table["k"]))
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.set_xticks([], minor=True)
    plots.title(ax, f"median of {table['repetitions'].iloc[0]}, bars: fastest and slowest")
    plots.shared_legend(figure, [ax])
    plots.save(figure, folder / "training-cost")


cli.script(__name__)
