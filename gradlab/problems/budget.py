"""Estimators at equal cost: the error that a budget of evaluations of log w buys.

A draw with more samples, or with evaluations at the walls of the support, costs more: its variance has to be lower by
the same factor, and a bias is not averaged away at any cost.
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
    """Count the evaluations of log w in one draw of an estimator: at its k samples, and at the walls.

    Points that all samples of a draw share (the walls of a box in one dimension) count once.

    Raises:
        GradlabError: unknown estimator or parameter, k below 1, or an estimator that needs walls on a posterior without
            walls.
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
    """Add to a table of ``compare`` the mean squared error of the average of as many draws as a budget buys.

    Args:
        table: the result of ``compare`` for this problem.
        problem: the problem.
        budget: evaluations of log w.

    Returns:
        The table with ``evaluations`` (of log w, for one draw), ``mse`` = bias^2 + variance x evaluations / budget as
        measured (the square of the measured bias less its squared standard error, at least 0), and ``exact_mse`` from
        the exact mean and variance (NaN where they are not known). Squared units of the gradient. Fractions of a draw
        count; the pilot draws of a learned baseline do not.

    Raises:
        GradlabError: a budget below the cost of one draw of some row.
    """
    budget = whole("the budget", budget)
    costs = [
        evaluations(problem, e, k, wrt) for e, k, wrt in zip(table["estimator"], table["k"], table["wrt"], strict=True)
    ]
    if costs and budget < max(costs):
        raise GradlabError(f"the budget is {budget} evaluations, but one draw takes {max(costs)}: give at least that")
    table = table.assign(evaluations=costs)
    share = table["evaluations"] / budget
    table["mse"] = (table["bias"] ** 2 - table["bias_se"] ** 2).clip(lower=0) + table["variance"] * share
    table["exact_mse"] = (table["exact_mean"] - table["exact"]) ** 2 + table["exact_variance"] * share
    return table
