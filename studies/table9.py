"""Table 9: rate and distortion of four training methods over the lambdas, on the codec of Cheng et al. 2020.

Like Table 8, with an autoregressive context model and attention. In the paper, four of the baseline's seven rows repeat
Table 8's (see ``paper-audit``): the numbers printed for the low lambdas belong to another codec.
"""

from dataclasses import replace
from functools import partial

from gradlab import cli
from gradlab_studies import _methods as methods
from gradlab_studies import _sweep as sweep
from gradlab_studies._sweep import Settings

ASSUMED = sweep.ASSUMED | {
    "codec": "cheng2020-attn of CompressAI, a single Normal for p(y|z); Cheng et al. 2020 mix three of them",
    "channels": "128 to lambda 0.0075 and 192 from 0.015 on, as Cheng et al. 2020",
    "test images of the quick profile": "central crops of 192 pixels, since the context model decodes them position "
    "by position",
}
QUICK = replace(methods.QUICK, codec="cheng2020-attn", channels=(12,), batch=4, steps=240, snapshots=(180,),
                cosine_steps=240)  # fmt: skip
GPU = replace(methods.GPU, codec="cheng2020-attn", channels=(128,), crop=128, steps=2000, snapshots=(1500,),
              learning_rate=3e-4, scale_learning_rate=False, cosine_steps=2000, final_fraction=0.02)  # fmt: skip
PAPER = replace(methods.PAPER, codec="cheng2020-attn", channels=(128,))
PROFILES = {
    "quick": Settings(
        base=QUICK, lams=sweep.SPREAD, wide=(12,), samples=(3, 3, 3), points=(180, 240), test_crop=192
    ),
    "gpu": Settings(
        base=GPU, lams=sweep.SPREAD, wide=(192,), wide_from=0.015, samples=(3, 3, 3), points=(1500, 2000),
        test_crop=256,
    ),
    "paper": Settings(base=PAPER, wide=(192,), wide_from=0.015),
}  # fmt: skip
SMALLEST = Settings(
    base=replace(methods.SMALLEST, codec="cheng2020-attn", channels=(4,), steps=4, snapshots=(2,), cosine_steps=4),
    lams=sweep.SPREAD[:2], wide=(6,), wide_from=0.0075, samples=(2, 2, 2), points=(2, 4), test_crop=64,
)  # fmt: skip
work = sweep.work
measure = partial(sweep.curves, 9)
verdicts = partial(sweep.costs, 9)
draw = partial(sweep.draw_curves, 9)

cli.script(__name__)
