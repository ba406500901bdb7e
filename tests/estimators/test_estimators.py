from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.estimators import ESTIMATORS, get_estimator
from gradlab.objectives.posteriors import Box, Normal
from gradlab.objectives.terms import LogTerms
from tests.estimators.two_latents import S_Z, A, log_joint, model

HIERARCHICAL = [("ms-nic-mix", 4, 1, False), ("ms-nic-dms", 3, 4, False), ("iwae-2level", 4, 4, True)]


def gradients(name, objective, k, l, paired, draws, seed=0, scale="nats", rate_weight=1.0):
    g = torch.Generator().manual_seed(seed)
    eps_y = torch.randn(draws, k, generator=g, dtype=torch.float64)
    eps_z = torch.randn(draws, l, generator=g, dtype=torch.float64)
    terms, leaves = model(eps_y, eps_z, paired)
    value = ESTIMATORS[name](terms.annealed(rate_weight), objective, scale=scale)
    grads = torch.autograd.grad(value.sum(), list(leaves.values()))
    return dict(zip(leaves, grads, strict=True)), (eps_y, eps_z)


def z_of(difference):
    return float(difference.mean() / (difference.std() / math.sqrt(len(difference))))


@pytest.mark.parametrize(("objective", "k", "l", "paired"), HIERARCHICAL)
@pytest.mark.parametrize("name", ["dreg", "dreg-squared", "score", "gdreg", "nvil", "vimco"])
def test_unbiased_estimators_agree_with_pathwise_on_a_normal_hierarchy(name, objective, k, l, paired):
    if name == "vimco" and not paired:
        with pytest.raises(GradlabError, match="z is shared"):  # no other sample of z to take a baseline from
            gradients(name, objective, k, l, paired, 2)
        return
    draws = 200_000
    ours, _ = gradients(name, objective, k, l, paired, draws)
    pathwise, _ = gradients("pathwise", objective, k, l, paired, draws)
    for parameter in ("phi_y", "phi_z"):
        assert abs(z_of(ours[parameter] - pathwise[parameter])) < 4.5, parameter
    assert torch.allclose(ours["c"], pathwise["c"], rtol=0, atol=1e-10)  # the generative model keeps the weights


@pytest.mark.parametrize(("objective", "k", "l", "paired"), [*HIERARCHICAL, ("elbo", 3, 3, True), ("jvi", 3, 3, True)])
@pytest.mark.parametrize("name", ["dreg", "score"])
def test_unbiased_in_bits_per_pixel(name, objective, k, l, paired):
    """The weights of u log w, u = 1/ln 2 with one pixel, are not those of log w."""
    ours, _ = gradients(name, objective, k, l, paired, 200_000, scale="bpp")
    pathwise, _ = gradients("pathwise", objective, k, l, paired, 200_000, scale="bpp")
    for parameter in ("phi_y", "phi_z"):
        assert abs(z_of(ours[parameter] - pathwise[parameter])) < 4.5, parameter


@pytest.mark.parametrize(("objective", "k", "l", "paired"), [HIERARCHICAL[1], HIERARCHICAL[2]])
@pytest.mark.parametrize("name", ["dreg", "score", "vimco"])
def test_unbiased_with_an_annealed_rate(name, objective, k, l, paired):
    if name == "vimco" and not paired:
        return
    ours, _ = gradients(name, objective, k, l, paired, 200_000, rate_weight=0.5)
    pathwise, _ = gradients("pathwise", objective, k, l, paired, 200_000, rate_weight=0.5)
    for parameter in ("phi_y", "phi_z"):
        assert abs(z_of(ours[parameter] - pathwise[parameter])) < 4.5, parameter
    assert torch.allclose(ours["c"], pathwise["c"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_the_surrogate_has_the_value_of_the_objective(name):
    problems = [gl.problems.BoxGaussian(0.3, 1.0), gl.problems.NormalGaussian(0.3, 0.5, 1.0)]
    noise = torch.randn(7, 3, dtype=torch.float64).clamp(-0.5, 0.5)
    for problem in problems:
        expected = ESTIMATORS["pathwise"](problem.log_terms(noise), "iwae")
        live = {"prior_std": torch.ones(7, dtype=torch.float64, requires_grad=True)}
        ours = ESTIMATORS[name](problem.log_terms(noise, live, walls=True), "iwae")
        assert torch.allclose(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("objective", "k", "l", "paired"), HIERARCHICAL)
def test_stl_is_biased_on_a_normal_hierarchy(objective, k, l, paired):
    stl, _ = gradients("stl", objective, k, l, paired, 200_000)
    pathwise, _ = gradients("pathwise", objective, k, l, paired, 200_000)
    assert abs(z_of(stl["phi_y"] - pathwise["phi_y"])) > 9


@pytest.mark.parametrize(("objective", "k", "l", "paired"), HIERARCHICAL)
@pytest.mark.parametrize("name", ["dreg", "dreg-squared"])
def test_dreg_is_its_formula_draw_by_draw(name, objective, k, l, paired):
    """phi_y by autograd of one term at a time: sum_i W_i sum_j w~_ij d log w_ij / d y_i, and the same for z."""
    ours, (eps_y, eps_z) = gradients(name, objective, k, l, paired, 50)
    from tests.estimators.two_latents import PHI_Y, PHI_Z, S_Y

    for b in range(50):
        y = (PHI_Y + S_Y * eps_y[b]).requires_grad_()
        z_mean = PHI_Z + A * y.detach() if paired else PHI_Z
        z = (z_mean + S_Z * eps_z[b]).requires_grad_()
        log_w = log_joint(y, z, paired)[:, None] if paired else log_joint(y[:, None], z[None, :], False)
        w = torch.softmax(log_w.detach().flatten(), 0).view_as(log_w)
        gy, gz = torch.autograd.grad((w * log_w).sum(), (y, z))
        factor_y = w.sum(1)
        factor_z = w.sum(1) if paired else w.sum(0)
        to_z = (factor_z * gz).sum()
        to_y = (factor_y * gy).sum() + (A * (factor_z * gz).sum() if paired else 0)
        assert float(ours["phi_y"][b]) == pytest.approx(float(to_y), rel=1e-10, abs=1e-10)
        assert float(ours["phi_z"][b]) == pytest.approx(float(to_z), rel=1e-10, abs=1e-10)


def test_squaring_each_weight_of_dms_would_be_caught():
    """The mistake that the design warns of, w~_ij^2 per combination, is far off where DReG is exact."""
    k, l, draws = 3, 4, 50_000
    g = torch.Generator().manual_seed(0)
    eps_y = torch.randn(draws, k, generator=g, dtype=torch.float64)
    eps_z = torch.randn(draws, l, generator=g, dtype=torch.float64)
    terms, leaves = model(eps_y, eps_z, False)
    log_w = terms.without_scores().log_w()
    w = torch.softmax(log_w.detach().flatten(1), 1).view_as(log_w)
    (wrong,) = torch.autograd.grad((w**2 * log_w).sum(), leaves["phi_y"])
    right, _ = gradients("pathwise", "ms-nic-dms", k, l, False, draws)
    assert abs(z_of(wrong - right["phi_y"])) > 9


@pytest.mark.parametrize("name", ["dreg", "dreg-squared"])
def test_per_term_dreg_gives_each_term_its_own_factor(name):
    torch.manual_seed(0)
    y0, z0 = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)

    def build(center):
        from gradlab.objectives.terms import Tap

        y, z = center + y0, center + z0
        y1, y2, z1, z2 = (v.view_as(v) for v in (y, y, z, z))
        return LogTerms(
            log_lik=-(y1[:, :, None] ** 2),
            log_py=-((y2[:, :, None] - z1[:, None, :]) ** 4),
            log_pz=-(z2[:, None, :] ** 2),
            samples=(y, z),
            taps=(Tap(y1, "y", "lik"), Tap(y2, "y", "py"), Tap(z1, "z", "py"), Tap(z2, "z", "pz")),
        )

    center = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    value = ESTIMATORS[name](build(center), "ms-nic-dms", "per-term", "nats")
    (ours,) = torch.autograd.grad(value.sum(), center)
    wl, wp = (
        torch.softmax(-(y0**2), 1),
        torch.softmax(-((y0[:, :, None] - z0[:, None]) ** 4).flatten(1), 1).view(2, 3, 4),
    )
    wz = torch.softmax(-(z0**2), 1)
    d = 4 * (y0[:, :, None] - z0[:, None]) ** 3
    expected = (
        (wl * wl * -2 * y0).sum(1)
        + (wp.sum(2) * (wp * -d).sum(2)).sum(1)
        + (wp.sum(1) * (wp * d).sum(1)).sum(1)
        + (wz * wz * -2 * z0).sum(1)
    )
    assert torch.allclose(ours[:, 0], expected, rtol=0, atol=1e-10)


MEAN, STD, LIK, PRIOR = 0.3, 0.4, 0.7, 1.2
# Scale, pixels and rate weight; what the score enters the log-weights with is 0.21, 0.4 and 0.08.
SCALED = [("bpp", 7, 1.0), ("nats", 1, 0.4), ("bpp", 7, 0.4)]


def scaled_gradients(name, noise, scale, pixels, rate_weight):
    """One gradient by the mean of a Normal per draw, ``[B]`` of noise ``[B, K]``."""
    mean = torch.full((len(noise),), MEAN, dtype=torch.float64, requires_grad=True)
    problem = gl.problems.NormalGaussian(MEAN, STD, 1.0, likelihood_std=LIK, prior_std=PRIOR)
    terms = replace(problem.log_terms(noise, {"mean": mean}), pixels=pixels).annealed(rate_weight)
    (grad,) = torch.autograd.grad(ESTIMATORS[name](terms, "iwae", scale=scale).sum(), mean)
    return grad


def scaled_by_hand(noise, scale, pixels, rate_weight, mean=MEAN):
    """Log-weights up to a constant, their slope along the path, and normalised weights, with nothing of gradlab."""
    unit = 1.0 if scale == "nats" else 1 / (math.log(2) * pixels)
    y = mean + STD * noise
    log_w = unit * (-0.5 * ((1 - y) / LIK) ** 2 + rate_weight * (-0.5 * (y / PRIOR) ** 2 + 0.5 * noise**2))
    slope = unit * ((1 - y) / LIK**2 + rate_weight * (-y / PRIOR**2 + noise / STD))
    return log_w, slope, torch.softmax(log_w, 1)


@pytest.mark.parametrize(("scale", "pixels", "rate_weight"), [("nats", 1, 1.0), ("nats", 64, 1.0), *SCALED])
def test_dreg_squared_is_its_formula_at_every_scale(scale, pixels, rate_weight):
    noise = torch.randn(60, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, slope, w = scaled_by_hand(noise, scale, pixels, rate_weight)
    ours = scaled_gradients("dreg-squared", noise, scale, pixels, rate_weight)
    assert torch.allclose(ours, (w**2 * slope).sum(1), rtol=0, atol=1e-10)
    dreg = scaled_gradients("dreg", noise, scale, pixels, rate_weight)
    if (scale, rate_weight) == ("nats", 1.0):
        assert torch.allclose(ours, dreg, rtol=0, atol=1e-12)
        return
    share = rate_weight if scale == "nats" else rate_weight / (math.log(2) * pixels)
    assert torch.allclose(ours - dreg, -(1 - share) * (w * (1 - w) * slope).sum(1), rtol=0, atol=1e-10)
    assert (ours - dreg).abs().min() > 1e-6


@pytest.mark.parametrize(("scale", "pixels", "rate_weight"), SCALED)
def test_dreg_squared_is_biased_where_the_score_is_scaled(scale, pixels, rate_weight):
    """Seeded draws of two samples, against the bound of the scaled log-weights by tensor quadrature."""
    settings = scale, pixels, rate_weight
    grid = torch.linspace(-9, 9, 361, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    mass = torch.exp(-0.5 * points.square().sum(1))
    mass = mass / mass.sum()

    def bound(mean):
        return float(mass @ torch.logsumexp(scaled_by_hand(points, *settings, mean)[0], dim=1))

    gradient = (bound(MEAN + 1e-4) - bound(MEAN - 1e-4)) / 2e-4
    _, slope, w = scaled_by_hand(points, *settings)
    values = (w**2 * slope).sum(1)
    mean = float(mass @ values)
    variance = float(mass @ (values - mean).square())

    noise = torch.randn(200_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, dreg = (scaled_gradients(name, noise, *settings) for name in ("dreg-squared", "dreg"))
    assert abs(z_of(dreg - gradient)) < 4.5
    assert abs(z_of(ours - gradient)) > 4.5
    assert abs(z_of(ours - mean)) < 4.5
    assert abs(z_of((ours - ours.mean()).square() - variance)) < 4.5


def test_score_is_zero_on_the_box():
    problem = gl.problems.BoxGaussian(phi=0.3, x=1.0)
    noise = torch.rand(100, 4, dtype=torch.float64) - 0.5
    from gradlab.problems.comparison import gradients as per_draw

    assert torch.equal(per_draw(problem, ESTIMATORS["score"], noise), torch.zeros(100, dtype=torch.float64))


def test_terms_serve_one_estimator():
    terms, _ = model(torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 1, dtype=torch.float64), False)
    ESTIMATORS["dreg"](terms, "ms-nic-mix")
    with pytest.raises(GradlabError, match=r"another estimator has rescaled .* compute new terms"):
        ESTIMATORS["pathwise"](terms, "ms-nic-mix")


@pytest.mark.parametrize("name", ["dreg", "dreg-squared"])
def test_dreg_without_taps_says_so(name):
    with pytest.raises(GradlabError, match=f"^the terms have no taps, at which {name} rescales"):
        ESTIMATORS[name](LogTerms(log_lik=torch.zeros(1, 2, 1)), "iwae")


def test_unknown_estimator_names_the_nearest():
    with pytest.raises(GradlabError, match="did you mean 'pathwise'"):
        get_estimator("pathwize")


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_every_estimator_states_its_contract(name):
    import sys

    e = ESTIMATORS[name]
    module = sys.modules[f"gradlab.estimators.{name.replace('-', '_')}"]
    assert e.name == name
    for word in ("Equation", "Approximates:", "With:", "Requires:", "Biased when:"):
        assert word in module.__doc__, word


def test_requirements_are_checked_against_what_the_posterior_says():
    box, normal = Box(torch.zeros(())), Normal(torch.zeros(()), torch.ones(()))
    assert ESTIMATORS["dreg"].unmet(box, 1)
    assert ESTIMATORS["score"].unmet(box, 8)
    assert not ESTIMATORS["dreg"].unmet(normal, 8)
    assert not ESTIMATORS["stl"].unmet(box, 8)
    assert not ESTIMATORS["stl"].unmet(normal, 1)
    assert ESTIMATORS["stl"].unmet(normal, 2)
    assert not ESTIMATORS["pathwise"].unmet(box, 8)
    for name in ("dreg-boundary", "measure-valued"):
        assert not ESTIMATORS[name].unmet(box, 8) and not ESTIMATORS[name].unmet(normal, 8)
    for name in ("dreg-squared", "gdreg", "nvil", "vimco", "rws"):
        assert ESTIMATORS[name].unmet(box, 8) and not ESTIMATORS[name].unmet(normal, 8)
        assert not ESTIMATORS[name].undefined(box, 8)
    assert ESTIMATORS["vimco"].undefined(normal, 1) == ["at least two samples"]
    assert not any(e.undefined(q, 2) for e in ESTIMATORS.values() for q in (box, normal))
