"""Table 7: more samples against a larger batch: big batch, IWAE, MS-NIC-MIX and MS-NIC-DMS over the sample size.

All methods are compared after the same number of iterations, so that a big batch sees k times the images; the paper
profile gives all of them the same number of epochs instead, as Appendix A.5 says. Where sizes coincide the models are
those of Tables 1, 6 and 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gradlab import cli, evaluation
from gradlab.runtime import files
from gradlab.study import Context, Verdict, paper, plots
from gradlab.study.pieces import Tables
from gradlab.study.work import Work
from gradlab.training import Loss, TrainSettings
from gradlab_studies import _latents as shared
from gradlab_studies import _models as models
from gradlab_studies import table1

ASSUMED = models.ASSUMED | {
    "length of training": "the same number of iterations for all; profile paper: of epochs (2000), A.5 to the letter",
}
PAPER_COLUMNS = {"bpp": "bpp", "MSE": "mse", "PSNR": "psnr", "R-D cost": "rd_cost"}
METHODS = (models.BIG_BATCH, models.IWAE, models.MIX, models.DMS)
SMALLEST_CHANGE = 0.005


@dataclass(frozen=True)
class Settings:
    """Methods and sizes.

    Attributes:
        base: the baseline, read at ``iterations``.
        iterations: of every method.
        sizes: samples, or factors of the batch, for each of ``METHODS``.
        longer: sizes of MIX and of DMS that another study trains longer, and by which iteration: read there.
        epochs: whether a big batch trains for as many epochs as the others instead of as many iterations.
        equations: sizes at which MIX and DMS are also trained by the weights of the paper's equations (one for all
            terms, in nats) instead of its listing's; a table of its own.
    """

    base: TrainSettings = models.QUICK
    iterations: int = 900
    sizes: tuple[tuple[int, ...], ...] = ((3, 5), (5,), (3, 5), (3, 5))
    longer: tuple[tuple[str, int, int], ...] = ()
    epochs: bool = False
    equations: tuple[int, ...] = ()
    seed: int = 0


def _longer(profile: str) -> tuple[tuple[str, int, int], ...]:
    """What Table 1 and the latents' studies train in a profile: method, sample size, last iteration."""
    one, latent = table1.PROFILES[profile], shared.PROFILES[profile]
    return (
        (models.MIX, one.k, one.points[-1]),
        (models.MIX, latent.k, latent.iterations),
        (models.DMS, latent.k_dms, latent.iterations),
    )


ALL = (3, 5, 8, 16)
PROFILES = {
    "quick": Settings(longer=_longer("quick")),
    "gpu": Settings(base=models.GPU, iterations=2_500, sizes=(ALL,) * 4, longer=_longer("gpu"), equations=(8,)),
    "paper": Settings(
        base=models.PAPER,
        iterations=models.PAPER.steps,
        sizes=(ALL,) * 4,
        longer=_longer("paper"),
        epochs=True,
        equations=ALL,
    ),
}
SMALLEST = Settings(
    base=models.SMALLEST,
    iterations=2,
    sizes=((2,), (2,), (2,), (2,)),
    longer=((models.MIX, 2, 4), (models.DMS, 2, 4)),
    equations=(2,),
)


def trained(settings: Settings) -> list[tuple[str, int, TrainSettings, int]]:
    """Method, size, how it is trained, and the iteration at which it is read; the baseline first."""
    found = [(models.BASELINE, 1, settings.base, settings.iterations)]
    longer = {(name, k): last for name, k, last in settings.longer}
    for name, sizes in zip(METHODS, settings.sizes, strict=True):
        for k in sizes:
            wanted = models.method(settings.base, name, k)
            if name == models.BIG_BATCH and settings.epochs:
                wanted = models.same_epochs(wanted, k)
                found.append((name, k, wanted, wanted.steps))
                continue
            last = max(longer.get((name, k), 0), settings.iterations)
            found.append((name, k, models.shortened(wanted, last), settings.iterations))
    return found


def by_equations(settings: Settings) -> list[tuple[str, int, TrainSettings, int]]:
    """MIX and DMS with the weights of the equations, as ``trained`` gives the others."""
    return [
        (name, k, models.shortened(models.method(settings.base, name, k, "joint", "nats"), settings.iterations),
         settings.iterations)
        for name in (models.MIX, models.DMS)
        for k in settings.equations
    ]  # fmt: skip


def work(settings: Settings) -> list[Work]:
    """What it needs."""
    found = []
    for name, k, trained_with, iteration in [*trained(settings), *by_equations(settings)]:
        found += models.work([(f"{name}, {k}", trained_with)], evaluate=(iteration,))
    return found


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Train, evaluate with real bitstreams, one row per method and size; the equations' weights in a second table."""
    tables = _measured("table7", trained(settings), context)
    second = by_equations(settings)
    if second:
        tables["table7_equations"] = _measured("table7_equations", second, context)["table7_equations"]
    return tables


def _measured(
    table: str, wanted: list[tuple[str, int, TrainSettings, int]], context: Context
) -> dict[str, pd.DataFrame]:
    pictures = models.test_pictures(context)
    points = models.Evaluation(pictures, [[(iteration, "")] for *_, iteration in wanted])
    runs = models.train_all(context, [(f"{name}, {k}", s) for name, k, s, _ in wanted], evaluation=points)

    def rows(at: int, iteration: int, _: str, found: pd.DataFrame) -> Tables:
        name, k, trained_with, _iteration = wanted[at]
        means = evaluation.summary(found)
        row: dict[str, Any] = {"method": name, "sample_size": _printed(name, k), "size": k}
        for column, source in PAPER_COLUMNS.items():
            row |= {column: means[source], f"{column}_paper": _paper(name, k, column)}
        row |= {
            "bpp_estimate": means["bpp_estimate"],
            "bpp_z": means["bpp_z"],
            "MS-SSIM": means["ms_ssim"],
            "weighting": _weighting(trained_with),
            "batch": trained_with.batch,
            "seed": context.seed,
            "iterations": iteration,
            "images": len(pictures),
        }
        return {table: pd.DataFrame([row]), f"{table}_images": found.assign(method=name, size=k)}

    return models.evaluated(context, points, runs, rows)


def _weighting(settings: TrainSettings) -> str:
    """Of the samples, where there are several."""
    return settings.loss.weighting if isinstance(settings.loss, Loss) and settings.loss.k > 1 else "-"


def _printed(name: str, k: int) -> str:
    """The sample size as the paper prints it."""
    return {models.BASELINE: "-", models.BIG_BATCH: f"x{k}", models.DMS: f"{k}, {k}"}.get(name, str(k))


def _paper(name: str, k: int, column: str) -> float:
    """The paper's number, NaN where it has no such size."""
    known = paper.table(7)
    method = shared.PAPER_METHODS[name] if name in (models.MIX, models.DMS) else name
    size = _printed(name, k)
    there = ((known["method"] == method) & (known["sample_size"] == size)).any()
    return paper.value(7, column, method=method, sample_size=size) if there else float("nan")


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """A.4: a larger batch hardly helps; the same number of samples does."""
    table = tables["table7"].set_index(["method", "size"])["R-D cost"]
    theirs = tables["table7"].set_index(["method", "size"])["R-D cost_paper"]
    iterations, base = tables["table7"]["iterations"].max(), table[models.BASELINE, 1]

    def over(values: pd.Series, name: str, k: int, other: float) -> float:
        return values[name, k] / other - 1

    def all_agree(changes: list[float], sign: int) -> bool | None:
        """Whether every change is on one side; undecided where they differ or one is below half a percent."""
        each = {None if abs(c) < SMALLEST_CHANGE else bool(sign * c > 0) for c in changes}
        return each.pop() if len(each) == 1 else None

    sizes = {name: [k for n, k in table.index if n == name] for name in METHODS}
    both = [k for k in sizes[models.BIG_BATCH] if k in sizes[models.MIX] and k in sizes[models.DMS]]
    against = {(n, k): over(table, n, k, table[models.BIG_BATCH, k]) for k in both for n in (models.MIX, models.DMS)}
    said = ", ".join(
        f"{shared.PAPER_METHODS[n]} {k}: {100 * c:+.1f} % "
        f"(paper {100 * over(theirs, n, k, theirs[models.BIG_BATCH, k]):+.1f} %)"
        for (n, k), c in against.items()
    )
    big = {k: over(table, models.BIG_BATCH, k, base) for k in sizes[models.BIG_BATCH]}
    multi = {f"{n} {k}": over(table, n, k, base) for n in (models.IWAE, models.MIX, models.DMS) for k in sizes[n]}
    alone = ", ".join(
        f"x{k}: {100 * c:+.1f} % (paper {100 * over(theirs, models.BIG_BATCH, k, theirs[models.BASELINE, 1]):+.1f} %)"
        for k, c in big.items()
    )
    iwae = [c for n, c in multi.items() if n.startswith(models.IWAE)]
    names = ", ".join(f"{k}: {100 * c:+.1f} %" for k, c in zip(sizes[models.IWAE], iwae, strict=True))
    end = f"after {iterations} iterations, one seed"
    return [
        Verdict(
            "at the same k, MS-NIC has a lower R-D cost than a batch k times as large",
            "A.4, Table 7",
            all_agree(list(against.values()), -1),
            f"R-D cost over that of the big batch: {said}; {end}",
        ),
        Verdict(
            "increasing the batch only slightly affects the R-D cost",
            "A.4, Table 7",
            bool(max(map(abs, big.values())) < 0.02),
            f"R-D cost over the baseline's: {alone}; slightly is read as below 2 %; {end}",
        ),
        Verdict(
            "IWAE (without direct-y) has a higher R-D cost than the baseline at every sample size",
            "Table 7",
            all_agree(iwae, 1),
            f"R-D cost over the baseline's: {names}; {end}",
        ),
    ]


def draw(folder: Path) -> None:
    """R-D cost over the sample size or the factor of the batch."""
    table = files.read_csv(folder / "table7.csv")
    lines = table[table["method"] != models.BASELINE]
    figure, axes = plots.figure(1, 2, width="page", height=2.7)
    panels = (("R-D cost", "here"), ("R-D cost_paper", "in the paper"))
    for ax, (column, where) in zip(axes, panels, strict=True):
        known = lines.dropna(subset=[column])
        plots.curves(ax, known, "size", column, None, "method", xlabel="samples k, or factor of the batch",
                     ylabel="R-D cost (bits per pixel)", order=list(METHODS))  # fmt: skip
        single = table.loc[table["method"] == models.BASELINE, column].iloc[0]
        ax.axhline(single, color="0.3", linewidth=0.9, linestyle=":", label=models.BASELINE)
        sizes = sorted(set(known["size"]))
        ax.set_xticks(sizes, [str(k) for k in sizes])
        count = f", {table['images'].iloc[0]} images, {table['iterations'].max()} iterations" if where == "here" else ""
        plots.title(ax, where + count)
    axes[1].set_ylabel("")
    plots.shared_legend(figure, axes)
    plots.save(figure, folder / "table7")


cli.script(__name__)
