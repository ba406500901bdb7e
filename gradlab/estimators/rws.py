"""Reweighted wake-sleep (RWS): wake-theta for the generative parameters, wake-phi for the posterior.

Equation (Bornschein & Bengio 2015, eqs. 4 and 8)::

    theta:  E_q[ sum_i w~_i grad log p(x, y_i; theta) ]
    phi:    E_q[ sum_i w~_i grad log q(y_i; phi) ]

Approximates: for theta the gradient of the objective; for phi the gradient of another objective,
``E_p(y|x)[ log q(y; phi) ]``, to be maximised.
With: the samples held fixed and the weights w~ detached.
Requires: a support that does not move with the parameters; the box has no score and does not cover the true posterior.
Biased when: k is finite, for its own objective, because the weights are self-normalised. The bias falls like 1/k if the
weights have a finite variance (with a narrow q they do not); at k = 1 the mean is 0, like the mean of the score. If the
support moves, the estimate for phi is exactly 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.estimators._base import FIXED_SUPPORT, Estimator, check_joint, rescale_paths
from gradlab.objectives.bounds import Objective, unit_factor
from gradlab.objectives.terms import LogTerms


def _surrogate(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Tensor:
    check_joint(weighting, "rws")
    if objective.single or objective.jackknife:
        raise GradlabError(f"objective {objective.name!r} does not weight the samples by w~, which rws needs: use iwae")
    rescale_paths(terms, 0.0, "rws")
    value = objective(terms.without_scores(), weighting, scale)
    scores = terms.score_terms()
    if not isinstance(scores, Tensor):
        return value
    w = torch.softmax(unit_factor(terms, scale) * terms.log_w().detach().flatten(1), dim=1).view(terms.shape)
    return value + (w * scores).sum(dim=(1, 2))


RWS = Estimator("rws", _surrogate, (FIXED_SUPPORT,), target="wake-phi", on_box=lambda draws: draws.zero)
