"""The paper checked against itself: every number that follows from others, recomputed from its own tables.

A check holds where the printed number is one that the unrounded ones could have led to: all printed digits are taken
for correctly rounded, and what they leave open is allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradlab.study.audit.checks import NO, UNDEFINED, YES, Check
from gradlab.study.audit.curves import deltas
from gradlab.study.audit.statements import said
from gradlab.study.audit.tables import agreement, costs, order, qualities, samples

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("claim", "table", "method", "metric", "interpolation", "paper", "recomputed", "allowed", "holds", "note")


def audit() -> pd.DataFrame:
    """Every check.

    Returns:
        Per check: ``claim``, ``table``, ``method``, ``metric``, ``interpolation`` (of Bjontegaard's figures, else
        empty), ``paper`` (the printed number), ``recomputed`` (what follows from others, or the bound that it must
        keep), ``allowed`` (how far rounding may part the two), ``holds`` (yes, no, undefined) and ``note``.
    """
    import pandas as pd

    found = [*costs(), *qualities(), *deltas(), *agreement(), *order(), *samples(), *said()]
    return pd.DataFrame(found, columns=list(Check._fields))[list(COLUMNS)]


__all__ = ["COLUMNS", "NO", "UNDEFINED", "YES", "Check", "audit"]
