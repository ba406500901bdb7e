"""Score-function gradient (REINFORCE, likelihood ratio).

Equation (Williams 1992; paper eq. 8; for the multi-sample bound Mnih & Rezende 2016)::

    E_q[ L^ sum_i grad log q(y_i; phi)  -  sum_i w~_i grad log q(y_i; phi) ],   L^ = log (1/k) sum_i w_i

Approximates: the gradient of the objective, without a derivative of log w in the samples.
With: the samples held fixed; the second sum is the explicit dependence of the weights on phi.
Requires: a support that does not move with the parameters (absolute continuity: Mohamed et al. 2020).
Biased when: the support moves. On the unit box the score is zero, so the estimate is exactly 0 for phi (eq. 8).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradlab.estimators._base import FIXED_SUPPORT, Estimator, check_joint, rescale_paths
from gradlab.objectives.bounds import Objective, unit_factor
from gradlab.objectives.terms import LogTerms

if TYPE_CHECKING:
    from jaxtyping import Float


def score_surrogate(
    terms: LogTerms, objective: Objective, weighting: str, scale: str, name: str, baseline: Tensor | float = 0.0
) -> Float[Tensor, " batch"]:
    """Build the surrogate of the score-function estimator, with a baseline subtracted from the learning signal.

    Args:
        terms: log-weights, factor by factor.
        objective: the objective.
        weighting: ``"joint"``; ``"per-term"`` has no bound to use as a learning signal.
        scale: ``"nats"`` or ``"bpp"``.
        name: name of the estimator, for the error.
        baseline: one number, or one per image ``[B]``.

    Returns:
        The surrogate ``[B]``.

    Raises:
        GradlabError: if the weighting is per-term, or the terms have no taps.
    """
    check_joint(weighting, name)
    rescale_paths(terms, 0.0, name)
    value = objective(terms, weighting, scale)
    scores = terms.score_terms()
    if not isinstance(scores, Tensor):
        return value
    off = baseline.reshape(-1, 1, 1) if isinstance(baseline, Tensor) else baseline
    if objective.single:
        # Each log-weight is its own bound, so weighting it by the scores of its own samples alone is unbiased too.
        log_w = unit_factor(terms, scale) * terms.log_w().detach()
        return value + ((log_w - off) * scores).mean(dim=(1, 2))
    total = torch.stack([(s - s.detach()).sum(dim=(1, 2)) for s in terms.scores]).sum(dim=0)
    return value + (value.detach() - baseline) * total


SCORE = Estimator("score", partial(score_surrogate, name="score"), (FIXED_SUPPORT,), on_box=lambda draws: draws.zero)
