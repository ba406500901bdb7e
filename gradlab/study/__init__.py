"""Everything between a study script and a page: runner, catalog, claims, report, plots, the paper and its audit.

Importing this package loads neither torch nor pandas.
"""

from gradlab.runtime.progress import Advance
from gradlab.study.pieces import Piece, Tables
from gradlab.study.runner import PROFILES, Context, run
from gradlab.study.verdicts import Verdict

__all__ = ["PROFILES", "Advance", "Context", "Piece", "Tables", "Verdict", "run"]
