"""Score-function gradient with a baseline computed from the other samples (VIMCO).

Equation (Mnih & Rezende 2016, eqs. 9-10)::

    E_q[ sum_i (L^ - L^_-i) grad log q(y_i; phi)  -  sum_i w~_i grad log q(y_i; phi) ]

with L^ = log (1/k) sum_i w_i, and L^_-i the same with w_i replaced by the geometric mean of the other weights.

Approximates: the gradient of the objective, without a derivative of log w in the samples.
With: ``score``, and for each sample a learning signal that depends on the sample through its own weight only.
Requires: a support that does not move with the parameters; at least two samples, drawn independently.
Biased when: the support moves. On the unit box the score is zero, so the estimate is exactly 0 for phi.
"""

from __future__ import annotations

from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.estimators._base import (
    FIXED_SUPPORT,
    TWO_SAMPLES,
    Estimator,
    exchangeable,
    rescale_paths,
    sample_scores,
    value_with,
)
from gradlab.objectives.bounds import Objective
from gradlab.objectives.terms import LogTerms


def _surrogate(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Tensor:
    log_w = exchangeable(terms, objective, weighting, scale, "vimco")
    k = log_w.shape[1]
    if k < 2:
        raise GradlabError("k is 1, but vimco takes the baseline of a sample from the others: use at least two samples")
    rescale_paths(terms, 0.0, "vimco")
    of_others = (log_w.sum(dim=1, keepdim=True) - log_w) / (k - 1)
    value = objective(terms, weighting, scale)
    signal = value.detach()[:, None] - value_with(objective, log_w, of_others[:, :, None])[:, :, 0]
    return value + (signal * sample_scores(terms)).sum(dim=1)


VIMCO = Estimator("vimco", _surrogate, (FIXED_SUPPORT, TWO_SAMPLES), on_box=lambda draws: draws.zero)
