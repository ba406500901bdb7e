"""From toy to codec: exact SNR, effective sample size and bias over k and the number of latents D.

The log-weight of a product of D coordinates has D times the variance of one coordinate. For k above about exp(Var log
w), the pathwise SNR grows as sqrt(k); below, one sample has all the weight and more samples do not help. Tempering the
weights (bits per pixel instead of nats) restores the square root, but for the gradient of another bound: the map shows
the gain in SNR and the bias.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import gradlab as gl
from gradlab import cli
from gradlab.problems import dimension_map
from gradlab.runtime import files
from gradlab.study import Advance, Context, Piece, Tables, Verdict, plots

PANELS = {"ess": "effective sample size", "pathwise_snr": "SNR, pathwise"}


@dataclass(frozen=True)
class Settings:
    """The coordinate, sample sizes, numbers of coordinates and temperatures.

    Attributes:
        k: numbers of samples.
        dim: numbers of coordinates.
        temperature: temperatures of the weights; 1 is IWAE in nats.
        phi: argument of ``gl.problems.BoxGaussian``.
        x: argument of ``gl.problems.BoxGaussian``.
        likelihood_std: argument of ``gl.problems.BoxGaussian``.
        seed: unused; nothing is sampled.
    """

    k: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 16_384, 1_000_000)
    dim: tuple[int, ...] = (1, 10, 100, 1000, 10_000, 100_000)
    temperature: tuple[float, ...] = (1.0, 100.0)
    phi: float = 0.3
    x: float = 1.0
    likelihood_std: float = 1.0
    seed: int = 0


PROFILES = dict.fromkeys(("quick", "gpu", "paper"), Settings())
SMALLEST = Settings(k=(1, 8, 64), dim=(1, 10))


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Compute the map; nothing is sampled."""
    box = gl.problems.BoxGaussian(settings.phi, settings.x, likelihood_std=settings.likelihood_std)

    def rows(dim: int, advance: Advance) -> Tables:
        table = dimension_map(box, settings.k, (dim,), settings.temperature)
        advance(1, f"D = {dim}")
        return {"dimension": table}

    pieces = [Piece(f"{dim}-dimensions", functools.partial(rows, dim)) for dim in settings.dim]
    return context.measure("exact map", pieces)


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide how much k samples help at the dimension of a codec."""
    table = tables["dimension"].set_index(["temperature", "dim", "k"])
    hottest, top, k = (table.index.get_level_values(name).max() for name in table.index.names)
    plain, single, tempered = table.loc[(1.0, top, k)], table.loc[(1.0, top, 1)], table.loc[(hottest, top, k)]
    bias = tempered["pathwise_bias"] / abs(tempered["exact"])
    return [
        Verdict("k samples lower the noise of the gradient of the joint bound at the dimension of a codec", "eqs. 4-5",
                bool(plain["pathwise_snr"] > 1.5 * single["pathwise_snr"]),
                f"D = {top}, k = {k}: effective sample size {plain['ess']:.2f}, SNR {plain['pathwise_snr']:.3f} "
                f"(at k = 1: {single['pathwise_snr']:.3f})"),
        Verdict("tempered weights (bits per pixel) give the gradient of the same bound", "Appendix A.5",
                bool(abs(bias) < 0.01),
                f"temperature {hottest:g}, D = {top}, k = {k}: effective sample size {tempered['ess']:.0f}, "
                f"SNR {tempered['pathwise_snr']:.1f}, bias {100 * bias:+.0f} % of the gradient"),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw the effective sample size and the SNR of the pathwise gradient over k and D, plain and tempered."""
    table = files.read_csv(folder / "dimension.csv")
    temperatures = sorted(table["temperature"].unique())
    figure, axes = plots.figure(len(temperatures), 2, width="page", height=2.4 * len(temperatures), squeeze=False)
    for line, temperature in zip(axes, temperatures, strict=True):
        rows = table[table["temperature"] == temperature].assign(D=lambda t: "D = " + t["dim"].astype(str))
        weights = "weights in nats" if temperature == 1 else f"weights tempered by {temperature:g}"
        for ax, (column, label) in zip(line, PANELS.items(), strict=True):
            plots.curves(ax, rows, "k", column, None, "D", xlabel="samples k", ylabel=label, xscale="log",
                         yscale="log", mode="lines", title=f"{weights}, exact")  # fmt: skip
    plots.shared_legend(figure, axes.flat)
    plots.save(figure, folder / "dimension")


cli.script(__name__)
