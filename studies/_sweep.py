"""R-D sweeps: four methods over the lambdas, for Tables 8 and 9 (points) and Tables 4 and 5 (Bjontegaard's figures).

A pair of tables shares its models: what one has trained and coded, the other reads. All methods are compared after the
same numbers of iterations; an ordering counts where the last two agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from gradlab import data, evaluation
from gradlab.data import Picture
from gradlab.study import Context, Verdict, paper
from gradlab.study.pieces import Tables
from gradlab.study.work import Work
from gradlab.training import TrainSettings
from gradlab_studies import _models as models

LAMBDAS = (0.0016, 0.0032, 0.0075, 0.015, 0.03, 0.045, 0.08)
SPREAD = (0.0016, 0.0075, 0.03, 0.08)
COLUMNS = {"bpp": "bpp", "MSE": "mse", "PSNR": "psnr", "MS-SSIM": "ms_ssim"}
FIGURES = ("PSNR BD-BR (%)", "PSNR BD-Metric", "MS-SSIM BD-BR (%)", "MS-SSIM BD-Metric")
MIX = "MS-NIC-MIX"  # as Tables 4, 5, 8 and 9 print it
METHODS = {models.BASELINE: models.BASELINE, models.IWAE: models.IWAE, MIX: models.MIX, models.DMS: models.DMS}
MULTI = (models.IWAE, MIX, models.DMS)
SEVERE = 10.0
"""Percent of rate."""

ASSUMED = models.ASSUMED | {
    "sample size of IWAE in the sweeps": "5: at lambda 0.015 its row of Table 8 is Table 7's of 5 samples",
    "quick and gpu profiles": "four of the seven lambdas, the fewest that Bjontegaard's figures allow; fewer samples; "
    "one learning rate for every k along one cosine to 2 % of it",
}


@dataclass(frozen=True)
class Settings:
    """Models and points.

    Attributes:
        base: the baseline, but for lambda and channels.
        lams: lambdas, ascending.
        wide: channels from ``wide_from`` on.
        wide_from: the lambda at which the channels change; None for one size.
        samples: k of IWAE, of MIX, and of DMS (k = l).
        points: iterations at which all methods are compared; the last is the table's.
        test_crop: side of the central crop that is coded, pixels; 0 codes whole images. A context model decodes
            position by position, in Python.
    """

    base: TrainSettings
    lams: tuple[float, ...] = LAMBDAS
    wide: tuple[int, ...] = (192, 320)
    wide_from: float | None = None
    samples: tuple[int, int, int] = (5, 8, 16)
    points: tuple[int, ...] = (1_500_000, 2_000_000)
    test_crop: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        evaluation.check_lambdas(self.lams)

    def trained(self, name: str, lam: float) -> TrainSettings:
        """The run of a method at a lambda."""
        high = self.wide_from is not None and lam >= self.wide_from
        channels = self.wide if high else self.base.channels
        base = replace(self.base, lam=lam, channels=channels)
        return models.method(base, METHODS[name], self.k(name))

    def k(self, name: str) -> int:
        """Its sample size; 1 for the baseline."""
        return dict(zip(MULTI, self.samples, strict=True)).get(name, 1)

    def size(self, name: str) -> str:
        """The same, as Table 7 prints it."""
        k = self.k(name)
        return {models.BASELINE: "-", models.DMS: f"{k}, {k}"}.get(name, str(k))


def work(settings: Settings) -> list[Work]:
    """What a study of the sweep needs."""
    wanted = [(f"{n}, lambda {lam:g}", settings.trained(n, lam)) for lam in settings.lams for n in METHODS]
    return [one._replace(crop=settings.test_crop) for one in models.work(wanted, evaluate=settings.points)]


def pictures(settings: Settings, context: Context) -> list[Picture]:
    """Test images, cropped where the settings say so; the crop goes to the provenance."""
    whole = models.test_pictures(context)
    if not settings.test_crop:
        return whole
    cropped = []
    for picture in whole:
        height, width = picture.pixels.shape[1:]
        top, left = (max(0, (side - settings.test_crop) // 2) for side in (height, width))
        window = (slice(None), slice(top, top + settings.test_crop), slice(left, left + settings.test_crop))
        cropped.append(picture._replace(pixels=picture.pixels[window].contiguous()))
    context.inputs["test crops"] = data.fingerprint(cropped)
    return cropped


def points(n: int, settings: Settings, context: Context) -> tuple[pd.DataFrame, pd.DataFrame, list[Picture]]:
    """Every method at every lambda and iteration, beside the numbers of Table ``n``: means, per image, and the images.

    Raises:
        Stopped: the deadline has passed; what was trained and coded is kept.
    """
    wanted = [(name, lam) for lam in settings.lams for name in METHODS]
    images = pictures(settings, context)
    at_points = models.evaluation_of(work(settings), images)
    named = [(f"{name}, lambda {lam:g}", settings.trained(name, lam)) for name, lam in wanted]
    runs = models.train_all(context, named, evaluation=at_points)

    def rows(at: int, iteration: int, _: str, found: pd.DataFrame) -> Tables:
        name, lam = wanted[at]
        means = evaluation.summary(found)
        row: dict[str, Any] = {"method": name, "sample_size": settings.size(name), "lambda": lam}
        for column, source in COLUMNS.items():
            theirs = paper.value(n, column, method=name, lam=lam) if lam in LAMBDAS else math.nan
            row |= {column: means[source], f"{column}_paper": theirs}
        row |= {
            "R-D cost": means["rd_cost"],
            "bpp_y": means["bpp_y"],
            "bpp_z": means["bpp_z"],
            "bpp_estimate": means["bpp_estimate"],
            "psnr_of_mean_mse": means["psnr_of_mean_mse"],
            "seed": context.seed,
            "iterations": iteration,
            "images": len(images),
        }
        each = found.assign(**{"method": name, "lambda": lam, "iterations": iteration})
        return {f"table{n}": pd.DataFrame([row]), f"table{n}_images": each}

    tables = models.evaluated(context, at_points, runs, rows)
    order = {name: place for place, name in enumerate(METHODS)}
    table = tables[f"table{n}"].sort_values("method", key=lambda c: c.map(order), kind="stable", ignore_index=True)
    return table, tables[f"table{n}_images"], images


def curves(n: int, settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """The tables of an R-D study: its points, all iterations, all images, anchors, and published curves for Kodak."""
    table, per_image, images = points(n, settings, context)
    points_of = {name: len(evaluation.CLASSICAL_CODECS[name].qualities) for name in evaluation.available_codecs()}
    with context.progress.track("classical codecs", sum(points_of.values()) * len(images)) as advance:
        anchors = evaluation.classical_curves(evaluation.classical_codecs(images, advance=advance))
    published = evaluation.published_results()
    if not evaluation.is_kodak([p.name for p in images]) or settings.test_crop:
        published = published.iloc[:0]
    last = table[table["iterations"] == settings.points[-1]].reset_index(drop=True)
    training = table.drop(columns=[c for c in table.columns if c.endswith("_paper")])
    name = f"table{n}"
    return {name: last, f"{name}_training": training, f"{name}_images": per_image, f"{name}_anchors": anchors,
            f"{name}_references": published}  # fmt: skip


def deltas(n: int, source: int, settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Bjontegaard's figures against the baseline beside Table ``n``'s, from the models of Table ``source``."""
    table, _, _ = points(source, settings, context)
    found = []
    for iteration in settings.points:
        mine = evaluation.bd_table(table[table["iterations"] == iteration], models.BASELINE)
        for figure in FIGURES:
            theirs = [paper.value(n, figure, method=name) for name in mine["method"]]
            mine.insert(list(mine.columns).index(figure) + 1, f"{figure}_paper", theirs)
        mine.insert(1, "sample_size", [settings.size(name) for name in mine["method"]])
        found.append(mine.assign(seed=context.seed, iterations=iteration, images=table["images"].iloc[0]))
    last = found[-1].reset_index(drop=True)
    training = pd.concat(found, ignore_index=True)
    training = training.drop(columns=[c for c in training.columns if c.endswith("_paper")])
    return {f"table{n}": last, f"table{n}_training": training}


def saved(table: pd.DataFrame, name: str, figure: str = "PSNR BD-BR (%)") -> list[float]:
    """A figure of a method by pchip at each iteration, NaN where it is undefined."""
    mine = table[(table["method"] == name) & (table["interpolation"] == "pchip")].sort_values("iterations")
    return [float(value) for value in mine[figure]]


def undefined(table: pd.DataFrame) -> str:
    """Why pchip gives no BD-rate in PSNR after the last iteration, for the evidence; empty where it gives all."""
    last = table[(table["iterations"] == table["iterations"].max()) & (table["interpolation"] == "pchip")]
    reasons: dict[str, list[str]] = {}
    for row in last[last["method"].isin(MULTI) & last["PSNR BD-BR (%)"].isna()].to_dict("records"):
        reason = str(row["note"]).partition("; ")[0].partition(": pchip is undefined")[0].removeprefix("PSNR: ")
        reasons.setdefault(reason, []).append(str(row["method"]))
    return "".join(f"; {', '.join(names)}: {reason}" for reason, names in reasons.items())


def agreed(signs: list[list[bool | None]]) -> bool | None:
    """Whether conditions hold: each list is one condition over iterations; it counts where the last two agree."""
    said: list[bool | None] = []
    for each in signs:
        two = each[-2:]
        said.append(two[0] if two[0] is not None and len(set(two)) == 1 else None)
    if False in said:
        return False
    return None if None in said else True


def below(values: list[float], bound: float = 0.0) -> list[bool | None]:
    """For each value whether it is below the bound; None for NaN."""
    return [None if math.isnan(v) else v < bound for v in values]


def told(values: list[float], unit: str = " %") -> str:
    """``"-3.1 %, -3.8 %"``; ``"undefined"`` for NaN."""
    return ", ".join("undefined" if math.isnan(v) else f"{v:+.1f}{unit}" for v in values)


def printed(n: int, name: str, figure: str = "PSNR BD-BR (%)") -> str:
    """What the paper has for it, for the evidence."""
    return f"paper {told([paper.value(n, figure, method=name)])}"


def severe_loss(source: str, rates: list[float], after: str, why: str, theirs: str) -> Verdict:
    """IWAE without direct-y needs at least a tenth more rate than the baseline: what "severe" is taken for."""
    holds = agreed([[None if math.isnan(r) else r > SEVERE for r in rates]])
    evidence = f"{after}: IWAE {told(rates)} ({theirs}), severe being more than {SEVERE:g} %, one seed{why}"
    return Verdict("IWAE without direct-y suffers a severe loss", source, holds, evidence)


def costs(n: int, tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """R-D cost of each multi-sample method against the baseline's, lambda by lambda."""
    training, last = tables[f"table{n}_training"], tables[f"table{n}"]
    found = []
    for name in MULTI:
        worse = name == models.IWAE
        each, shares = [], []
        for lam in sorted(last["lambda"].unique()):
            at = training[training["lambda"] == lam].set_index(["method", "iterations"])["R-D cost"]
            change = (at[name] / at[models.BASELINE] - 1).sort_index().tolist()
            each.append([None if c == 0 else (c > 0) == worse for c in change])
            shares.append(f"{100 * change[-1]:+.1f} %")
        # Over the lambdas a majority is no decision: all of them, or none.
        said = [agreed([signs]) for signs in each]
        holds = said[0] if len(set(said)) == 1 else None
        evidence = (
            f"R-D cost of {name} over the baseline's after {last['iterations'].iloc[0]} iterations, from the lowest "
            f"lambda to the highest: {', '.join(shares)}; one seed, undecided where lambdas or iterations disagree"
        )
        word = "higher" if worse else "lower"
        claim = f"{name} has a {word} R-D cost than the baseline at every lambda"
        found.append(Verdict(claim, f"Table {n}", holds, evidence))
    return found
