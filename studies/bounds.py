"""The chain ELBO <= MIX <= DMS <= log p(x), exact on the linear two-level hierarchy, and its true limit.

Sections 3.1, 3.2 and A.3 of the paper: eq. 12 (MIX), eq. 14 (DMS) and its estimate eq. 15, compared with k l
independent pairs (eqs. 16, 17). The boxes do not cover the true posterior, so every bound tends to the log evidence
inside the boxes instead of log p(x).
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import gradlab as gl
from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Context, Verdict, plots

ELBO, MIX, PAIRS = "ELBO", "MS-NIC-MIX (eq. 12)", "IWAE, k l pairs (eq. 16)"
NESTED, DMS = "MS-NIC-DMS (eq. 14)", "MS-NIC-DMS (eq. 15)"
INSIDE, EVIDENCE = "log evidence inside the boxes", "log p(x)"
ROUNDING = 1e-9


@dataclass(frozen=True)
class Settings:
    """The hierarchy (see ``gl.problems.TwoLevel``) and the sample sizes.

    Attributes:
        k: numbers of samples of y.
        l: numbers of samples of z, at most 3.
        phi: argument of ``TwoLevel``.
        x: argument of ``TwoLevel``.
        encode: argument of ``TwoLevel``.
        decode: argument of ``TwoLevel``.
        likelihood_std: argument of ``TwoLevel``.
        seed: unused; nothing is sampled.
    """

    k: tuple[int, ...] = (1, 2, 4, 8, 16, 64, 256, 1024)
    l: tuple[int, ...] = (1, 2, 3)
    phi: float = 0.3
    x: float = 1.2
    encode: tuple[float, float] = (0.5, 0.1)
    decode: tuple[float, float, float] = (0.85, 0.2, 0.6)
    likelihood_std: float = 0.5
    seed: int = 0


PROFILES = dict.fromkeys(("quick", "gpu", "paper"), Settings())
SMALLEST = Settings(k=(1, 2, 3), l=(1, 2))


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Compute every bound at every (k, l); nothing is sampled."""
    toy = gl.problems.TwoLevel(
        settings.phi, settings.x, settings.encode, settings.decode, likelihood_std=settings.likelihood_std
    )
    inside, evidence = toy.exact_limit("iwae"), toy.evidence()
    rows = []
    with context.progress.track("exact bounds", len(settings.k) * len(settings.l)) as advance:
        for l, k in itertools.product(settings.l, settings.k):
            bounds = {
                ELBO: toy.exact_bound(1, objective="elbo"),
                MIX: toy.exact_bound(k, objective="ms-nic-mix"),
                NESTED: toy.exact_bound(k, l, "ms-nic-dms-nested"),
                DMS: toy.exact_bound(k, l, "ms-nic-dms"),
                PAIRS: toy.exact_bound(k * l, objective="iwae"),
                INSIDE: inside,
                EVIDENCE: evidence,
            }
            rows += [{"bound": name, "k": k, "l": l, "nats": nats} for name, nats in bounds.items()]
            advance(1, f"k = {k}, l = {l}")
    return {"bounds": pd.DataFrame(rows)}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide the properties that sections 3.1 and 3.2 list, at every (k, l) of the table."""
    wide = tables["bounds"].pivot_table(index=["l", "k"], columns="bound", values="nats")
    elbo, mix, nested, dms, pairs = (wide[name] for name in (ELBO, MIX, NESTED, DMS, PAIRS))
    inside, evidence = wide[INSIDE].iloc[0], wide[EVIDENCE].iloc[0]
    last, (l, k) = wide.iloc[-1], wide.index[-1]
    grows_with_k = (mix.xs(wide.index[0][0]).diff().dropna() > -ROUNDING).all()
    grid = nested.unstack("l")
    grows_with_both = all((grid.diff(axis=axis).dropna(axis=axis) > -ROUNDING).all(axis=None) for axis in (0, 1))
    return [
        Verdict("ELBO <= MIX <= log p(x), and MIX grows with k", "section 3.1, A.3",
                bool((elbo <= mix + ROUNDING).all() and (mix <= evidence).all() and grows_with_k),
                f"at k = {k}: {last[ELBO]:.4f} <= {last[MIX]:.4f} <= {evidence:.4f} nats"),
        Verdict("MIX <= DMS <= log p(x), and DMS grows with k and l", "section 3.2, A.3",
                bool((mix <= nested + ROUNDING).all() and (nested <= evidence).all() and grows_with_both),
                f"at k = {k}, l = {l}: {last[MIX]:.4f} <= {last[NESTED]:.4f} nats"),
        Verdict("the Monte-Carlo estimate of DMS (eq. 15) is biased for eq. 14", "section 3.2",
                bool((dms >= nested - ROUNDING).all() and last[DMS] > last[NESTED]),
                f"its expectation is higher by up to {(dms - nested).max():.2e} nats, and still a lower bound"),
        Verdict("DMS converges to log p(x) as k and l grow", "section 3.2", bool(evidence - inside < 1e-3),
                f"it converges to the log evidence inside the boxes, {inside:.4f} nats, short of log p(x) by "
                f"{evidence - inside:.4f}: the support condition behind the claim fails for a box"),
        Verdict("k x l combinations are worth at most k l independent pairs", "eqs. 16-17",
                bool((dms <= pairs + ROUNDING).all()),
                f"at k = {k}, l = {l}: {last[DMS]:.4f} <= {last[PAIRS]:.4f} nats"),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw every bound over k at the largest l, with the limit inside the boxes."""
    table = files.read_csv(folder / "bounds.csv")
    l = table["l"].max()
    table = table[(table["l"] == l) & (table["bound"] != EVIDENCE)]
    figure, ax = plots.figure(height=3.2)
    plots.curves(ax, table, "k", "nats", None, "bound", mode="lines", xlabel="samples k of y", ylabel="bound (nats)",
                 xscale="log", title=f"exact, l = {l} samples of z")  # fmt: skip
    plots.shared_legend(figure, [ax])
    plots.save(figure, folder / "bounds")


cli.script(__name__)
