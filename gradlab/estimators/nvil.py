"""Score-function gradient with a baseline that depends on the input alone (NVIL).

Equation (Mnih & Gregor 2014, with a baseline b)::

    E_q[ (L^ - b(x)) sum_i grad log q(y_i; phi)  -  sum_i w~_i grad log q(y_i; phi) ],   L^ = log (1/k) sum_i w_i

Approximates: the gradient of the objective, without a derivative of log w in the samples.
With: ``score``, with the baseline subtracted from the learning signal. The original also divides by a running standard
deviation, which rescales the gradient and is left out here.
Requires: a support that does not move with the parameters; a baseline that is independent of the draws.
Biased when: the support moves (on the unit box it is exactly 0 for phi), or the baseline was computed from these draws.

The caller keeps the state: ``nvil(b)`` is the estimator for one step, with b the prediction of a network of x (train it
on ``baseline_loss``), the value of a ``RunningMean``, or their sum as in the original. ``ESTIMATORS["nvil"]`` has
b = 0, like a running mean before its first update. Its ``fit``, which ``compare`` calls, sets b to the mean of L^ over
a pilot run on other noise, the limit of a running mean at fixed parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.estimators._base import FIXED_SUPPORT, Estimator
from gradlab.estimators.score import score_surrogate
from gradlab.objectives.bounds import Objective, get_objective
from gradlab.objectives.terms import LogTerms

if TYPE_CHECKING:
    from jaxtyping import Float


class RunningMean(NamedTuple):
    """An exponential moving average of the learning signal.

    Attributes:
        value: the baseline in nats; 0 before the first update.
        decay: the share of the old value that an update keeps.

    Example:
        >>> import torch
        >>> from gradlab.estimators.nvil import RunningMean
        >>> round(RunningMean().update(torch.tensor([-2.0, -4.0])).value, 4)
        -0.3
    """

    value: float = 0.0
    decay: float = 0.9

    def update(self, bound: Float[Tensor, " batch"]) -> RunningMean:
        """Return the state after the values ``[B]`` of the objective in one step, for use from the next step on."""
        return RunningMean(self.decay * self.value + (1 - self.decay) * float(bound.detach().mean()), self.decay)


def nvil(baseline: Float[Tensor, " batch"] | Float[Tensor, ""] | float = 0.0) -> Estimator:
    """Return the NVIL estimator with a given baseline.

    Args:
        baseline: one number, or one per image ``[B]``, in the unit of the objective; no gradient reaches it.

    Returns:
        The estimator for one step.

    Example:
        >>> from gradlab.estimators.nvil import nvil
        >>> nvil(-3.0).name
        'nvil'
    """
    fixed = baseline.detach() if isinstance(baseline, Tensor) else baseline

    def surrogate(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Tensor:
        if isinstance(fixed, Tensor) and fixed.shape not in ((), terms.shape[:1]):
            raise GradlabError(
                f"baseline has shape {tuple(fixed.shape)}: give one number per image, [{terms.shape[0]}]"
            )
        return score_surrogate(terms, objective, weighting, scale, "nvil", fixed)

    return Estimator("nvil", surrogate, (FIXED_SUPPORT,), fit=_fit, on_box=lambda draws: draws.zero)


def baseline_loss(
    terms: LogTerms, prediction: Float[Tensor, " batch"], objective: str | Objective = "iwae"
) -> Float[Tensor, " batch"]:
    """Compute the training loss of a learned baseline, ``(L^ - prediction)^2`` (Mnih & Gregor 2014, eq. 8).

    Args:
        terms: log-weights, factor by factor.
        prediction: prediction of the baseline for each image, ``[B]``.
        objective: a name from ``OBJECTIVES``, or an ``Objective``.

    Returns:
        The loss of each image, ``[B]``.
    """
    return (get_objective(objective)(terms).detach() - prediction).square()


def _fit(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Estimator:
    with torch.no_grad():
        return nvil(float(objective(terms, weighting, scale).mean()))


NVIL = nvil()
