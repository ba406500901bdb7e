"""Several coordinates: the product oracle against product grids, seeded draws, one dimension and its own identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradlab.errors import GradlabError, NotExact
from gradlab.estimators import ESTIMATORS
from gradlab.noise import stream
from gradlab.problems import BoxGaussian, BoxProblem, NormalGaussian, dimension_map
from gradlab.problems._oracle import integrals, moments, product
from tests.problems import brute_force

SETTINGS = {"x": 0.8, "slope": 1.3, "offset": -0.2, "likelihood_std": 0.6, "prior_std": 1.4}
MODEL = brute_force.Model(**SETTINGS)
PHI, MEAN, STD = 0.3, 0.4, 0.7


def box(dim, **changed):
    return BoxGaussian(PHI, dim=dim, **(SETTINGS | changed))


def normal(dim, **changed):
    return NormalGaussian(MEAN, STD, dim=dim, **(SETTINGS | changed))


def log_weight(posterior, base):
    """``y``, ``log w`` of each coordinate, in plain numpy."""
    if posterior == "box":
        y = PHI + base
        return y, MODEL.log_joint(y)
    y = MEAN + STD * base
    return y, MODEL.log_joint(y) - brute_force.log_normal(base, 0.0, 1.0) + math.log(STD)


def derivatives(posterior, base, y):
    """wrt -> (total, path) of the first coordinate, or of all for a shared parameter; last axis summed over."""
    slope = MODEL.by_y(y[..., 0])
    cases = {"prior_std": 2 * (MODEL.by("prior_std", y).sum(-1),), "slope": 2 * (MODEL.by("slope", y).sum(-1),)}
    if posterior == "box":
        return cases | {"phi": (slope, slope)}
    path = slope + base[..., 0] / STD
    return cases | {
        "phi": (slope, path),
        "std": (slope * base[..., 0] + 1 / STD, path * base[..., 0]),
    }


def close(exact, expected, digits=1e-8):
    assert abs(exact[0] - expected[0]) <= digits * math.sqrt(expected[1] + expected[0] ** 2)
    assert abs(exact[1] - expected[1]) <= digits * expected[1]


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("dim, points", [(2, 24), (3, 11)])
def test_box_by_product_grids(dim, points, k):
    one, weight = brute_force.box_points(0.0, points)
    index = np.indices((points,) * dim).reshape(dim, -1).T
    base, p = one[index], weight[index].prod(1)
    y, log_w = log_weight("box", base)
    log_w = log_w.sum(1)
    problem, slopes = box(dim), derivatives("box", base, y)
    for wrt in ("phi", "prior_std", "slope"):
        expected = brute_force.moments(log_w, p, "linear", slopes[wrt][0], k)
        close(problem.exact_moments("pathwise", k, wrt), expected)
        assert problem.exact_gradient(k, wrt) == pytest.approx(expected[0], rel=1e-8)
    for name in ("dreg", "dreg-squared"):
        close(problem.exact_moments(name, k), brute_force.moments(log_w, p, "squared", slopes["phi"][1], k))
    assert problem.exact_bound(k) == pytest.approx(brute_force.moments(log_w, p, "bound", log_w, k)[0], rel=1e-10)
    assert problem.exact_concentration(k) == pytest.approx(
        brute_force.moments(log_w, p, "squared", 0 * p + 1, k)[0], rel=1e-9
    )


def test_normal_by_a_product_grid():
    one, weight = brute_force.normal_points(36, 6.0)
    index = np.indices((36, 36)).reshape(2, -1).T
    base, p = one[index], weight[index].prod(1)
    y, log_w = log_weight("normal", base)
    log_w, problem = log_w.sum(1), normal(2)
    for wrt, (total, path) in derivatives("normal", base, y).items():
        close(problem.exact_moments("pathwise", 2, wrt), brute_force.moments(log_w, p, "linear", total, 2), 1e-6)
        if wrt in ("phi", "std"):
            for name in ("dreg", "dreg-squared"):
                close(problem.exact_moments(name, 2, wrt), brute_force.moments(log_w, p, "squared", path, 2), 1e-6)
            close(problem.exact_moments("stl", 2, wrt), brute_force.moments(log_w, p, "linear", path, 2), 1e-6)


@pytest.mark.parametrize("k", [2, 30, 10_000, 1_000_000])
@pytest.mark.parametrize("make", [box, normal, pytest.param(lambda dim: box(dim, likelihood_std=0.1), id="narrow box")])
def test_one_coordinate_is_the_plain_oracle(make, k, monkeypatch):
    """At D = 1 the transforms give what the sums over nodes give."""
    problem = make(1)
    nodes = problem.nodes
    total, path = problem.slopes()
    low, high = float(nodes.log_w[0]), float(nodes.log_w[-1])

    def answers():
        return [
            *moments.linear(nodes, total, k),
            *moments.mixed(nodes, total, path, k),
            *moments.mixed(nodes, 0 * total, path, k),
            moments.concentration(nodes, k),
            *(
                (moments.boundary_gradient(nodes, low, high, k), moments.boundary_term(nodes, low, high, k))
                if make is box
                else ()
            ),
        ]

    monkeypatch.setattr(moments, "_squared_variance", lambda *_: math.nan)  # of one coordinate only, and not asked for
    plain, bound = answers(), moments.bound(nodes, k)
    monkeypatch.setattr(integrals, "slices", lambda nodes, k: iter([product.ProductSlice(nodes, k)]))
    assert answers() == pytest.approx(plain, rel=1e-8)
    assert moments._product_bound(nodes, k) == pytest.approx(bound, abs=1e-10)


def z_scores(values, mean, variance):
    d = values - values.mean()
    second, fourth = np.mean(d**2), np.mean(d**4)
    n = len(values)
    return (
        (values.mean() - mean) / math.sqrt(second / n),
        (second * n / (n - 1) - variance) / math.sqrt((fourth - second**2) / n),
    )


@pytest.mark.parametrize("posterior", ["box", "normal"])
@pytest.mark.parametrize("dim, k, draws", [(10, 64, 10_000), (100, 8, 10_000), (1000, 16, 1000)])
def test_by_seeded_draws(posterior, dim, k, draws):
    rng = np.random.default_rng(5)
    problem = box(dim) if posterior == "box" else normal(dim)
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for _ in range(10):
        shape = (draws // 10, k, dim)
        base = rng.random(shape) - 0.5 if posterior == "box" else rng.standard_normal(shape)
        y, log_w = log_weight(posterior, base)
        share, bound = brute_force.weights(log_w.sum(-1))
        parts.setdefault(("", "bound"), []).append(bound)
        parts.setdefault(("", "concentration"), []).append((share**2).sum(1))
        for wrt, (total, path) in derivatives(posterior, base, y).items():
            parts.setdefault((wrt, "pathwise"), []).append((share * total).sum(1))
            if wrt in ("phi", "std"):
                parts.setdefault((wrt, "dreg"), []).append((share**2 * path).sum(1))
                parts.setdefault((wrt, "stl"), []).append((share * path).sum(1))
    estimates = {key: np.concatenate(values) for key, values in parts.items()}
    for name, exact in (("bound", problem.exact_bound(k)), ("concentration", problem.exact_concentration(k))):
        values = estimates.pop(("", name))
        assert abs(values.mean() - exact) < 4.5 * values.std() / math.sqrt(draws), name
    for (wrt, name), values in estimates.items():
        assert max(map(abs, z_scores(values, *problem.exact_moments(name, k, wrt)))) < 4.5, (wrt, name)


@pytest.mark.parametrize("k", [2, 16, 70, 4096, 1_000_000])
@pytest.mark.parametrize("dim", [2, 30, 1000, 100_000])
def test_identities_at_any_size(dim, k):
    """Two formulas for each: the gradient at the walls, the bias of DReG, DReG unbiased on the Normal."""
    problem, control = box(dim), normal(dim)
    pathwise, dreg = problem.exact_moments("pathwise", k), problem.exact_moments("dreg", k)
    scale = math.sqrt(pathwise[1] + pathwise[0] ** 2)
    assert abs(pathwise[0] - problem.exact_gradient(k)) < 1e-8 * scale
    assert abs(pathwise[0] - dreg[0] - problem.boundary_term(k)) < 1e-8 * scale
    assert control.exact_moments("dreg", k)[0] == pytest.approx(control.exact_gradient(k), rel=1e-7)
    assert 1 <= problem.exact_ess(k) <= k
    assert problem.exact_bound(1) < problem.exact_bound(k) < problem.exact_limit()
    assert control.exact_bound(1) < control.exact_bound(k) < control.exact_limit()


@pytest.mark.parametrize("make, dim, k", [(box, 40, 5), (box, 2000, 5), (normal, 40, 90), (normal, 2000, 3)])
def test_step_does_not_matter(make, dim, k, monkeypatch):
    coarse = [*make(dim).exact_moments("dreg", k), *make(dim).exact_moments("pathwise", k), make(dim).exact_bound(k)]
    for module in (product, moments):
        monkeypatch.setattr(module, "STEP", 0.061)
    fine = [*make(dim).exact_moments("dreg", k), *make(dim).exact_moments("pathwise", k), make(dim).exact_bound(k)]
    assert coarse == pytest.approx(fine, rel=1e-8)


def test_gradient_is_the_slope_of_the_bound():
    h = 1e-3
    for make, names in ((box, ("prior_std", "likelihood_std")), (normal, ("slope", "offset"))):
        for name in names:
            values = [make(7, **{name: SETTINGS[name] + s * h}).exact_bound(9) for s in (2, 1, -1, -2)]
            slope = (8 * (values[1] - values[2]) - (values[0] - values[3])) / (12 * h)
            assert make(7).exact_gradient(9, name) == pytest.approx(slope, abs=1e-8)


def test_closed_forms():
    x = 1.1
    best = NormalGaussian(x / 2, math.sqrt(0.5), x, dim=50)  # the true posterior: all weights are equal
    assert best.exact_bound(20) == pytest.approx(best.exact_limit(), rel=1e-12)
    assert best.exact_ess(20) == pytest.approx(20, rel=1e-10)
    assert best.exact_moments("dreg", 20) == pytest.approx((0.0, 0.0), abs=1e-12)
    flat = BoxGaussian(0.3, 0.5, slope=0.0, prior_std=1e6, dim=1000)
    assert flat.exact_ess(12) == pytest.approx(12, rel=1e-8)
    one, many = box(1), box(300)
    for name in ("pathwise", "dreg"):  # with one sample the other coordinates do not matter
        assert many.exact_moments(name, 1) == one.exact_moments(name, 1)
    assert many.exact_bound(1) == pytest.approx(300 * one.exact_bound(1), rel=1e-14)
    assert many.exact_limit() == pytest.approx(300 * one.exact_limit(), rel=1e-14)
    # Two equal groups of coordinates: the law of log w is that of twice as many.
    assert many.exact_moments("pathwise", 1, "slope")[1] == pytest.approx(
        300 * one.exact_moments("pathwise", 1, "slope")[1]
    )


def reference(name, noise, values):
    """``[B, K]`` log-weights at changed parameters of the first coordinate, or of all for the model's."""
    model = brute_force.Model(**{key: values.get(key, value) for key, value in SETTINGS.items()})
    first = np.zeros(noise.shape[-1])
    first[0] = 1.0
    if name == "box":
        return model.log_joint(PHI + first * (values.get("phi", PHI) - PHI) + noise).sum(-1)
    mean = MEAN + first * (values.get("mean", MEAN) - MEAN)
    std = STD + first * (values.get("std", STD) - STD)
    y = mean + std * noise
    return (model.log_joint(y) - brute_force.log_normal(y, mean, std)).sum(-1)


@pytest.mark.parametrize("name", ["box", "normal"])
def test_samples_and_gradients_are_the_formula(name):
    problem = box(6) if name == "box" else normal(6)
    noise = problem.draw_noise(5, 4, stream(0, "test"))
    assert noise.shape == (5, 4, 6)
    terms = problem.log_terms(noise)
    assert terms.shape == (5, 4, 1) and terms.samples[0].shape == (5, 4, 6)
    base = noise.numpy()
    np.testing.assert_allclose(terms.log_w()[..., 0], reference(name, base, {}), rtol=1e-12)
    for wrt, value in problem.parameters.items():
        override = torch.full((5,), value, dtype=torch.float64, requires_grad=True)
        log_w = problem.log_terms(noise, {wrt: override}).log_w().squeeze(-1)
        (grad,) = torch.autograd.grad(torch.logsumexp(log_w, 1).sum(), override)
        share, _ = brute_force.weights(reference(name, base, {}))
        key = "mean" if (name, wrt) == ("normal", "phi") else wrt
        moved = np.imag(reference(name, base, {key: value + 1e-30j})) / 1e-30
        np.testing.assert_allclose(grad, (share * moved).sum(1), rtol=1e-10)


@pytest.mark.parametrize("wrt", ["phi", "std", "prior_std"])
@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_unbiased_estimators_agree_with_the_exact_gradient(name, wrt):
    """Through the library's own terms, walls and prior paths in several coordinates: seeded, |z| < 4.5."""
    for problem in (box(4), normal(4)):
        e = ESTIMATORS[name]
        if wrt not in problem.parameters or e.unmet(problem.posterior, 3) or (e.target and wrt != "prior_std"):
            continue
        noise = problem.draw_noise(20_000, 3, stream(3, "test"))
        value = torch.full((20_000,), problem.parameters[wrt], dtype=torch.float64, requires_grad=True)
        surrogate = e(problem.log_terms(noise, {wrt: value}, walls=e.walls))
        (grad,) = torch.autograd.grad(surrogate.sum(), value)
        error = float(grad.mean()) - problem.exact_gradient(3, wrt)
        assert abs(error) < 4.5 * float(grad.std()) / math.sqrt(20_000)


def test_dimension_map():
    frame = dimension_map(box(1), k=(1, 16, 64), dim=(1, 400), temperature=(1.0, 50.0))
    assert len(frame) == 12 and list(frame.columns[:3]) == ["dim", "k", "temperature"]
    cold = frame[frame.temperature == 1.0].set_index(["dim", "k"])
    for dim in (1, 400):
        for k in (1, 16, 64):
            row, problem = cold.loc[dim, k], box(dim)
            assert row.pathwise_bias == pytest.approx(0.0, abs=1e-12)
            assert row.exact == pytest.approx(problem.exact_gradient(k), rel=1e-8)
            assert row.dreg_bias == pytest.approx(-problem.boundary_term(k), rel=1e-8, abs=1e-12)
            assert row.bound == pytest.approx(problem.exact_bound(k)) and row.ess == pytest.approx(problem.exact_ess(k))
            mean, variance = problem.exact_moments("pathwise", k)
            assert row.pathwise_snr == pytest.approx(abs(mean) / math.sqrt(variance))
    assert cold.loc[400, 64].ess < 2 and cold.loc[1, 64].ess > 50  # where one sample has the weight
    assert cold.loc[400, 64].log_w_std == pytest.approx(20 * cold.loc[1, 64].log_w_std)
    hot = frame[frame.temperature == 50.0].set_index(["dim", "k"])
    assert hot.loc[400, 64].ess > 50 and hot.loc[400, 64].pathwise_snr > 4 * cold.loc[400, 64].pathwise_snr
    assert abs(hot.loc[400, 64].pathwise_bias) > 0.1
    assert cold.loc[1].pathwise_slope.iloc[-1] == pytest.approx(0.5, abs=0.05)
    assert abs(cold.loc[400].pathwise_slope.iloc[-1]) < 0.05


@pytest.mark.parametrize("posterior", ["box", "normal"])
def test_tempered_weights_by_seeded_draws(posterior, dim=20, k=10, draws=20_000, temperature=4.0):
    rng = np.random.default_rng(6)
    base = rng.random((draws, k, dim)) - 0.5 if posterior == "box" else rng.standard_normal((draws, k, dim))
    y, log_w = log_weight(posterior, base)
    share, bound = brute_force.weights(log_w.sum(-1) / temperature)
    total, path = derivatives(posterior, base, y)["phi"]
    problem = box(dim) if posterior == "box" else normal(dim)
    row = dimension_map(problem, k=(k,), dim=(dim,), temperature=(temperature,)).iloc[0]
    assert abs(temperature * bound.mean() - row.bound) < 4.5 * temperature * bound.std() / math.sqrt(draws)
    assert max(map(abs, z_scores((share * total).sum(1), row.pathwise_mean, row.pathwise_variance))) < 4.5
    factor = share**2 if posterior == "box" else share * (1 - (1 - share) / temperature)
    assert max(map(abs, z_scores((factor * path).sum(1), row.dreg_mean, row.dreg_variance))) < 4.5
    if posterior == "normal":  # unbiased for the tempered bound
        assert row.dreg_mean == pytest.approx(row.pathwise_mean, rel=1e-8)


@pytest.mark.parametrize("ask, error, message", [
    pytest.param(lambda: box(0), GradlabError, "dim is 0: give a whole number of coordinates", id="no coordinate"),
    pytest.param(lambda: normal(1.5), GradlabError, "dim is 1.5: give a whole number of coordinates", id="half a coordinate"),
    pytest.param(lambda: box(3).exact_moments("dreg-boundary", 2), NotExact, "dreg-boundary are known in one dimension, not in 3", id="dreg-boundary"),
    pytest.param(lambda: normal(3).exact_moments("vimco", 2), NotExact, "vimco are known in one dimension, not in 3", id="vimco"),
    pytest.param(lambda: normal(3).exact_moments("gdreg", 2, "prior_std"), NotExact, "gdreg by prior_std are known in one dimension", id="gdreg by prior_std"),
    pytest.param(lambda: box(3).log_terms(torch.zeros(5, 4)), GradlabError, r"noise has shape \(5, 4\): give \[draws, k, 3\]", id="noise of one coordinate"),
    pytest.param(lambda: box(3).log_terms(torch.zeros(5, 4, 2)), GradlabError, r"give \[draws, k, 3\]", id="noise of two coordinates"),
    pytest.param(lambda: dimension_map(BoxProblem(lambda y: y, 0.3)), GradlabError, "problem is a BoxProblem: give a BoxGaussian or a NormalGaussian", id="another problem"),
    pytest.param(lambda: dimension_map(box(1), k=()), GradlabError, "k is empty: give at least one", id="no k"),
    pytest.param(lambda: dimension_map(box(1), dim=(0,)), GradlabError, r"dim\[0\] is 0: give a whole number of coordinates, at least 1", id="dim 0"),
    pytest.param(lambda: dimension_map(box(1), temperature=(0.0,)), GradlabError, "temperature is 0.0", id="temperature 0"),
])  # fmt: skip
def test_bad_input(ask, error, message):
    with pytest.raises(error, match=message):
        ask()
