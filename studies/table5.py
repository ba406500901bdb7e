"""Table 5: Bjontegaard's figures of IWAE, MS-NIC-MIX and MS-NIC-DMS on the codec of Cheng et al. 2020.

From the models of Table 9, as Table 4 from those of Table 8.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gradlab import cli
from gradlab.study import Context, Verdict
from gradlab_studies import _models as models
from gradlab_studies import _sweep as sweep
from gradlab_studies import _sweep_plots as plots
from gradlab_studies import table9
from gradlab_studies._sweep import Settings

ASSUMED = table9.ASSUMED | {"interpolation": "pchip; the paper names none"}
PROFILES = dict(table9.PROFILES)
SMALLEST = table9.SMALLEST
work = sweep.work


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """One row per method and interpolation."""
    return sweep.deltas(5, 9, settings, context)


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """MIX and DMS save rate at equal PSNR but not at equal MS-SSIM; IWAE loses severely."""
    table = tables["table5_training"]
    names = (sweep.MIX, models.DMS)
    psnr = [sweep.saved(table, name) for name in names]
    ssim = [sweep.saved(table, name, "MS-SSIM BD-BR (%)") for name in names]
    iterations = " and ".join(map(str, sorted(table["iterations"].unique())))
    after = f"BD-rate, pchip, after {iterations} iterations"
    why = sweep.undefined(table)
    iwae = sweep.saved(table, models.IWAE)
    lose = [[None if sign is None else not sign for sign in sweep.below(values)] for values in ssim]
    each = ", ".join(
        f"{name} {sweep.told(p)} in PSNR ({sweep.printed(5, name)}) and {sweep.told(s)} in MS-SSIM "
        f"({sweep.printed(5, name, 'MS-SSIM BD-BR (%)')})"
        for name, p, s in zip(names, psnr, ssim, strict=True)
    )
    return [
        Verdict(
            "MIX and DMS save rate at equal PSNR and not at equal MS-SSIM",
            "Table 5",
            sweep.agreed([*(sweep.below(values) for values in psnr), *lose]),
            f"{after}: {each}, one seed{why}",
        ),
        sweep.severe_loss("Table 5", iwae, f"{after}, in PSNR", why, sweep.printed(5, models.IWAE)),
    ]


def draw(folder: Path) -> None:
    """BD-rates beside the paper's."""
    plots.draw_deltas(5, folder)


cli.script(__name__)
