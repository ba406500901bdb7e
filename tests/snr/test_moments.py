"""Streaming moments against stored draws, exact integers and known distributions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.errors import GradlabError
from gradlab.snr.moments import HigherMoments, Moments

numbers = st.lists(st.integers(-1000, 1000), min_size=1, max_size=30)


def of(kind, values, chunk=None):
    state = kind.init()
    values = torch.tensor(values, dtype=torch.float64)
    for part in values.split(chunk or len(values)):
        state = state.update(part)
    return state


def exact(values):
    """Count, mean and centred power sums in rational arithmetic."""
    n = len(values)
    mean = Fraction(sum(values), n)
    return [n, float(mean)] + [float(sum((v - mean) ** p for v in values)) for p in (2, 3, 4)]


def close(state, wanted, scale):
    for power, (a, b) in enumerate(zip(state[1:], wanted[1:], strict=False), start=1):
        assert abs(float(a) - b) <= 1e-12 * (abs(b) + scale ** max(1, power)), (power, float(a), b)


@given(values=numbers, chunk=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_streaming_is_stored(values, chunk):
    scale = max(1, max(abs(v) for v in values)) * len(values)
    for kind in (Moments, HigherMoments):
        state = of(kind, values, chunk)
        assert state.count == len(values)
        close(state, exact(values), scale)


@given(a=numbers, b=numbers, c=numbers)
@settings(max_examples=60, deadline=None)
def test_merge_is_associative_and_commutative(a, b, c):
    scale = max(1, max(abs(v) for v in a + b + c)) * len(a + b + c)
    for kind in (Moments, HigherMoments):
        x, y, z = of(kind, a), of(kind, b), of(kind, c)
        for state in (x.merge(y).merge(z), x.merge(y.merge(z)), z.merge(x).merge(y)):
            assert state.count == len(a + b + c)
            close(state, exact(a + b + c), scale)


@pytest.mark.parametrize("kind", [Moments, HigherMoments])
def test_empty_states_are_neutral(kind):
    state = of(kind, [1.0, 2.0, 4.0])
    for merged in (state.merge(kind.init()), kind.init().merge(state), state.update(torch.empty(0))):
        assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(merged, state, strict=True))
    assert math.isnan(kind.init().variance())
    assert math.isnan(of(kind, [3.0]).variance()) and of(kind, [3.0]).variance(ddof=0) == 0


@pytest.mark.parametrize("kind", [Moments, HigherMoments])
def test_a_mean_that_dominates_costs_no_digits(kind):
    # Exact in float64: multiples of 2^-20 around 2^28, standard deviation about 1.
    steps = (
        torch.randint(-(2**21), 2**21, (4000,), generator=torch.Generator().manual_seed(1)).to(torch.float64) / 2**20
    )
    wanted = exact([Fraction(int(s * 2**20), 2**20) for s in steps.tolist()])
    state = kind.init()
    for part in (steps + 2.0**28).split(37):
        state = state.update(part)
    # The running mean itself is rounded to 2^-25, once per merge.
    assert abs(float(state.m2) / wanted[2] - 1) < 1e-8
    if kind is HigherMoments:
        assert abs(float(state.m4) / wanted[4] - 1) < 1e-7
        assert abs(float(state.m3) - wanted[3]) / wanted[2] < 1e-5


def test_shapes_dtypes_and_purity():
    draws = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(2))
    start = Moments.init(draws[0].shape)
    state = start.update(draws.to(torch.bfloat16)[:20]).update(draws[20:])
    assert state.mean.dtype == torch.float64 and state.mean.shape == (2, 3)
    assert start.count == 0 and not start.mean.any()
    stored = torch.cat([draws.to(torch.bfloat16)[:20].double(), draws[20:].double()])
    torch.testing.assert_close(state.variance(), stored.var(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        HigherMoments.init(draws[0].shape).update(stored).mean, stored.mean(0), rtol=1e-12, atol=1e-15
    )


def test_bad_input():
    with pytest.raises(GradlabError, match="does not fit statistics of shape"):
        Moments.init((2,)).update(torch.zeros(5, 3))
    with pytest.raises(GradlabError, match="first axis"):
        HigherMoments.init().update(torch.tensor(1.0))
    with pytest.raises(GradlabError, match="cannot be merged"):
        Moments.init((2,)).merge(Moments.init((3,)))
    with pytest.raises(GradlabError, match="complex"):
        Moments.init().update(torch.zeros(3, dtype=torch.complex64))


def test_degenerate_snr():
    assert of(HigherMoments, [2.0] * 9).snr() == math.inf
    assert math.isnan(of(HigherMoments, [0.0] * 9).snr())
    assert math.isnan(of(HigherMoments, [2.0] * 9).snr_se())
    assert of(HigherMoments, [2.0] * 9).variance_se() == 0


def draw(name, shape, g):
    if name == "normal":
        return 2 + torch.randn(shape, generator=g, dtype=torch.float64), (2.0, 1.0)
    # Skewed and heavy-tailed, so that forgetting skewness or kurtosis shows.
    return -torch.empty(shape, dtype=torch.float64).exponential_(generator=g) - 0.5, (-1.5, 1.0)


@pytest.mark.parametrize("name", ["normal", "exponential"])
def test_standard_errors_cover_repeated_experiments(name):
    """z-values of mean, variance and SNR over 4000 experiments have mean 0 and variance 1, to 4.5 standard errors."""
    experiments, n = 4000, 2000
    draws, (mean, variance) = draw(name, (n, experiments), torch.Generator().manual_seed(3))
    state = HigherMoments.init((experiments,)).update(draws)
    snr = abs(mean) / math.sqrt(variance)
    errors = {
        "mean": (state.mean - mean, state.mean_se()),
        "variance": (state.variance() - variance, state.variance_se()),
        "snr": (state.snr() - snr, state.snr_se()),
    }
    for what, (error, se) in errors.items():
        assert abs(error.mean() / error.std() * math.sqrt(experiments)) < 4.5, what
        # var(error) / E[se^2]: its own standard error is sqrt((kurtosis - 1) / experiments).
        ratio = float(error.var() / se.square().mean())
        fourth = float(((error - error.mean()) ** 4).mean() / error.var() ** 2)
        # E[se^2] is low by some 10 / n where tails are heavy (exponential: kurtosis 9, of the square 24).
        assert abs(ratio - 1) < 4.5 * math.sqrt((fourth - 1) / experiments) + 0.02, what


@given(values=numbers, chunk=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_pooled_is_stored(values, chunk):
    scale = max(1, max(abs(v) for v in values)) * len(values)
    draws = torch.tensor(values, dtype=torch.float64)
    parts = [HigherMoments.init()] + [HigherMoments.init().update(part) for part in draws.split(chunk)]
    state = HigherMoments.pooled(parts)
    assert state.count == len(values)
    close(state, exact(values), scale)


def test_pooling_keeps_digits_where_the_mean_dominates():
    draws = torch.tensor([[1e8 + v, v] for v in (0.0, 1.0, 3.0, 4.0, 7.0)], dtype=torch.float64)
    state = HigherMoments.pooled([HigherMoments.init((2,)).update(part) for part in draws.split(2)])
    assert state.m2.tolist() == [pytest.approx(30.0, abs=1e-6)] * 2
    assert HigherMoments.pooled([HigherMoments.init()]).count == 0
    with pytest.raises(GradlabError, match="no moments to pool"):
        HigherMoments.pooled([])
    with pytest.raises(GradlabError, match="cannot be merged"):
        HigherMoments.pooled([HigherMoments.init((2,)), HigherMoments.init()])
