"""Table 11: universal quantization compared with deterministic rounding, on the first test image.

Rounding is measured from a real bitstream and by likelihood; universal quantization by likelihood over several dithers,
because its rate is an entropy (see ``gradlab.evaluation.universal_quantization``). Uses the baseline of Table 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from gradlab import cli, evaluation
from gradlab.runtime import files
from gradlab.runtime.progress import Advance
from gradlab.study import Context, Piece, Tables, Verdict, evaluations, models, paper, plots
from gradlab.study.work import Work
from gradlab.training import TrainSettings
from gradlab_studies import _methods as methods

ASSUMED = methods.ASSUMED | {
    "rate of both rows": "the paper does not say whether its rates are of bitstreams or entropies",
}
ROUNDING, UNIVERSAL = "Deterministic Rounding", "Universal Quantization"
PAPER_COLUMNS = {"y bpp": "bpp_y", "z bpp": "bpp_z", "MSE": "mse", "RD Cost": "rd_cost"}


@dataclass(frozen=True)
class Settings:
    """The model and the dithers.

    Attributes:
        base: settings of the baseline.
        iterations: iterations after which the baseline is read.
        dithers: number of seeds of the shared dither.
        seed: random seed.
    """

    base: TrainSettings = methods.QUICK
    iterations: int = 3600
    dithers: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        models.check_kept(self.base, self.iterations)


PROFILES = {
    "quick": Settings(),
    "gpu": Settings(base=methods.GPU, iterations=methods.GPU.steps),
    "paper": Settings(base=methods.PAPER, iterations=methods.PAPER.steps),
}
SMALLEST = Settings(base=methods.SMALLEST, iterations=4, dithers=2)


def work(settings: Settings) -> list[Work]:
    """Return the work of this study."""
    coded = models.Variant(methods.BASELINE, settings.base, (settings.iterations,), {})
    rounded = Work("round", methods.BASELINE, settings.base, 1 + settings.dithers)
    return [*models.evaluation_work([coded]), rounded]


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Measure the first image, as in the paper, and in a second table every test image."""
    (run,) = models.train_all(context, [(methods.BASELINE, settings.base)])
    codec, lam = run.codec(settings.iterations, context.device), settings.base.lam
    pictures = models.test_pictures(context)
    key = models.key_of(run, settings.iterations, context)

    def piece(name: str, method: str, rate: str, dither: int, read: Callable[[Advance], pd.DataFrame]) -> Piece:
        def rows(advance: Advance) -> Tables:
            return {"table11_images": read(advance).assign(method=method, rate=rate, dither=dither)}

        # Rows from bitstreams are already kept in the folder of the run.
        return Piece(name, rows, None if rate == "bitstream" else key, len(pictures))

    coded = partial(evaluations.rate_distortion, run, settings.iterations, pictures, parts=context.parts)
    rounded = partial(evaluation.deterministic_rounding, codec, pictures, lam)
    pieces = [
        piece("bitstream", ROUNDING, "bitstream", -1, coded),
        piece("rounding", ROUNDING, "likelihood", -1, rounded),
    ]
    for dither in range(settings.dithers):
        # Spaced so that different seeds of the study do not share dithers.
        seed = 1000 * context.seed + dither
        dithered = partial(evaluation.universal_quantization, codec, pictures, lam, seed)
        pieces.append(piece(f"dither-{seed}", UNIVERSAL, "likelihood", dither, dithered))
    images = context.measure("evaluating", pieces)["table11_images"]
    images = images[["method", "rate", "dither", "image", "bpp", *PAPER_COLUMNS.values(), "psnr", "ms_ssim"]]
    rows = []
    first = images[images["image"] == pictures[0].name]
    for (method, rate), group in first.groupby(["method", "rate"], sort=False):
        row: dict[str, Any] = {"method": method, "rate": rate}
        for column, source in PAPER_COLUMNS.items():
            row[column] = group[source].mean()
            row[f"{column}_spread"] = group[source].std() if len(group) > 1 else 0.0
            row[f"{column}_paper"] = paper.value(11, column, method=method)
        row |= {"dithers": int((group["dither"] >= 0).sum()), "image": pictures[0].name}
        rows.append(row | {"seed": context.seed, "iterations": settings.iterations, "images": 1})
    return {"table11": pd.DataFrame(rows), "table11_images": images}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide the claims of A.8.2 and A.8.3: universal quantization has a higher cost and rate, though a lower MSE."""
    images = tables["table11_images"]
    images = images[images["rate"] == "likelihood"]
    table = tables["table11"].set_index(["method", "rate"])
    image, dithers = table["image"].iloc[0], table["dithers"].max()

    def judge(claim: str, column: str, sign: int) -> Verdict:
        values = images.set_index(["method", "image"])[PAPER_COLUMNS[column]]
        rounded = values[ROUNDING]
        universal = values[UNIVERSAL].groupby("image").agg(["min", "max", "mean"])
        low, high = sorted(sign * (universal.loc[image, ["min", "max"]] - rounded[image]))
        holds = True if low > 0 else False if high < 0 else None
        elsewhere = int((sign * (universal["mean"] - rounded) > 0).sum())
        printed = [table.loc[(method, "likelihood"), f"{column}_paper"] for method in (UNIVERSAL, ROUNDING)]
        evidence = (
            f"{column} of universal quantization {universal.loc[image, 'mean']:.4g} "
            f"({universal.loc[image, 'min']:.4g} to {universal.loc[image, 'max']:.4g} over "
            f"{dithers} dithers), of rounding {rounded[image]:.4g}, both by likelihood "
            f"(paper {printed[0]:.4g} and {printed[1]:.4g}); the same side on {elsewhere} of {len(rounded)} images"
        )
        return Verdict(claim, "Table 11", holds, evidence)

    return [
        judge("universal quantization has a higher R-D cost than deterministic rounding", "RD Cost", 1),
        judge("universal quantization raises the rate of y", "y bpp", 1),
        judge("universal quantization lowers the MSE", "MSE", -1),
    ]


def draw(folder: Path) -> None:
    """Draw the parts of the R-D cost of both methods."""
    table = files.read_csv(folder / "table11.csv")
    lam = ((table["RD Cost"] - table["y bpp"] - table["z bpp"]) / table["MSE"]).mean()
    parts = {"y": ("y bpp", 1.0), "z": ("z bpp", 1.0), "lambda MSE": ("MSE", lam), "R-D cost": ("RD Cost", 1.0)}
    rows = [
        {
            "part": part,
            "how": row["method"] + ", " + row["rate"],
            "bits": scale * row[column],
            "spread": scale * row[f"{column}_spread"],
        }
        for _, row in table.iterrows()
        for part, (column, scale) in parts.items()
    ]
    figure, ax = plots.figure(height=3.0)
    plots.bars(ax, pd.DataFrame(rows), "part", "bits", "spread", "how", xlabel="", ylabel="cost (bits per pixel)")
    plots.title(ax, f"{table['image'].iloc[0]}; bars: sd over {table['dithers'].max()} dithers")
    plots.shared_legend(figure, [ax])
    plots.save(figure, folder / "table11")


cli.script(__name__)
