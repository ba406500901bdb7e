from __future__ import annotations

import math

import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.estimators import get_estimator
from gradlab.noise import stream
from gradlab.problems.budget import at_equal_cost, evaluations
from gradlab.problems.comparison import gradients

BOX = gl.problems.BoxGaussian(0.3, 1.0, likelihood_std=0.5)
NORMAL = gl.problems.NormalGaussian(0.3, 0.5, 1.0)


@pytest.mark.parametrize(
    ("problem", "name", "k", "expected"),
    [
        pytest.param(BOX, "pathwise", 5, 5, id="pathwise"),
        pytest.param(BOX, "dreg", 5, 5, id="dreg"),
        pytest.param(BOX, "measure-valued", 5, 7, id="measure-valued"),  # the two walls are the same for all samples
        pytest.param(BOX, "dreg-boundary", 5, 7, id="dreg-boundary"),
        pytest.param(
            NORMAL, "measure-valued", 5, 15, id="measure-valued on a Normal"
        ),  # a pair of its own for each sample
        pytest.param(
            gl.problems.BoxGaussian(0.3, 1.0, dim=3), "measure-valued", 5, 15, id="measure-valued in three dimensions"
        ),  # phi's coordinate alone, each sample its own
    ],
)
def test_evaluations_are_samples_and_the_places_that_an_estimator_looks_at(problem, name, k, expected):
    assert evaluations(problem, name, k) == expected


@pytest.mark.parametrize("name", ["pathwise", "dreg", "measure-valued"])
def test_the_error_is_that_of_an_average_over_as_many_draws_as_the_budget_buys(name):
    k, draws, repeats = 3, 20, 20_000
    budget = draws * evaluations(BOX, name, k)
    table = at_equal_cost(gl.compare(BOX, (name,), k, 100_000, allow_biased=True), BOX, budget)
    (row,) = table.to_dict("records")
    noise = BOX.draw_noise(draws * repeats, k, stream(0, "equal cost"))
    means = gradients(BOX, get_estimator(name), noise).reshape(repeats, draws).mean(dim=1)
    squares = (means - BOX.exact_gradient(k)) ** 2
    se = float(squares.std() / math.sqrt(repeats))
    assert abs(float(squares.mean()) - row["exact_mse"]) < 4.5 * se
    assert row["mse"] == pytest.approx(row["exact_mse"], rel=0.05)


def test_the_noise_of_a_measured_bias_is_not_taken_for_bias():
    """As many draws as the budget buys: half of the square of the measured bias would be its own noise."""
    tables = [at_equal_cost(gl.compare(BOX, ("pathwise",), 1, 1000, seed), BOX, 1000) for seed in range(100)]
    ratios = torch.tensor([float((t["mse"] / t["exact_mse"]).iloc[0]) for t in tables])
    assert float(ratios.median()) == pytest.approx(1.0, abs=0.15) and float(ratios.min()) > 0.5


def test_a_bias_is_not_averaged_away():
    table = at_equal_cost(gl.compare(BOX, ("pathwise", "dreg"), 8, 1000, allow_biased=True), BOX, 10**9)
    pathwise, dreg = table["exact_mse"]
    assert pathwise < 1e-6 and dreg == pytest.approx(BOX.boundary_term(8) ** 2, rel=1e-6)


def test_a_budget_that_buys_no_draw_is_refused():
    table = gl.compare(BOX, ("pathwise",), 8, 10)
    with pytest.raises(GradlabError, match="budget is 7 evaluations, but one draw takes 8"):
        at_equal_cost(table, BOX, 7)
    with pytest.raises(GradlabError, match="budget is nan"):
        at_equal_cost(table, BOX, math.nan)
