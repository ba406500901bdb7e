"""Estimators of the score family and GDReG: draw by draw against formulas written out in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.estimators import ESTIMATORS
from gradlab.estimators.nvil import RunningMean, baseline_loss, nvil
from gradlab.objectives.terms import LogTerms
from gradlab.problems.comparison import gradients
from tests.estimators.two_latents import model

MEAN, STD, X, LIK, PRIOR = 0.3, 0.4, 1.0, 0.7, 1.2
K = 4


def normal():
    return gl.problems.NormalGaussian(MEAN, STD, X, likelihood_std=LIK, prior_std=PRIOR)


def draws(n=60, k=K, seed=0):
    return torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parts(noise):
    """y, log w, normalised weights and the score by mean and std, ``[B, K]`` in numpy, with nothing of gradlab."""
    e = noise.numpy()
    y = MEAN + STD * e
    half = 0.5 * math.log(2 * math.pi)
    log_w = -0.5 * ((X - y) / LIK) ** 2 - math.log(LIK) - half - 0.5 * (y / PRIOR) ** 2 - math.log(PRIOR) - half
    log_w = log_w + 0.5 * e**2 + math.log(STD) + half
    w = np.exp(log_w)
    return y, log_w, w / w.sum(1, keepdims=True), {"mean": e / STD, "std": (e**2 - 1) / STD}


@pytest.mark.parametrize("wrt", ["mean", "std"])
def test_vimco_is_its_formula(wrt):
    noise = draws()
    _, log_w, share, scores = parts(noise)
    expected = np.zeros(len(log_w))
    for b, row in enumerate(log_w):
        bound = math.log(np.exp(row).mean())
        for i in range(K):
            others = np.delete(row, i)
            replaced = np.append(others, others.mean())  # the geometric mean, in logs
            signal = bound - math.log(np.exp(replaced).mean())
            expected[b] += (signal - share[b, i]) * scores[wrt][b, i]
    assert np.allclose(gradients(normal(), ESTIMATORS["vimco"], noise, wrt=wrt), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("wrt", ["mean", "std"])
@pytest.mark.parametrize("baseline", [0.0, -1.3])
def test_nvil_is_its_formula(wrt, baseline):
    noise = draws()
    _, log_w, share, scores = parts(noise)
    bound = np.log(np.exp(log_w).mean(1, keepdims=True))
    expected = ((bound - baseline - share) * scores[wrt]).sum(1)
    assert np.allclose(gradients(normal(), nvil(baseline), noise, wrt=wrt), expected, rtol=0, atol=1e-10)
    per_image = torch.linspace(-2, 2, len(noise), dtype=torch.float64)  # what a network of the input would predict
    expected = ((bound - per_image.numpy()[:, None] - share) * scores[wrt]).sum(1)
    assert np.allclose(gradients(normal(), nvil(per_image), noise, wrt=wrt), expected, rtol=0, atol=1e-10)
    single = ((log_w - baseline - 1) * scores[wrt]).mean(1)
    ours = gradients(normal(), nvil(baseline), noise, "elbo", wrt)
    assert np.allclose(ours, single, rtol=0, atol=1e-10)


@pytest.mark.parametrize("wrt", ["mean", "std"])
def test_rws_is_its_formula(wrt):
    noise = draws()
    _, _, share, scores = parts(noise)
    ours = gradients(normal(), ESTIMATORS["rws"], noise, wrt=wrt)
    assert np.allclose(ours, (share * scores[wrt]).sum(1), rtol=0, atol=1e-10)


def test_rws_has_a_target_of_its_own():
    """E_p(y|x) of the score, from the posterior's closed form; what the estimate tends to, which is not the bound's."""
    precision = 1 / LIK**2 + 1 / PRIOR**2
    mean, variance = X / LIK**2 / precision, 1 / precision
    exact = {"mean": (mean - MEAN) / STD**2, "std": ((mean - MEAN) ** 2 + variance) / STD**3 - 1 / STD}
    for wrt, value in exact.items():
        table = gl.compare(normal(), ("rws",), (1, 64), 20_000, wrt=wrt)
        assert table["target"].tolist() == ["wake-phi"] * 2
        assert np.allclose(table["exact"], value, rtol=1e-9)
        assert not np.isclose(table["exact_mean"], value, rtol=1e-2).any()
        near = abs(table["exact_mean"] - value)
        assert near.iloc[1] < near.iloc[0] / 2  # slowly: the weights of this narrow q have no variance
    row = gl.compare(normal(), ("rws", "pathwise"), 4, 5000, wrt="slope")
    assert row["target"].tolist() == ["iwae"] * 2 and row["mean"].nunique() == 1  # wake-theta is the pathwise gradient
    box = gl.compare(gl.problems.BoxGaussian(0.3, 1.0), ("rws",), 4, 100, allow_biased=True).iloc[0]
    assert math.isnan(box["exact"]) and math.isnan(box["bias"]) and box["mean"] == 0


@pytest.mark.parametrize("name", ["vimco", "nvil", "rws", "score"])
def test_score_estimators_are_zero_on_the_box(name):
    noise = torch.rand(20, 3, dtype=torch.float64) - 0.5
    problem = gl.problems.BoxGaussian(phi=0.3, x=1.0)
    assert torch.equal(gradients(problem, ESTIMATORS[name], noise), torch.zeros(20, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["box", "normal"])
def test_gdreg_is_its_formula(kind):
    """The prior's path by hand, and the inference parameters as dreg."""
    if kind == "box":
        problem = gl.problems.BoxGaussian(MEAN, X, likelihood_std=LIK, prior_std=PRIOR)
        noise = torch.rand(60, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
        y = MEAN + noise.numpy()
        log_w = -0.5 * ((X - y) / LIK) ** 2 - 0.5 * (y / PRIOR) ** 2
        share = np.exp(log_w) / np.exp(log_w).sum(1, keepdims=True)
        slope_q = 0.0
    else:
        problem, noise = normal(), draws()
        y, _, share, _ = parts(noise)
        slope_q = -(y - MEAN) / STD**2
    slope_p = -y / PRIOR**2
    slope_w = (X - y) / LIK**2 + slope_p - slope_q
    expected = ((share * (1 - share) * slope_w - share * (slope_p - slope_q)) * y / PRIOR).sum(1)
    ours = gradients(problem, ESTIMATORS["gdreg"], noise, wrt="prior_std")
    assert np.allclose(ours, expected, rtol=0, atol=1e-10)
    for wrt in ("phi", "slope", "likelihood_std"):
        theirs = gradients(problem, ESTIMATORS["dreg"], noise, wrt=wrt)
        assert torch.equal(gradients(problem, ESTIMATORS["gdreg"], noise, wrt=wrt), theirs)
    single = -((slope_p - slope_q) * y / PRIOR).mean(1)
    assert np.allclose(gradients(problem, ESTIMATORS["gdreg"], noise, "elbo", "prior_std"), single, rtol=0, atol=1e-10)


def test_the_prior_path_is_biased_on_the_box_by_exactly_one_over_its_std():
    """In expectation over the box, by quadrature: the flux of y/prior_std through the walls."""
    x, w = np.polynomial.legendre.leggauss(8)
    for prior_std in (0.7, 1.0, 2.5):
        problem = gl.problems.BoxGaussian(MEAN, X, likelihood_std=LIK, prior_std=prior_std)
        ours = gradients(problem, ESTIMATORS["gdreg"], torch.tensor(x / 2)[:, None], wrt="prior_std")
        mean = float(torch.tensor(w / 2) @ ours)
        assert mean - problem.exact_gradient(1, "prior_std") == pytest.approx(1 / prior_std, abs=1e-11)


def test_gdreg_by_several_parameters_at_once():
    """Both paths live: each parameter gets what it gets alone."""
    noise = draws(10)
    live = {n: torch.full((10,), v, dtype=torch.float64, requires_grad=True)
            for n, v in (("mean", MEAN), ("std", STD), ("prior_std", PRIOR), ("slope", 1.0))}  # fmt: skip
    together = torch.autograd.grad(ESTIMATORS["gdreg"](normal().log_terms(noise, live), "iwae").sum(), live.values())
    for name, ours in zip(live, together, strict=True):
        assert torch.allclose(ours, gradients(normal(), ESTIMATORS["gdreg"], noise, wrt=name), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scale", "rate_weight"), [("bpp", 1.0), ("nats", 0.4), ("bpp", 0.4)])
def test_gdreg_tempered(scale, rate_weight):
    """The weights are those of u log w: against pathwise, which has no such derivation to get wrong."""

    def mean(name):
        prior = torch.full((200_000,), PRIOR, dtype=torch.float64, requires_grad=True)
        terms = normal().log_terms(draws(200_000, 3), {"prior_std": prior})
        object.__setattr__(terms, "pixels", 4)
        value = ESTIMATORS[name](terms.annealed(rate_weight), "iwae", scale=scale)
        (grad,) = torch.autograd.grad(value.sum(), prior)
        return grad

    difference = mean("gdreg") - mean("pathwise")
    assert abs(float(difference.mean() / difference.std() * math.sqrt(200_000))) < 4.5


def test_a_prior_without_a_path_is_refused():
    with pytest.raises(GradlabError, match="the terms have no prior_paths, along which gdreg moves samples"):
        ESTIMATORS["gdreg"](LogTerms(torch.zeros(1, 2, 1)), "iwae")
    terms = normal().log_terms(draws(1), {"prior_std": torch.ones(1, dtype=torch.float64, requires_grad=True)})
    object.__setattr__(terms, "taps", ())
    with pytest.raises(GradlabError, match="the terms have no taps that require a gradient, but gdreg differentiates"):
        ESTIMATORS["gdreg"](terms, "iwae")


def test_vimco_refuses_one_sample_by_name():
    with pytest.raises(GradlabError, match="k is 1, but vimco takes the baseline of a sample from the others"):
        ESTIMATORS["vimco"](normal().log_terms(draws(3, 1)), "iwae")
    for allow in (False, True):
        with pytest.raises(
            GradlabError, match=r"'vimco' is undefined for the Normal posterior at k = 1: .*two samples"
        ):
            gl.compare(normal(), ("pathwise", "vimco"), (8, 1), 100, allow_biased=allow)


def test_vimco_refuses_a_shared_sample():
    terms, _ = model(torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 1, dtype=torch.float64), False)
    with pytest.raises(
        GradlabError, match="a z is shared between the samples of y, but vimco changes one sample at a time"
    ):
        ESTIMATORS["vimco"](terms, "ms-nic-mix")


@pytest.mark.parametrize("name", ["vimco", "nvil", "score", "rws"])
def test_the_learning_signal_needs_a_bound(name):
    with pytest.raises(GradlabError, match=f"weighting is 'per-term', .* that {name} needs: use weighting='joint'"):
        ESTIMATORS[name](LogTerms(torch.zeros(1, 2, 1)), "iwae", weighting="per-term")


@pytest.mark.parametrize("objective", ["elbo", "jvi"])
def test_rws_needs_weights(objective):
    with pytest.raises(
        GradlabError, match=f"objective '{objective}' does not weight the samples by w~, which rws needs"
    ):
        ESTIMATORS["rws"](normal().log_terms(draws(2)), objective)


def test_a_baseline_of_the_wrong_shape_is_named():
    with pytest.raises(GradlabError, match=r"baseline has shape \(2,\): give one number per image, \[5\]"):
        nvil(torch.zeros(2))(normal().log_terms(draws(5)), "iwae")


def test_running_mean_is_explicit_state():
    state = RunningMean(decay=0.75)
    after = state.update(torch.tensor([1.0, 3.0]))
    assert (state.value, after.value) == (0.0, 0.5)
    assert after.update(torch.tensor([4.0])).value == 0.75 * 0.5 + 0.25 * 4


def test_a_learned_baseline_learns_the_bound():
    """Gradient steps on the loss take the prediction to the mean of L^, and the variance of the estimate down."""
    prediction = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for step in range(60):
        loss = baseline_loss(normal().log_terms(draws(200, seed=step)), prediction.expand(200)).mean()
        (grad,) = torch.autograd.grad(loss, prediction)
        prediction = (prediction - 0.1 * grad).detach().requires_grad_()
    assert float(prediction.detach()) == pytest.approx(normal().exact_bound(K), abs=0.1)
    noise = draws(20_000, seed=99)
    fitted, bare = (gradients(normal(), nvil(b), noise) for b in (prediction, 0.0))
    assert float(fitted.var()) < 0.3 * float(bare.var())
    assert abs(float((fitted - bare).mean() / (fitted - bare).std() * math.sqrt(20_000))) < 4.5


def test_compare_fits_the_baseline_on_other_draws():
    """The pilot changes no draw of the row: it is ``nvil`` with one constant, near the bound, at every chunk size."""
    row = gl.compare(normal(), ("nvil",), K, 5000, seed=4).iloc[0]
    from gradlab.noise import stream
    from gradlab.problems import comparison

    problem = normal()
    pilot = problem.draw_noise(comparison.PILOT, K, stream(4, f"compare/k={K}/pilot"))
    y, log_w, *_ = parts(pilot)
    constant = float(np.log(np.exp(log_w).mean(1)).mean())
    assert constant == pytest.approx(problem.exact_bound(K), abs=0.2)
    noise = problem.draw_noise(5000, K, stream(4, f"compare/k={K}", 0))
    ours = gradients(problem, nvil(constant), noise)
    assert row["mean"] == pytest.approx(float(ours.mean()), rel=1e-12)
    assert not torch.equal(noise[: len(y)], pilot)
    assert math.isnan(row["exact_variance"]) and math.isnan(row["z_variance"])
    assert row["exact_mean"] == row["exact"]
