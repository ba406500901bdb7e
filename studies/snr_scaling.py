"""SNR of inference and generative gradients over the sample sizes K and M: Rainforth's Gaussian model, and the box.

Rainforth et al. (2018): with K samples in the bound and M averaged estimates, the SNR of inference gradients scales as
sqrt(M/K), and the SNR of generative gradients as sqrt(M K). The paper relies on this (A.4, A.9) for a posterior to
which the argument does not apply: on the unit box, once K is large enough that the flux through the walls dominates,
the inference SNR grows as sqrt(K). Box curves are exact.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import gradlab as gl
from gradlab import cli
from gradlab.problems import scaling
from gradlab.problems.rainforth import RainforthModel
from gradlab.runtime import files
from gradlab.study import Context, Verdict, plots

PARTS = {"b": "inference", "mu": "generative"}
COLUMNS = ["model", "part", "over", "k", "m", "snr", "snr_se", "draws"]
# (x, likelihood_std) at phi = 0.3: far from the optimum of a wide likelihood, and near the optimum of a narrow one.
BOXES = {"box, wide": (1.0, 0.2), "box, narrow": (0.5, 0.1)}
BOX_K = tuple(sorted({round(10 ** (i / 4)) for i in range(25)}))
ASSUMED = {
    "signal": "DReG on the same noise, its own noise taken off (the plug-in SNR has a floor that flattens the law)",
    "SNR of a group": "sqrt(sum mean^2 / sum variance) over data points and coordinates",
}


@dataclass(frozen=True)
class Settings:
    """Sizes; the model is that of Rainforth et al. (D = 20, covariance 2/3, perturbation 0.01).

    Attributes:
        k: numbers of samples in the bound, at M = 1.
        m: numbers of averaged estimates, at K = 1.
        data: number of data points; Rainforth et al. use 1024, and the slopes do not depend on it.
        draws: gradients per pair (K, M).
        asymptotic: smallest K of the fits of slopes over K.
        seed: random seed.
    """

    k: tuple[int, ...] = (1, 4, 16, 64, 256)
    m: tuple[int, ...] = (1, 4, 16, 64)
    data: int = 16
    draws: int = 160
    asymptotic: int = 16
    seed: int = 0


PROFILES = {
    "quick": Settings(),
    "gpu": Settings(k=(1, 3, 10, 30, 100, 300, 1000), m=(1, 10, 100, 1000), draws=1600),
    "paper": Settings(k=(1, 3, 10, 30, 100, 300, 1000), m=(1, 10, 100, 1000), data=1024, draws=10_000),
}
SMALLEST = Settings(k=(1, 2, 4), m=(1, 2), data=2, draws=32, asymptotic=2)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Measure the SNR at each K and M, fit slopes with 95 % intervals, and compute the exact curves of the box."""
    model = RainforthModel(settings.data, seed=settings.seed)
    with context.progress.track("Gaussian model", len(settings.k) + len(settings.m)) as advance:
        over_k = scaling.rainforth_snr(model, settings.k, (1,), settings.draws, settings.seed, advance=advance)
        over_m = scaling.rainforth_snr(model, (1,), settings.m, settings.draws, settings.seed, advance=advance)
    slopes, curves = [], []
    for parameter, part in PARTS.items():
        for over, table in (("k", over_k), ("m", over_m)):
            line = {"model": "Gaussian", "part": part, "over": over}
            rows = table[table["parameter"] == parameter]
            curves.append(rows.assign(**line)[COLUMNS])
            late = rows[(rows["k"] >= settings.asymptotic) | (over == "m")]
            theory = -0.5 if (part, over) == ("inference", "k") else 0.5
            slopes.append(line | {"theory": theory, **scaling.slope(late, over)._asdict()})
    for name, (x, std) in BOXES.items():
        problem = gl.problems.BoxGaussian(0.3, x, likelihood_std=std)
        for part, wrt in (("inference", "phi"), ("generative", "slope")):
            line = {"model": name, "part": part, "over": "k"}
            moments = {k: problem.exact_moments("pathwise", k, wrt=wrt) for k in BOX_K}
            snr = {k: abs(mean) / math.sqrt(variance) for k, (mean, variance) in moments.items()}
            rows = pd.DataFrame({"k": BOX_K, "m": 1, "snr": snr.values(), "snr_se": 0.0, "draws": 0})
            curves.append(rows.assign(**line)[COLUMNS])
            last = math.log10(snr[10**6] / snr[10**5])  # exact: no interval
            slopes.append(line | {"theory": 0.5, "value": last, "low": last, "high": last})
    return {
        "snr-scaling": pd.concat(curves, ignore_index=True),
        "slopes": pd.DataFrame(slopes).rename(columns={"value": "slope"}),
    }


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide Rainforth's law on the Gaussian model and on the box."""
    rows = tables["slopes"].set_index(["model", "part", "over"])
    slope = rows["slope"]
    table = tables["snr-scaling"]
    narrow = table[(table["model"] == "box, narrow") & (table["part"] == "inference")].set_index("k")["snr"]

    def law(part: str, over: str, claim: str) -> Verdict:
        row = rows.loc[("Gaussian", part, over)]
        evidence = (
            f"slope {row['slope']:+.3f}, 95 % interval {row['low']:+.3f} to {row['high']:+.3f} "
            f"(theory {row['theory']:+.1f})"
        )
        holds = bool(abs(row["slope"] - row["theory"]) < 0.05)
        return Verdict(claim, "Rainforth et al. 2018, on their Gaussian model", holds, evidence)

    end = slope["box, wide", "inference", "k"]
    inference, generative = (slope["Gaussian", part, "k"] for part in PARTS.values())
    return [
        law("inference", "k", "the SNR of inference gradients falls as 1/sqrt(K)"),
        law("generative", "k", "the SNR of generative gradients grows as sqrt(K)"),
        law("inference", "m", "averaging M estimates raises the inference SNR as sqrt(M)"),
        Verdict("MS-NIC also suffers from the vanishing of the inference SNR as the sample size grows", "A.4, A.9",
                bool(end < 0), f"on the box the exact SNR ends up growing, slope {end:+.3f} at K = 10^6; near the "
                f"optimum of a narrow likelihood it first falls, {narrow.iloc[0]:.2f} to {narrow.min():.4f} at "
                f"K = {narrow.idxmin()} (1-D)"),
        Verdict("encoder and decoder gradient SNR scale at the same rate in M/K (as printed)", "A.9",
                bool(abs(inference - generative) < 0.1),
                f"slopes over K: {inference:+.2f} (inference), {generative:+.2f} (generative)"),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw the measured SNR over K and M on the Gaussian model, and the exact SNR over K on the box."""
    table = files.read_csv(folder / "snr-scaling.csv")
    slopes = files.read_csv(folder / "slopes.csv").set_index(["model", "part", "over"])["slope"]
    lines = table[["model", "part", "over"]].itertuples(index=False, name=None)
    table["line"] = [f"{line[1]}, slope {slopes[line]:+.2f}" for line in lines]
    figure, axes = plots.figure(2, 3, width="page", height=3.6, gridspec_kw={"height_ratios": [4, 1]})
    for ax, over in zip(axes[0], ("k", "m"), strict=False):
        rows = table[(table["model"] == "Gaussian") & (table["over"] == over)]
        plots.curves(ax, rows, over, "snr", "snr_se", "line", xlabel=f"samples {over.upper()}", ylabel="SNR",
                     xscale="log", yscale="log", title=f"Gaussian model, n = {rows['draws'].iloc[0]}")  # fmt: skip
    box = table[table["model"] != "Gaussian"].copy()
    box["name"] = box["model"].str.replace("box, ", "") + ", " + box["line"]
    plots.curves(axes[0, 2], box, "k", "snr", None, "name", mode="lines", xlabel="samples K", ylabel="SNR",
                 xscale="log", yscale="log", title="unit box, exact")  # fmt: skip
    for ax, below in zip(*axes, strict=True):
        plots.shared_legend(figure, [ax], at=below)
    plots.save(figure, folder / "snr-scaling")


cli.script(__name__)
