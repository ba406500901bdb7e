"""Table 8: rate and distortion of four training methods over the lambdas, on the codec of Balle et al. 2018.

Baseline, IWAE without direct-y, MS-NIC-MIX and MS-NIC-DMS with real bitstreams, compared with classical codecs and, on
Kodak, with CompressAI's published curves.
"""

from dataclasses import replace
from functools import partial

from gradlab import cli
from gradlab_studies import _methods as methods
from gradlab_studies import _sweep as sweep
from gradlab_studies._sweep import Settings

ASSUMED = sweep.ASSUMED | {
    "channels": "128, 192 to lambda 0.03 and 192, 320 from 0.045 on: Balle et al. 2018 use more for high rates, "
    "CompressAI from 0.0483 on",
}
QUICK = replace(methods.QUICK, channels=(16, 24), batch=4, steps=1000, snapshots=(750,), cosine_steps=1000)
GPU = replace(methods.GPU, crop=128, steps=6000, snapshots=(4500,), learning_rate=3e-4, scale_learning_rate=False,
              cosine_steps=6000, final_fraction=0.02)  # fmt: skip
PROFILES = {
    "quick": Settings(base=QUICK, lams=sweep.SPREAD, samples=(3, 3, 3), points=(750, 1000)),
    "gpu": Settings(base=GPU, lams=sweep.SPREAD, wide_from=0.045, points=(4500, 6000), samples=(5, 5, 5)),
    "paper": Settings(base=methods.PAPER, wide_from=0.045),
}
SMALLEST = Settings(
    base=replace(methods.SMALLEST, snapshots=(4,)), lams=sweep.SPREAD, wide=(6, 10), wide_from=0.03, samples=(2, 2, 2),
    points=(4, 6), test_crop=64,
)  # fmt: skip
work = sweep.work
measure = partial(sweep.curves, 8)
verdicts = partial(sweep.costs, 8)
draw = partial(sweep.draw_curves, 8)

cli.script(__name__)
