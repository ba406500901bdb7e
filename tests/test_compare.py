from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gradlab as gl
from gradlab import comparison
from gradlab.errors import GradlabError
from gradlab.estimators import ESTIMATORS

BOX = {"phi": 0.3, "x": 1.0, "likelihood_std": 0.5}
NORMAL = {"mean": 0.3, "std": 0.4, "x": 1.0, "likelihood_std": 0.7}
COLUMNS = ["estimator", "objective", "target", "wrt", "k", "draws", "mean", "exact", "bias", "bias_se", "exact_mean", "z", "variance", "variance_se", "exact_variance", "z_variance", "snr", "snr_se", "exact_snr"]


def problem(kind):
    return gl.problems.BoxGaussian(**BOX) if kind == "box" else gl.problems.NormalGaussian(**NORMAL)


@pytest.mark.parametrize("kind", ["box", "normal"])
def test_every_estimator_converges_to_its_exact_mean_and_variance(kind):
    table = gl.compare(problem(kind), tuple(ESTIMATORS), (1, 2, 5, 16), 100_000, seed=3, allow_biased=True)
    assert list(table.columns) == COLUMNS
    assert len(table) == 4 * len(ESTIMATORS)
    assert (table["z"].abs() < 4.5).all(), table[["estimator", "k", "z"]]
    assert (table["z_variance"].abs() < 4.5).all(), table[["estimator", "k", "z_variance"]]


@pytest.mark.parametrize("wrt", ["prior_std", "slope", "offset", "likelihood_std"])
@pytest.mark.parametrize("kind", ["box", "normal"])
def test_generative_parameters(kind, wrt):
    table = gl.compare(problem(kind), tuple(ESTIMATORS), (3,), 50_000, seed=1, wrt=wrt, allow_biased=True)
    assert (table["z"].abs() < 4.5).all()
    assert (table["z_variance"].abs() < 4.5).all()
    assert np.allclose(table["mean"], table["mean"].iloc[0], rtol=1e-10)  # the prior and the decoder keep the weights


def test_std_of_the_normal():
    table = gl.compare(problem("normal"), ("pathwise", "score", "dreg"), (1, 4), 100_000, seed=2, wrt="std")
    assert (table["z"].abs() < 4.5).all()
    assert (table["z_variance"].abs() < 4.5).all()


def test_pathwise_on_the_box_is_its_formula_draw_by_draw():
    noise = torch.rand(100, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    ours = comparison.gradients(problem("box"), ESTIMATORS["pathwise"], noise)
    dreg = comparison.gradients(problem("box"), ESTIMATORS["dreg"], noise)
    y = 0.3 + noise.numpy()
    log_w = -0.5 * ((1 - y) / 0.5) ** 2 - 0.5 * y**2
    w = np.exp(log_w - log_w.max(1, keepdims=True))
    w /= w.sum(1, keepdims=True)
    g = (1 - y) / 0.25 - y
    assert np.allclose(ours.numpy(), (w * g).sum(1), rtol=0, atol=1e-10)
    assert np.allclose(dreg.numpy(), (w**2 * g).sum(1), rtol=0, atol=1e-10)


def test_rows_depend_on_seed_and_k_alone():
    both = gl.compare(problem("box"), ("pathwise", "stl"), (2, 8), 5000, seed=1)
    one = gl.compare(problem("box"), ("stl",), 8, 5000, seed=1)
    assert both.iloc[3]["mean"] == one.iloc[0]["mean"]
    assert gl.compare(problem("box"), ("stl",), 8, 5000, seed=2).iloc[0]["mean"] != one.iloc[0]["mean"]


def test_chunks_do_not_change_the_moments(monkeypatch):
    """Streaming against stored: the same draws, all at once."""
    monkeypatch.setattr(comparison, "CHUNK", 64)
    ours = gl.compare(problem("box"), ("pathwise",), 4, 100, seed=5).iloc[0]
    stored = []
    for index in range(7):
        generator = comparison.stream(5, "compare/k=4", index)
        noise = problem("box").draw_noise(16 if index < 6 else 4, 4, generator, torch.float64)
        stored.append(comparison.gradients(problem("box"), ESTIMATORS["pathwise"], noise))
    g = torch.cat(stored).numpy()
    assert ours["mean"] == pytest.approx(g.mean(), rel=1e-12)
    assert ours["variance"] == pytest.approx(g.var(ddof=1), rel=1e-12)
    assert ours["bias_se"] == pytest.approx(g.std(ddof=1) / 10, rel=1e-12)


def test_elbo_averages_single_samples():
    table = gl.compare(problem("box"), ("pathwise",), (1, 5), 50_000, objective="elbo")
    assert table["exact"].nunique() == 1
    assert table["exact_variance"].iloc[1] == pytest.approx(table["exact_variance"].iloc[0] / 5)
    assert (table[["z", "z_variance"]].abs() < 4.5).all().all()


def test_score_on_the_box_is_zero_and_says_so_without_dividing():
    row = gl.compare(problem("box"), ("score",), 2, 100, allow_biased=True).iloc[0]
    assert row["mean"] == row["variance"] == row["z"] == row["z_variance"] == 0
    assert math.isnan(row["snr"])
    assert row["bias"] == -row["exact"]


def test_float32_samples_keep_float64_moments():
    row = gl.compare(problem("box"), ("pathwise",), 4, 50_000, dtype=torch.float32).iloc[0]
    assert abs(row["z"]) < 4.5


@pytest.mark.parametrize(("kind", "estimator", "k", "needs"), [
    ("box", "dreg", 1, "support that does not move"),
    ("box", "score", 8, "support that does not move"),
    ("normal", "stl", 2, "score is zero, or a single sample"),
])  # fmt: skip
def test_a_broken_requirement_is_refused_with_the_way_out(kind, estimator, k, needs):
    with pytest.raises(
        GradlabError, match=rf"'{estimator}' is biased for the \w+ posterior at k = {k}: .*{needs}.*allow_biased=True"
    ):
        gl.compare(problem(kind), (estimator,), k, 100)
    assert len(gl.compare(problem(kind), (estimator,), k, 100, allow_biased=True)) == 1


@pytest.mark.parametrize(("kwargs", "match"), [
    ({"k": 0}, "at least 1"),
    ({"k": ()}, "at least 1"),
    ({"draws": -5}, "draws is -5"),
    ({"draws": 1}, "at least 2"),
    ({"seed": -1}, "seed is -1"),
    ({"estimators": ("pathwize",)}, "did you mean 'pathwise'"),
    ({"estimators": ()}, "at least one estimator"),
    ({"objective": "iwea"}, "did you mean 'iwae'"),
    ({"wrt": "slop"}, "did you mean 'slope'"),
    ({"noise": "sobl"}, "unknown noise coupling"),
    ({"problem": 3}, "not a int"),
])  # fmt: skip
def test_bad_input(kwargs, match):
    with pytest.raises(GradlabError, match=match):
        gl.compare(**{"problem": problem("box"), "estimators": ("pathwise",), "k": 1, "draws": 10} | kwargs)
