"""SNR of inference and generative gradients over the samples K and M: Rainforth's Gaussian model, and the box.

Rainforth et al. (2018): with K samples in the bound and M estimates averaged, the SNR of inference gradients goes as
sqrt(M/K) and that of generative gradients as sqrt(M K). The paper leans on this (A.4, A.9) for a posterior to which the
argument does not apply: on the unit box, past the K at which the flux through the walls dominates, the inference SNR
grows as sqrt(K). Box curves are exact.
"""

from __future__ import annotations

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
# (x, likelihood_std) at phi = 0.3: far from the optimum of a wide likelihood, and near that of a narrow one.
BOXES = {"box, wide": (1.0, 0.2), "box, narrow": (0.5, 0.1)}
BOX_K = tuple(sorted({round(10 ** (i / 4)) for i in range(25)}))
ASSUMED = {
    "signal": "DReG on the same noise, its own noise taken off (the plug-in SNR has a floor that flattens the law)",
    "SNR of a group": "sqrt(sum mean^2 / sum variance) over data points and coordinates",
}


@dataclass(frozen=True)
class Settings:
    """Sizes; the model is Rainforth et al.'s (D = 20, covariance 2/3, perturbation 0.01).

    Attributes:
        k: samples in the bound (at M = 1); m: averaged estimates (at K = 1).
        data: data points; Rainforth et al. use 1024, the slopes do not depend on it.
        draws: gradients per pair (K, M).
        asymptotic: slopes over K are fitted from here on.
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
    """SNR at each K and M (measured), slopes with 95 % intervals, and the box's exact curves."""
    model = RainforthModel(settings.data, seed=settings.seed)
    with context.progress.track("Gaussian model", len(settings.k) + len(settings.m)) as advance:
        over_k = scaling.rainforth_snr(model, settings.k, (1,), settings.draws, settings.seed, advance=advance)
        over_m = scaling.rainforth_snr(model, (1,), settings.m, settings.draws, settings.seed, advance=advance)
    slopes, rows = [], []
    for parameter, part in PARTS.items():
        late = over_k[(over_k["parameter"] == parameter) & (over_k["k"] >= settings.asymptotic)]
        for over, table in (("k", late), ("m", over_m[over_m["parameter"] == parameter])):
            found = scaling.slope(table, over)
            theory = -0.5 if (part, over) == ("inference", "k") else 0.5
            slopes.append({"model": "Gaussian", "part": part, "over": over, "theory": theory, **found._asdict()})
        for over, table in (("k", over_k), ("m", over_m)):
            mine = table[table["parameter"] == parameter]
            kept = mine[["k", "m", "snr", "snr_se", "draws"]]
            rows += kept.assign(model="Gaussian", part=part, over=over).to_dict("records")
    for name, (x, std) in BOXES.items():
        problem = gl.problems.BoxGaussian(0.3, x, likelihood_std=std)
        for part, wrt in (("inference", "phi"), ("generative", "slope")):
            snr = {}
            for k in BOX_K:
                mean, variance = problem.exact_moments("pathwise", k, wrt=wrt)
                snr[k] = abs(mean) / math.sqrt(variance)
            curve = {"model": name, "part": part, "over": "k", "m": 1, "snr_se": 0.0, "draws": 0}
            rows += [curve | {"k": k, "snr": value} for k, value in snr.items()]
            last = math.log10(snr[10**6] / snr[10**5])  # exact: no interval
            slopes.append(
                {"model": name, "part": part, "over": "k", "theory": 0.5} | dict(value=last, low=last, high=last)
            )
    first = ["model", "part", "over", "k", "m", "snr", "snr_se", "draws"]
    return {"snr-scaling": pd.DataFrame(rows)[first], "slopes": pd.DataFrame(slopes).rename(columns={"value": "slope"})}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Rainforth's law on the Gaussian model, and what becomes of it on the box."""
    slopes = tables["slopes"].set_index(["model", "part", "over"])
    found = []
    for part, over, claim in (
        ("inference", "k", "the SNR of inference gradients falls as 1/sqrt(K)"),
        ("generative", "k", "the SNR of generative gradients grows as sqrt(K)"),
        ("inference", "m", "averaging M estimates raises the inference SNR as sqrt(M)"),
    ):
        row = slopes.loc[("Gaussian", part, over)]
        holds = bool(abs(row["slope"] - row["theory"]) < 0.05)
        interval = f"95 % interval {row['low']:+.3f} to {row['high']:+.3f}"
        evidence = f"slope {row['slope']:+.3f}, {interval} (theory {row['theory']:+.1f})"
        found.append(Verdict(claim, "Rainforth et al. 2018, on their Gaussian model", holds, evidence))
    curves = tables["snr-scaling"]
    narrow = curves[(curves["model"] == "box, narrow") & (curves["part"] == "inference")].set_index("k")["snr"]
    end = slopes.loc[("box, wide", "inference", "k"), "slope"]
    found.append(
        Verdict(
            "MS-NIC also suffers from the vanishing of the inference SNR as the sample size grows",
            "A.4, A.9",
            bool(end < 0),
            f"on the box the exact SNR ends up growing, slope {end:+.3f} at K = 10^6; near the optimum of a narrow "
            f"likelihood it first falls, {narrow.iloc[0]:.2f} to {narrow.min():.4f} at K = {narrow.idxmin()} (1-D)",
        )
    )
    inference, generative = (slopes.loc[("Gaussian", part, "k"), "slope"] for part in PARTS.values())
    found.append(
        Verdict(
            "encoder and decoder gradient SNR scale at the same rate in M/K (as printed)",
            "A.9",
            bool(abs(inference - generative) < 0.1),
            f"slopes over K: {inference:+.2f} (inference), {generative:+.2f} (generative)",
        )
    )
    return found


def draw(folder: Path) -> None:
    """Measured SNR over K and M on the Gaussian model; exact SNR over K on the box (slope at its end)."""
    table = files.read_csv(folder / "snr-scaling.csv")
    slopes = files.read_csv(folder / "slopes.csv").set_index(["model", "part", "over"])["slope"]
    table["line"] = [
        f"{part}, slope {slopes[model, part, over]:+.2f}"
        for model, part, over in table[["model", "part", "over"]].values
    ]
    figure, axes = plots.figure(2, 3, width="page", height=3.6, gridspec_kw={"height_ratios": [4, 1]})
    for ax, over in zip(axes[0], ("k", "m"), strict=False):
        rows = table[(table["model"] == "Gaussian") & (table["over"] == over)]
        plots.curves(ax, rows, over, "snr", "snr_se", "line", xlabel=f"samples {over.upper()}",
                     ylabel="SNR", xscale="log", yscale="log")  # fmt: skip
        plots.title(ax, f"Gaussian model, n = {rows['draws'].iloc[0]}")
    box = table[table["model"] != "Gaussian"].copy()
    box["name"] = box["model"].str.replace("box, ", "") + ", " + box["line"]
    plots.curves(axes[0, 2], box, "k", "snr", None, "name", mode="lines", xlabel="samples K", ylabel="SNR",
                 xscale="log", yscale="log")  # fmt: skip
    plots.title(axes[0, 2], "unit box, exact")
    for ax, below in zip(*axes, strict=True):
        plots.shared_legend(figure, [ax], at=below)
    plots.save(figure, folder / "snr-scaling")


cli.script(__name__)
