"""What stands in for rounding in training: value, gradient, noise and bias of five proxies, exactly and on a codec.

Additive noise, universal quantization, straight-through rounding, soft rounding and stochastic Gumbel annealing. Each
trains a bound of its own, which is more or less far from what a codec that rounds gets at test time (the gap), with a
gradient that is more or less noisy, and for straight-through rounding is not the gradient of anything that is trained.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import gradlab as gl
from gradlab import cli, data, evaluation
from gradlab.evaluation import gradients
from gradlab.objectives.proxies import GumbelAnnealing, Proxy, SoftRounding
from gradlab.runtime import files, provenance
from gradlab.study import Context, Verdict, plots
from gradlab.study.pieces import Piece, Tables, joined
from gradlab.study.work import Work
from gradlab.training import Loss, TrainSettings
from gradlab_studies import _models as models

ASSUMED = models.ASSUMED | {
    "proxies on the codec": "of y alone, z keeps additive noise; at weights that were trained with additive noise",
}
# An SNR is not quoted without its bias: this one is of a gradient of nothing.
THROUGH = "straight through (biased)"
STEP = 1e-5  # of the difference quotient


@dataclass(frozen=True)
class Settings:
    """The toy and the sizes; the target is log N(x; decoded y, likelihood_std^2) + log N(y; 0, 1).

    Attributes:
        points: means over one cell of the rounding, 0 to 1.
        k: sample sizes.
        draws: Monte-Carlo draws for each mean, proxy and k.
        alpha: steepness of soft rounding along its trade-off; the second and the last are also shown over the cell.
        temperature: of Gumbel annealing, likewise.
        base: a codec, trained single-sample with additive noise.
        gradients: recorded on it for each proxy, at the same weights and on the same noise.
        costs: draws of the noise that the cost is averaged over.
    """

    points: int = 40
    k: tuple[int, ...] = (1, 8)
    draws: int = 2000
    alpha: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
    temperature: tuple[float, ...] = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15)
    x: float = 1.0
    likelihood_std: float = 0.5
    base: TrainSettings = models.QUICK
    gradients: int = 200
    costs: int = 64
    seed: int = 0


PROFILES = {
    "quick": Settings(),
    "gpu": Settings(draws=100_000, base=models.GPU, gradients=1000),
    "paper": Settings(draws=100_000, base=models.PAPER, gradients=1000),
}
SMALLEST = Settings(
    points=4,
    k=(1, 2),
    draws=50,
    alpha=(1.0, 2.0, 4.0),
    temperature=(1.0, 0.5, 0.25),
    base=models.SMALLEST,
    gradients=4,
    costs=2,
)


def label(proxy: Proxy) -> str:
    """Name and parameter, as the figures print them."""
    if isinstance(proxy, SoftRounding):
        return f"soft rounding, alpha {proxy.alpha:g}"
    if isinstance(proxy, GumbelAnnealing):
        return f"Gumbel annealing, tau {proxy.temperature:g}"
    return {"noise": "additive noise", "straight-through": THROUGH}.get(proxy.name, proxy.name)


def proxies(settings: Settings) -> tuple[list[Proxy], list[SoftRounding], list[GumbelAnnealing]]:
    """Those shown over the cell and on the codec, and the two families."""
    plain = [gl.PROXIES[name] for name in ("noise", "universal", "straight-through")]
    soft = [SoftRounding(a) for a in settings.alpha]
    annealed = [GumbelAnnealing(t) for t in settings.temperature]
    return [*plain, soft[1], soft[-1], annealed[1], annealed[-1]], soft, annealed


def work(settings: Settings) -> list[Work]:
    """What it needs for the codec; the toys are not timed."""
    shown, _, _ = proxies(settings)
    return models.work([(models.BASELINE, settings.base)], record=len(shown) * settings.gradients)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Every proxy at every mean of a cell; and along its parameter, the gap against the variance."""
    shown, soft, annealed = proxies(settings)
    cell = [(i + 0.5) / settings.points for i in range(settings.points)]

    def toy(phi: float, proxy: Proxy) -> gl.problems.RoundedGaussian:
        return gl.problems.RoundedGaussian(phi, settings.x, proxy, likelihood_std=settings.likelihood_std)

    def over_a_cell(proxy: Proxy) -> Tables:
        rows = []
        for phi in cell:
            problem = toy(phi, proxy)
            table = gl.compare(problem, ("pathwise",), settings.k, settings.draws, settings.seed, allow_biased=True)
            table.insert(0, "proxy", label(proxy))
            table.insert(1, "phi", phi)
            table["bound"] = [problem.exact_bound(k) for k in settings.k]
            ends = [toy(phi + h, proxy) for h in (STEP, -STEP)]
            table["slope"] = [(ends[0].exact_bound(k) - ends[1].exact_bound(k)) / (2 * STEP) for k in settings.k]
            table["rounded"] = problem.rounded()
            table["gap"] = [problem.exact_gap(k) for k in settings.k]
            rows.append(table)
            advance(1, label(proxy))
        return {"rounding": pd.concat(rows, ignore_index=True)}

    with context.progress.track("proxies over a cell", len(cell) * len(shown)) as advance:
        pieces = [Piece(label(proxy), functools.partial(over_a_cell, proxy)) for proxy in shown]
        rows = joined(context.parts.each(pieces))["rounding"]
    trade = []
    families = (
        ("soft rounding", "alpha", soft, settings.alpha),
        ("Gumbel annealing", "tau", annealed, settings.temperature),
    )
    with context.progress.track("trade-off", len(cell) * (len(soft) + len(annealed))) as advance:
        for family, parameter, members, values in families:
            for proxy, value in zip(members, values, strict=True):
                problems = [toy(phi, proxy) for phi in cell]
                moments = [problem.exact_moments("pathwise", 1) for problem in problems]
                gaps = [problem.exact_gap(1) for problem in problems]
                trade.append(
                    {
                        "family": family,
                        "parameter": parameter,
                        "value": value,
                        "rms_gap": math.sqrt(sum(g * g for g in gaps) / len(cell)),
                        "rms_gradient": math.sqrt(sum(m * m for m, _ in moments) / len(cell)),
                        "std": math.sqrt(sum(v for _, v in moments) / len(cell)),
                    }
                )
                advance(len(cell), family)
    return {
        "rounding": rows,
        "rounding_tradeoff": pd.DataFrame(trade),
        "rounding_codec": on_codec(settings, context),
    }


def on_codec(settings: Settings, context: Context) -> pd.DataFrame:
    """Every proxy at the weights of one trained codec: SNR of each group, and the cost that training would see."""
    (run,) = models.train_all(context, [(models.BASELINE, settings.base)])
    codec = run.codec(device=context.device)
    pictures = models.train_pictures(context, settings.base)
    x = data.Crops(pictures, settings.base.crop, settings.base.batch, context.seed, device=context.device)
    crops = x.batch(settings.base.steps)
    rounded = evaluation.deterministic_rounding(codec, crops, settings.base.lam)["rd_cost"].mean()
    shown, _, _ = proxies(settings)

    def recorded(proxy: Proxy) -> Tables:
        loss = Loss(proxy=proxy, allow_biased=True)  # straight-through is
        found = gradients.record(
            codec, crops, settings.base.lam, settings.gradients, loss=loss, seed=context.seed, advance=advance
        )
        seen, se = gradients.mean_loss(
            codec, crops, settings.base.lam, settings.costs, loss=loss, seed=context.seed, advance=advance
        )
        rows = found.summary().assign(proxy=label(proxy), rd_cost=seen, rd_cost_se=se, rd_cost_rounded=rounded)
        return {"rounding_codec": rows}

    key = models.key_of(run, None, context) | {"settings": provenance.settings_hash(settings)}
    draws = settings.gradients + settings.costs
    with context.progress.track("gradients of the codec", len(shown) * draws) as advance:
        pieces = [
            Piece(f"codec-{at}", functools.partial(recorded, proxy), key | {"proxy": label(proxy)}, draws)
            for at, proxy in enumerate(shown)
        ]
        table = joined(context.parts.each(pieces, advance))["rounding_codec"]
    first = ["proxy", "group", "rd_cost", "rd_cost_se", "rd_cost_rounded"]
    return table[[*first, *(c for c in table.columns if c not in first)]]


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """What each proxy is right about."""
    table, trade = tables["rounding"], tables["rounding_tradeoff"]
    through = table[table["proxy"] == THROUGH]
    spread = through.groupby("phi")["bound"].agg(lambda bound: bound.max() - bound.min()).max()
    same = table.pivot_table(index=["phi", "k"], columns="proxy", values="exact_mean")
    off = (same["universal"] - same["additive noise"]).abs().max()
    missed = table[(table[["z", "z_variance"]].abs() > 4.5).any(axis=1)]
    seen = "every measured mean and variance is within 4.5 standard errors of the exact one"
    if len(missed):
        seen = (
            f"{len(table) - len(missed)} of {len(table)} measured pairs are within 4.5 standard errors of the exact "
            f"ones; the others are of {', '.join(dict.fromkeys(missed['proxy']))}, whose steep draws are rare"
        )
    true = table[table["proxy"] != THROUGH]
    families = dict(iter(trade.groupby("family")))
    return [
        Verdict(
            "MS-NIC does not apply to straight-through rounding",
            "section 4.1",
            bool(spread < 1e-9),
            f"all samples are the same point: the bound of k = {table['k'].max()} exceeds that of one by {spread:.0e}",
        ),
        Verdict(
            "the straight-through gradient is the gradient of what is trained",
            "Bengio et al. 2013",
            bool(((through["exact_mean"] - through["slope"]).abs() < 1e-4).all()),
            f"what is trained has no gradient; the estimate is up to {through['mean'].abs().max():.2f} nats per unit",
        ),
        Verdict(
            "universal quantization has the gradient of additive noise",
            "Agustsson & Theis 2020",
            bool(off < 1e-9),
            f"largest difference of the exact means over the cell: {off:.0e}",
        ),
        Verdict(
            "soft rounding and Gumbel annealing differentiate what they train",
            "Agustsson & Theis 2020, Yang et al. 2020",
            bool((true["exact_mean"] - true["slope"]).abs().max() < 1e-4),
            f"largest difference of the exact mean gradient from the slope of the objective: "
            f"{(true['exact_mean'] - true['slope']).abs().max():.0e} nats per unit; {seen}",
        ),
        Verdict(
            "a steeper proxy is nearer to rounding and has a noisier gradient",
            "Agustsson & Theis 2020, Yang et al. 2020",
            all(e["rms_gap"].is_monotonic_decreasing and e["std"].is_monotonic_increasing for e in families.values()),
            "; ".join(
                f"{family}: gap {e['rms_gap'].iloc[0]:.2f} to {e['rms_gap'].iloc[-1]:.2f} nats, standard deviation "
                f"{e['std'].iloc[0]:.2f} to {e['std'].iloc[-1]:.2f}"
                for family, e in families.items()
            ),
        ),
    ]


def draw(folder: Path) -> None:
    """Bound, gradient and its standard deviation over one cell at k = 1; and the trade-off of the two families."""
    table = files.read_csv(folder / "rounding.csv")
    table = table[table["k"] == 1].assign(std=lambda t: t["exact_variance"] ** 0.5)
    order = list(dict.fromkeys(table["proxy"]))
    figure, axes = plots.figure(2, 2, width="page", height=5.0)
    panels = (
        ("bound", "bound trained on (nats)"),
        ("exact_mean", "mean gradient (nats / step)"),
        ("std", "std of one draw (nats / step)"),
    )
    for ax, (column, name) in zip(axes.flat, panels, strict=False):
        options: dict[str, Any] = {
            "order": order,
            "xlabel": "mean of the latent (steps)",
            "ylabel": name,
            "markers": False,
        }
        plots.curves(ax, table, "phi", column, None, "proxy", **options)
    cell = table.drop_duplicates("phi")
    axes[0, 0].plot(cell["phi"], cell["rounded"], ".", color="0.2", markersize=2, label="_")
    plots.title(axes[0, 0], "exact; dots: rounded, as at test time")
    trade = files.read_csv(folder / "rounding_tradeoff.csv")
    plots.curves(axes[1, 1], trade, "rms_gap", "std", None, "family", xlabel="rms gap to rounding (nats)",
                 ylabel="std of one draw (nats / step)", xscale="log", yscale="log")  # fmt: skip
    for row in trade.groupby("family").nth([0, -1]).itertuples():
        axes[1, 1].annotate(f"{row.parameter} {row.value:g}", (row.rms_gap, row.std), fontsize=6, xytext=(3, 3),
                            textcoords="offset points")  # fmt: skip
    axes[1, 1].margins(x=0.18, y=0.12)  # room for the annotations
    plots.shared_legend(figure, axes.flat[:3])
    plots.save(figure, folder / "rounding")

    codec = files.read_csv(folder / "rounding_codec.csv")
    figure, axes = plots.figure(1, 2, width="page", height=3.2, gridspec_kw={"width_ratios": [1, 2]})
    costs = codec.drop_duplicates("proxy").assign(excess=lambda t: t["rd_cost"] - t["rd_cost_rounded"])
    costs["where"] = "crops"
    plots.bars(
        axes[0], costs, "where", "excess", "rd_cost_se", "proxy", xlabel="", ylabel="cost trained on - rounded (bpp)"
    )
    plots.bars(axes[1], codec, "group", "snr", "snr_se", "proxy", xlabel="", ylabel="gradient SNR", yscale="log")
    plots.title(axes[0], "how far from rounding")
    plots.title(axes[1], f"same weights, {codec['draws'].iloc[0]} draws of noise")
    plots.shared_legend(figure, axes)
    plots.save(figure, folder / "rounding_codec")


cli.script(__name__)
