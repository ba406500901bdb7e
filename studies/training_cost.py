"""Training cost (Appendix A.9): time per iteration over k, for MS-NIC-MIX, MS-NIC-DMS and a batch k times as large.

The table has the median, minimum and maximum over iterations in which the methods take turns; the provenance records
device and threads. The encoder runs once for all samples, so the cost of k is the decoder's.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Context, Verdict, models, plots
from gradlab.training import TrainSettings, timing
from gradlab_studies import _methods as methods

ASSUMED = methods.ASSUMED | {"training time": "of one iteration on the same batch of images; reading them is left out"}
METHODS = (methods.MIX, methods.DMS, methods.BIG_BATCH)
PRINTED = {8: 1.5, 16: 3.0}
"""Appendix A.9: training time of MS-NIC-MIX relative to single-sample training, by the number of samples."""
TOLERANCE = 0.15
COLUMNS = [
    "method", "k", "seconds", "seconds_min", "seconds_max", "ratio", "ratio_min", "ratio_max", "ratio_paper",
    "repetitions", "threads", "step", "batch", "crop", "device",
]  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Sizes and repetitions.

    Attributes:
        base: settings of the baseline.
        sizes: sample sizes k.
        repetitions: timed iterations of each method.
        warm_up: untimed iterations of each method before them.
        seed: random seed.
    """

    base: TrainSettings = methods.QUICK
    sizes: tuple[int, ...] = (2, 4, 8, 16)
    repetitions: int = 9
    warm_up: int = 2
    seed: int = 0


PROFILES = {
    "quick": Settings(),
    "gpu": Settings(base=methods.GPU, repetitions=50, warm_up=10),
    "paper": Settings(base=methods.PAPER, repetitions=200, warm_up=20),
}
SMALLEST = Settings(base=methods.SMALLEST, sizes=(2, 3), repetitions=2, warm_up=1)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Measure one row per method and k."""
    trained = {(methods.BASELINE, 1): settings.base}
    for k in settings.sizes:
        trained |= {(name, k): methods.method(settings.base, name, k) for name in METHODS}
    pictures = models.train_pictures(context, settings.base)
    total = len(trained) * (settings.repetitions + settings.warm_up)
    with context.progress.track("timing iterations", total) as advance:
        table = timing.step_times(
            {f"{name}, {k}": models.identified(method, context) for (name, k), method in trained.items()},
            pictures, settings.repetitions, settings.warm_up, context.device, advance=advance,
        )  # fmt: skip
    table["method"], table["k"] = zip(*trained, strict=True)
    single = table["seconds"].iloc[0]
    for column in ("seconds", "seconds_min", "seconds_max"):
        # All times relative to the baseline's median, so that the range is the range of the method itself.
        table[column.replace("seconds", "ratio")] = table[column] / single
    table["ratio_paper"] = table["k"].map(PRINTED).where(table["method"] == methods.MIX).astype("float64")
    table = table.assign(batch=settings.base.batch, crop=settings.base.crop, device=context.device)
    return {"training-cost": table[COLUMNS]}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide the claims of A.9 on the training time of MIX and DMS.

    They are: 1.5 times at 8 samples and 3 times at 16; both faster than a batch k times as large; DMS a little slower
    than MIX.
    """
    table = tables["training-cost"]
    printed = table[table["ratio_paper"].notna()]
    near = (printed["ratio"] / printed["ratio_paper"] - 1).abs() < TOLERANCE
    where = f"batch {table['batch'].iloc[0]}, crops of {table['crop'].iloc[0]}, {table['device'].iloc[0]}"
    timed = ", ".join(
        f"{row.ratio:.2f} with {row.k} ({row.ratio_min:.2f} to {row.ratio_max:.2f}; paper {row.ratio_paper:g})"
        for row in printed.itertuples()
    )
    ratios = table[table["k"] > 1].pivot(index="k", columns="method", values="ratio")
    names = {methods.MIX: "MIX", methods.DMS: "DMS", methods.BIG_BATCH: "batch times k"}
    texts = {name: f"{short} {', '.join(f'{ratio:.2f}' for ratio in ratios[name])}" for name, short in names.items()}
    sizes = f"k = {', '.join(map(str, ratios.index))}"

    def faster(claim: str, fast: str, slow: str, note: str = "") -> Verdict:
        """Decide whether ``slow`` takes longer at every k where they differ by a tenth; None if they never do."""
        pair = ratios[[fast, slow]]
        apart = pair[pair.max(axis=1) > 1.1 * pair.min(axis=1)]
        holds = bool((apart[slow] > apart[fast]).all()) if len(apart) else None
        evidence = f"over single-sample training, {texts[fast]}, {texts[slow]} at {sizes}{note}"
        return Verdict(claim, "A.9", holds, evidence)

    return [
        Verdict("MIX with 8 samples takes 1.5 times the training time, with 16 samples 3 times", "A.9",
                bool(near.all()) if len(near) else None,
                f"time of an iteration over single-sample training: {timed or 'neither size was timed'}; {where}"),
        faster("MIX takes less time than a batch k times as large", methods.MIX, methods.BIG_BATCH),
        faster("DMS takes less time than a batch k times as large", methods.DMS, methods.BIG_BATCH,
               "; DMS evaluates p(y | z) for each of the k * k pairs"),
        faster("DMS is slower than MIX", methods.MIX, methods.DMS),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw the time over k with the range of the repetitions, and the paper's two points."""
    table = files.read_csv(folder / "training-cost.csv")
    figure, ax = plots.figure(height=3.0)
    single = table[table["method"] == methods.BASELINE]
    # Every line starts at k = 1, the baseline.
    lines = pd.concat([*(single.assign(method=name) for name in METHODS), table[table["method"] != methods.BASELINE]])
    plots.curves(ax, lines, "k", "ratio", None, "method", xlabel="samples k, or factor of the batch",
                 ylabel="time of an iteration,\nover single-sample training", xscale="log", yscale="log",
                 title=f"median of {table['repetitions'].iloc[0]}, bars: fastest and slowest")  # fmt: skip
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
    plots.shared_legend(figure, [ax])
    plots.save(figure, folder / "training-cost")


cli.script(__name__)
