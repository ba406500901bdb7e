"""What is exactly true of an estimator on a toy problem: the problem, the estimator and the objective put together."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import NamedTuple

from gradlab.errors import NotExact
from gradlab.estimators import Estimator
from gradlab.objectives import Objective
from gradlab.problems.base import Problem

# Parameters of a posterior, by which an estimator with a target of its own approximates that (rws: wake-phi).
INFERENCE = ("phi", "mean", "std", "a", "b")


class Exact(NamedTuple):
    """What is exactly true of one estimator at one k; NaN where no exact answer is known.

    Attributes:
        gradient: of the target.
        mean: of one draw of the estimator.
        variance: of one draw.
        target: what the estimator approximates: the objective's name, or an objective of the estimator's own.
    """

    gradient: float
    mean: float
    variance: float
    target: str


def exact_answers(problem: Problem, estimator: Estimator, objective: Objective, k: int, wrt: str) -> Exact:
    """The exact gradient, and the exact mean and variance of one draw of the estimator, at sample size k.

    The average of k single-sample bounds (``elbo``) has the gradient of one, and a k-th of its variance; but for an
    estimator that compares the samples, which has no single-sample form.
    """
    own = estimator.target if estimator.target and wrt in INFERENCE else None
    gradient = _exact_gradient(problem, objective, k, wrt, own)
    size, share = (1, k) if objective.single else (k, 1)
    mean, variance = math.nan, math.nan
    if not objective.jackknife and not estimator.undefined(problem.posterior, size):
        with suppress(NotExact):
            mean, variance = problem.exact_moments(estimator.name, size, wrt=wrt)
    if math.isnan(mean) and own is None and not estimator.unmet(problem.posterior, k):
        mean = gradient  # by contract: z then tests the estimator's claim to be unbiased
    return Exact(gradient, mean, variance / share, own or objective.name)


def _exact_gradient(problem: Problem, objective: Objective, k: int, wrt: str, own: str | None) -> float:
    try:
        if own is not None:
            return float(problem.exact_wake_gradient(wrt))
        if objective.jackknife:
            return k * problem.exact_gradient(k, wrt=wrt) - (k - 1) * problem.exact_gradient(k - 1, wrt=wrt)
        return problem.exact_gradient(1 if objective.single else k, wrt=wrt)
    except NotExact:
        return math.nan
