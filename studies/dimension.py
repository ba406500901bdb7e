"""From toy to codec: SNR, effective sample size and bias over k and the number of latents D, exactly.

The weights of a product of D coordinates have D times the log-variance of one. Past k of about exp(Var log w) the
pathwise SNR grows as sqrt(k); before it one sample has all the weight and k buys nothing. Tempering the weights (bits
per pixel instead of nats) gives the square root back, for the gradient of another bound: the map shows what it buys and
what it biases.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import gradlab as gl
from gradlab import cli
from gradlab.problems import dimension_map
from gradlab.runtime import files
from gradlab.study import Context, Verdict, plots
from gradlab.study.pieces import Piece, Tables, joined


@dataclass(frozen=True)
class Settings:
    """The coordinate, and the map.

    Attributes:
        k: sample sizes.
        dim: numbers of coordinates.
        temperature: of the weights; 1 is IWAE in nats.
    """

    k: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 16_384, 1_000_000)
    dim: tuple[int, ...] = (1, 10, 100, 1000, 10_000, 100_000)
    temperature: tuple[float, ...] = (1.0, 100.0)
    phi: float = 0.3
    x: float = 1.0
    likelihood_std: float = 1.0
    seed: int = 0


PROFILES = {"quick": Settings(), "gpu": Settings(), "paper": Settings()}
SMALLEST = Settings(k=(1, 8, 64), dim=(1, 10))


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """The map; nothing is sampled."""
    box = gl.problems.BoxGaussian(settings.phi, settings.x, likelihood_std=settings.likelihood_std)

    def of(d: int) -> Tables:
        found = dimension_map(box, settings.k, (d,), settings.temperature)
        advance(1, f"D = {d}")
        return {"dimension": found}

    with context.progress.track("exact map", len(settings.dim)) as advance:
        return joined(context.parts.each([Piece(f"{d}-dimensions", functools.partial(of, d)) for d in settings.dim]))


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """What k samples are worth at the dimension of a codec."""
    table = tables["dimension"].set_index(["temperature", "dim", "k"])
    top, k = table.index.get_level_values("dim").max(), table.index.get_level_values("k").max()
    plain, single = table.loc[(1.0, top, k)], table.loc[(1.0, top, 1)]
    hot = table.index.get_level_values("temperature").max()
    warm = table.loc[(hot, top, k)]
    return [
        Verdict(
            "k samples lower the noise of the gradient of the joint bound at the dimension of a codec",
            "eqs. 4-5",
            bool(plain["pathwise_snr"] > 1.5 * single["pathwise_snr"]),
            f"D = {top}, k = {k}: effective sample size {plain['ess']:.2f}, SNR {plain['pathwise_snr']:.3f} "
            f"(at k = 1: {single['pathwise_snr']:.3f})",
        ),
        Verdict(
            "tempered weights (bits per pixel) give the gradient of the same bound",
            "Appendix A.5",
            bool(abs(warm["pathwise_bias"]) < 0.01 * abs(warm["exact"])),
            f"temperature {hot:g}, D = {top}, k = {k}: effective sample size {warm['ess']:.0f}, "
            f"SNR {warm['pathwise_snr']:.1f}, "
            f"bias {100 * warm['pathwise_bias'] / abs(warm['exact']):+.0f} % of the gradient",
        ),
    ]


def draw(folder: Path) -> None:
    """Effective share of the samples, SNR of the pathwise gradient, and the same tempered, over k and D."""
    table = files.read_csv(folder / "dimension.csv")
    temperatures = sorted(table["temperature"].unique())
    figure, axes = plots.figure(len(temperatures), 2, width="page", height=2.4 * len(temperatures), squeeze=False)
    for line, temperature in zip(axes, temperatures, strict=True):
        rows = table[table["temperature"] == temperature].assign(D=lambda t: "D = " + t["dim"].astype(str))
        for ax, column, label in (
            (line[0], "ess", "effective sample size"),
            (line[1], "pathwise_snr", "SNR, pathwise"),
        ):
            options: dict[str, Any] = {
                "xlabel": "samples k",
                "ylabel": label,
                "xscale": "log",
                "yscale": "log",
                "mode": "lines",
            }
            plots.curves(ax, rows, "k", column, None, "D", **options)
            plots.title(
                ax, "weights in nats, exact" if temperature == 1 else f"weights tempered by {temperature:g}, exact"
            )
    plots.shared_legend(figure, axes.flat)
    plots.save(figure, folder / "dimension")


cli.script(__name__)
