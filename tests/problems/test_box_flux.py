"""The weights across a box and the flux through its walls, against plain Monte Carlo and against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gradlab as gl
from gradlab.errors import NotExact
from gradlab.noise import stream, uniform

BOX = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
NARROW = gl.problems.BoxGaussian(phi=-0.7, x=0.2, likelihood_std=0.02)
WALLS = np.array([-0.2, 0.8])


def log_w(y):
    """Written out: log N(1; y, 0.5^2) + log N(y; 0, 1)."""
    return -2 * (1 - y) ** 2 - math.log(0.5) - y**2 / 2 - math.log(2 * math.pi)


@pytest.mark.parametrize("k", [2, 8])
def test_against_draws(k: int) -> None:
    """One sample put at a point, the others drawn: mean weight and mean log of the sum."""
    draws = 200_000
    y = 0.3 + uniform((draws, k), stream(0, "flux"), dtype=torch.float64).numpy()
    w = np.exp(log_w(y))
    for at, side in zip(WALLS, (0, 1), strict=True):
        others = w[:, 1:].sum(1)
        share = k * np.exp(log_w(at)) / (np.exp(log_w(at)) + others)
        z = (share.mean() - BOX.weight_density(np.array([at]), k)[0]) / (share.std() / math.sqrt(draws))
        assert abs(z) < 4.5
        gain = k * (np.log(np.exp(log_w(at)) + others) - np.log(w.sum(1)))
        z = (gain.mean() - BOX.wall_flux(k)[side]) / (gain.std() / math.sqrt(draws))
        assert abs(z) < 4.5


@pytest.mark.parametrize("box", [pytest.param(BOX, id="wide"), pytest.param(NARROW, id="narrow")])
@pytest.mark.parametrize("k", [1, 2, 8, 1000])
def test_walls_hold_the_gradient_and_what_dreg_drops(box, k: int) -> None:
    low, high = box.wall_flux(k)
    assert high - low == pytest.approx(box.exact_gradient(k), rel=1e-8, abs=1e-8)
    below, above = box.weight_density(box.phi + np.array([-0.5, 0.5]), k)
    dropped = box.exact_moments("pathwise", k)[0] - box.exact_moments("dreg", k)[0]
    assert above - below == pytest.approx(dropped, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("k", [1, 3, 64])
def test_the_weights_are_a_density_on_the_box(k: int) -> None:
    nodes = BOX.nodes
    assert nodes.mean(BOX.weight_density(nodes.y, k)) == pytest.approx(1, abs=1e-9)


def test_one_sample_and_many() -> None:
    across = np.linspace(-0.2, 0.8, 5)
    assert (BOX.weight_density(across, 1) == 1).all()
    posterior = np.exp(log_w(across) - BOX.exact_limit())
    assert BOX.weight_density(across, 100_000) == pytest.approx(posterior, rel=1e-3)


def test_several_dimensions_are_refused() -> None:
    box = gl.problems.BoxGaussian(phi=0.3, x=1.0, dim=3)
    for ask in (lambda: box.wall_flux(2), lambda: box.weight_density(WALLS, 2)):
        with pytest.raises(NotExact, match="known in one dimension, not in 3: use dim=1"):
            ask()
