"""Compare estimators at equal cost: the error that a budget of evaluations of log w buys.

A draw with more samples, or with evaluations at the walls of the support, costs more. Its variance has to be lower by
the same factor, and no budget averages a bias away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

import torch

from gradlab.errors import GradlabError
from gradlab.estimators import Estimator, get_estimator
from gradlab.noise import stream
from gradlab.problems.base import Problem, check_k
from gradlab.validation import checked, whole

if TYPE_CHECKING:
    import pandas as pd


@checked
def evaluations(problem: Problem, name: str | Estimator, k: SupportsIndex, wrt: str = "phi") -> int:
    """Count the evaluations of log w in one draw of an estimator, at its k samples and at the walls.

    Points that all samples of a draw share (the walls of a box in one dimension) count once.

    Args:
        problem: the problem.
        name: a name from ``ESTIMATORS``, or an ``Estimator``.
        k: samples per draw.
        wrt: the parameter to differentiate with respect to.

    Returns:
        The number of evaluations.

    Raises:
        GradlabError: if the estimator or the parameter is unknown, k is below 1, or the estimator needs walls but the
            posterior has none.

    Example:
        >>> import gradlab as gl
        >>> from gradlab.problems.budget import evaluations
        >>> box = gl.problems.BoxGaussian(phi=0.3, x=1.0)
        >>> evaluations(box, "dreg", k=8), evaluations(box, "dreg-boundary", k=8)
        (8, 10)
    """
    walls, k = get_estimator(name).walls, check_k(k)
    noise = problem.draw_noise(1, k, stream(0, "cost"))
    value = torch.full((1,), problem.parameters[problem.check_wrt(wrt)], dtype=noise.dtype)
    terms = problem.log_terms(noise, {wrt: value}, walls=walls)
    if terms.walls is None:
        return k
    at = terms.walls.log_w
    points = 1
    for size, stride in zip(at.shape, at.stride(), strict=True):
        points *= size if stride else 1  # a stride of 0 is one evaluation, used repeatedly
    return k + points


@checked
def at_equal_cost(table: pd.DataFrame, problem: Problem, budget: SupportsIndex) -> pd.DataFrame:
    """Add the mean squared error of an average over as many draws as a budget allows to a table of ``compare``.

    Fractions of a draw count; the pilot draws of a learned baseline do not.

    Args:
        table: the result of ``compare`` for this problem.
        problem: the problem.
        budget: number of evaluations of log w.

    Returns:
        The table with three more columns. ``evaluations`` counts the evaluations of log w in one draw. ``mse`` is the
        measured bias^2 + variance x evaluations / budget, in squared units of the gradient, where bias^2 is the square
        of the measured bias minus its squared standard error, at least 0. ``exact_mse`` is the same from the exact mean
        and variance, NaN if they are not known.

    Raises:
        GradlabError: if the budget does not pay for one draw of each row.

    Example:
        >>> import gradlab as gl
        >>> from gradlab.problems.budget import at_equal_cost
        >>> box = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
        >>> table = gl.compare(box, ("pathwise", "dreg-boundary"), k=8, draws=2000)
        >>> at_equal_cost(table, box, budget=1000)["exact_mse"].round(4).tolist()
        [0.0017, 0.001]
    """
    budget = whole("budget", budget)
    costs = [
        evaluations(problem, e, k, wrt) for e, k, wrt in zip(table["estimator"], table["k"], table["wrt"], strict=True)
    ]
    if costs and budget < max(costs):
        raise GradlabError(f"budget is {budget} evaluations, but one draw takes {max(costs)}: give at least that many")
    table = table.assign(evaluations=costs)
    share = table["evaluations"] / budget
    table["mse"] = (table["bias"] ** 2 - table["bias_se"] ** 2).clip(lower=0) + table["variance"] * share
    table["exact_mse"] = (table["exact_mean"] - table["exact"]) ** 2 + table["exact_variance"] * share
    return table
