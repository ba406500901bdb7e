"""The recorder where draws differ in noise only, so that the encoder's forward is shared; beside the bare loop."""

from __future__ import annotations

import sys
from pathlib import Path

from harness import Case, Contender, Options, Work

sys.path.insert(0, str(Path(__file__).parent))

from _codec import LAM, codec, crops
from recorder import BARE, draws


def ours(options: Options) -> Work:
    """``gradlab.evaluation.gradients.record``, with everything that it records."""
    from gradlab.evaluation.gradients import record

    model, x = codec(options), crops(options)
    return lambda: record(model, x, LAM, draws(options)) and None


CASES = (
    Case(
        name="recorder, encoder shared",
        ours=Contender("gradlab.record", ours, peers=False),
        peers=(BARE,),
        goal="0.88 of the bare loop",
        ratio=0.88,
    ),
)
