"""Table 5: Bjontegaard metrics of IWAE, MS-NIC-MIX and MS-NIC-DMS on the codec of Cheng et al. 2020.

Computed from the models of Table 9, like Table 4 from the models of Table 8.
"""

from functools import partial

import pandas as pd

from gradlab import cli
from gradlab.study import Verdict
from gradlab_studies import _methods as methods
from gradlab_studies import _sweep as sweep
from gradlab_studies import table9

ASSUMED = table9.ASSUMED | {"interpolation": "pchip; the paper names none"}
PROFILES = dict(table9.PROFILES)
SMALLEST = table9.SMALLEST
work = sweep.work
measure = partial(sweep.deltas, 5, 9)
draw = partial(sweep.draw_deltas, 5)


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Decide whether MIX and DMS save rate at equal PSNR but not at equal MS-SSIM, and whether IWAE loses severely."""
    table = tables["table5_training"]
    psnr, ssim = (
        [sweep.saved(table, name, figure) for name in (sweep.MIX, methods.DMS)]
        for figure in (sweep.PSNR_RATE, sweep.SSIM_RATE)
    )
    claim = "MIX and DMS save rate at equal PSNR and not at equal MS-SSIM"
    return sweep.savings(5, table, claim, [*psnr, *(-rates for rates in ssim)])


cli.script(__name__)
