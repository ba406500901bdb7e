from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from gradlab.errors import GradlabError
from gradlab.noise import GROUPS, coupled, draw, stream

KINDS = {"uniform": stats.uniform(-0.5, 1), "normal": stats.norm()}


def groups(kind, coupling, count, width, seed=0):
    """``[count, group, width]``."""
    size = GROUPS[coupling]
    values = coupled(kind, (count * size, width), coupling, stream(seed, "test"), torch.float64)
    return values.reshape(count, size, width).numpy()


@pytest.mark.parametrize("coupling", list(GROUPS))
@pytest.mark.parametrize("kind", list(KINDS))
def test_each_draw_on_its_own_is_as_it_was(kind, coupling):
    """Whichever draw of the group: its coordinates have the base law, and are independent of each other."""
    values = groups(kind, coupling, 6000, 3)
    for member in (0, 1, GROUPS[coupling] - 1):
        one = values[:, member]
        for coordinate in range(3):
            assert stats.kstest(one[:, coordinate], KINDS[kind].cdf).pvalue > 1e-5
        u = KINDS[kind].cdf(one)
        cells = np.histogramdd(u, bins=(4, 4, 4), range=[(0, 1)] * 3)[0]
        assert stats.chisquare(cells.ravel()).pvalue > 1e-5
        # The finest digits too: pairs of coordinates within a stratum.
        fine = np.histogramdd((32 * u[:, :2]) % 1, bins=(8, 8), range=[(0, 1)] * 2)[0]
        assert stats.chisquare(fine.ravel()).pvalue > 1e-5


@pytest.mark.parametrize("coupling", list(GROUPS))
def test_groups_are_independent(coupling):
    values = groups("normal", coupling, 20_000, 2)
    means = np.cos(values).mean(axis=(1, 2))  # an even function, which antithetic pairs do not cancel
    r = np.corrcoef(means[:-1], means[1:])[0, 1]
    assert abs(r) * math.sqrt(len(means)) < 4.5


def test_antithetic_pairs_mirror():
    values = groups("uniform", "antithetic", 100, 5)
    assert (values[:, 0] == -values[:, 1]).all()


@pytest.mark.parametrize("coupling", ["stratified", "sobol"])
def test_each_coordinate_has_one_value_in_each_stratum(coupling):
    values = groups("uniform", coupling, 50, 40)
    strata = np.sort(np.floor((values + 0.5) * 32).astype(int), axis=1)
    assert (strata == np.arange(32)[None, :, None]).all()


def test_sobol_is_balanced_in_every_elementary_box_of_two_coordinates():
    """32 points are a (0, 5, 2)-net in the first two coordinates, whatever the scrambling; a Latin hypercube is not."""

    def balanced(coupling):
        u = groups("uniform", coupling, 40, 2) + 0.5
        return all(
            (np.histogram2d(*g.T, bins=(2**a, 2 ** (5 - a)), range=[(0, 1)] * 2)[0] == 1).all()
            for g in u for a in range(6)
        )  # fmt: skip

    assert balanced("sobol") and not balanced("stratified")


def test_sobol_scrambles_each_group_anew():
    strata = np.floor((groups("uniform", "sobol", 200, 4) + 0.5) * 32).astype(int)
    assert len({g.tobytes() for g in strata}) == 200
    order = np.argsort(strata[:, :, 0], axis=1)  # points sorted by the first coordinate, which hides the shift of it
    assert len({np.take_along_axis(strata[:, :, 3], order, 1)[i].tobytes() for i in range(200)}) > 190


@pytest.mark.parametrize("coupling", list(GROUPS))
def test_reproducible_and_typed(coupling):
    a, b = (coupled("normal", (64, 3, 2), coupling, stream(1, "test"), torch.float32) for _ in range(2))
    assert a.shape == (64, 3, 2) and a.dtype == torch.float32 and torch.equal(a, b)
    assert torch.isfinite(a).all()
    assert not torch.equal(a, coupled("normal", (64, 3, 2), coupling, stream(2, "test"), torch.float32))


@pytest.mark.parametrize(("args", "match"), [
    (("uniform", (64, 2), "sobl"), "unknown noise coupling 'sobl': did you mean 'sobol'"),
    (("uniform", (65, 2), "sobol"), "65 draws do not fill groups of sobol noise: give a multiple of 32"),
    (("uniform", (3, 2), "antithetic"), "give a multiple of 2"),
    (("uniform", (32, 200, 200), "sobol"), "one draw takes 40000 coordinates, but the Sobol sequence has 21201: give fewer samples"),
    (("normla", (32, 2), "stratified"), "unknown base noise 'normla'"),
])  # fmt: skip
def test_bad_input(args, match):
    with pytest.raises(GradlabError, match=match):
        coupled(*args)


def test_independent_noise():
    a = draw("uniform", (1000,), stream(0, "test"), torch.float64)
    assert a.min() >= -0.5 and a.max() < 0.5
    assert not torch.equal(a, draw("uniform", (1000,), stream(0, "other"), torch.float64))
    with pytest.raises(GradlabError, match="unknown base noise"):
        draw("gaussian", (3,))
    with pytest.raises(GradlabError, match="give sizes of at least 1"):
        draw("normal", (3, 0))
