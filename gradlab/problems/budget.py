"""Estimators at equal cost: what error a budget of evaluations of log w buys.

A draw of more samples, or one that also looks at the walls of the support, costs more: its variance has to be lower by
as much to be worth it, and a bias is not averaged away at any cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gradlab.errors import GradlabError
from gradlab.estimators import Estimator, get_estimator
from gradlab.noise import stream
from gradlab.problems.base import Problem

if TYPE_CHECKING:
    import pandas as pd


def evaluations(problem: Problem, name: str | Estimator, k: int, wrt: str = "phi") -> int:
    """How often one draw of an estimator evaluates log w: at its k samples, and where else it looks.

    Points that all samples of a draw share (the walls of a box in one dimension) count once.

    Raises:
        GradlabError: unknown estimator or parameter, k below 1, or an estimator that the posterior has nothing for.
    """
    walls = get_estimator(name).walls
    noise = problem.draw_noise(1, k, stream(0, "cost"))
    value = torch.full((1,), problem.parameters[problem.check_wrt(wrt)], dtype=noise.dtype)
    terms = problem.log_terms(noise, {wrt: value}, walls=walls)
    if terms.walls is None:
        return k
    at = terms.walls.log_w
    points = 1
    for size, stride in zip(at.shape, at.stride(), strict=True):
        points *= size if stride else 1  # a stride of 0 is one evaluation, looked at often
    return k + points


def at_equal_cost(table: pd.DataFrame, problem: Problem, budget: int) -> pd.DataFrame:
    """``compare``'s table with the mean squared error of the average of as many draws as a budget buys.

    Args:
        table: what ``compare`` returned for this problem.
        problem: the problem.
        budget: evaluations of log w.

    Returns:
        The table with ``evaluations`` (of log w, for one draw), ``mse`` = bias^2 + variance x evaluations / budget as
        measured (the square of the measured bias less its own noise, at least 0), and ``exact_mse`` from the exact mean
        and variance (NaN where they are not known). Squared units of the gradient. A fraction of a draw counts as
        such; the pilot draws that a learned baseline is fitted on do not count.

    Raises:
        GradlabError: a budget that does not buy one draw of each row.
    """
    costs = [
        evaluations(problem, e, k, wrt) for e, k, wrt in zip(table["estimator"], table["k"], table["wrt"], strict=True)
    ]
    if costs and not budget >= max(costs):
        raise GradlabError(f"the budget is {budget} evaluations, but one draw takes {max(costs)}: give at least that")
    table = table.assign(evaluations=costs)
    share = table["evaluations"] / budget
    table["mse"] = (table["bias"] ** 2 - table["bias_se"] ** 2).clip(lower=0) + table["variance"] * share
    table["exact_mse"] = (table["exact_mean"] - table["exact"]) ** 2 + table["exact_variance"] * share
    return table
