"""Table 4: Bjontegaard metrics of IWAE, MS-NIC-MIX and MS-NIC-DMS on the codec of Balle et al. 2018.

Computed from the models of Table 8 with three interpolations; pchip is published. Metrics are undefined if points fold
back or curves share no rate; the row then gives the reason.
"""

from functools import partial

import pandas as pd

from gradlab import cli
from gradlab.study import Verdict
from gradlab_studies import _methods as methods
from gradlab_studies import _sweep as sweep
from gradlab_studies import table8

ASSUMED = table8.ASSUMED | {"interpolation": "pchip; the paper names none, and its figures fit pchip or akima"}
PROFILES = dict(table8.PROFILES)
SMALLEST = table8.SMALLEST
work = sweep.work
measure = partial(sweep.deltas, 4, 8)
draw = partial(sweep.draw_deltas, 4)


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide whether MIX and DMS save rate at equal PSNR, DMS more than MIX, and whether IWAE loses severely."""
    table = tables["table4_training"]
    mix, dms = sweep.saved(table, sweep.MIX), sweep.saved(table, methods.DMS)
    claim = "MIX and DMS save rate at equal PSNR, and DMS saves more"
    return sweep.savings(4, table, claim, [mix, dms, dms - mix])


cli.script(__name__)
