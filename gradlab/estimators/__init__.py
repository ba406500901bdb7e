"""Provide gradient estimators, one short file each, named after the method.

To add an estimator, write its file and add its line here.
"""

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
    """Return an estimator by name.

    Args:
        name: a name from ``ESTIMATORS``, or an ``Estimator``, which is returned as it is.

    Returns:
        The estimator.

    Raises:
        GradlabError: if the name is unknown; the message suggests the nearest one.

    Example:
        >>> import gradlab as gl
        >>> gl.estimators.get_estimator("rws").target
        'wake-phi'
    """
    if isinstance(name, Estimator):
        return name
    return ESTIMATORS[known("estimator", name, ESTIMATORS)]


__all__ = ["ESTIMATORS", "Estimator", "Requirement", "get_estimator"]
