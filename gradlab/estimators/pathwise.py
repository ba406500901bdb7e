"""Pathwise (reparameterisation) gradient: differentiate through the samples.

Equation (paper eqs. 2 and 5; Kingma & Welling 2013, Burda et al. 2016)::

    grad L = E_eps[ sum_i w~_i grad log w(y(eps_i; phi); phi) ]

Approximates: the gradient of the objective.
With: the total derivative of every log-weight, the weights w~ detached.
Requires: only that samples are a differentiable transform of base noise and that log w is differentiable.
Biased when: autograd's derivative of a sample is wrong (straight-through rounding). On the box the score term is zero,
so the estimator equals STL (paper section 2.1).
"""

from __future__ import annotations

from torch import Tensor

from gradlab.estimators._base import TRUE_PATH, Estimator
from gradlab.objectives.bounds import Objective
from gradlab.objectives.terms import LogTerms


def _surrogate(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Tensor:
    return objective(terms, weighting, scale)


PATHWISE = Estimator("pathwise", _surrogate, (TRUE_PATH,), on_box=lambda draws: draws.linear)
