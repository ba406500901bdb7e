"""The box cut out of a posterior, the density of the weights across it, and the flux through its two walls (exact).

Moving the box by d(phi) takes samples off the lower wall and puts them at the upper one, so that the gradient of the
bound is a difference of two fluxes. DReG integrates by parts and drops the difference of the weights at the walls: its
bias. Sections 2.1 and 2.2 of the paper, on the toy problem of the study ``toys``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import gradlab as gl
from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Context, Verdict, plots

LIMIT = "limit"  # and not "infinity", which a CSV reader takes for a number


@dataclass(frozen=True)
class Settings:
    """The box and what is shown of it.

    Attributes:
        k: numbers of samples whose weights are drawn across the box; the last but one carries the annotation.
        curve: numbers of samples at which fluxes and gradients are computed.
        points: across the box.
    """

    k: tuple[int, ...] = (1, 2, 8, 64)
    curve: tuple[int, ...] = (1, 2, 3, 5, 8, 16, 32, 64, 128, 256, 512, 1024)
    points: int = 201
    phi: float = 0.3
    x: float = 1.0
    likelihood_std: float = 0.5
    seed: int = 0


PROFILES = {name: Settings() for name in ("quick", "gpu", "paper")}
SMALLEST = Settings(k=(1, 2, 8), curve=(1, 2, 8), points=9)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Fluxes, gradients and the boundary term over k; densities of the weights; the posterior itself."""
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
    joint = np.exp(box.model.log_joint(wide))
    # The evidence in closed form: x is the sum of two independent normals.
    variance = 1 + settings.likelihood_std**2
    evidence = np.exp(-(settings.x**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    posterior = pd.DataFrame({"y": wide, "posterior": joint / evidence})
    return {"flux": pd.DataFrame(rows), "flux_density": pd.concat(densities), "flux_posterior": posterior}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """The gradient is the flux; what DReG lacks is the difference of the weights at the walls."""
    table = tables["flux"]
    gradient = (table["flux_upper"] - table["flux_lower"] - table["gradient"]).abs().max()
    dropped = table["weight_upper"] - table["weight_lower"]
    bias = (table["pathwise"] - table["dreg"] - dropped).abs().max()
    last = table.iloc[-1]
    return [
        Verdict(
            "the gradient of the bound is the difference of the fluxes through the two walls",
            "this project's oracle",
            bool(gradient < 1e-7),
            f"largest difference over k: {gradient:.1e}",
        ),
        Verdict(
            "the bias of DReG is the difference of the weights at the two walls, which its derivation drops",
            "section 2.2",
            bool(bias < 1e-7 and abs(last["boundary"]) > 1e-3),
            f"largest difference over k: {bias:.1e}; at k = {last['k']:.0f} DReG converges to {last['dreg']:.3g}, "
            f"the gradient is {last['gradient']:.3f}, the walls hold {last['boundary']:.3f}",
        ),
    ]


def draw(folder: Path) -> None:
    """The posterior and the box; the weights across the box; gradients over k."""
    table = files.read_csv(folder / "flux.csv")
    density = files.read_csv(folder / "flux_density.csv")
    posterior = files.read_csv(folder / "flux_posterior.csv")
    walls = (table["phi"].iloc[0] - 0.5, table["phi"].iloc[0] + 0.5)
    ks = [k for k in dict.fromkeys(density["k"].astype(str)) if k != LIMIT]
    k = int(ks[-2])  # not yet at its limit
    at = table[table["k"] == k].iloc[0]
    figure, grid = plots.figure(2, 3, width="page", height=3.5, gridspec_kw={"height_ratios": [4, 1]})
    axes = grid[0]

    plots.curves(axes[0], posterior.assign(what="p(y | x)"), "y", "posterior", None, "what", mode="lines",
                 xlabel="latent y", ylabel="density", order=["p(y | x)"])  # fmt: skip
    top = 1.42 * posterior["posterior"].max()
    axes[0].set_ylim(0, top)
    with plots.style():
        inside = posterior[posterior["y"].between(*walls)]
        axes[0].fill_between(inside["y"], inside["posterior"], color="0.6", alpha=0.5, linewidth=0)
        axes[0].stairs([1.0], walls, color="0.1", linewidth=1.2, linestyle="--", label="box q(y)")
        # An arrow as long as the flux, from each wall in the direction in which the box moves.
        scale = 0.55 / max(abs(at["flux_lower"]), abs(at["flux_upper"]))
        for side, wall, flux in (("lower", walls[0], at["flux_lower"]), ("upper", walls[1], at["flux_upper"])):
            height = (1.14 if side == "lower" else 1.24) * posterior["posterior"].max()
            axes[0].annotate("", (wall + scale * flux, height), (wall, height),
                             arrowprops={"arrowstyle": "-|>", "color": "0.1", "linewidth": 1.2})  # fmt: skip
            axes[0].plot([wall, wall], [1.0, height], color="0.1", linewidth=0.6, linestyle=":")
            axes[0].text(wall, height + 0.02 * top, f"{flux:+.2f}", fontsize=6.5, ha="right" if flux < 0 else "left")
    plots.title(axes[0], f"flux at the walls, k = {k} (nats)")

    shown = density.assign(label=density["k"].astype(str).map(lambda n: f"k = {n}" if n != LIMIT else "k to infinity"))
    plots.curves(axes[1], shown, "y", "density", None, "label", mode="lines", xlabel="latent y in the box",
                 ylabel="weight density, $k\\,E[\\tilde w \\mid y]$")  # fmt: skip
    with plots.style():
        for wall, height in zip(walls, (at["weight_lower"], at["weight_upper"]), strict=True):
            axes[1].plot([wall], [height], "o", color="0.1", markersize=4, zorder=5)
            axes[1].axvline(wall, color="0.1", linewidth=0.8, linestyle="--")
        low, high = walls[1] + 0.05, (at["weight_lower"], at["weight_upper"])
        axes[1].annotate("", (low, high[0]), (low, high[1]), arrowprops={"arrowstyle": "<->", "color": "0.1"})
        axes[1].plot([walls[0], low], [high[0], high[0]], color="0.1", linewidth=0.6, linestyle=":")
        axes[1].set_xlim(walls[0] - 0.06, walls[1] + 0.14)
    plots.title(axes[1], f"DReG drops {at['boundary']:.2f} nats at k = {k}")

    names = {"gradient": "gradient = pathwise", "dreg": "mean of DReG", "boundary": "weights at the walls"}
    lines = table.melt("k", list(names), var_name="what", value_name="nats").replace({"what": names})
    plots.curves(axes[2], lines, "k", "nats", None, "what", xlabel="samples k", ylabel="nats per unit of phi",
                 xscale="log")  # fmt: skip
    plots.title(axes[2], "DReG + walls, exact")
    for ax, below in zip(*grid, strict=True):
        plots.shared_legend(figure, [ax], at=below)
    plots.save(figure, folder / "flux")


cli.script(__name__)
