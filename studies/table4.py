"""Table 4: Bjontegaard's figures of IWAE, MS-NIC-MIX and MS-NIC-DMS on the codec of Balle et al. 2018.

From the models of Table 8, by three interpolations; pchip is published. Where points fold back or curves share no rate
the figures are undefined, and the row says so.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gradlab import cli
from gradlab.study import Context, Verdict
from gradlab_studies import _models as models
from gradlab_studies import _sweep as sweep
from gradlab_studies import _sweep_plots as plots
from gradlab_studies import table8
from gradlab_studies._sweep import Settings

ASSUMED = table8.ASSUMED | {"interpolation": "pchip; the paper names none, and its figures fit pchip or akima"}
PROFILES = dict(table8.PROFILES)
SMALLEST = table8.SMALLEST
work = sweep.work


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """One row per method and interpolation."""
    return sweep.deltas(4, 8, settings, context)


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """MIX and DMS save rate at equal PSNR, DMS the more; IWAE loses severely."""
    table = tables["table4_training"]
    mix, dms, iwae = (sweep.saved(table, name) for name in (sweep.MIX, models.DMS, models.IWAE))
    iterations = " and ".join(map(str, sorted(table["iterations"].unique())))
    after = f"BD-rate in PSNR, pchip, after {iterations} iterations"
    more = sweep.below([a - b for a, b in zip(dms, mix, strict=True)])
    why = sweep.undefined(table)
    theirs = [sweep.printed(4, name) for name in (sweep.MIX, models.DMS)]
    return [
        Verdict(
            "MIX and DMS save rate at equal PSNR, and DMS saves more",
            "Table 4",
            sweep.agreed([sweep.below(mix), sweep.below(dms), more]),
            f"{after}: MIX {sweep.told(mix)} ({theirs[0]}), DMS {sweep.told(dms)} ({theirs[1]}), one seed{why}",
        ),
        sweep.severe_loss("Table 4", iwae, after, why, sweep.printed(4, models.IWAE)),
    ]


def draw(folder: Path) -> None:
    """BD-rates beside the paper's."""
    plots.draw_deltas(4, folder)


cli.script(__name__)
