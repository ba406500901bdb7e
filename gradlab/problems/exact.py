"""Compute the exact gradient, mean and variance of an estimator on a toy problem, for one objective."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import NamedTuple

from gradlab.errors import NotExact
from gradlab.estimators import Estimator
from gradlab.objectives import Objective
from gradlab.problems.base import Problem

# Parameters of a posterior, for which an estimator with its own target (rws: wake-phi) approximates that target.
INFERENCE = ("phi", "mean", "std", "a", "b")


class Exact(NamedTuple):
    """Exact values of one estimator at one k; NaN if unknown.

    Attributes:
        gradient: gradient of the target.
        mean: mean of one draw of the estimator.
        variance: variance of one draw.
        target: what the estimator approximates: the name of the objective, or the estimator's own target.
    """

    gradient: float
    mean: float
    variance: float
    target: str


def exact_snr(mean: float, variance: float) -> float:
    """Return ``|mean| / sqrt(variance)``.

    Args:
        mean: mean of one draw.
        variance: variance of one draw.

    Returns:
        The SNR. At variance 0 it is infinite, or NaN if the mean is 0 too.

    Example:
        >>> from gradlab.problems.exact import exact_snr
        >>> exact_snr(3.0, 4.0)
        1.5
    """
    if variance > 0:
        return abs(mean) / math.sqrt(variance)
    return math.nan if mean == 0 or math.isnan(variance) else math.inf


def exact_values(problem: Problem, estimator: Estimator, objective: Objective, k: int, wrt: str) -> Exact:
    """Return the exact gradient, and the exact mean and variance of one draw of an estimator.

    The average of k single-sample bounds (``elbo``) has the gradient of one and a k-th of its variance, except for
    estimators that compare samples, which have no single-sample form.

    Args:
        problem: the problem.
        estimator: the estimator.
        objective: the objective.
        k: samples per draw.
        wrt: the parameter to differentiate with respect to.

    Returns:
        The exact values, NaN if unknown.
    """
    special_target = estimator.target if estimator.target and wrt in INFERENCE else None
    gradient = _exact_gradient(problem, objective, k, wrt, wake=special_target is not None)
    size, share = (1, k) if objective.single else (k, 1)
    mean, variance = math.nan, math.nan
    if not objective.jackknife and not estimator.undefined(problem.posterior, size):
        with suppress(NotExact):
            mean, variance = problem.exact_moments(estimator.name, size, wrt=wrt)
    if math.isnan(mean) and special_target is None and not estimator.unmet(problem.posterior, k):
        mean = gradient  # by contract; z then tests that the estimator is unbiased, as it declares
    return Exact(gradient, mean, variance / share, special_target or objective.name)


def _exact_gradient(problem: Problem, objective: Objective, k: int, wrt: str, wake: bool) -> float:
    try:
        if wake:
            return float(problem.exact_wake_gradient(wrt))
        if objective.jackknife:
            return k * problem.exact_gradient(k, wrt=wrt) - (k - 1) * problem.exact_gradient(k - 1, wrt=wrt)
        return problem.exact_gradient(1 if objective.single else k, wrt=wrt)
    except NotExact:
        return math.nan
