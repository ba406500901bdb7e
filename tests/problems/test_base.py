"""The toy problems as models: samples, terms, taps, walls and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradlab import problems
from gradlab.errors import GradlabError, NotExact
from gradlab.noise import stream
from gradlab.problems import BoxGaussian, BoxProblem, NormalGaussian
from tests.problems import brute_force

SETTINGS = {"x": 0.8, "slope": 1.3, "offset": -0.2, "likelihood_std": 0.6, "prior_std": 1.4}
PROBLEMS = {
    "BoxProblem": BoxProblem(lambda y: -2 * y**2 + y.sin(), 0.3),
    "BoxGaussian": BoxGaussian(0.3, **SETTINGS),
    "NormalGaussian": NormalGaussian(0.4, 0.7, **SETTINGS),
}


def tight(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def draws_of(problem, draws=5, k=4):
    return problem.draw_noise(draws, k, stream(0, "test"))


def reference(name, noise, changed=()):
    """(y, log w) in plain numpy, at changed parameters."""
    v = dict(changed)
    if name == "BoxProblem":
        y = v.get("phi", 0.3) + noise
        return y, -2 * y**2 + np.sin(y)
    model = brute_force.Model(**{key: v.get(key, value) for key, value in SETTINGS.items()})
    if name == "BoxGaussian":
        y = v.get("phi", 0.3) + noise
        return y, model.log_joint(y)
    mean, std = v.get("phi", v.get("mean", 0.4)), v.get("std", 0.7)
    y = mean + std * noise
    return y, model.log_joint(y) - brute_force.log_normal(y, mean, std)


@pytest.mark.parametrize("name", PROBLEMS)
def test_log_weight_is_the_formula(name):
    problem = PROBLEMS[name]
    noise = draws_of(problem)
    terms = problem.log_terms(noise)
    y, log_w = reference(name, noise.numpy())
    assert terms.shape == (5, 4, 1)
    tight(terms.log_w().squeeze(-1), log_w)
    tight(terms.samples[0], y)
    if name != "BoxProblem":
        tight(terms.log_lik.squeeze(-1), brute_force.log_normal(0.8, 1.3 * y - 0.2, 0.6))
        tight(terms.log_py.squeeze(-1), brute_force.log_normal(y, 0.0, 1.4))


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradient_of_each_draw_is_the_weighted_sum(name):
    """The gradient of logmeanexp(log w) by an override is sum_i w~_i d log w_i/d wrt, one value per draw."""
    problem = PROBLEMS[name]
    noise = draws_of(problem)
    base = noise.numpy()
    for wrt, value in problem.parameters.items():
        override = torch.full((5,), value, dtype=torch.float64, requires_grad=True)
        log_w = problem.log_terms(noise, {wrt: override}).log_w().squeeze(-1)
        (grad,) = torch.autograd.grad(torch.logsumexp(log_w, 1).sum(), override)
        _, plain = reference(name, base)
        share, _ = brute_force.weights(plain)
        _, moved = reference(name, base, {wrt: value + 1e-30j})
        tight(grad, (share * np.imag(moved) / 1e-30).sum(1))


def test_overrides_hold_one_value_per_draw():
    problem, values = PROBLEMS["NormalGaussian"], torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    noise = draws_of(problem)
    for wrt in problem.parameters:
        together = problem.log_terms(noise, {wrt: values}).log_w()
        for i, value in enumerate(values):
            _, alone = reference("NormalGaussian", noise[i : i + 1].numpy(), {wrt: float(value)})
            tight(together[i].T, alone)
    tight(problem.log_terms(noise, {"phi": values}).log_w(), problem.log_terms(noise, {"mean": values}).log_w())


@pytest.mark.parametrize("name, terms_of_y", [
    ("BoxProblem", {"lik"}), ("BoxGaussian", {"lik", "py"}), ("NormalGaussian", {"lik", "py", "q"})
])  # fmt: skip
def test_taps_carry_the_whole_path(name, terms_of_y):
    problem = PROBLEMS[name]
    noise = draws_of(problem)
    phi = torch.full((5,), 0.3, dtype=torch.float64, requires_grad=True)

    def path(doubled):
        terms = problem.log_terms(noise, {"phi": phi}).without_scores()
        for tap in terms.taps:
            if tap.term in doubled:
                tap.value.register_hook(lambda grad: 2 * grad)
        return torch.autograd.grad(terms.log_w().sum(), phi)[0]

    terms = problem.log_terms(noise, {"phi": phi})
    assert {(tap.latent, tap.term) for tap in terms.taps} == {("y", term) for term in terms_of_y}
    assert len({id(tap.value) for tap in terms.taps} | {id(terms.samples[0])}) == len(terms.taps) + 1
    # Each tap carries a part, and together they carry everything: nothing of a sample enters a term past its tap.
    tight(path(terms_of_y), 2 * path(set()))
    for term in terms_of_y:
        assert (path({term}) - path(set())).abs().min() > 1e-6


def test_score_of_the_normal_is_apart_from_its_path():
    problem = PROBLEMS["NormalGaussian"]
    noise = draws_of(problem)
    values = {n: torch.full((5,), v, dtype=torch.float64, requires_grad=True) for n, v in (("mean", 0.4), ("std", 0.7))}
    terms = problem.log_terms(noise, values)
    (score,) = terms.scores
    by_mean, by_std = torch.autograd.grad(score.sum(), list(values.values()))
    tight(by_mean, noise.sum(1) / 0.7)
    tight(by_std, (noise**2 - 1).sum(1) / 0.7)
    tight(score.detach(), terms.log_q.detach())
    terms = problem.log_terms(noise, values)
    by_mean, by_std = torch.autograd.grad(terms.log_q.sum(), list(values.values()))
    tight(by_mean, -noise.sum(1) / 0.7)
    tight(by_std, -(noise**2).sum(1) / 0.7)
    assert PROBLEMS["BoxGaussian"].log_terms(noise).scores == ()


@pytest.mark.parametrize("name", ["BoxProblem", "BoxGaussian"])
def test_walls_are_the_log_weight_at_the_ends(name):
    problem = PROBLEMS[name]
    noise = draws_of(problem)
    assert problem.log_terms(noise).walls is None
    phi = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    walls = problem.log_terms(noise, {"phi": phi}, walls=True).walls
    assert walls.scale.tolist() == [1.0, -1.0] and walls.log_w.shape == (5, 4, 2)
    for m, sign in enumerate((0.5, -0.5)):
        _, expected = reference(name, np.full((5, 4), sign), {"phi": phi.numpy()[:, None]})
        tight(walls.log_w[..., m], expected)
    at_phi = problem.log_terms(noise, walls=True).walls.log_w
    tight(at_phi[0, 0], [reference(name, np.array(s))[1] for s in (0.5, -0.5)])
    if name == "BoxGaussian":
        slope = torch.tensor([1.0, 1.1, 1.2, 1.3, 1.4], dtype=torch.float64)
        walls = problem.log_terms(noise, {"slope": slope}, walls=True).walls
        _, expected = reference(name, np.full((5, 4), 0.5), {"slope": slope.numpy()[:, None]})
        tight(walls.log_w[..., 0], expected)


def test_noise_and_posterior():
    box, normal = PROBLEMS["BoxGaussian"], PROBLEMS["NormalGaussian"]
    noise = box.draw_noise(1000, 3, stream(1, "test"), torch.float32)
    assert noise.shape == (1000, 3) and noise.dtype == torch.float32 and noise.abs().max() <= 0.5
    assert torch.equal(noise, box.draw_noise(1000, 3, stream(1, "test"), torch.float32))
    assert normal.draw_noise(1000, 3, stream(1, "test")).abs().max() > 2
    assert box.posterior.support_moves and not normal.posterior.support_moves
    assert float(box.posterior.center) == 0.3 and float(normal.posterior.std) == 0.7
    assert box.log_terms(noise).log_lik.dtype == torch.float32
    assert set(box.parameters) == {"phi", "prior_std", "slope", "offset", "likelihood_std"}
    assert set(normal.parameters) == {"phi", "mean", "std", "prior_std", "slope", "offset", "likelihood_std"}
    assert set(problems.__all__) >= {"BoxProblem", "BoxGaussian", "NormalGaussian", "BoxExpectation"}


def test_box_problem_is_box_gaussian():
    constant = math.log(2 * math.pi * 0.6 * 1.4)
    same = BoxProblem(lambda y: -0.5 * ((1.0 - 1.3 * y) / 0.6) ** 2 - 0.5 * (y / 1.4) ** 2 - constant, 0.3)
    for k in (1, 2, 50):
        assert same.exact_bound(k) == pytest.approx(PROBLEMS["BoxGaussian"].exact_bound(k), abs=1e-12)
        for estimator in ("pathwise", "dreg", "stl", "score"):
            expected = PROBLEMS["BoxGaussian"].exact_moments(estimator, k)
            assert same.exact_moments(estimator, k) == pytest.approx(expected, rel=1e-11)


NAN = float("nan")


@pytest.mark.parametrize("make, message", [
    pytest.param(lambda: BoxGaussian(NAN, 0.5), "phi is nan: give a finite number", id="phi nan"),
    pytest.param(lambda: BoxGaussian(0.3, math.inf), "x is inf: give a finite number", id="x inf"),
    pytest.param(lambda: BoxGaussian(0.3, "high"), "x is 'high': give a number", id="x text"),
    pytest.param(lambda: BoxGaussian(0.3, 0.5, slope=NAN), "slope is nan", id="slope nan"),
    pytest.param(lambda: BoxGaussian(0.3, 0.5, likelihood_std=0.0), "likelihood_std is 0.0: give a standard deviation above 0", id="likelihood_std zero"),
    pytest.param(lambda: BoxGaussian(0.3, 0.5, prior_std=-1), "prior_std is -1.0: give a standard deviation", id="prior_std negative"),
    pytest.param(lambda: BoxGaussian(0.3, 0.5, dim=0), "dim is 0: give a whole number of coordinates", id="dim zero"),
    pytest.param(lambda: BoxGaussian(0.3, 0.5, dim=1.5), "dim is 1.5: give a whole number", id="dim half"),
    pytest.param(lambda: NormalGaussian(0.3, 0.0, 0.5), "std is 0.0: give a standard deviation above 0", id="std zero"),
    pytest.param(lambda: NormalGaussian(NAN, 1.0, 0.5), "mean is nan", id="mean nan"),
    pytest.param(lambda: BoxGaussian(0.3, 0.5, likelihood_std=1e-4), "log w varies by more than .* widen the likelihood", id="likelihood narrow"),
    pytest.param(lambda: BoxProblem(lambda y: y, NAN), "phi is nan", id="log_w at nan"),
    pytest.param(lambda: BoxProblem(lambda y: y.sqrt(), 0.3), "log w or its derivative is not finite at y = -0.2", id="root of negatives"),
    pytest.param(lambda: BoxProblem(lambda y: -y.abs().log(), 0.3), "log w jumps or is unbounded near y = .*: give a log w", id="logarithm at zero"),
    pytest.param(lambda: BoxProblem(lambda y: 1 / y, 0.3), "log w varies by more than .*: give a bounded log w", id="pole"),
    pytest.param(lambda: BoxProblem(lambda y: torch.where(y > 0.31, y + 1e-3, y), 0.3), "jumps or is unbounded near y = 0.31", id="small jump"),
    pytest.param(lambda: BoxProblem(lambda y: torch.where(y > 0.3, y + 9, y), 0.3), "log w jumps or is unbounded near y = 0.3", id="jump"),
    pytest.param(lambda: BoxProblem(lambda y: y > 0.3, 0.3), "log_w does not return a torch.float64 tensor", id="truth values"),
    pytest.param(lambda: BoxProblem(lambda y: y.sum(), 0.3), "log_w does not return .* make it elementwise", id="sum"),
    pytest.param(lambda: BoxProblem(lambda y: 0.0, 0.3), "log_w does not return", id="constant"),
])  # fmt: skip
def test_bad_settings(make, message):
    with pytest.raises(GradlabError, match=message):
        make()


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "2", None])
@pytest.mark.parametrize("ask", ["exact_bound", "exact_gradient", "boundary_term"])
def test_bad_sample_size(k, ask):
    with pytest.raises(GradlabError, match=r"k is .*: give a whole number of samples, at least 1"):
        getattr(PROBLEMS["BoxGaussian"], ask)(k)
    with pytest.raises(GradlabError, match=r"k is .*: give a whole number"):
        PROBLEMS["NormalGaussian"].exact_moments("pathwise", k)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_unknown_names(problem):
    with pytest.raises(GradlabError, match=r"unknown parameter .* 'fi': did you mean 'phi'\?"):
        problem.exact_gradient(2, wrt="fi")
    with pytest.raises(GradlabError, match=r"'fi': did you mean 'phi'\?"):
        problem.exact_moments("pathwise", 2, wrt="fi")
    with pytest.raises(NotExact, match=r"no exact moments on .* 'pathwize': did you mean 'pathwise'\?"):
        problem.exact_moments("pathwize", 2)
    noise = draws_of(problem)
    with pytest.raises(GradlabError, match="'fi': did you mean 'phi'"):
        problem.log_terms(noise, {"fi": noise[:, 0]})
    with pytest.raises(GradlabError, match=r"override 'phi' has shape \(2,\): give one value per draw, \[5\]"):
        problem.log_terms(noise, {"phi": torch.zeros(2)})
    with pytest.raises(GradlabError, match=r"noise (has|is a Tensor of) shape \(5,\).*: give .*k"):
        problem.log_terms(noise[:, 0])
    with pytest.raises(GradlabError, match="k is 0: give a whole number of samples, at least 1"):
        problem.draw_noise(3, 0)


def test_a_normal_has_one_mean():
    problem = PROBLEMS["NormalGaussian"]
    noise = draws_of(problem)
    assert not problem.log_terms(noise, walls=True).walls.boundary  # pairs of a smooth density, on no boundary
    with pytest.raises(GradlabError, match="both 'phi' and 'mean'"):
        problem.log_terms(noise, {"phi": noise[:, 0], "mean": noise[:, 0]})
