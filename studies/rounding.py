"""Proxies of rounding in training: value, gradient, noise and bias of five proxies, exact on a toy and on a codec.

The proxies are additive noise, universal quantization, straight-through rounding, soft rounding and stochastic Gumbel
annealing. Each trains its own bound, which differs from the bound that a rounding codec reaches at test time (the gap).
The gradients differ in noise, and the gradient of straight-through rounding is not the gradient of any trained
objective.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import gradlab as gl
from gradlab import cli, data, evaluation
from gradlab.evaluation import gradients
from gradlab.objectives.proxies import GumbelAnnealing, Proxy, SoftRounding
from gradlab.runtime import files, provenance
from gradlab.study import Advance, Context, Piece, Tables, Verdict, models, plots
from gradlab.study.work import Work
from gradlab.training import Loss, TrainSettings
from gradlab_studies import _methods as methods

ASSUMED = methods.ASSUMED | {
    "proxies on the codec": "of y alone, z keeps additive noise; at weights that were trained with additive noise",
}
# An SNR must not be quoted without its bias; this estimate is not the gradient of any objective.
THROUGH = "straight through (biased)"
STEP = 1e-5  # of the difference quotient
PANELS = {
    "bound": "bound trained on (nats)",
    "exact_mean": "mean gradient (nats / step)",
    "std": "std of one draw (nats / step)",
}


@dataclass(frozen=True)
class Settings:
    """The toy and the sizes; the target is log N(x; decoded y, likelihood_std^2) + log N(y; 0, 1).

    Attributes:
        points: number of means over one cell of the rounding, 0 to 1.
        k: numbers of samples.
        draws: Monte-Carlo draws for each mean, proxy and k.
        alpha: values of the steepness of soft rounding along its trade-off; the second and the last are also shown over
            the cell.
        temperature: temperatures of Gumbel annealing, used like ``alpha``.
        x: observation.
        likelihood_std: standard deviation of the likelihood.
        base: settings of a codec that is trained single-sample with additive noise.
        gradients: gradients to record on the codec for each proxy, at the same weights and with the same noise.
        costs: noise draws to average the cost over.
        seed: random seed.
    """

    points: int = 40
    k: tuple[int, ...] = (1, 8)
    draws: int = 2000
    alpha: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
    temperature: tuple[float, ...] = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15)
    x: float = 1.0
    likelihood_std: float = 0.5
    base: TrainSettings = methods.QUICK
    gradients: int = 200
    costs: int = 64
    seed: int = 0


PROFILES = {
    "quick": Settings(),
    "gpu": Settings(draws=100_000, base=methods.GPU, gradients=1000),
    "paper": Settings(draws=100_000, base=methods.PAPER, gradients=1000),
}
SMALLEST = Settings(
    points=4, k=(1, 2), draws=50, alpha=(1.0, 2.0, 4.0), temperature=(1.0, 0.5, 0.25), base=methods.SMALLEST,
    gradients=4, costs=2,
)  # fmt: skip


def label(proxy: Proxy) -> str:
    """Return name and parameter of a proxy, as shown in figures."""
    if isinstance(proxy, SoftRounding):
        return f"soft rounding, alpha {proxy.alpha:g}"
    if isinstance(proxy, GumbelAnnealing):
        return f"Gumbel annealing, tau {proxy.temperature:g}"
    return {"noise": "additive noise", "straight-through": THROUGH}.get(proxy.name, proxy.name)


def proxies(settings: Settings) -> list[Proxy]:
    """Return the proxies that are shown over the cell and on the codec."""
    plain = [gl.PROXIES[name] for name in ("noise", "universal", "straight-through")]
    soft = [SoftRounding(settings.alpha[place]) for place in (1, -1)]
    return [*plain, *soft, *(GumbelAnnealing(settings.temperature[place]) for place in (1, -1))]


def work(settings: Settings) -> list[Work]:
    """Return the work for the codec; the toys are not timed."""
    return models.training_work([(methods.BASELINE, settings.base)], record=len(proxies(settings)) * settings.gradients)


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Measure every proxy at every mean of a cell, the gap against the variance along its parameter, and on a codec."""
    cell = [(i + 0.5) / settings.points for i in range(settings.points)]

    def toy(phi: float, proxy: Proxy) -> gl.problems.RoundedGaussian:
        return gl.problems.RoundedGaussian(phi, settings.x, proxy, likelihood_std=settings.likelihood_std)

    def over_the_cell(proxy: Proxy, advance: Advance) -> Tables:
        tables = []
        for phi in cell:
            problem, above, below = (toy(mean, proxy) for mean in (phi, phi + STEP, phi - STEP))
            table = gl.compare(problem, ("pathwise",), settings.k, settings.draws, settings.seed, allow_biased=True)
            table.insert(0, "proxy", label(proxy))
            table.insert(1, "phi", phi)
            table["bound"] = [problem.exact_bound(k) for k in settings.k]
            table["slope"] = [(above.exact_bound(k) - below.exact_bound(k)) / (2 * STEP) for k in settings.k]
            table["rounded"] = problem.rounded()
            table["gap"] = [problem.exact_gap(k) for k in settings.k]
            tables.append(table)
            advance(1, label(proxy))
        return {"rounding": pd.concat(tables, ignore_index=True)}

    def trade_off(family: str, parameter: str, value: float, proxy: Proxy, advance: Advance) -> Tables:
        problems = [toy(phi, proxy) for phi in cell]
        means, variances = zip(*(problem.exact_moments("pathwise", 1) for problem in problems), strict=True)
        row = {"family": family, "parameter": parameter, "value": value,
               "rms_gap": _rms(problem.exact_gap(1) for problem in problems), "rms_gradient": _rms(means),
               "std": math.sqrt(sum(variances) / len(cell))}  # fmt: skip
        advance(len(cell), family)
        return {"rounding_tradeoff": pd.DataFrame([row])}

    measured = [functools.partial(over_the_cell, proxy) for proxy in proxies(settings)]
    measured += [functools.partial(trade_off, "soft rounding", "alpha", a, SoftRounding(a)) for a in settings.alpha]
    measured += [
        functools.partial(trade_off, "Gumbel annealing", "tau", tau, GumbelAnnealing(tau))
        for tau in settings.temperature
    ]
    pieces = [Piece(f"toy-{place}", function, units=len(cell)) for place, function in enumerate(measured)]
    return context.measure("proxies over a cell", pieces) | on_codec(settings, context)


def _rms(values: Iterable[float]) -> float:
    squares = [value * value for value in values]
    return math.sqrt(sum(squares) / len(squares))


def on_codec(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Measure every proxy at the weights of one trained codec: SNR of each group, and the cost seen in training."""
    (run,) = models.train_all(context, [(methods.BASELINE, settings.base)])
    base, codec = settings.base, run.codec(device=context.device)
    pictures = models.train_pictures(context, base)
    crops = data.Crops(pictures, base.crop, base.batch, context.seed, device=context.device).batch(base.steps)
    rounded = evaluation.deterministic_rounding(codec, crops, base.lam)["rd_cost"].mean()

    def rows(proxy: Proxy, advance: Advance) -> Tables:
        loss = Loss(proxy=proxy, allow_biased=True)  # straight-through rounding is biased
        options: dict[str, Any] = {"loss": loss, "seed": context.seed, "advance": advance}
        snr = gradients.record(codec, crops, base.lam, settings.gradients, **options).summary()
        cost, se = gradients.mean_loss(codec, crops, base.lam, settings.costs, **options)
        table = pd.DataFrame({"proxy": label(proxy), "group": snr.pop("group"), "rd_cost": cost, "rd_cost_se": se,
                              "rd_cost_rounded": rounded})  # fmt: skip
        return {"rounding_codec": table.join(snr)}

    key = models.key_of(run, None, context) | {"settings": provenance.settings_hash(settings)}
    draws = settings.gradients + settings.costs
    pieces = [
        Piece(f"codec-{place}", functools.partial(rows, proxy), key, draws)
        for place, proxy in enumerate(proxies(settings))
    ]
    return context.measure("gradients of the codec", pieces)


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide the claims about each proxy."""
    table, trade = tables["rounding"], tables["rounding_tradeoff"]
    biased = table["proxy"] == THROUGH
    through, others = table[biased], table[~biased]
    bounds = through.groupby("phi")["bound"]
    spread = (bounds.max() - bounds.min()).max()
    means = table.pivot_table(index=["phi", "k"], columns="proxy", values="exact_mean")
    apart = (means["universal"] - means["additive noise"]).abs().max()
    off = (others["exact_mean"] - others["slope"]).abs().max()
    missed = table[(table[["z", "z_variance"]].abs() > 4.5).any(axis=1)]
    agreement = "every measured mean and variance is within 4.5 standard errors of the exact one"
    if len(missed):
        agreement = (
            f"{len(table) - len(missed)} of {len(table)} measured pairs are within 4.5 standard errors of the exact "
            f"ones; the others are of {', '.join(missed['proxy'].unique())}, whose steep draws are rare"
        )
    families = trade.groupby("family")[["rms_gap", "std"]]
    first, last = families.first(), families.last()
    steeper = all(
        rows["rms_gap"].is_monotonic_decreasing and rows["std"].is_monotonic_increasing for _, rows in families
    )
    source = "Agustsson & Theis 2020"
    return [
        Verdict("MS-NIC does not apply to straight-through rounding", "section 4.1", bool(spread < 1e-9),
                f"all samples are the same point: the bound of k = {table['k'].max()} exceeds that of one by "
                f"{spread:.0e}"),
        Verdict("the straight-through gradient is the gradient of what is trained", "Bengio et al. 2013",
                bool(((through["exact_mean"] - through["slope"]).abs() < 1e-4).all()),
                "what is trained has no gradient; the estimate is up to "
                f"{through['mean'].abs().max():.2f} nats per unit"),
        Verdict("universal quantization has the gradient of additive noise", source, bool(apart < 1e-9),
                f"largest difference of the exact means over the cell: {apart:.0e}"),
        Verdict("soft rounding and Gumbel annealing differentiate what they train", f"{source}, Yang et al. 2020",
                bool(off < 1e-4),
                "largest difference of the exact mean gradient from the slope of the objective: "
                f"{off:.0e} nats per unit; {agreement}"),
        Verdict("a steeper proxy is nearer to rounding and has a noisier gradient", f"{source}, Yang et al. 2020",
                steeper, "; ".join(
                    f"{family}: gap {first['rms_gap'][family]:.2f} to {last['rms_gap'][family]:.2f} nats, "
                    f"standard deviation {first['std'][family]:.2f} to {last['std'][family]:.2f}"
                    for family in first.index)),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw bound, gradient and its standard deviation over one cell at k = 1, and the trade-off of two families."""
    table = files.read_csv(folder / "rounding.csv")
    table = table[table["k"] == 1].assign(std=lambda t: t["exact_variance"] ** 0.5)
    figure, axes = plots.figure(2, 2, width="page", height=5.0)
    for ax, (column, ylabel) in zip(axes.flat, PANELS.items(), strict=False):
        plots.curves(ax, table, "phi", column, None, "proxy", xlabel="mean of the latent (steps)", ylabel=ylabel,
                     mode="lines")  # fmt: skip
    cell = table.drop_duplicates("phi")
    axes[0, 0].plot(cell["phi"], cell["rounded"], ".", color="0.2", markersize=2, label="_")
    plots.title(axes[0, 0], "exact; dots: rounded, as at test time")
    trade = files.read_csv(folder / "rounding_tradeoff.csv")
    plots.curves(axes[1, 1], trade, "rms_gap", "std", None, "family", xlabel="rms gap to rounding (nats)",
                 ylabel="std of one draw (nats / step)", xscale="log", yscale="log")  # fmt: skip
    for row in trade.groupby("family").nth([0, -1]).itertuples():
        axes[1, 1].annotate(f"{row.parameter} {row.value:g}", (row.rms_gap, row.std), fontsize=6, xytext=(3, 3),
                            textcoords="offset points")  # fmt: skip
    axes[1, 1].margins(x=0.18, y=0.12)  # leave space for the annotations
    plots.shared_legend(figure, axes.flat[:3])
    plots.save(figure, folder / "rounding")

    codec = files.read_csv(folder / "rounding_codec.csv")
    figure, axes = plots.figure(1, 2, width="page", height=3.2, gridspec_kw={"width_ratios": [1, 2]})
    costs = codec.drop_duplicates("proxy").assign(excess=lambda t: t["rd_cost"] - t["rd_cost_rounded"])
    plots.bars(axes[0], costs.assign(where="crops"), "where", "excess", "rd_cost_se", "proxy",
               ylabel="cost trained on - rounded (bpp)", title="how far from rounding")  # fmt: skip
    plots.bars(axes[1], codec, "group", "snr", "snr_se", "proxy", ylabel="gradient SNR", yscale="log",
               title=f"same weights, {codec['draws'].iloc[0]} draws of noise")  # fmt: skip
    plots.shared_legend(figure, axes)
    plots.save(figure, folder / "rounding_codec")


cli.script(__name__)
