"""Loops compile with and without a cache on disk; without numba, numpy operations give the same numbers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import gradlab as gl
from gradlab import kernels, noise
from gradlab.kernels import arrays

numba = pytest.importorskip("numba", reason="compares with numba: pip install 'gradlab[fast]'")

from gradlab.kernels import compiled as loops  # noqa: E402
from gradlab.kernels.compiled import compiled  # noqa: E402


def twice(values):
    for i in range(len(values)):
        values[i] *= 2


def test_without_a_place_for_the_cache_it_is_compiled_anew(monkeypatch):
    njit = numba.njit

    def nowhere(*args, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'twice': no locator available")
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", nowhere)
    values = np.arange(3.0)
    compiled(twice)(values)
    assert values.tolist() == [0.0, 2.0, 4.0]


def test_numba_is_loaded_where_it_is_needed_and_nowhere_else():
    """A recorder or a large ``compare`` loads it; importing, small draws and exact answers do not."""
    program = """
import sys
import gradlab as gl
box = gl.problems.BoxGaussian(phi=0.3, x=1.0)
gl.compare(box, ("pathwise", "dreg-boundary"), k=(2, 8), draws=100, allow_biased=True)
gl.GradientRecorder
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=120)


# ------------------------------------------------------------------------------------------------- without numba


@pytest.fixture
def without_numba(monkeypatch):
    """What happens where numba is not installed; returns the names of the numpy functions that were called."""
    called = []
    monkeypatch.setattr(kernels, "compiles", lambda: False)
    for name in kernels.NAMES:

        def form(*arguments, name=name):
            called.append(name)
            return getattr(arrays, name)(*arguments)

        monkeypatch.setattr(kernels, name, form)
    return called


@pytest.fixture(params=[(3, 700), (1, 5), (20, 513)], ids=str)
def samples(request):
    """Weights ``[k, C]`` over many magnitudes, and slopes."""
    generator = np.random.default_rng(0)
    return np.exp(generator.normal(0, 3, request.param)), generator.normal(size=request.param)


def filled(module, name, *arguments, shapes):
    outputs = [np.full(shape, start) for shape, start in shapes]
    getattr(module, name)(*arguments, *outputs)
    return outputs


@pytest.mark.parametrize("near", [True, False])
def test_the_numpy_forms_are_the_loops(samples, near):
    weight, slope = samples
    k, draws = weight.shape
    ends = (np.float64(0.7), np.float64(0.02))
    total = weight.sum(0)
    groups = -(-k // 8) if near else k
    calls = [
        ("linear", (weight, slope), [(draws, 0.0), (draws, 0.0)]),
        ("squared", (weight, slope, total), [(draws, 0.0)]),
        ("walls", (weight, total, ends, near), [(draws, 0.0), ((groups, draws), 1.0)]),
    ]
    for name, arguments, shapes in calls:
        plain, fast = (filled(module, name, *arguments, shapes=shapes) for module in (arrays, loops))
        for one, other in zip(plain, fast, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(arrays.central(weight[0]), loops.central(weight[0]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_without_numba_compare_takes_the_same_draws(without_numba, dtype):
    box = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
    names = ("pathwise", "dreg", "dreg-boundary", "measure-valued")
    draws, k = 2**18, 8  # enough samples for the fused path

    def table():
        return gl.compare(box, names, k, draws, allow_biased=True, dtype=dtype)[["mean", "variance", "bias_se", "snr"]]

    plain = table()
    assert set(without_numba) == set(kernels.NAMES)
    without_numba.clear()
    for name in kernels.NAMES:
        setattr(kernels, name, getattr(loops, name))  # put back by the fixture's monkeypatch
    np.testing.assert_allclose(plain, table(), rtol=1e-11 if dtype == torch.float64 else 1e-5)
    assert without_numba == []


def test_without_numba_the_recorder_counts_the_same(without_numba, monkeypatch):
    layer = torch.nn.Linear(300, 300)  # large enough for the loops
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 4, 300, generator=generator)

    def recorded():
        recorder = gl.GradientRecorder({"layer": layer})
        with recorder:
            for x in inputs:
                layer(x).square().mean().backward()
                recorder.step()
        assert recorder._stream.large == kernels.compiles()
        return recorder.summary().drop(columns="group")

    plain = recorded()
    monkeypatch.setattr(kernels, "compiles", lambda: True)
    np.testing.assert_allclose(plain, recorded(), rtol=1e-5)  # snr_se compares numbers with a threshold


def test_words_are_the_same_on_both_paths():
    blocks = [list(noise.words(1000, 7, noise.stream(3, "words"), fast=fast)) for fast in (True, False)]
    for one, other in zip(*blocks, strict=True):
        assert np.array_equal(one, other)
