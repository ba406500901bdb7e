"""Gradient estimators, one short file each, named after the method; to add one, write the file and its line here."""

from __future__ import annotations

from gradlab.estimators._base import Estimator, Requirement
from gradlab.estimators.dreg import DREG
from gradlab.estimators.dreg_boundary import DREG_BOUNDARY
from gradlab.estimators.dreg_squared import DREG_SQUARED
from gradlab.estimators.gdreg import GDREG
from gradlab.estimators.measure_valued import MEASURE_VALUED
from gradlab.estimators.nvil import NVIL
from gradlab.estimators.pathwise import PATHWISE
from gradlab.estimators.rws import RWS
from gradlab.estimators.score import SCORE
from gradlab.estimators.stl import STL
from gradlab.estimators.vimco import VIMCO
from gradlab.validation import checked, known

ESTIMATORS: dict[str, Estimator] = {
    "pathwise": PATHWISE,
    "score": SCORE,
    "stl": STL,
    "dreg": DREG,
    "dreg-squared": DREG_SQUARED,
    "dreg-boundary": DREG_BOUNDARY,
    "gdreg": GDREG,
    "measure-valued": MEASURE_VALUED,
    "nvil": NVIL,
    "vimco": VIMCO,
    "rws": RWS,
}
"""Name -> estimator; the command line, ``compare`` and the tests read this table."""


@checked
def get_estimator(name: str | Estimator) -> Estimator:
    """Return the estimator of that name, or the estimator itself.

    Raises:
        GradlabError: unknown name (with the nearest one).
    """
    if isinstance(name, Estimator):
        return name
    return ESTIMATORS[known("estimator", name, ESTIMATORS)]


__all__ = ["ESTIMATORS", "Estimator", "Requirement", "get_estimator"]
