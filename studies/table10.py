"""Table 10: variance of the latents over images before rounding, for single-sample training and MS-NIC.

Uses the models of Table 6 and Figure 3. A second table has the statistics per channel.
"""

from collections.abc import Mapping
from pathlib import Path

from gradlab import cli
from gradlab.evaluation import latents
from gradlab.study import Context, Tables, Verdict
from gradlab_studies import _latents as shared
from gradlab_studies._latents import Settings

ASSUMED = shared.ASSUMED
COLUMNS = {
    "Var(y)": ("y", "variance"),
    "Var(z)": ("z", "variance"),
    "Cov(y)": ("y", "cov"),
    "Cov(z)": ("z", "cov"),
}
PROFILES = dict(shared.PROFILES)
SMALLEST = shared.SMALLEST
work = shared.work


def measure(settings: Settings, context: Context) -> Tables:
    """Measure one row per method, and in a second table one row per method, latent and channel."""

    def channels(method: str, spread: Mapping[str, latents.LatentMoments]) -> Tables:
        rows = latents.channel_statistics_of(spread)
        rows.insert(0, "method", method)
        return {"table10_channels": rows}

    tables = shared.measure(settings, context, "table10", channels)
    return {"table10": shared.table(tables["table10"], 10, COLUMNS), "table10_channels": tables["table10_channels"]}


def verdicts(tables: Tables) -> list[Verdict]:
    """Decide the claims of section 5.3: both latents vary more; relative to its mean, y varies more and z less."""
    table, source = tables["table10"], "section 5.3, Table 10"
    return [
        shared.change(table, "the variance of the latent y is higher under MS-NIC", source, "Var(y)",
                      "mean variance of y"),
        shared.change(table, "the variance of the latent z is higher under MS-NIC", source, "Var(z)",
                      "mean variance of z"),
        shared.change(table, "the Cov of the latent y is higher under MS-NIC", source, "Cov(y)", "mean Cov of y"),
        shared.change(table, "the Cov of the latent z is lower under MS-NIC", source, "Cov(z)", "mean Cov of z",
                      "lower"),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw every column relative to the baseline."""
    shared.draw(folder, "table10", list(COLUMNS))


cli.script(__name__)
