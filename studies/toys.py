"""Bias, variance and SNR of every estimator on the unit box and on a Normal, measured and exact.

Sections 2.1 and 2.2 of the paper: on the unit box the pathwise estimator equals STL and is unbiased, score-function
estimates are exactly zero, and DReG is biased by the boundary term that its derivation drops. A Normal posterior of the
same variance is the control.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from matplotlib.colors import Normalize

import gradlab as gl
from gradlab import cli
from gradlab.noise import stream, uniform
from gradlab.problems.base import Problem
from gradlab.problems.budget import at_equal_cost
from gradlab.runtime import files
from gradlab.study import Advance, Context, Piece, Tables, Verdict, plots


@dataclass(frozen=True)
class Settings:
    """Sizes of the study; the target is log N(x; y, likelihood_std^2) + log N(y; 0, 1).

    Attributes:
        k: numbers of samples.
        draws: Monte-Carlo draws.
        budget: evaluations of log w at which mean squared errors are compared.
        phi: mean of the posterior.
        x: observation.
        likelihood_std: standard deviation of the likelihood.
        seed: random seed.
    """

    k: tuple[int, ...] = (1, 2, 5, 8, 16, 64, 256, 1024)
    draws: int = 10_000
    budget: int = 10_000
    phi: float = 0.3
    x: float = 1.0
    likelihood_std: float = 0.5
    seed: int = 0


PROFILES = {"quick": Settings()} | dict.fromkeys(("gpu", "paper"), Settings(draws=1_000_000))
SMALLEST = Settings(k=(1, 4), draws=200)
# Exact and measured column, standard error, label, and the smallest value shown.
PANELS = (
    ("exact_abs_bias", "abs_bias", "bias_se", "|bias| (nats / unit of phi)", 1e-9),
    ("exact_variance", "variance", "variance_se", "variance (nats / unit)$^2$", 0.0),
    ("exact_snr", "snr", "snr_se", "SNR of one draw", 1e-6),
    ("exact_rmse", "rmse", "no_se", "rms error (nats / unit)", 1e-9),
)


def problems(settings: Settings) -> dict[str, Problem]:
    """Return the box of the paper, and a Normal of the same mean and variance (1/12)."""
    x, std = settings.x, settings.likelihood_std
    return {
        "box": gl.problems.BoxGaussian(settings.phi, x, likelihood_std=std),
        "normal": gl.problems.NormalGaussian(settings.phi, 1 / math.sqrt(12), x, likelihood_std=std),
    }


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Compare every estimator on every posterior at every k; ``reason`` explains why a pair is biased or undefined.

    ``dreg-squared`` is omitted: for a bound in nats it equals ``dreg`` draw by draw, and figures have ten line styles.
    """
    names = [name for name in gl.ESTIMATORS if name != "dreg-squared"]
    targets = problems(settings)

    def compared(posterior: str, k: int, advance: Advance) -> Tables:
        problem = targets[posterior]
        defined = [name for name in names if not gl.ESTIMATORS[name].undefined(problem.posterior, k)]
        table = gl.compare(problem, defined, k, settings.draws, settings.seed, allow_biased=True)
        table = at_equal_cost(table, problem, settings.budget)
        # An undefined pair (vimco at k = 1) gets a row without numbers, but with a reason.
        table = table.set_index("estimator").reindex(names).reset_index()
        table = table.fillna({"objective": "iwae", "target": "iwae", "wrt": "phi", "k": k, "draws": 0})
        table = table.astype({"k": int, "draws": int})
        table.insert(0, "posterior", posterior)
        unmet = [gl.ESTIMATORS[name].unmet(problem.posterior, k) for name in names]
        table["reason"] = [f"needs {' and '.join(needs)}" if needs else "" for needs in unmet]
        advance(k, f"{posterior}, k = {k}")
        return {"toys": table}

    pieces = [
        Piece(f"{posterior}-{k}", functools.partial(compared, posterior, k), units=k)
        for posterior in targets
        for k in settings.k
    ]
    return context.measure("toy problems", pieces) | {"toys_expectation": expectation(settings)}


def expectation(settings: Settings) -> pd.DataFrame:
    """Estimate d/dtheta E[f(x)] of paper eqs. 7-8 by the pathwise and score estimators.

    The distribution is x ~ U(theta - 1/2, theta + 1/2).
    """
    rows = []
    functions = {"x^2": torch.square, "exp(x)": torch.exp, "sin(3x)": lambda v: torch.sin(3 * v)}
    noise = uniform((settings.draws,), stream(settings.seed, "toys/expectation"), torch.float64)
    for name, f in functions.items():
        problem = gl.problems.BoxExpectation(f, theta=settings.phi)
        estimates = problem.pathwise(noise)
        se = float(estimates.std() / math.sqrt(settings.draws))
        rows.append({"f": name, "exact": problem.exact_gradient(), "pathwise": float(estimates.mean()),
                     "pathwise_se": se, "score": float(problem.score(noise).mean())})  # fmt: skip
    return pd.DataFrame(rows)


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide the claims of sections 2.1 and 2.2."""
    toys = tables["toys"].assign(exact_bias=lambda t: t["exact_mean"] - t["exact"])
    many = toys["k"].max()
    rows = toys[toys["k"] == many].set_index(["posterior", "estimator"])
    pathwise, dreg, score = (rows.loc["box", name] for name in ("pathwise", "dreg", "score"))
    stl, control = (rows.loc["normal", name] for name in ("stl", "dreg"))
    wrong = rows.loc["box"].loc[["nvil", "vimco", "gdreg"]]
    means = toys[toys["posterior"] == "box"].pivot(index="k", columns="estimator", values="mean")
    z = toys[["z", "z_variance"]]
    worst = z.abs().max(axis=None)
    return [
        Verdict("STL of a multi-sample bound is biased in general (on a Normal posterior)", "section 2.1",
                bool(abs(stl["exact_bias"]) > 4.5 * stl["bias_se"]),
                f"at k = {many} it converges to {stl['exact_mean']:.4f} where the gradient is {stl['exact']:.4f}"),
        Verdict("NVIL, VIMCO and GDReG are biased or wrong on the box", "section 2.2",
                bool((wrong["bias"].abs() > 4.5 * wrong["bias_se"]).all()),
                f"measured bias at k = {many}: "
                + ", ".join(f"{name} {bias:+.3f}" for name, bias in wrong["bias"].items())),
        Verdict("the pathwise gradient of the IWAE bound is an unbiased STL estimator on the box", "section 2.1",
                bool((means["pathwise"] == means["stl"]).all()
                     and abs(pathwise["exact_bias"]) < 1e-6 * math.sqrt(pathwise["exact_variance"])),
                f"STL equals pathwise at every k; exact bias at k = {many}: {pathwise['exact_bias']:.1e}"),
        Verdict("score-function gradients are wrong on the box", "section 2.2, eq. 8",
                bool(score["mean"] == 0 and score["exact"] != 0),
                f"at k = {many} the score estimate is {score['mean']:g} where the gradient is {score['exact']:.4f}"),
        Verdict("IWAE-DReG has extra bias on the box", "section 2.2",
                bool(abs(dreg["exact_bias"]) > 4.5 * dreg["bias_se"]),
                f"at k = {many} it converges to {dreg['exact_mean']:.4g} where the gradient is {dreg['exact']:.4f}"),
        Verdict("on a Normal posterior DReG is unbiased (the control)", "Tucker et al. 2018",
                bool(abs(control["z"]) < 4.5 and abs(control["exact_bias"]) < 1e-6),
                f"exact bias at k = {many}: {control['exact_bias']:.1e}, measured z = {control['z']:.1f}"),
        Verdict("every measured mean and variance agrees with the exact one", "this project's oracle",
                bool(worst < 4.5), f"largest |z| over {z.count().sum()} means and variances: {worst:.2f}"),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw exact curves with Monte-Carlo points (|bias|, variance, SNR over k), and the matrix of exact bias."""
    toys = files.read_csv(folder / "toys.csv")
    order = list(toys["estimator"].unique())
    toys["exact_abs_bias"] = (toys["exact_mean"] - toys["exact"]).abs()
    # A measured bias below its own standard error is noise and would only show the number of draws.
    toys["abs_bias"] = toys["bias"].abs().where(lambda bias: bias >= 2 * toys["bias_se"])
    toys["rmse"], toys["exact_rmse"], toys["no_se"] = toys["mse"] ** 0.5, toys["exact_mse"] ** 0.5, math.nan
    figure, axes = plots.figure(2, 4, width="page", height=4.4)
    for line, posterior in enumerate(("box", "normal")):
        rows = toys[toys["posterior"] == posterior]
        for ax, (exact, measured, se, label, least) in zip(axes[line], PANELS, strict=True):
            shown = rows[rows[exact].between(least, math.inf, inclusive="neither")]  # zero variance gives infinite SNR
            what = "equal cost" if exact == "exact_rmse" else f"n = {toys['draws'].max()}"
            plots.curves(ax, shown, "k", exact, None, "estimator", mode="lines", order=order, xlabel="samples k",
                         ylabel=label, xscale="log", yscale="log", title=f"{posterior}, {what}")  # fmt: skip
            plots.curves(ax, shown, "k", measured, se, "estimator", mode="markers", order=order)
            # The exact curves set the scale; an error bar that reaches zero would stretch it indefinitely.
            ax.set_ylim(shown[exact].min() / 2, shown[exact].max() * 2)
    plots.shared_legend(figure, axes.flat)
    plots.save(figure, folder / "toys")

    figure, axes = plots.figure(2, 1, width="page", height=0.7 + 0.5 * len(order))
    titles = {"box": "unit box", "normal": "Normal of the same mean and variance"}
    relative = 100 * toys["exact_abs_bias"] / toys["exact"].abs()
    toys["relative"] = relative.mask(relative < 1e-6, 0.0)
    for ax, (posterior, name) in zip(axes, titles.items(), strict=True):
        rows = toys[toys["posterior"] == posterior]
        plots.heat(ax, rows, "estimator", "k", "relative", xlabel="samples k", ylabel="estimator",
                   label="|bias| (% of the gradient)", norm=Normalize(0, 100),
                   title=f"{name}, exact")  # fmt: skip
    plots.save(figure, folder / "toys_matrix")


cli.script(__name__)
