"""Loops compile where they can be kept, and where they cannot."""

from __future__ import annotations

import subprocess
import sys

import numba
import numpy as np

from gradlab.kernels import compiled


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
