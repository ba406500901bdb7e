from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.estimators import ESTIMATORS
from gradlab.problems import box, comparison, expectation, two_level

BOX = {"phi": 0.3, "x": 1.0, "likelihood_std": 0.5}
NORMAL = {"mean": 0.3, "std": 0.4, "x": 1.0, "likelihood_std": 0.7}
COLUMNS = [
    "estimator",
    "objective",
    "target",
    "wrt",
    "k",
    "draws",
    "mean",
    "exact",
    "bias",
    "bias_se",
    "exact_mean",
    "z",
    "variance",
    "variance_se",
    "exact_variance",
    "z_variance",
    "snr",
    "snr_se",
    "exact_snr",
]


def problem(kind):
    return gl.problems.BoxGaussian(**BOX) if kind == "box" else gl.problems.NormalGaussian(**NORMAL)


def within(z):
    """No |z| of 4.5 or more among those that exist."""
    return not (z.abs() >= 4.5).any()


def defined(kind, k):
    return tuple(name for name, e in ESTIMATORS.items() if not e.undefined(problem(kind).posterior, k))


@pytest.mark.parametrize("k", [1, 2, 5, 16])
@pytest.mark.parametrize("kind", ["box", "normal"])
def test_every_estimator_converges_to_its_exact_mean_and_variance(kind, k):
    names = defined(kind, k)
    table = gl.compare(problem(kind), names, k, 100_000, seed=3, allow_biased=True)
    assert list(table.columns) == COLUMNS
    assert table["estimator"].tolist() == list(names)
    assert table["exact_mean"].notna().all()
    # A fitted baseline has no exact variance (but where there is no score), vimco has one by tensor quadrature.
    assert set(table["estimator"][table["exact_variance"].isna()]) <= {"nvil", "vimco"} - (
        {"vimco"} if k <= 3 else set()
    )
    assert within(table["z"]), table[["estimator", "z"]]
    assert within(table["z_variance"]), table[["estimator", "z_variance"]]


@pytest.mark.parametrize("wrt", ["phi", "prior_std"])
@pytest.mark.parametrize(("objective", "k"), [("elbo", 1), ("elbo", 4), ("jvi", 2), ("jvi", 4)])
@pytest.mark.parametrize("kind", ["box", "normal"])
def test_unbiased_under_other_objectives(kind, objective, k, wrt):
    """Whoever claims to be unbiased here is, or refuses the objective in a sentence."""
    for name in defined(kind, k):
        if ESTIMATORS[name].unmet(problem(kind).posterior, k):
            continue
        if (objective == "jvi" and name in {"vimco", "measure-valued", "rws"}) or name == "rws":
            with pytest.raises(GradlabError, match=name):
                gl.compare(problem(kind), (name,), k, 10, objective=objective, wrt=wrt)
        elif objective == "jvi" and (name == "gdreg" and wrt == "prior_std"):
            with pytest.raises(GradlabError, match="gdreg does not support objective 'jvi'"):
                gl.compare(problem(kind), (name,), k, 10, objective=objective, wrt=wrt)
        elif objective == "jvi" and (name == "dreg-boundary" and kind == "box"):
            with pytest.raises(GradlabError, match="dreg-boundary does not support objective 'jvi'"):
                gl.compare(problem(kind), (name,), k, 10, objective=objective, wrt=wrt)
        else:
            row = gl.compare(problem(kind), (name,), k, 30_000, seed=5, objective=objective, wrt=wrt).iloc[0]
            assert row["exact_mean"] == pytest.approx(row["exact"], abs=1e-9)
            assert abs(row["z"]) < 4.5, name


def test_the_jackknife_combines_two_bounds():
    p = problem("box")
    expected = 5 * p.exact_gradient(5) - 4 * p.exact_gradient(4)
    row = gl.compare(p, ("pathwise",), 5, 100, objective="jvi").iloc[0]
    assert row["exact"] == row["exact_mean"] == pytest.approx(expected, rel=1e-12)
    assert math.isnan(row["exact_variance"])
    with pytest.raises(GradlabError, match="k is 1, but jvi leaves one sample out"):
        gl.compare(p, ("pathwise",), 1, 100, objective="jvi")


@pytest.mark.parametrize("wrt", ["prior_std", "slope", "offset", "likelihood_std"])
@pytest.mark.parametrize("kind", ["box", "normal"])
def test_generative_parameters(kind, wrt):
    table = gl.compare(problem(kind), tuple(ESTIMATORS), (3,), 50_000, seed=1, wrt=wrt, allow_biased=True)
    assert (table["z"].abs() < 4.5).all()
    assert (table["z_variance"].abs() < 4.5).all()
    assert (table["target"] == "iwae").all()
    kept = table[table["estimator"] != "gdreg"] if wrt == "prior_std" else table
    assert np.allclose(kept["mean"], kept["mean"].iloc[0], rtol=1e-10)  # the prior and the decoder keep the weights


def test_an_estimator_of_your_own_is_held_to_its_claim():
    """Unknown to the oracle: where it claims to be unbiased its z is against the gradient, else it has none."""
    from gradlab.estimators import Estimator
    from gradlab.estimators._base import FIXED_SUPPORT

    def half(terms, objective, weighting, scale):
        return 0.5 * ESTIMATORS["pathwise"].surrogate(terms, objective, weighting, scale)

    claims = gl.compare(problem("box"), (Estimator("half", half),), 2, 10_000).iloc[0]
    assert abs(claims["z"]) > 9 and claims["exact_mean"] == claims["exact"] and math.isnan(claims["exact_variance"])
    admits = gl.compare(problem("box"), (Estimator("half", half, (FIXED_SUPPORT,)),), 2, 100, allow_biased=True).iloc[0]
    wake = Estimator("wake", ESTIMATORS["rws"].surrogate, target="wake-phi")  # claims nothing of the bound's gradient
    other = gl.compare(problem("normal"), (wake,), 2, 100).iloc[0]
    assert other["target"] == "wake-phi" and math.isnan(other["exact_mean"]) and math.isfinite(other["exact"])
    assert math.isnan(admits["exact_mean"]) and math.isnan(admits["z"]) and math.isfinite(admits["bias"])


def test_estimates_that_do_not_vary_have_no_rounding_error_to_speak_of():
    table = gl.compare(problem("box"), ("measure-valued",), 1, 1000)
    assert (table[["z", "z_variance"]] == 0).all().all() and table["variance"].iloc[0] < 1e-25


COUPLED = {"antithetic": 2, "stratified": 32, "sobol": 32}


@pytest.mark.parametrize("noise", list(COUPLED))
@pytest.mark.parametrize("kind", ["box", "normal"])
def test_coupled_noise_leaves_every_mean_where_it_is(kind, noise):
    table = gl.compare(problem(kind), defined(kind, 4), 4, 64_000, seed=2, noise=noise, allow_biased=True)
    iid = gl.compare(problem(kind), defined(kind, 4), 4, 1000, seed=2, allow_biased=True)
    assert np.allclose(table["exact_mean"], iid["exact_mean"], rtol=1e-12)
    assert within(table["z"]), table[["estimator", "z"]]
    assert table[["exact_variance", "z_variance", "exact_snr"]].isna().all().all()


@pytest.mark.parametrize("noise", list(COUPLED))
def test_coupled_noise_is_compared_at_equal_work(noise):
    """The variance is that of the average of all draws, times their number, over independent replicates."""
    draws = 4 * COUPLED[noise]
    p = problem("box")
    averages = [gl.compare(p, ("pathwise",), 3, draws, seed=s, noise=noise).iloc[0]["mean"] for s in range(300)]
    ours = gl.compare(p, ("pathwise",), 3, 64_000, seed=1, noise=noise).iloc[0]
    direct = draws * np.var(averages, ddof=1)
    se = direct * math.sqrt(2 / 299) + ours["variance_se"]
    assert abs(ours["variance"] - direct) < 4.5 * se
    assert ours["snr"] == pytest.approx(abs(ours["mean"]) / math.sqrt(ours["variance"]), rel=1e-12)
    assert ours["bias_se"] == pytest.approx(math.sqrt(ours["variance"] / 64_000), rel=1e-12)
    assert ours["variance"] < 0.7 * p.exact_moments("pathwise", 3)[1]  # the gain, on this monotone problem


def test_chunks_do_not_split_groups(monkeypatch):
    monkeypatch.setattr(comparison, "CHUNK", 100)
    row = gl.compare(problem("box"), ("pathwise",), 5, 320, seed=5, noise="sobol").iloc[0]
    means = []
    for index in range(10):
        generator = comparison.stream(5, "compare/k=5", index)
        noise = comparison.coupled("uniform", (32, 5), "sobol", generator, torch.float64)
        means.append(float(comparison.gradients(problem("box"), ESTIMATORS["pathwise"], noise).mean()))
    assert row["mean"] == pytest.approx(np.mean(means), rel=1e-12)
    assert row["variance"] == pytest.approx(32 * np.var(means, ddof=1), rel=1e-12)


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
    ("box", "dreg-squared", 8, "support that does not move"),
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
    ({"k": ()}, "k is empty: give at least one"),
    ({"draws": -5}, "draws is -5"),
    ({"draws": 1}, "at least 2"),
    ({"seed": -1}, "seed is -1"),
    ({"estimators": ("pathwize",)}, "did you mean 'pathwise'"),
    ({"estimators": ()}, "estimators is empty: give at least one"),
    ({"objective": "iwea"}, "did you mean 'iwae'"),
    ({"wrt": "slop"}, "did you mean 'slope'"),
    ({"noise": "sobl"}, "unknown noise coupling"),
    ({"noise": "sobol"}, "draws is 10, but sobol noise couples groups of 32 draws: give a multiple of 32, at least 64"),
    ({"noise": "antithetic", "draws": 3}, "multiple of 2, at least 4"),
    ({"noise": "sobol", "draws": 64, "k": 21202}, "one draw takes 21202 coordinates, but the Sobol sequence has 21201"),
    ({"problem": 3}, "problem is 3: give a Problem"),
])  # fmt: skip
def test_bad_input(kwargs, match):
    with pytest.raises(GradlabError, match=match):
        gl.compare(**{"problem": problem("box"), "estimators": ("pathwise",), "k": 1, "draws": 10} | kwargs)


@pytest.mark.parametrize("objective", ["elbo", "iwae", "ms-nic-mix", "ms-nic-dms"])
def test_a_hierarchy_is_sampled_as_its_objective_needs(objective):
    """From pairs or from shared samples: compare asks for what the objective takes."""
    toy = gl.problems.TwoLevel(0.3, 1.2, (0.5, 0.1), (0.85, 0.2, 0.6), likelihood_std=0.7)
    for start in (toy, toy.under("ms-nic-mix")):
        for wrt in ("phi", "a", "c", "prior_std"):
            row = gl.compare(start, ("pathwise",), 3, 20_000, seed=1, objective=objective, wrt=wrt).iloc[0]
            assert abs(row["z"]) < 4.5
            assert abs(row["z_variance"]) < 4.5
    four = toy.under("ms-nic-dms", 2)
    row = gl.compare(four, ("pathwise",), 2, 20_000, objective="ms-nic-dms").iloc[0]
    assert row["exact"] == pytest.approx(toy.exact_gradient(2, "phi", 2, "ms-nic-dms"))
    assert abs(row["z"]) < 4.5


@pytest.mark.parametrize("module", [box, comparison, expectation, two_level], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module):
    failed, tried = doctest.testmod(module)
    assert tried and not failed
