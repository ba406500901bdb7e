"""The fused path of ``compare`` against autograd, on the same noise."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import gradlab as gl
from gradlab import comparison, fused
from gradlab.comparison import gradients
from gradlab.estimators import ESTIMATORS
from gradlab.noise import stream

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
        if not fused.fits(problem, e, gl.OBJECTIVES["iwae"], "phi", dtype):
            assert dtype == torch.float32 and problem is STEEPEST
        elif not e.undefined(problem.posterior, k):
            plain = gradients(problem, e, problem.draw_noise(300, k, stream(0, "fused"), dtype))
            (found,) = fused.box_gradients(problem, [e], 300, k, stream(0, "fused"), dtype)
            size = plain.double().abs().clamp(min=1)
            worst = ((found - plain.double()).abs() / size).max()
            assert worst < TOLERANCE[dtype], e.name


def test_every_estimator_has_a_closed_form_on_the_box():
    assert all(e.on_box is not None for e in ESTIMATORS.values())


def test_chunks_leave_no_seam(monkeypatch):
    (whole,) = fused.box_gradients(MILD, [ESTIMATORS["pathwise"]], 1000, 8, stream(0, "seam"), torch.float64)
    monkeypatch.setattr(fused, "PASS", 64)
    (parts,) = fused.box_gradients(MILD, [ESTIMATORS["pathwise"]], 1000, 8, stream(0, "seam"), torch.float64)
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("threads", [1, 3])
def test_compare_is_the_plain_path_whatever_the_threads(monkeypatch, threads):
    monkeypatch.setattr(comparison, "CHUNK", 2**12)  # 20 chunks
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

    found = []
    with pytest.raises(ValueError, match="third"):
        for value in comparison._in_turn(fail, 10, 2):
            found.append(value)
    assert found == [0, 1, 2]


@pytest.mark.parametrize(
    "change", [{"wrt": "prior_std"}, {"objective": "elbo"}, {"objective": "jvi"}, {"noise": "antithetic"}]
)
def test_what_has_no_closed_form_goes_by_autograd(monkeypatch, change):
    def refuse(*args):
        raise AssertionError("fused")

    monkeypatch.setattr(comparison, "box_gradients", refuse)
    assert len(gl.compare(MILD, ("pathwise",), k=2, draws=64, **change)) == 1
    with pytest.raises(AssertionError, match="fused"):
        gl.compare(MILD, ("pathwise",), k=2, draws=64)
