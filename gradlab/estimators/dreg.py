"""Doubly reparameterised gradient (DReG).

Equation (Tucker et al. 2018; paper eqs. 9-10)::

    E_eps[ sum_i w~_i^2 (d log w_i / d y_i) (d y_i / d phi) ]

Approximates: the gradient of the objective for inference parameters; generative parameters keep the weights w~.
With: no score term, and the gradient that reaches a sample multiplied by the total normalised weight of the terms that
the sample enters: y_i by sum_j w~_ij, z_j by sum_i w~_ij (so z has factor 1 in MS-NIC-MIX); if z_i is drawn from y_i,
each path is multiplied by w~_i. With per-term weighting each term has its own softmax, and so its own factor. If the
score is not 0 and enters log w with a factor u (``scale="bpp"``, ``rate_weight``), the factor is 1 - u (1 - w~).
Requires: a support that does not move with the parameters, because the second reparameterisation (eq. 10) drops the
boundary.
Biased when: the support moves. On the unit box the bias is exactly that boundary term,
``-sum_i E[w~_i(y_i = phi + 1/2) - w~_i(y_i = phi - 1/2)]``, and as k grows the estimate tends to zero.
"""

from __future__ import annotations

from torch import Tensor

from gradlab.estimators._base import FIXED_SUPPORT, Estimator, rescale_paths
from gradlab.objectives.bounds import Objective, score_factor
from gradlab.objectives.terms import LogTerms


def _surrogate(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Tensor:
    factors = objective.path_factors(terms, weighting, scale)
    share = score_factor(terms, scale)
    if terms.scores and share != 1:
        # The score enters log w with this factor, and so does the part of the path that it reparameterises to.
        factors = {where: 1 - share * (1 - factor) for where, factor in factors.items()}
    rescale_paths(terms, factors, "dreg")
    return objective(terms.without_scores(), weighting, scale)


DREG = Estimator("dreg", _surrogate, (FIXED_SUPPORT,), on_box=lambda draws: draws.squared)
