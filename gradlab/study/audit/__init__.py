"""Check the paper against itself: recompute every number that follows from others in its own tables.

A check holds if unrounded numbers exist that round to all printed numbers and satisfy it.
"""

from __future__ import annotations

import pandas as pd

from gradlab.study.audit.checks import NO, UNDEFINED, YES, Check
from gradlab.study.audit.curves import deltas
from gradlab.study.audit.statements import statements
from gradlab.study.audit.tables import agreement, costs, order, qualities, samples

__all__ = ["COLUMNS", "NO", "UNDEFINED", "YES", "Check", "audit"]

COLUMNS = Check._fields


def audit() -> pd.DataFrame:
    """Run every check.

    Returns:
        One row per check, with the attributes of ``Check`` as columns.
    """
    checks = [*costs(), *qualities(), *deltas(), *agreement(), *order(), *samples(), *statements()]
    return pd.DataFrame(checks, columns=list(COLUMNS))
