"""Table 7: more samples compared with a larger batch: big batch, IWAE, MS-NIC-MIX and MS-NIC-DMS over the sample size.

All methods are compared after the same number of iterations, so a big batch sees k times as many images. In the paper
profile all methods train for the same number of epochs instead, as in Appendix A.5. If sizes coincide, the models are
those of Tables 1, 6 and 10.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Context, Verdict, models, paper, plots
from gradlab.study.verdicts import Pair
from gradlab.study.work import Work
from gradlab.training import TrainSettings
from gradlab_studies import _latents as shared
from gradlab_studies import _methods as methods
from gradlab_studies import table1

ASSUMED = methods.ASSUMED | {
    "length of training": "the same number of iterations for all; profile paper: of epochs (2000), A.5 to the letter",
}
COLUMNS = ("method", "sample_size", "size", "bpp", "MSE", "PSNR", "R-D cost", "bpp_estimate", "bpp_z", "MS-SSIM",
           "weighting", "batch")  # fmt: skip
PAPER_METHODS = {methods.MIX: "MS-NIC-MIX", methods.DMS: "MS-NIC-DMS"}
METHODS = (methods.BIG_BATCH, methods.IWAE, methods.MIX, methods.DMS)
SMALLEST_CHANGE = 0.5  # percent


@dataclass(frozen=True)
class Settings:
    """Methods and sizes.

    Attributes:
        base: settings of the baseline, read at ``iterations``.
        iterations: iterations of every method.
        sizes: sample sizes, or factors of the batch, for each of ``METHODS``.
        longer: method, size and last iteration of models that another study trains longer; they are read at
            ``iterations``.
        epochs: whether a big batch trains for as many epochs as the others, instead of as many iterations.
        equations: sizes at which MIX and DMS are also trained with the weights of the paper's equations (one for all
            terms, in nats) instead of its listing's; in a separate table.
        seed: random seed.
    """

    base: TrainSettings = methods.QUICK
    iterations: int = 900
    sizes: tuple[tuple[int, ...], ...] = ((3, 5), (5,), (3, 5), (3, 5))
    longer: tuple[tuple[str, int, int], ...] = ()
    epochs: bool = False
    equations: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        models.check_kept(self.base, self.iterations)


def _longer(profile: str) -> tuple[tuple[str, int, int], ...]:
    """Return method, sample size and last iteration of models that other studies train in a profile."""
    rates, latent = table1.PROFILES[profile], shared.PROFILES[profile]
    return (
        (methods.MIX, rates.k, rates.points[-1]),
        (methods.MIX, latent.k, latent.iterations),
        (methods.DMS, latent.k_dms, latent.iterations),
    )


ALL = (3, 5, 8, 16)
PROFILES = {
    "quick": Settings(longer=_longer("quick")),
    "gpu": Settings(base=methods.GPU, iterations=2_500, sizes=(ALL,) * 4, longer=_longer("gpu"), equations=(8,)),
    "paper": Settings(
        base=methods.PAPER,
        iterations=methods.PAPER.steps,
        sizes=(ALL,) * 4,
        longer=_longer("paper"),
        epochs=True,
        equations=ALL,
    ),
}
SMALLEST = Settings(
    base=methods.SMALLEST,
    iterations=2,
    sizes=((2,), (2,), (2,), (2,)),
    longer=((methods.MIX, 2, 4), (methods.DMS, 2, 4)),
    equations=(2,),
)


def _variant(name: str, k: int, run: TrainSettings, iterations: int, weighting: str = "per-term") -> models.Variant:
    size = methods.printed_size(name, k)
    printed = {"method": PAPER_METHODS.get(name, name), "sample_size": size}
    known = (paper.table(7)[list(printed)] == printed).all(axis=1).any()
    labels = {"method": name, "sample_size": size, "size": k, "batch": run.batch}
    labels["weighting"] = weighting if k > 1 and name != methods.BIG_BATCH else "-"
    return models.Variant(f"{name}, {k}", run, (iterations,), labels, printed if known else {})


def variants(settings: Settings) -> list[models.Variant]:
    """Return every method at every size, the baseline first."""
    listing = [_variant(methods.BASELINE, 1, settings.base, settings.iterations)]
    longer = {(name, k): last for name, k, last in settings.longer}
    for name, sizes in zip(METHODS, settings.sizes, strict=True):
        for k in sizes:
            run, iterations = methods.method(settings.base, name, k), settings.iterations
            if name == methods.BIG_BATCH and settings.epochs:
                run = methods.same_epochs(run, k)
                iterations = run.steps
            else:
                run = methods.shortened(run, max(longer.get((name, k), 0), iterations))
            listing.append(_variant(name, k, run, iterations))
    return listing


def by_equations(settings: Settings) -> list[models.Variant]:
    """Return MIX and DMS with the weights of the equations."""
    equations = []
    for name in (methods.MIX, methods.DMS):
        for k in settings.equations:
            run = methods.shortened(methods.method(settings.base, name, k, "joint", "nats"), settings.iterations)
            equations.append(_variant(name, k, run, settings.iterations, "joint"))
    return equations


def work(settings: Settings) -> list[Work]:
    """Return the work of this study."""
    return models.evaluation_work([*variants(settings), *by_equations(settings)])


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Train all methods and evaluate them with real bitstreams: one row per method and size.

    The models with the equations' weights are in a second table.
    """
    tables = models.rate_distortion(context, 7, variants(settings), COLUMNS, keys=("method", "size"))
    if settings.equations:
        tables |= models.rate_distortion(context, 7, by_equations(settings), COLUMNS, table="table7_equations")
    return tables


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide the claims of A.4: a larger batch hardly helps, the same number of samples does."""
    table = tables["table7"].set_index(["method", "size"])
    iterations = table["iterations"].max()
    sizes = {name: [k for method, k in table.index if method == name] for name in METHODS}
    both = [k for k in sizes[methods.BIG_BATCH] if k in sizes[methods.MIX] and k in sizes[methods.DMS]]
    columns = ["R-D cost", "R-D cost_paper"]

    def pair(name: str, k: int, other: tuple[str, int] = (methods.BASELINE, 1)) -> Pair:
        (cost, printed), (base, base_printed) = (table.loc[model, columns] for model in ((name, k), other))
        label = f"{PAPER_METHODS.get(name, name)} {methods.printed_size(name, k)}"
        return Pair({iterations: cost}, {iterations: base}, label, (printed, base_printed))

    return [
        Verdict.compare(
            "at the same k, MS-NIC has a lower R-D cost than a batch k times as large",
            "A.4, Table 7",
            [pair(name, k, (methods.BIG_BATCH, k)) for k in both for name in (methods.MIX, methods.DMS)],
            expect="lower",
            quantity="R-D cost over that of the big batch",
            smallest=SMALLEST_CHANGE,
        ),
        Verdict.compare(
            "increasing the batch only slightly affects the R-D cost",
            "A.4, Table 7",
            [pair(methods.BIG_BATCH, k) for k in sizes[methods.BIG_BATCH]],
            expect="similar",
            quantity="R-D cost over the baseline's",
            smallest=2.0,
        ),
        Verdict.compare(
            "IWAE (without direct-y) has a higher R-D cost than the baseline at every sample size",
            "Table 7",
            [pair(methods.IWAE, k) for k in sizes[methods.IWAE]],
            expect="higher",
            quantity="R-D cost over the baseline's",
            smallest=SMALLEST_CHANGE,
        ),
    ]


def draw(folder: Path) -> None:
    """Draw the R-D cost over the sample size or the factor of the batch."""
    table = files.read_csv(folder / "table7.csv")
    lines = table[table["method"] != methods.BASELINE]
    figure, axes = plots.figure(1, 2, width="page", height=2.7)
    panels = (("R-D cost", "here"), ("R-D cost_paper", "in the paper"))
    for ax, (column, where) in zip(axes, panels, strict=True):
        known = lines.dropna(subset=[column])
        plots.curves(ax, known, "size", column, None, "method", xlabel="samples k, or factor of the batch",
                     ylabel="R-D cost (bits per pixel)", order=list(METHODS))  # fmt: skip
        single = table.loc[table["method"] == methods.BASELINE, column].iloc[0]
        ax.axhline(single, color="0.3", linewidth=0.9, linestyle=":", label=methods.BASELINE)
        sizes = sorted(set(known["size"]))
        ax.set_xticks(sizes, [str(k) for k in sizes])
        count = f", {table['images'].iloc[0]} images, {table['iterations'].max()} iterations" if where == "here" else ""
        plots.title(ax, where + count)
    axes[1].set_ylabel("")
    plots.shared_legend(figure, axes)
    plots.save(figure, folder / "table7")


cli.script(__name__)
