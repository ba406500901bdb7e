"""DReG with the boundary of the support added back.

Equation (Tucker et al. 2018, eq. 7, with the term that its integration by parts drops when the support moves)::

    E_eps[ sum_i w~_i^2 (d log w_i / d y_i) (d y_i / d phi)
           + sum_i ( w~_i(y_i = upper wall) - w~_i(y_i = lower wall) ) ]

with ``w~_i(y_i = u) = w(u) / (w(u) + sum_{j != i} w_j)``. In D dimensions there is one such difference per coordinate,
or those of a random subset of C coordinates times D / C.

Approximates: the gradient of the objective for inference parameters; generative parameters keep the weights w~.
With: ``dreg``, plus the moved weights as coefficients of the parameter that moves the walls.
Requires: a support that does not move (the estimator then equals ``dreg``), or known walls. Known walls cost 2 C more
evaluations of log w per sample, each with one coordinate on a wall.
Biased when: never.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.estimators._base import FIXED_SUPPORT_OR_WALLS, Estimator, along, exchangeable, walls_of
from gradlab.estimators.dreg import DREG
from gradlab.objectives.bounds import Objective, log_sum_of_others, score_factor, unit_factor
from gradlab.objectives.terms import LogTerms


def _surrogate(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Tensor:
    walls = walls_of(terms, "dreg-boundary")
    if objective.single or not walls.boundary:  # each weight is 1 wherever its sample is, or no wall moves
        return DREG.surrogate(terms, objective, weighting, scale)
    log_w = exchangeable(terms, objective, weighting, scale, "dreg-boundary")
    weights = torch.sigmoid(unit_factor(terms, scale) * walls.log_w.detach() - log_sum_of_others(log_w)[:, :, None])
    if terms.scores:  # the part of the path that dreg subtracts has this factor
        weights = score_factor(terms, scale) * weights
    return DREG.surrogate(terms, objective, weighting, scale) + along(weights, walls)


DREG_BOUNDARY = Estimator(
    "dreg-boundary",
    _surrogate,
    (FIXED_SUPPORT_OR_WALLS,),
    walls=True,
    on_box=lambda draws: draws.squared + draws.boundary,
)
