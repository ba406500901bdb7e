"""Sticking the landing (STL): pathwise without the score term.

Equation (Roeder et al. 2017; paper eq. 6)::

    E_eps[ sum_i w~_i (d log w_i / d y_i) (d y_i / d phi) ]

Approximates: the gradient of the objective.
With: the explicit dependence of log q on its parameters dropped.
Requires: a zero score, or k = 1 (where the dropped term has mean zero).
Biased when: k > 1 and the score is not zero, because the weights are correlated with it (paper section 2.1).
"""

from __future__ import annotations

from torch import Tensor

from gradlab.estimators._base import TRUE_PATH, ZERO_SCORE_OR_ONE_SAMPLE, Estimator
from gradlab.objectives.bounds import Objective
from gradlab.objectives.terms import LogTerms


def _surrogate(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Tensor:
    return objective(terms.without_scores(), weighting, scale)


STL = Estimator("stl", _surrogate, (ZERO_SCORE_OR_ONE_SAMPLE, TRUE_PATH), on_box=lambda draws: draws.linear)
