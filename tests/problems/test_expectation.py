"""The paper's expectation under the box: eqs. 7 and 8."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradlab.errors import GradlabError
from gradlab.noise import stream
from gradlab.problems import BoxExpectation


def test_expectation_under_the_box():
    """Eqs. 7 and 8: the pathwise gradient is right, the score function's is 0."""
    theta = 0.2
    problem = BoxExpectation(lambda x: x**3 + x.cos(), theta)

    def integral(x):
        return x**4 / 4 + math.sin(x)

    assert problem.exact_value() == pytest.approx(integral(0.7) - integral(-0.3), rel=1e-13)
    expected = (0.7**3 + math.cos(0.7)) - ((-0.3) ** 3 + math.cos(0.3))
    assert problem.exact_gradient() == pytest.approx(expected, rel=1e-14)
    noise = torch.rand(200_000, generator=stream(0, "test"), dtype=torch.float64) - 0.5
    pathwise = problem.pathwise(noise)
    np.testing.assert_allclose(pathwise, 3 * (theta + noise) ** 2 - (theta + noise).sin(), rtol=1e-10, atol=1e-12)
    assert abs(pathwise.mean() - expected) < 4.5 * pathwise.std() / len(noise) ** 0.5
    score = problem.score(noise)
    assert score.shape == noise.shape and not score.any() and abs(expected) > 0.1
    constant = BoxExpectation(lambda x: torch.full_like(x, 2.0), theta)
    assert not constant.pathwise(noise).any() and constant.exact_gradient() == 0.0
    assert BoxExpectation(lambda x: (x - 0.3).abs(), theta).exact_value() == pytest.approx(0.26, rel=1e-9)


@pytest.mark.parametrize("make, message", [
    pytest.param(lambda: BoxExpectation(lambda x: x, math.nan), "theta is nan", id="theta nan"),
    pytest.param(lambda: BoxExpectation(lambda x: x.log(), 0.3), "f is not finite on the box around theta = 0.3", id="logarithm"),
    pytest.param(lambda: BoxExpectation(lambda x: x.sum(), 0.3), "f does not return .* make it elementwise", id="sum"),
])  # fmt: skip
def test_bad_settings(make, message):
    with pytest.raises(GradlabError, match=message):
        make()
