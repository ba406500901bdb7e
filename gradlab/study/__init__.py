"""Run studies, from the study script to a page of results.

================== ===================================================================
module             contents
================== ===================================================================
request            ``Request``: options that the studies of a run share
context            ``Context``: everything a study receives besides its settings
catalog            the available studies, estimators, objectives and rounding proxies
assignments        ``--set base.crop=128``
runner             ``run``: settings, rows, verdicts, figures, provenance
pieces             measuring piece by piece, so that an interruption loses one piece
verdicts           ``Verdict``: a claim of the paper, and whether it holds here
models             training and R-D tables of models that studies share
evaluations        rows of bitstream evaluations, one per image, shared by all studies
planning, work     ``gradlab plan``: timing of studies, and selection for a budget
status             ``gradlab status``: progress of a folder, from its files
claims             ``gradlab claims``: all claims of the paper, with verdicts
report             ``gradlab report``: one HTML page
formatting         numbers with errors, next to the paper's
console            tables and verdicts in a terminal
plots              figures from CSVs; ``plotstyle`` and ``palette`` save them
paper, audit       tables and claims of the paper, checked against each other
================== ===================================================================

Importing this package loads neither torch nor pandas.
"""

from gradlab.runtime.progress import Advance
from gradlab.study.context import Context
from gradlab.study.pieces import Piece, Tables
from gradlab.study.request import PROFILES, Request
from gradlab.study.runner import run
from gradlab.study.verdicts import Verdict

__all__ = ["PROFILES", "Advance", "Context", "Piece", "Request", "Tables", "Verdict", "run"]
