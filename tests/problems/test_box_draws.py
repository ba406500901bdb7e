"""The fused path of ``compare`` against autograd, on the same noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import gradlab as gl
from gradlab import kernels, noise
from gradlab.estimators import ESTIMATORS
from gradlab.noise import BLOCK, stream
from gradlab.problems import box_draws, comparison
from gradlab.problems.comparison import gradients

# log w varies by 2.5 nats over the first box, by 21 over the second, by 143 over the third.
MILD = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
STEEP = gl.problems.BoxGaussian(phi=1.4, x=-0.5, slope=1.3, offset=0.4, likelihood_std=0.4, prior_std=2.0)
STEEPEST = gl.problems.BoxGaussian(phi=2.3, x=-1.0, slope=1.3, offset=0.4, likelihood_std=0.2, prior_std=2.0)
CURVED = gl.problems.BoxProblem(lambda y: torch.sin(3 * y) - y**4, phi=0.7)
# Of an estimate: float32 rounds a log-weight of L nats by 6e-8 L, and the slope is weighed by its exponential.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}


@pytest.mark.parametrize("problem", [MILD, STEEP, STEEPEST, CURVED], ids=["mild", "steep", "steepest", "curved"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float64", "float32"])
@pytest.mark.parametrize("k", [1, 2, 64])
def test_each_draw_is_what_autograd_gives(problem, dtype, k):
    for e in ESTIMATORS.values():
        if not box_draws.fits(problem, e, gl.OBJECTIVES["iwae"], "phi", dtype):
            assert dtype == torch.float32 and problem is STEEPEST
        elif not e.undefined(problem.posterior, k):
            plain = gradients(problem, e, problem.draw_noise(300, k, stream(0, "fused"), dtype))
            (drawn,) = torch.from_numpy(box_draws.box_gradients(problem, [e], 300, k, stream(0, "fused"), dtype))
            size = plain.double().abs().clamp(min=1)
            worst = ((drawn - plain.double()).abs() / size).max()
            assert worst < TOLERANCE[dtype], e.name


def test_every_estimator_has_a_closed_form_on_the_box():
    assert all(e.on_box is not None for e in ESTIMATORS.values())


def test_blocks_leave_no_seam():
    draws, k = 3 * BLOCK // 8 + 5, 8
    (drawn,) = box_draws.box_gradients(MILD, [ESTIMATORS["pathwise"]], draws, k, stream(0, "seam"), torch.float64)
    plain = gradients(MILD, ESTIMATORS["pathwise"], MILD.draw_noise(draws, k, stream(0, "seam")))
    torch.testing.assert_close(torch.from_numpy(drawn), plain, rtol=1e-10, atol=1e-10)


def test_the_compiled_generator_is_numpys():
    """Loop and plain form give the same numbers, and each stream is numpy's SFC64 (which the plain form calls)."""
    seeds = np.random.SeedSequence(5).generate_state(3 * noise.LANES, np.uint64).reshape(3, noise.LANES)
    streams = []
    for fast in (True, False):
        state = np.concatenate([seeds, np.ones((1, noise.LANES), np.uint64)])
        streams.append(np.concatenate([noise._sfc64(state, rows, fast) for rows in (12, 1, 500)]))
    assert np.array_equal(*streams) and noise.LANES == kernels.LANES
    lane = np.random.SFC64(0)
    lane.state = {**lane.state, "state": {"state": np.array([*seeds[:, 3], 1], np.uint64)}}
    assert np.array_equal(streams[0].reshape(-1, noise.LANES)[:, 3], lane.random_raw(513))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float64", "float32"])
def test_the_noise_is_uniform_and_independent(dtype):
    """Chi-squared of 4096 cells of pairs of neighbours, in both directions, at 2^20 of them."""
    u = MILD.draw_noise(2**18 + 3, 5, stream(0, "uniform"), dtype)
    assert u.shape == (2**18 + 3, 5) and u.dtype == dtype and u.abs().max() <= 0.5
    cells = ((u + 0.5) * 64).long().clamp(max=63)
    for one, other in ((cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])):
        counts = torch.bincount((64 * one + other).flatten(), minlength=4096).double()
        expected = one.numel() / 4096
        statistic = float((counts - expected).square().sum() / expected)
        assert abs(statistic - 4095) < 4 * (2 * 4095) ** 0.5
    again = MILD.draw_noise(2**18 + 3, 5, stream(0, "uniform"), dtype)
    assert torch.equal(u, again)
    assert not torch.equal(u, MILD.draw_noise(2**18 + 3, 5, stream(1, "uniform"), dtype))


@pytest.mark.parametrize("threads", [1, 3])
def test_compare_is_the_plain_path_whatever_the_threads(monkeypatch, threads):
    monkeypatch.setattr(comparison, "CHUNK", 2**12)  # 20 chunks
    monkeypatch.setattr(comparison, "MANY", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    arguments = (MILD, tuple(ESTIMATORS), (2, 8), 10_000)
    fast = gl.compare(*arguments, allow_biased=True)
    monkeypatch.setattr(comparison, "fits", lambda *a: False)
    plain = gl.compare(*arguments, allow_biased=True)
    numbers = [c for c in plain.select_dtypes("number").columns if not c.startswith("z")]
    pd.testing.assert_frame_equal(fast[numbers], plain[numbers], rtol=1e-10, atol=1e-10)


def test_a_failure_in_a_thread_is_told():
    def fail(index):
        if index == 3:
            raise ValueError("third")
        return index

    values = []
    with pytest.raises(ValueError, match="third"):
        for value in comparison._in_turn(fail, 10, 2):
            values.append(value)
    assert values == [0, 1, 2]


@pytest.mark.parametrize(
    "change", [{"wrt": "prior_std"}, {"objective": "elbo"}, {"objective": "jvi"}, {"noise": "antithetic"}]
)
def test_what_has_no_closed_form_goes_by_autograd(monkeypatch, change):
    def refuse(*args):
        raise AssertionError("fused")

    monkeypatch.setattr(comparison, "box_moments", refuse)
    many = comparison.MANY
    monkeypatch.setattr(comparison, "MANY", 128)
    assert len(gl.compare(MILD, ("pathwise",), k=2, draws=64, **change)) == 1
    with pytest.raises(AssertionError, match="fused"):
        gl.compare(MILD, ("pathwise",), k=2, draws=64)
    monkeypatch.setattr(comparison, "MANY", many)
    assert len(gl.compare(MILD, ("pathwise",), k=2, draws=64)) == 1
