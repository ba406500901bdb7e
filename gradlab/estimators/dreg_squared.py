"""DReG as published: w~^2, whatever the scale of the weights.

Equation (Tucker et al. 2018, eq. 7; paper eqs. 9-10), with v_i the log-weights as the objective uses them (log w_i in
nats, or in bits per pixel with ``scale="bpp"``, the unit of the paper's listing in Appendix A.5) and
``w~ = softmax(v)``::

    E_eps[ sum_i w~_i^2 (d v_i / d y_i) (d y_i / d phi) ]

Approximates: the gradient of the objective for inference parameters; generative parameters keep the weights w~.
With: the gradient that reaches a sample multiplied by its total normalised weight, as in ``dreg``, but no correction
for scaled log-weights. For a bound in nats with rate weight 1 it equals ``dreg``, draw by draw.
Requires: a support that does not move with the parameters. It also assumes log-weights in nats with rate weight 1,
which is not checked.
Biased when: the support moves, as ``dreg``; or k > 1 and the score is not 0 and enters v with a factor u other than 1
(a Normal posterior with ``scale="bpp"``, where u = 1 / (ln 2 pixels), or with ``rate_weight``). The bias is then
``-(1 - u) sum_i E[ w~_i (1 - w~_i) (d v_i / d y_i) (d y_i / d phi) ]``.
"""

from __future__ import annotations

from torch import Tensor

from gradlab.estimators._base import FIXED_SUPPORT, Estimator, rescale_paths
from gradlab.objectives.bounds import Objective
from gradlab.objectives.terms import LogTerms


def _surrogate(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Tensor:
    rescale_paths(terms, objective.path_factors(terms, weighting, scale), "dreg-squared")
    return objective(terms.without_scores(), weighting, scale)


DREG_SQUARED = Estimator("dreg-squared", _surrogate, (FIXED_SUPPORT,), on_box=lambda draws: draws.squared)
