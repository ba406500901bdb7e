"""Audit of the paper: every number that follows from others, recomputed from its own tables.

Covers R-D costs, PSNR from MSE, Tables 4 and 5 from Tables 8 and 9 by each interpolation, models that occur in several
tables, orderings over lambda and over the sample size, and numbers in the text. A check holds if rounding of the
printed digits can explain the difference. The audit needs neither images nor training.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.colors import LogNorm

from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Context, Verdict, plots
from gradlab.study.audit import NO, UNDEFINED, YES, audit


@dataclass(frozen=True)
class Settings:
    """Settings; there are no options other than the seed, which is unused.

    Attributes:
        seed: unused; every study has a seed.
    """

    seed: int = 0


PROFILES = dict.fromkeys(("quick", "gpu", "paper"), Settings())
SMALLEST = Settings()
# For BD metrics, the published interpolation decides; the other two are shown for comparison.
PUBLISHED = ("", "pchip")


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Run all checks."""
    return {"paper-audit": audit()}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Return one verdict per kind of check; it holds if every defined check of this kind holds."""
    return [_verdict(str(claim), rows) for claim, rows in tables["paper-audit"].groupby("claim", sort=False)]


def _verdict(claim: str, rows: pd.DataFrame) -> Verdict:
    interpolation = rows["interpolation"].fillna("")
    deciding = rows[interpolation.isin(PUBLISHED)]
    counts = deciding["holds"].value_counts().reindex([YES, NO, UNDEFINED], fill_value=0)
    holds = None if not counts[YES] + counts[NO] else bool(counts[NO] == 0)
    evidence = f"{counts[YES]} of {len(deciding)} checks hold"
    if counts[UNDEFINED]:
        evidence += f", {counts[UNDEFINED]} are undefined (points that fold back)"
    if interpolation.any():
        evidence += ", by pchip"
    # A least-squares cubic gives a number even if the points fold back; the evidence shows it next to the printed one.
    undefined = deciding.loc[deciding["holds"] == UNDEFINED, "method"]
    cubic = rows[(interpolation == "cubic") & rows["metric"].eq("PSNR BD-BR (%)") & rows["method"].isin(undefined)]
    for row in cubic.itertuples():
        printed = "none" if pd.isna(row.paper) else f"{row.paper:+.2f}"
        evidence += f"; {row.method} by a least-squares cubic {row.recomputed:+.2f} % in PSNR (printed: {printed})"
    if counts[NO]:
        wrong = deciding[deciding["holds"] == NO]
        shares = (wrong["paper"] - wrong["recomputed"]).abs() / wrong["recomputed"].abs().clip(lower=1e-12)
        worst = wrong.loc[shares.idxmax()]
        place = worst["table"].replace("A.", "appendix A.")
        evidence += (
            f"; furthest off: {f'Table {place}' if place.isdigit() else place}, {worst['method']}, {worst['metric']}: "
            f"printed {worst['paper']:.4g}, {worst['recomputed']:.4g} follows"
        )
    places = rows["table"].unique()
    tables = ("Tables " if len(places) > 1 else "Table ") if all(map(str.isdigit, places)) else ""
    return Verdict(claim, tables + ", ".join(places), holds, evidence)


def draw(folder: Path) -> None:
    """Draw how many checks of each kind hold, and BD-rates as printed and as recomputed."""
    table = files.read_csv(folder / "paper-audit.csv")
    cells = pd.MultiIndex.from_product([table["claim"].unique(), [YES, NO, UNDEFINED]], names=["claim", "holds"])
    counts = table.groupby(["claim", "holds"]).size().reindex(cells).rename("checks").reset_index()
    figure, ax = plots.figure(width="page", height=5.6)
    plots.heat(ax, counts, "claim", "holds", "checks", xlabel="holds", label="checks", norm=LogNorm(), empty="",
               title=f"{len(table)} checks")  # fmt: skip
    plots.save(figure, folder / "paper-audit")

    rates = table[table["metric"].str.endswith("BD-BR (%)") & table["interpolation"].notna()]
    rates = rates[rates["method"] != "IWAE"].rename(columns={"allowed": "error"})
    rates["place"] = rates["method"].str.replace("MS-NIC-", "") + "\n" + rates["metric"].str.replace(" BD-BR (%)", "")
    printed = rates.drop_duplicates(["table", "place"]).assign(rate=rates["paper"], which="as printed", error=math.nan)
    recomputed = rates.assign(rate=rates["recomputed"], which="recomputed, " + rates["interpolation"])
    rates = pd.concat([printed, recomputed])
    figure, axes = plots.figure(1, 2, width="page", height=2.9)
    for ax, (n, source) in zip(axes, (("4", "8"), ("5", "9")), strict=True):
        rows = rates[rates["table"] == n]
        plots.bars(ax, rows, "place", "rate", "error", "which", ylabel="BD-rate (%)",
                   title=f"Table {n} from Table {source} (bars: what rounding allows)")  # fmt: skip
        ax.axhline(0, color="0.3", linewidth=0.8)
    plots.shared_legend(figure, axes)
    plots.save(figure, folder / "paper-audit_bd")


cli.script(__name__)
