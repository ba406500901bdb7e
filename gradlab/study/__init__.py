"""Everything between a study script and a page of results.

=============== ==================================================================
module          contents
=============== ==================================================================
request         ``Request``: the options that the studies of a run share
context         ``Context``: what a study gets besides its settings
catalog         the studies, estimators, objectives and proxies that exist
assignments     ``--set base.crop=128``
runner          ``run``: settings, rows, verdicts, figures, provenance
pieces          measuring piece by piece, so that an interruption loses one piece
verdicts        ``Verdict``: a claim of the paper, and whether it holds here
models          training and R-D tables of the models that studies share
evaluations     rows of bitstreams, each image once for all studies
planning, work  ``gradlab plan``: what studies need, timed, and what fits a budget
status          ``gradlab status``: progress of a folder, from its files
claims          ``gradlab claims``: all claims of the paper, with verdicts
report          ``gradlab report``: one HTML page
formatting      numbers with errors, next to the paper's
console         tables and verdicts in a terminal
plots           figures from CSVs; ``plotstyle`` and ``palette`` save them
paper, audit    the tables and claims of the paper, checked against each other
=============== ==================================================================

Importing this package loads neither torch nor pandas.
"""

from gradlab.runtime.progress import Advance
from gradlab.study.context import Context
from gradlab.study.pieces import Piece, Tables
from gradlab.study.request import PROFILES, Request
from gradlab.study.runner import run
from gradlab.study.verdicts import Verdict

__all__ = ["PROFILES", "Advance", "Context", "Piece", "Request", "Tables", "Verdict", "run"]
