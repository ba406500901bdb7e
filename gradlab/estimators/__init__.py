"""Gradient estimators: one short file each, named after the method; to add one, write the file and its line here."""

from __future__ import annotations

from gradlab.errors import unknown
from gradlab.estimators._base import Estimator, Requirement
from gradlab.estimators.dreg import DREG
from gradlab.estimators.pathwise import PATHWISE
from gradlab.estimators.score import SCORE
from gradlab.estimators.stl import STL

ESTIMATORS: dict[str, Estimator] = {
    "pathwise": PATHWISE,
    "score": SCORE,
    "stl": STL,
    "dreg": DREG,
}


def estimator(name: str | Estimator) -> Estimator:
    """The estimator of that name.

    Raises:
        GradlabError: unknown name (with the nearest one).
    """
    if isinstance(name, Estimator):
        return name
    if name not in ESTIMATORS:
        raise unknown("estimator", name, ESTIMATORS)
    return ESTIMATORS[name]


__all__ = ["ESTIMATORS", "Estimator", "Requirement", "estimator"]
