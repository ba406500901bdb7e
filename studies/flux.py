"""Posterior inside the box, density of the weights across it, and flux through its two walls (exact).

Moving the box by d(phi) removes samples at the lower wall and adds them at the upper wall, so the gradient of the bound
is a difference of two fluxes. DReG integrates by parts and drops the difference of the weights at the walls, which is
its bias. Sections 2.1 and 2.2 of the paper, on the toy problem of the study ``toys``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import gradlab as gl
from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Context, Verdict, plots

LIMIT = "limit"  # not "infinity", which a CSV reader would parse as a number


@dataclass(frozen=True)
class Settings:
    """The box and the quantities to show.

    Attributes:
        k: numbers of samples whose weights are drawn across the box; the last but one carries the annotation.
        curve: numbers of samples at which fluxes and gradients are computed.
        points: number of points across the box.
        phi: mean of the box.
        x: observation.
        likelihood_std: standard deviation of the likelihood.
        seed: unused; nothing is sampled.
    """

    k: tuple[int, ...] = (1, 2, 8, 64)
    curve: tuple[int, ...] = (1, 2, 3, 5, 8, 16, 32, 64, 128, 256, 512, 1024)
    points: int = 201
    phi: float = 0.3
    x: float = 1.0
    likelihood_std: float = 0.5
    seed: int = 0


PROFILES = dict.fromkeys(("quick", "gpu", "paper"), Settings())
SMALLEST = Settings(k=(1, 2, 8), curve=(1, 2, 8), points=9)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Compute fluxes, gradients and the boundary term over k; the densities of the weights; and the posterior."""
    phi = settings.phi
    box = gl.problems.BoxGaussian(phi, settings.x, likelihood_std=settings.likelihood_std)
    rows = []
    for k in settings.curve:
        low, high = box.wall_flux(k)
        weights = box.weight_density(np.array([phi - 0.5, phi + 0.5]), k)
        rows.append({
            "k": k, "phi": phi, "flux_lower": low, "flux_upper": high, "gradient": box.exact_gradient(k),
            "pathwise": box.exact_moments("pathwise", k)[0], "dreg": box.exact_moments("dreg", k)[0],
            "boundary": box.boundary_term(k), "weight_lower": weights[0], "weight_upper": weights[1],
        })  # fmt: skip
    across = np.linspace(phi - 0.5, phi + 0.5, settings.points)
    densities = [pd.DataFrame({"k": str(k), "y": across, "density": box.weight_density(across, k)}) for k in settings.k]
    inside = np.exp(box.model.log_joint(across) - box.exact_limit())
    densities.append(pd.DataFrame({"k": LIMIT, "y": across, "density": inside}))
    wide = np.linspace(phi - 1.5, phi + 2.0, 3 * settings.points)
    posterior = np.exp(box.model.log_joint(wide)) / np.exp(box.model.evidence())
    return {
        "flux": pd.DataFrame(rows),
        "flux_density": pd.concat(densities),
        "flux_posterior": pd.DataFrame({"y": wide, "posterior": posterior}),
    }


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide whether the gradient is the flux, and whether DReG lacks the difference of the weights at the walls."""
    table = tables["flux"]
    gradient = (table["flux_upper"] - table["flux_lower"] - table["gradient"]).abs().max()
    dropped = table["weight_upper"] - table["weight_lower"]
    bias = (table["pathwise"] - table["dreg"] - dropped).abs().max()
    last = table.iloc[-1]
    return [
        Verdict("the gradient of the bound is the difference of the fluxes through the two walls",
                "this project's oracle", bool(gradient < 1e-7), f"largest difference over k: {gradient:.1e}"),
        Verdict("the bias of DReG is the difference of the weights at the two walls, which its derivation drops",
                "section 2.2", bool(bias < 1e-7 and abs(last["boundary"]) > 1e-3),
                f"largest difference over k: {bias:.1e}; at k = {last['k']:.0f} DReG converges to {last['dreg']:.3g}, "
                f"the gradient is {last['gradient']:.3f}, the walls hold {last['boundary']:.3f}"),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw the posterior and the box, the weights across the box, and gradients over k."""
    table, density, posterior = (files.read_csv(folder / f"flux{name}.csv") for name in ("", "_density", "_posterior"))
    walls = (table["phi"].iloc[0] - 0.5, table["phi"].iloc[0] + 0.5)
    sizes = [k for k in density["k"].astype(str).unique() if k != LIMIT]
    k = int(sizes[-2])  # not yet close to the limit
    shown = table[table["k"] == k].iloc[0]
    figure, grid = plots.figure(2, 3, width="page", height=3.5, gridspec_kw={"height_ratios": [4, 1]})
    left, middle, right = grid[0]

    plots.curves(left, posterior.assign(what="p(y | x)"), "y", "posterior", None, "what", mode="lines",
                 xlabel="latent y", ylabel="density", title=f"flux at the walls, k = {k} (nats)")  # fmt: skip
    peak = posterior["posterior"].max()
    left.set_ylim(0, 1.42 * peak)
    with plots.style():
        inside = posterior[posterior["y"].between(*walls)]
        left.fill_between(inside["y"], inside["posterior"], color="0.6", alpha=0.5, linewidth=0)
        left.stairs([1.0], walls, color="0.1", linewidth=1.2, linestyle="--", label="box q(y)")
        # From each wall an arrow with the length of the flux, in the direction in which the box moves.
        fluxes = (shown["flux_lower"], shown["flux_upper"])
        scale = 0.55 / max(map(abs, fluxes))
        for wall, flux, height in zip(walls, fluxes, (1.14 * peak, 1.24 * peak), strict=True):
            left.annotate("", (wall + scale * flux, height), (wall, height),
                          arrowprops={"arrowstyle": "-|>", "color": "0.1", "linewidth": 1.2})  # fmt: skip
            left.plot([wall, wall], [1.0, height], color="0.1", linewidth=0.6, linestyle=":")
            text = height + 0.0284 * peak
            left.text(wall, text, f"{flux:+.2f}", fontsize=6.5, ha="right" if flux < 0 else "left")

    density["label"] = ("k = " + density["k"].astype(str)).replace(f"k = {LIMIT}", "k to infinity")
    plots.curves(middle, density, "y", "density", None, "label", mode="lines", xlabel="latent y in the box",
                 ylabel="weight density, $k\\,E[\\tilde w \\mid y]$",
                 title=f"DReG drops {shown['boundary']:.2f} nats at k = {k}")  # fmt: skip
    lower, upper = weights = (shown["weight_lower"], shown["weight_upper"])
    with plots.style():
        for wall, weight in zip(walls, weights, strict=True):
            middle.plot([wall], [weight], "o", color="0.1", markersize=4, zorder=5)
            middle.axvline(wall, color="0.1", linewidth=0.8, linestyle="--")
        beside = walls[1] + 0.05
        middle.annotate("", (beside, lower), (beside, upper), arrowprops={"arrowstyle": "<->", "color": "0.1"})
        middle.plot([walls[0], beside], [lower, lower], color="0.1", linewidth=0.6, linestyle=":")
        middle.set_xlim(walls[0] - 0.06, walls[1] + 0.14)

    names = {"gradient": "gradient = pathwise", "dreg": "mean of DReG", "boundary": "weights at the walls"}
    lines = table.melt("k", list(names), var_name="what", value_name="nats").replace({"what": names})
    plots.curves(right, lines, "k", "nats", None, "what", xlabel="samples k", ylabel="nats per unit of phi",
                 xscale="log", title="DReG + walls, exact")  # fmt: skip
    for ax, below in zip(*grid, strict=True):
        plots.shared_legend(figure, [ax], at=below)
    plots.save(figure, folder / "flux")


cli.script(__name__)
