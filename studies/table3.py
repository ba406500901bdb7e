"""Table 3: gradient SNR of the hyperprior's five groups with and without direct-y, at three points of training.

Each SNR is measured in two ways. *Own weights*, as in the paper: each model at the weights that its own training
reached. *Same weights*: one model with the same noise and images, where only the switch changes. The switch also
changes the mean gradient, so the quantity to compare there is the trace of the gradient variance. Both are measured
with a fixed minibatch (noise only) and with a new minibatch in every draw (noise and minibatch).

For comparison, the exact answer on the linear hierarchy (``gl.problems.TwoLevel``): without direct-y, the gradient of
h_a's weights is multiplied by the noisy latent itself, which lowers the SNR if latents are small, and has no effect if
they are large.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from gradlab import cli, data, problems
from gradlab.errors import GradlabError
from gradlab.evaluation import gradients
from gradlab.runtime import files
from gradlab.runtime.progress import Advance
from gradlab.study import Context, Piece, Tables, Verdict, models, paper, plots
from gradlab.study.verdicts import Pair, every
from gradlab.study.work import Work
from gradlab.training import Run, TrainSettings
from gradlab_studies import _methods as methods

ASSUMED = methods.ASSUMED | {
    "draws and minibatch": "the paper says neither over how many gradients nor whether the minibatch changes",
}
GROUPS = ("y infer", "y gen", "z infer", "z gen", "z prior")
STAGES = ("early", "mid", "late")
NOISES = ("noise", "noise and minibatch")
SWITCHES: tuple[gradients.Setting, ...] = ("direct-y", "2-level")
METHODS = {methods.TWO_LEVEL: "2-level", methods.BASELINE: "direct-y"}
ORDER = (methods.BASELINE, methods.TWO_LEVEL)  # order in figures, so that the baseline looks the same in all of them


@dataclass(frozen=True)
class Settings(methods.Settings):
    """Models and number of draws.

    Attributes:
        base: settings of the direct-y model.
        points: iterations at which gradients are recorded.
        stages: the paper's stage (early, mid, late) to compare each point with; "-" for none.
        draws: gradients per measurement, at least 32 for standard errors; or one number per point.
        seed: random seed.
    """

    stages: tuple[str, ...] = STAGES
    draws: int | tuple[int, ...] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, values, remedy in (("stages", self.stages, ", '-' for none"), ("draws", self.counts, "")):
            if len(values) != len(self.points):
                raise GradlabError(
                    f"there are {len(values)} {name} for {len(self.points)} points: give one per point{remedy}"
                )
        if unknown := set(self.stages) - {*STAGES, "-"}:
            raise GradlabError(f"unknown stage {unknown.pop()!r}: give early, mid, late or '-'")
        if min(self.counts) < 2:
            raise GradlabError(f"draws is {min(self.counts)}: a signal-to-noise ratio needs at least 2")

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of draws at each point."""
        return (self.draws,) * len(self.points) if isinstance(self.draws, int) else tuple(self.draws)


PROFILES = {
    "quick": Settings(),
    "stay": Settings(
        base=methods.STAY, points=(*methods.STAY.snapshots, methods.STAY.steps), stages=("-",) * 3, draws=320
    ),
    "gpu": Settings(
        base=methods.GPU, points=(12_500, 25_000, 50_000), stages=("-", "-", "early"), draws=(320, 320, 1000)
    ),
    "paper": Settings(base=methods.PAPER, points=(50_000, 500_000, 1_000_000), draws=1000),
}
SMALLEST = Settings(base=methods.SMALLEST, points=(2, 4, 6), draws=4)


def trained(settings: Settings) -> list[tuple[str, TrainSettings]]:
    """Return both models, by name."""
    return [(name, methods.method(settings.base, name)) for name in METHODS]


class Recording(NamedTuple):
    """``draws`` gradients at the weights of ``method`` after ``iteration``, under one switch and one kind of noise."""

    iteration: int
    method: str
    noise: str
    switch: gradients.Setting
    draws: int

    @property
    def own(self) -> bool:
        """Whether the weights were trained under this switch."""
        return self.switch == METHODS[self.method]


def work(settings: Settings) -> list[Work]:
    """Return the work of this study."""
    return models.training_work(trained(settings), record=len(NOISES) * len(SWITCHES) * sum(settings.counts))


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Record the gradients of every model at every point, under both switches, with and without minibatch noise.

    Recordings are made in order of value: own weights and the last point first. Each recording is a piece of the study
    and is kept.

    Raises:
        Stopped: the deadline has passed or a signal has arrived; at most one recording is lost.
    """
    runs = dict(zip(METHODS, models.train_all(context, trained(settings)), strict=True))
    recordings = [
        Recording(iteration, method, noise, switch, draws)
        for iteration, draws in zip(settings.points, settings.counts, strict=True)
        for method, noise, switch in itertools.product(METHODS, NOISES, SWITCHES)
    ]
    pictures = models.train_pictures(context, settings.base)
    crops = data.Crops(pictures, settings.base.crop, settings.base.batch, context.seed, device=context.device)
    recordings.sort(key=lambda r: (r.noise != NOISES[0], not r.own, r.iteration != settings.points[-1]))
    pieces = [_piece(recording, runs[recording.method], crops, context) for recording in recordings]
    groups = context.measure("recording gradients", pieces)["table3_groups"]
    orders = {"iteration": settings.points, "weights_of": tuple(METHODS), "noise": NOISES, "switch": SWITCHES}
    groups = groups.sort_values(
        list(orders), key=lambda column: column.map(orders[column.name].index), kind="stable", ignore_index=True
    )
    first = ["iteration", "weights_of", "switch", "own", "noise", "group"]
    groups = groups[[*first, *groups.columns.difference(first, sort=False)]]
    wide = _wide(groups, dict(zip(settings.points, settings.stages, strict=True)))
    return {"table3": wide, "table3_groups": groups, "table3_same_weights": _switch(groups), "table3_exact": exact()}


def _piece(recording: Recording, run: Run, crops: data.Crops, context: Context) -> Piece:
    """Return the piece of one recording, with one row per group."""
    key = recording._asdict() | {"weights": run.digest(recording.iteration), "deterministic": context.deterministic}
    key |= {"run": run.folder.name}  # determines seed, batch, lambda, images and precision

    def measure(advance: Advance) -> Tables:
        end = run.settings.steps
        batches: Any = crops.batch(end) if recording.noise == NOISES[0] else lambda t: crops.batch(end + t)
        codec = run.codec(recording.iteration, context.device)
        codec.precision = run.settings.precision  # compute gradients as in training
        recorder = gradients.compare_direct_y(
            codec, batches, run.settings.lam, recording.draws, (recording.switch,), seed=context.seed, advance=advance
        )[recording.switch]
        rows = recorder.summary().assign(
            iteration=recording.iteration,
            weights_of=recording.method,
            switch=recording.switch,
            own=recording.own,
            noise=recording.noise,
        )
        return {"table3_groups": rows}

    parts = (recording.method, recording.iteration, recording.switch, recording.noise, recording.draws)
    return Piece("-".join(map(str, parts)).replace(" ", "-"), measure, key, recording.draws)


def _wide(groups: pd.DataFrame, stages: dict[int, str]) -> pd.DataFrame:
    """Return the paper's layout: one row per point and method, with noise only and own weights."""
    own_weights = groups[groups["own"] & (groups["noise"] == "noise")].set_index(["iteration", "weights_of", "group"])
    rows = []
    for (iteration, stage), method in itertools.product(stages.items(), METHODS):
        row = {"iteration": iteration, "stage": stage, "method": method}
        for group in GROUPS:
            measured = own_weights.loc[(iteration, method, group)]
            where = {"iteration": stage, "method": methods.PAPER_METHODS[method]}
            printed = paper.value(3, group, **where) if stage in STAGES else math.nan
            row |= {group: measured["snr"], f"{group}_se": measured["snr_se"], f"{group}_paper": printed}
        rows.append(row | {"noise_floor": measured["noise_floor"], "draws": measured["draws"]})
    return pd.DataFrame(rows)


def _switch(groups: pd.DataFrame) -> pd.DataFrame:
    """Return the ratios (2-level over direct-y) of each group's gradient variance, mean and SNR at the same weights."""
    columns = ["variance_trace", "mean_norm", "snr", "snr_corrected"]
    values = groups.set_index(["switch", "iteration", "weights_of", "noise", "group"])[columns]
    return (values.loc["2-level"] / values.loc["direct-y"]).add_suffix("_ratio").reset_index()


def exact() -> pd.DataFrame:
    """Compute the SNR of each group of the linear hierarchy, with and without direct-y, over the mean of the latent."""
    rows = []
    for phi in (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0):
        toy = problems.TwoLevel(phi, 1.7, (0.15, 0.9), (0.85, 0.35, 0.6), likelihood_std=0.95, prior_std=1.6)
        snr = toy.exact_snr().set_index(["direct_y", "group"])["snr"]
        for group in GROUPS:
            without, direct = snr[False, group], snr[True, group]
            rows.append({"phi": phi, "group": group, "2-level": without, "direct-y": direct, "ratio": without / direct})
    return pd.DataFrame(rows)


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide the ordering of Table 3 at each point, and the paper's explanation of it."""
    columns = ["z infer", "z infer_se", "z infer_paper"]
    snr, error, printed = (tables["table3"].pivot(index="iteration", columns="method")[column] for column in columns)
    se = (error**2).sum(axis=1, skipna=False) ** 0.5
    verdicts = [
        Verdict.compare(
            f"after {iteration} iterations, without direct-y the SNR of z infer is lower",
            "Table 3",
            Pair(
                snr.loc[[iteration], methods.TWO_LEVEL],
                snr.loc[[iteration], methods.BASELINE],
                paper=(printed.loc[iteration, methods.TWO_LEVEL], printed.loc[iteration, methods.BASELINE]),
                se=se,
            ),
            expect="lower",
            quantity="SNR of z infer without and with direct-y",
            unit="",
        )
        for iteration in snr.index
    ]
    words = {True: "lower", False: "higher", None: "undecided"}
    verdicts.append(
        Verdict(
            "without direct-y the SNR of z infer is lower at every point of training",
            "Table 3",
            every(verdict.holds for verdict in verdicts),
            f"without direct-y: {', '.join(words[verdict.holds] for verdict in verdicts)} after "
            f"{', '.join(map(str, snr.index))} iterations",
        )
    )
    same, groups = (
        table[(table["noise"] == "noise") & (table["group"] == "z infer") & (table["iteration"] == snr.index.max())]
        for table in (tables["table3_same_weights"], tables["table3_groups"])
    )
    ratios = ", ".join(f"{r.variance_trace_ratio:.2f} at the weights of the {r.weights_of}" for r in same.itertuples())
    values = groups[groups["own"]].set_index("switch")
    mean, variance = (values.loc["2-level", c] / values.loc["direct-y", c] for c in ("mean_norm", "variance_trace"))
    moved = same["mean_norm_ratio"]
    return [
        *verdicts,
        Verdict(
            "a second noisy argument raises the gradient variance of z infer (same weights and noise, switch flipped)",
            "section 2.3",
            bool((same["variance_trace_ratio"] > 1).all()),
            f"variance trace without over with direct-y, last point: {ratios}",
        ),
        Verdict(
            "the SNR of z infer differs between the two models because of its variance rather than its mean",
            "section 2.3",
            bool(abs(math.log(variance)) / 2 > abs(math.log(mean))),
            f"2-level over direct-y, at their own weights: variance x {variance:.2f}, norm of the mean x {mean:.2f}; "
            f"the switch alone moves that norm x {moved.min():.2f} and x {moved.max():.2f}, since each model is near a "
            "stationary point of its own objective and not of the other's",
        ),
    ]


def draw(folder: Path) -> None:
    """Draw the SNR of each group over training (own weights), and the effect of the switch on variance and SNR."""
    groups = files.read_csv(folder / "table3_groups.csv")
    groups = groups[groups["own"] & (groups["noise"] == "noise")]
    draws = " or ".join(map(str, sorted(groups["draws"].unique())))
    floor = groups.drop_duplicates("iteration")
    figure, axes = plots.figure(1, len(GROUPS), width="page", height=2.2)
    for ax, group in zip(axes, GROUPS, strict=True):
        plots.curves(ax, groups[groups["group"] == group], "iteration", "snr", "snr_se", "weights_of",
                     xlabel="iterations", ylabel=f"gradient SNR,\nn = {draws} draws",
                     order=ORDER)  # fmt: skip
        mark = "" if len(floor) > 1 else "_"  # a single point
        ax.plot(floor["iteration"], floor["noise_floor"], color="0.5", linewidth=0.8, linestyle=":", marker=mark,
                label="noise floor")  # fmt: skip
        plots.title(ax, group)
        ax.set_ylim(bottom=0)
        if ax is not axes[0]:
            ax.set_ylabel("")
    plots.shared_legend(figure, axes)
    plots.save(figure, folder / "table3")

    same = files.read_csv(folder / "table3_same_weights.csv")
    same = same[same["noise"] == "noise"]
    figure, axes = plots.figure(1, 2, width="page", height=2.7)
    last = same[same["iteration"] == same["iteration"].max()]
    last = last.assign(weights_of="at the weights of the " + last["weights_of"])
    panels = (
        ("variance_trace_ratio", "gradient variance (trace)", "linear"),
        ("snr_ratio", "gradient SNR", "log"),
    )
    for ax, (column, label, scale) in zip(axes, panels, strict=True):
        plots.bars(ax, last, "group", column, hue="weights_of", xlabel="same weights, same noise",
                   ylabel=f"{label},\n2-level over direct-y", yscale=scale, base=1,
                   order=[f"at the weights of the {name}" for name in ORDER])  # fmt: skip
        ax.axhline(1, color="0.3", linewidth=0.8)
    plots.shared_legend(figure, axes)
    plots.save(figure, folder / "table3_same_weights")

    linear = files.read_csv(folder / "table3_exact.csv")
    figure, ax = plots.figure(height=2.8)
    plots.curves(ax, linear, "phi", "ratio", None, "group", xlabel="mean of the latent y, in units of the box",
                 ylabel="SNR, 2-level over direct-y")  # fmt: skip
    ax.axhline(1, color="0.3", linewidth=0.8)
    plots.title(ax, "linear hierarchy, exact")
    plots.shared_legend(figure, [ax])
    plots.save(figure, folder / "table3_exact")


cli.script(__name__)
