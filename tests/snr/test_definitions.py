"""The definitions of DESIGN section 5 against plain numpy on stored draws; standard errors against repeated experiments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.errors import GradlabError
from gradlab.snr import definitions


def moments(draws):
    draws = torch.as_tensor(draws, dtype=torch.float64)
    mean = draws.mean(0)
    return mean, (draws - mean).square().sum(0), len(draws)


def test_definitions_on_stored_draws():
    rng = np.random.default_rng(0)
    draws = rng.normal(rng.normal(size=40), 0.3 + rng.random(40), size=(25, 40))
    draws[:, 7] = 3.0  # dead, with a mean
    draws[:, 8] = 0.0
    live = np.delete(draws, [7, 8], axis=1)
    group = definitions.tally(*moments(draws))
    mean, std = live.mean(0), live.std(0, ddof=1)
    assert (group.parameters, definitions.dead(group)) == (40, 2)
    assert definitions.snr(group) == pytest.approx(np.mean(np.abs(mean) / std), rel=1e-12)
    trace = np.sum(std**2)
    assert definitions.variance_trace(group) == pytest.approx(trace, rel=1e-12)
    corrected = math.sqrt(max(0, (np.sum(mean**2) - trace / 25) / trace))
    assert definitions.snr_corrected(group) == pytest.approx(corrected, rel=1e-12)
    assert definitions.mean_norm(group) == pytest.approx(np.linalg.norm(draws.mean(0)), rel=1e-12)
    assert definitions.noise_floor(25) == pytest.approx(math.sqrt(2 / (math.pi * 25)))


def test_masked_scalars_do_not_count():
    mean, m2, n = moments(np.random.default_rng(1).normal(size=(9, 6)))
    mask = torch.tensor([1, 0, 1, 1, 0, 1])
    assert definitions.tally(mean, m2, n, mask) == definitions.tally(mean[mask != 0], m2[mask != 0], n)


@given(cut=st.integers(1, 19), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_parts_add_up(cut, seed):
    mean, m2, n = moments(np.random.default_rng(seed).normal(size=(7, 20)))
    whole = definitions.tally(mean, m2, n)
    parts = definitions.merge([definitions.tally(mean[:cut], m2[:cut], n), definitions.tally(mean[cut:], m2[cut:], n)])
    assert parts == pytest.approx(whole, rel=1e-12)


def test_degenerate_groups():
    dead = definitions.tally(torch.ones(3), torch.zeros(3), 10)
    assert (
        definitions.dead(dead) == 3
        and math.isnan(definitions.snr(dead))
        and math.isnan(definitions.snr_corrected(dead))
    )
    one = definitions.tally(torch.ones(3), torch.zeros(3), 1)
    assert (
        definitions.dead(one) == 0 and math.isnan(definitions.snr(one)) and math.isnan(definitions.variance_trace(one))
    )
    with pytest.raises(GradlabError, match="at least one"):
        definitions.merge([])
    with pytest.raises(GradlabError, match="same draws"):
        definitions.merge([dead, one])
    with pytest.raises(GradlabError, match="one shape"):
        definitions.tally(torch.ones(3), torch.ones(2), 4)


def test_the_floor_and_its_correction():
    """Zero true mean: SNR sits on the floor and the corrected value falls through it, in a z-test over 2000 groups."""
    g = torch.Generator().manual_seed(5)
    t, size, groups = 100, 50, 2000
    draws = torch.randn(t, groups, size, generator=g, dtype=torch.float64)
    tallies = [definitions.tally(*moments(draws[:, i])) for i in range(groups)]
    values = np.array([definitions.snr(x) for x in tallies])
    # E|t_99| / sqrt(100), in closed form; the floor is its limit for many draws.
    f = t - 1
    expected = math.sqrt(f / math.pi) * math.exp(math.lgamma((f - 1) / 2) - math.lgamma(f / 2)) / math.sqrt(t)
    assert abs(values.mean() - expected) / (values.std() / math.sqrt(groups)) < 4.5
    assert definitions.noise_floor(t) == pytest.approx(expected, rel=0.01)
    # |mean|^2 - tr S / T is 0 in expectation: below 0 in about half of the groups.
    zeros = np.mean([definitions.snr_corrected(x) == 0 for x in tallies])
    assert abs(zeros - 0.5) < 0.08


def replicate_values(draws, block, start=40):
    """Replicates of consecutive blocks on top of ``start`` draws, by the plain formula."""
    out = []
    for n in range(start, len(draws) - block + 1, block):
        mean, m2, _ = moments(draws[:n])
        out.append(definitions.replicate(mean, m2, n, *moments(draws[n : n + block])))
    return np.array(out)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("mean", [1.0, 6.0])
def test_a_replicate_has_the_variance_of_the_snr(mean, block):
    """Far above the floor: Var = N (1 + mean^2 / 2) exactly for independent normal parameters."""
    g = torch.Generator().manual_seed(6)
    size = 300
    draws = mean + torch.randn(40 + 1500 * block, size, generator=g, dtype=torch.float64)
    values = replicate_values(draws[: 40 + 400 * block], block, start=40 * block)
    wanted = size * (1 + mean**2 / 2)
    z = (values.var(ddof=1) / wanted - 1) / math.sqrt(2 / (len(values) - 1))
    assert abs(z) < 4.5


def test_a_replicate_of_pure_noise_has_the_folded_variance():
    """Zero mean: |z| has variance 1 - 2/pi, not 1; those few beyond the threshold add 20 %."""
    g = torch.Generator().manual_seed(7)
    draws = torch.randn(1000, 300, generator=g, dtype=torch.float64)
    values = replicate_values(draws, 2, start=100)
    ratio = values.var(ddof=1) / (300 * (1 - 2 / math.pi))
    assert 0.8 < ratio < 1.35


def test_replicates_see_that_parameters_of_one_draw_are_correlated():
    g = torch.Generator().manual_seed(8)
    draws = 1.0 + torch.randn(500, 1, generator=g, dtype=torch.float64).expand(500, 200)
    values = replicate_values(draws, 1, start=60)
    wanted = 200**2 * 1.5
    assert abs(values.var(ddof=1) / wanted - 1) / math.sqrt(6 / len(values)) < 4.5


def test_dead_parameters_add_nothing():
    g = torch.Generator().manual_seed(9)
    mean, m2, n = moments(torch.randn(20, 5, generator=g, dtype=torch.float64))
    block, block_m2, b = moments(torch.randn(3, 5, generator=g, dtype=torch.float64))
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    alone = definitions.replicate(mean, m2, n, block, block_m2, b)
    padded = [torch.cat(pair) for pair in ((mean, one), (m2, zero), (block, one), (block_m2, zero))]
    assert definitions.replicate(padded[0], padded[1], n, padded[2], padded[3], b) == pytest.approx(alone, rel=1e-12)


def test_spread_is_blind_to_drift_and_needs_eight_blocks():
    g = torch.Generator().manual_seed(10)
    spread = definitions.Spread()
    for i in range(7):
        spread = spread.update(torch.randn(2, generator=g), 8 + i)
    assert math.isnan(spread.standard_error(0, 1, 15))
    spread = spread.update(torch.randn(2, generator=g), 15)
    assert spread.standard_error(0, 1, 16) > 0
    assert math.isnan(spread.standard_error(0, 0, 16))
    steady = drifting = definitions.Spread()
    for i in range(32):
        x = torch.randn(1, generator=g, dtype=torch.float64)
        steady, drifting = steady.update(x, 64 + i), drifting.update(x + i * 0.01, 64 + i)
    assert drifting.standard_error(0, 1, 96) == pytest.approx(steady.standard_error(0, 1, 96), rel=0.05)


def test_spread_forgets_old_octaves():
    spread = definitions.Spread()
    for n in (8, 9, 16, 32, 64, 128, 256):
        spread = spread.update(torch.tensor([float(n)]), n)
    assert sorted(spread.pairs) == [o.bit_length() for o in (64, 128, 256)]


def test_merged_spread_pools_squares():
    a = b = definitions.Spread()
    for i in range(9):
        a, b = a.update(torch.tensor([float(i % 2)]), 8 + i), b.update(torch.tensor([2.0 * (i % 2)]), 8 + i)
    merged = a.merge(b, 34)
    assert sum(merged.pairs.values()) == 16
    # Steps are 1 and 2: mean square 2.5, halved.
    assert merged.standard_error(0, 1, 34) == pytest.approx(math.sqrt(1.25 / 34 * 33 / 31))
