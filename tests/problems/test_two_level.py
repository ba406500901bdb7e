"""The two-level oracle against tensor quadrature of plain formulas, closed forms, finite differences and draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError, NotExact
from gradlab.noise import stream
from gradlab.problems import TwoLevel
from tests.problems.brute_force import log_normal
from tests.problems.test_moments_large_k import z_scores

VALUES = {
    "phi": 0.3, "a": 0.6, "b": 0.1, "c": 0.8, "d": -0.2, "y_std": 0.7, "likelihood_std": 0.6, "prior_std": 1.3,
    "slope": 1.1, "offset": -0.1,
}  # fmt: skip
X = 0.9
OTHER = VALUES | {"phi": -0.8, "a": -0.5, "c": 1.4, "y_std": 1.1, "prior_std": 0.8}
GROUPS = {
    "y infer": ["phi"], "y gen": ["slope", "offset", "likelihood_std"], "z infer": ["a", "b"],
    "z gen": ["c", "d", "y_std"], "z prior": ["prior_std"],
}  # fmt: skip
NESTED = "ms-nic-dms-nested"


def make(direct_y=True, values=VALUES, x=X):
    v = values
    return TwoLevel(
        v["phi"], x, (v["a"], v["b"]), (v["c"], v["d"], v["y_std"]), v["likelihood_std"], v["prior_std"], direct_y,
        slope=v["slope"], offset=v["offset"],
    )  # fmt: skip


def log_w(v, u, e, direct_y, x=X):
    """log w elementwise in the noises u and e, which broadcast; complex parameters are allowed."""
    y = v["phi"] + u
    z = v["a"] * (v["phi"] if direct_y else y) + v["b"] + e
    return (
        log_normal(x, v["slope"] * y + v["offset"], v["likelihood_std"])
        + log_normal(y, v["c"] * z + v["d"], v["y_std"])
        + log_normal(z, 0.0, v["prior_std"])
    )


def value(v, u, e, layout, direct_y):
    """The objective ``[N]`` of noises ``u [N, k]``, ``e [N, l]``, for real or complex parameters."""
    if layout == "pairs":
        return np.log(np.exp(log_w(v, u, e, direct_y)).mean(1))
    if layout == "elbo":
        return log_w(v, u, e, direct_y).mean(1)
    return np.log(np.exp(log_w(v, u[:, :, None], e[:, None, :], direct_y)).mean((1, 2)))


def by(wrt, v, *args):
    """The pathwise gradient per draw, by complex step."""
    step = 1e-30
    return np.imag(value(v | {wrt: v[wrt] + 1j * step}, *args)) / step


def tensor(n, dims):
    """Gauss-Legendre on the noises: points ``[n^dims, dims]``, probabilities."""
    x, w = np.polynomial.legendre.leggauss(n)
    index = np.indices((n,) * dims).reshape(dims, -1).T
    return 0.5 * x[index], (0.5 * w[index]).prod(1)


CASES = [  # objective, k, l, layout, noises of y, noises of z, nodes, direct_y
    ("iwae", 1, 1, "pairs", 1, 1, 20, (True, False)),
    ("iwae", 2, 1, "pairs", 2, 2, 13, (True, False)),
    ("iwae-2level", 2, 1, "pairs", 2, 2, 13, (True, False)),
    ("elbo", 2, 1, "elbo", 2, 2, 4, (True, False)),
    ("ms-nic-mix", 2, 1, "shared", 2, 1, 18, (True,)),
    ("ms-nic-mix", 3, 1, "shared", 3, 1, 13, (True,)),
    ("ms-nic-dms", 1, 1, "shared", 1, 1, 20, (True,)),
    ("ms-nic-dms", 2, 2, "shared", 2, 2, 13, (True,)),
    ("ms-nic-dms", 1, 3, "shared", 1, 3, 13, (True,)),
    ("ms-nic-dms", 3, 2, "shared", 3, 2, 8, (True,)),
]
FLAT = [(*case[:-1], on) for case in CASES for on in case[-1]]


@pytest.mark.parametrize("objective, k, l, layout, ny, nz, n, direct_y", FLAT)
def test_against_tensor_quadrature(objective, k, l, layout, ny, nz, n, direct_y):
    problem = make(direct_y)
    noise, p = tensor(n, ny + nz)
    args = (noise[:, :ny], noise[:, ny:], layout, direct_y)
    digits = 1e-10 if n > 8 else 2e-7  # of the tensor rule
    assert problem.exact_bound(k, l, objective) == pytest.approx(p @ value(VALUES, *args), abs=digits)
    for wrt in VALUES if ny + nz < 4 else ("phi", "a", "y_std", "prior_std"):
        draws = by(wrt, VALUES, *args)
        mean = p @ draws
        assert problem.exact_gradient(k, wrt, l, objective) == pytest.approx(mean, abs=digits)
        for name in ("pathwise", "stl"):
            exact = problem.exact_moments(name, k, wrt, l, objective)
            assert exact == pytest.approx((mean, p @ (draws - mean) ** 2), abs=10 * digits)


def test_eq_14_by_quadrature():
    """The inner expectation over two y, then two z."""
    problem = make()
    (u, p), (e, q) = tensor(16, 2), tensor(16, 1)
    e = e[:, 0]

    def bound(v):
        w = np.exp(log_w(v, u[:, :, None], e, True))
        m = p @ np.log(w.mean(1))
        pair = np.log(0.5 * (np.exp(m)[:, None] + np.exp(m)))
        return q @ pair @ q

    assert problem.exact_bound(2, 2, NESTED) == pytest.approx(bound(VALUES), abs=1e-11)
    for wrt, v in VALUES.items():
        expected = np.imag(bound(VALUES | {wrt: v + 1e-30j})) / 1e-30
        assert problem.exact_gradient(2, wrt, 2, NESTED) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("values", [VALUES, OTHER], ids=["near", "far"])
@pytest.mark.parametrize("direct_y", [True, False])
def test_closed_forms_of_one_sample(values, direct_y):
    """The table of the module, in its own letters."""
    v, problem = values, make(direct_y, values)
    phi, a, c, s2, t2, r2 = v["phi"], v["a"], v["c"], v["likelihood_std"] ** 2, v["y_std"] ** 2, v["prior_std"] ** 2
    z0 = a * phi + v["b"]
    r0 = phi - c * z0 - v["d"]
    gamma, kappa, lam = c / t2, c**2 / t2 + 1 / r2, v["slope"] ** 2 / s2 + 1 / t2
    delta, h = gamma - a * kappa, c * r0 / t2 - z0 / r2
    by_y = v["slope"] * (X - v["slope"] * phi - v["offset"]) / s2 - r0 / t2
    std = v["prior_std"]
    if direct_y:
        expected = {
            "b": (h, gamma**2 + kappa**2),
            "a": (phi * h, phi**2 * (gamma**2 + kappa**2)),
            "phi": (by_y + a * h, (lam - a * gamma) ** 2 + delta**2),
            "d": (r0 / t2, (1 + c**2) / t2**2),
            "prior_std": ((z0**2 + 1 / 12) / std**3 - 1 / std, (4 * z0**2 + 1 / 15) / std**6),
        }
    else:
        expected = {
            "b": (h, delta**2 + kappa**2),
            "a": (
                phi * h + delta / 12,
                (h + delta * phi) ** 2 + (kappa * phi) ** 2 + delta**2 / 15 + kappa**2 / 12,
            ),
            "phi": (by_y + a * h, (lam - a * gamma - a * delta) ** 2 + delta**2),
            "d": (r0 / t2, ((1 - a * c) ** 2 + c**2) / t2**2),
            "prior_std": (
                (z0**2 + (1 + a**2) / 12) / std**3 - 1 / std,
                (4 * z0**2 * (1 + a**2) + (1 + a**4) / 15 + a**2 / 3) / std**6,
            ),
        }
    for wrt, (mean, twelve) in expected.items():
        assert problem.exact_moments("pathwise", 1, wrt) == pytest.approx((mean, twelve / 12), rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("direct_y", [True, False])
def test_moments_against_draws(direct_y):
    problem, rng = make(direct_y), np.random.default_rng(11)
    for k, draws in ((1, 100_000), (6, 20_000)):
        u, e = rng.random((2, draws, k)) - 0.5
        bound = value(VALUES, u, e, "pairs", direct_y)
        assert abs(bound.mean() - problem.exact_bound(k)) < 4.5 * bound.std() / math.sqrt(draws)
        for wrt in VALUES:
            scores = z_scores(by(wrt, VALUES, u, e, "pairs", direct_y), *problem.exact_moments("pathwise", k, wrt))
            assert max(map(abs, scores)) < 4.5, (k, wrt, scores)


@pytest.mark.parametrize("k, l", [(6, 1), (2, 5), (5, 3)])
def test_shared_samples_against_draws(k, l):
    problem, rng, draws = make(), np.random.default_rng(12), 20_000
    u, e = rng.random((draws, k)) - 0.5, rng.random((draws, l)) - 0.5
    objective = "ms-nic-mix" if l == 1 else "ms-nic-dms"
    for wrt in ("phi", "a", "c", "prior_std"):
        exact = problem.exact_moments("pathwise", k, wrt, l, objective)
        scores = z_scores(by(wrt, VALUES, u, e, "shared", True), *exact)
        assert max(map(abs, scores)) < 4.5, (wrt, scores)


@pytest.mark.parametrize("direct_y", [True, False])
@pytest.mark.parametrize("objective, l", [("iwae", 1), ("elbo", 1), ("ms-nic-mix", 1), ("ms-nic-dms", 3)])
def test_autograd_of_the_terms(direct_y, objective, l):
    """The objective's gradient through ``log_terms`` is the per-draw formula, for every parameter."""
    if not direct_y and objective.startswith("ms-nic"):
        return
    problem = make(direct_y).under(objective, l)
    noise = problem.draw_noise(6, 4, stream(3, "test"))
    layout = {"iwae": "pairs", "elbo": "elbo"}.get(objective, "shared")
    assert noise.shape == (6, 8 if layout != "shared" else 4 + l)
    args = (noise[:, :4].numpy(), noise[:, 4:].numpy(), layout, direct_y)
    terms = problem.log_terms(noise)
    assert terms.paired == (layout != "shared") and terms.shape == (6, 4, l)
    objective_value = gl.OBJECTIVES[objective](terms)
    np.testing.assert_allclose(objective_value, value(VALUES, *args), rtol=0, atol=1e-11)
    for wrt, v in VALUES.items():
        leaf = torch.full((6,), v, dtype=torch.float64, requires_grad=True)
        surrogate = gl.OBJECTIVES[objective](problem.log_terms(noise, {wrt: leaf}))
        (grad,) = torch.autograd.grad(surrogate.sum(), leaf)
        np.testing.assert_allclose(grad, by(wrt, VALUES, *args), rtol=0, atol=1e-10)
    each = torch.linspace(-1, 1, 6, dtype=torch.float64)
    moved = gl.OBJECTIVES[objective](problem.log_terms(noise, {"c": each}))
    apart = value(VALUES | {"c": each.numpy()[:, None] if layout != "shared" else each.numpy()[:, None, None]}, *args)
    np.testing.assert_allclose(moved, apart, rtol=0, atol=1e-11)


@pytest.mark.parametrize("direct_y", [True, False])
def test_taps_carry_the_whole_path_once(direct_y):
    problem = make(direct_y)
    noise = problem.draw_noise(5, 3, stream(4, "test"))
    leaf = torch.full((5,), 0.3, dtype=torch.float64, requires_grad=True)
    for factor in (0.0, 2.0):
        terms = problem.log_terms(noise, {"phi": leaf})
        (plain,) = torch.autograd.grad(terms.log_w().sum(), leaf, retain_graph=True)
        for tap in terms.taps:
            tap.value.register_hook(lambda grad, factor=factor: factor * grad)
        (scaled,) = torch.autograd.grad(terms.log_w().sum(), leaf)
        torch.testing.assert_close(scaled, factor * plain, rtol=0, atol=1e-12)
    assert {(tap.latent, tap.term) for tap in terms.taps} == {("y", "lik"), ("y", "py"), ("z", "py"), ("z", "pz")}


@pytest.mark.parametrize("direct_y", [True, False])
@pytest.mark.parametrize("wrt", ["phi", "a", "b", "c"])
def test_every_estimator_in_compare(direct_y, wrt):
    """Score-type estimators are 0, DReG is off by its boundary term, and the boundary put back is unbiased."""
    known = ("pathwise", "stl", "dreg", "dreg-squared", "score", "nvil", "vimco", "rws")
    names = (*known, "dreg-boundary", "measure-valued")
    frame = gl.compare(make(direct_y), names, (3,), 20_000, allow_biased=True, wrt=wrt, seed=5).set_index("estimator")
    kept = frame.drop(index="rws") if wrt != "c" else frame  # rws has a target of its own for phi, a and b
    assert kept.z.abs().max() < 4.5 and frame.z_variance.abs().max() < 4.5
    exact = make(direct_y).exact_gradient(3, wrt)
    assert frame.exact_mean[["pathwise", "stl", "dreg-boundary", "measure-valued"]].tolist() == pytest.approx(
        [exact] * 4
    )
    assert frame.exact_variance[list(known)].notna().all()
    if wrt != "c":
        for name in ("dreg", "dreg-squared"):
            assert abs(frame.exact_mean[name] - exact) > 0.1 * abs(exact)
        assert not frame["mean"][["score", "nvil", "vimco", "rws"]].any()


def test_compare_where_samples_are_shared():
    for objective, l in (("ms-nic-mix", 1), ("ms-nic-dms", 2)):
        problem = make().under(objective, l)
        frame = gl.compare(problem, ("pathwise", "stl"), (1, 4), 20_000, objective=objective, wrt="a", seed=1)
        assert frame[["z", "z_variance"]].abs().max().max() < 4.5
        assert frame.exact.tolist()[::2] == [problem.exact_gradient(k, "a") for k in (1, 4)]
        assert problem.exact_gradient(4, "a") == make().exact_gradient(4, "a", l, objective)
        assert problem.exact_gradient(4, "a") != make().exact_gradient(4, "a")
        with pytest.raises(GradlabError, match="measure-valued"):
            gl.compare(problem, ("measure-valued",), (2,), 100, objective=objective, wrt="a")
        with pytest.raises(GradlabError, match="cannot be moved to a wall one at a time"):
            problem.log_terms(problem.draw_noise(3, 2), walls=True)
        with pytest.raises(NotExact, match="no exact moments on TwoLevel"):
            problem.exact_moments("dreg", 2, "a")
    assert gl.compare(make(), ("pathwise",), (4,), 5000, objective="elbo").z_variance.abs().max() < 4.5


@pytest.mark.parametrize("values", [VALUES, OTHER], ids=["near", "far"])
@pytest.mark.parametrize("k, l", [(2, 2), (3, 2), (2, 3), (3, 3), (8, 2), (2, 20), (200, 3)])
def test_chain_of_bounds(values, k, l):
    problem = make(values=values)
    few, many, limit = problem.exact_bound(min(k, l)), problem.exact_bound(k * l), problem.exact_limit()
    chain = [
        problem.exact_bound(k, objective="elbo"),
        problem.exact_bound(k, objective="ms-nic-mix"),
        problem.exact_bound(k, l, NESTED),
        problem.exact_bound(k, l, "ms-nic-dms"),
        many,
        limit,
        problem.evidence(),
    ]
    assert np.diff(chain).min() > 1e-7
    assert few < chain[3]
    # The box leaves out most of the evidence, at any k and l.
    assert problem.evidence() - limit > 0.5


def test_bounds_that_coincide():
    problem = make()
    elbo = problem.exact_bound(1, objective="elbo")
    for objective in ("iwae", "iwae-2level", "ms-nic-mix", "ms-nic-dms", NESTED):
        assert problem.exact_bound(1, 1, objective) == pytest.approx(elbo, abs=1e-12)
    for k in (2, 7):
        mix = problem.exact_bound(k, objective="ms-nic-mix")
        assert problem.exact_bound(k, 1, "ms-nic-dms") == pytest.approx(mix, abs=1e-12)
        assert problem.exact_bound(k, 1, NESTED) == pytest.approx(mix, abs=1e-12)
        assert problem.exact_bound(k, objective="elbo") == elbo


def test_bounds_rise_to_their_limits():
    problem = make()
    sizes = (1, 2, 3, 10, 100, 10_000)
    for objective in ("iwae", "ms-nic-mix"):
        bounds = [problem.exact_bound(k, objective=objective) for k in sizes]
        limit = problem.exact_limit(objective)
        assert np.diff(bounds).min() > 0 and 0 < limit - bounds[-1] < 1e-4
        assert limit - bounds[-1] == pytest.approx((limit - bounds[-2]) / 100, rel=0.05)  # 1/k
    for objective in ("ms-nic-dms", NESTED):
        for fixed in (1, 2):
            assert np.diff([problem.exact_bound(k, fixed, objective) for k in sizes]).min() > 0
            assert np.diff([problem.exact_bound(fixed, l, objective) for l in sizes]).min() > 0
    assert problem.exact_limit("ms-nic-dms") - problem.exact_bound(3000, 3000, NESTED) < 1e-4
    assert problem.exact_limit("elbo") == problem.exact_bound(1)
    assert problem.exact_limit("ms-nic-mix") < problem.exact_limit("ms-nic-dms") == problem.exact_limit("iwae")


@pytest.mark.parametrize("direct_y", [True, False])
def test_limits_by_quadrature(direct_y):
    """The evidence inside the boxes, and log p(x) by an integral over the whole plane."""
    problem = make(direct_y)
    noise, p = tensor(24, 2)
    inside = np.log(p @ np.exp(log_w(VALUES, noise[:, 0], noise[:, 1], direct_y)))
    assert problem.exact_limit() == pytest.approx(inside, abs=1e-12)
    grid = np.linspace(-14, 14, 1001)
    plane = np.exp(log_w(VALUES | {"a": 0.0}, grid[:, None], grid, direct_y)).sum() * (grid[1] - grid[0]) ** 2
    assert problem.evidence() == pytest.approx(math.log(plane), abs=1e-10)


@pytest.mark.parametrize("objective, k, l, direct_y", [
    ("elbo", 3, 1, False), ("iwae", 3, 1, True), ("iwae", 50, 1, False), ("ms-nic-mix", 20, 1, True),
    ("ms-nic-dms", 9, 2, True), ("ms-nic-dms", 2, 9, True), (NESTED, 9, 4, True),
])  # fmt: skip
def test_gradient_is_the_derivative_of_the_bound(objective, k, l, direct_y):
    for wrt in ("phi", "a", "prior_std") if objective == "ms-nic-dms" else VALUES:

        def bound(move, wrt=wrt):
            return make(direct_y, VALUES | {wrt: VALUES[wrt] + move}).exact_bound(k, l, objective)

        h = 1e-3
        slopes = [(bound(s) - bound(-s)) / (2 * s) for s in (h, 2 * h)]
        gradient = make(direct_y).exact_gradient(k, wrt, l, objective)
        assert gradient == pytest.approx((4 * slopes[0] - slopes[1]) / 3, abs=2e-9)


@pytest.mark.parametrize("y_std, likelihood_std, digits", [(0.3, 0.25, 1e-9), (0.15, 0.5, 1e-9)])
def test_narrow_densities(y_std, likelihood_std, digits):
    """log w falls by tens of nats over the boxes: panels by brute force."""
    values = VALUES | {"y_std": y_std, "likelihood_std": likelihood_std}
    problem = make(values=values)
    x, w = np.polynomial.legendre.leggauss(10)
    points = ((np.arange(8)[:, None] + 0.5 + 0.5 * x) / 8 - 0.5).ravel()
    p = np.tile(w, 8) / 16
    table = log_w(values, points[:, None], points, True)
    w = np.exp(table - table.max())
    bounds = [0.0, 0.0]
    for i in range(len(p)):
        pair = np.log((w[i][None, :] + w) / 2)
        bounds[0] += p[i] * (p @ pair @ p)  # two y share one z
        both = np.log((w[:, i][:, None] + w) / 2)
        bounds[1] += p[i] * (p @ both @ p)  # two z share one y
    assert problem.exact_bound(2, 1, "ms-nic-mix") == pytest.approx(bounds[0] + table.max(), abs=digits)
    assert problem.exact_bound(1, 2, "ms-nic-dms") == pytest.approx(bounds[1] + table.max(), abs=digits)


def test_effective_sample_size():
    for direct_y in (True, False):
        problem = make(direct_y)
        noise, p = tensor(13, 4)
        w = np.exp(log_w(VALUES, noise[:, :2], noise[:, 2:], direct_y))
        share = w / w.sum(1, keepdims=True)
        assert problem.exact_concentration(2) == pytest.approx(p @ (share**2).sum(1), abs=1e-11)
        dreg = p @ (share**2 * np.imag(log_w(VALUES | {"b": 0.1 + 1e-30j}, noise[:, :2], noise[:, 2:], direct_y))).sum(
            1
        )
        assert problem.exact_moments("dreg", 2, "b")[0] == pytest.approx(dreg / 1e-30, abs=1e-10)


@pytest.mark.parametrize("k", [1, 4])
def test_snr_by_group(k):
    frame = make().exact_snr(k)
    assert frame.direct_y.tolist() == [False] * 5 + [True] * 5 and frame.group.tolist() == [*GROUPS] * 2
    for row in frame.itertuples():
        moments = [make(row.direct_y).exact_moments("pathwise", k, name) for name in GROUPS[row.group]]
        assert row.snr == pytest.approx(np.mean([abs(m) / math.sqrt(v) for m, v in moments]))
        assert row.variance_trace == pytest.approx(sum(v for _, v in moments))
        assert row.mean_norm == pytest.approx(math.sqrt(sum(m**2 for m, _ in moments)))
        assert (row.parameters, row.dead) == (len(moments), 0)
    at_zero = make(values=VALUES | {"phi": 0.0}).exact_snr().set_index(["direct_y", "group"])
    assert at_zero.dead[True, "z infer"] == 1 and at_zero.dead[False, "z infer"] == 0


def snr(problem, wrt):
    mean, variance = problem.exact_moments("pathwise", 1, wrt)
    return abs(mean) / math.sqrt(variance)


def both(**changed):
    return make(True, VALUES | changed), make(False, VALUES | changed)


def test_what_it_predicts_for_direct_y():
    # a: the factor. b moves h without end; near phi = 0 the SNR of a stays at |phi| sqrt(12) without direct-y.
    for phi in (0.05, -0.3):
        on, off = both(phi=phi, b=-1e4)
        assert snr(on, "a") == pytest.approx(snr(on, "b"), rel=1e-10) and snr(on, "a") > 1e4
        assert snr(off, "a") == pytest.approx(abs(phi) * math.sqrt(12), rel=1e-2)
    on, off = both(phi=1e3, b=0.28 - 600, d=1e3 - 0.5)  # h as at phi = 0.3
    assert off.exact_gradient(1, "b") == pytest.approx(make().exact_gradient(1, "b"), rel=1e-8)
    assert snr(off, "a") == pytest.approx(snr(off, "b"), rel=1e-2)
    # b: the place of z. Better off without direct-y between 0 and twice the slope of E[z|y].
    best = 0.8 / 0.49 / (0.8**2 / 0.49 + 1 / 1.3**2)
    for share, better in ((-0.1, False), (0.1, True), (1.0, True), (1.9, True), (2.1, False)):
        on, off = both(a=share * best)
        assert (snr(off, "b") > snr(on, "b")) == better
        assert off.exact_gradient(1, "b") == pytest.approx(on.exact_gradient(1, "b"), rel=1e-10)
    # y infer: the same mean, and less noise for every encoder that shrinks; y gen: the same.
    rng = np.random.default_rng(0)
    for _ in range(20):
        c, y_std, prior_std = rng.uniform(0.3, 2, 3)
        best = c / y_std**2 / (c**2 / y_std**2 + 1 / prior_std**2)
        for a in (rng.uniform(0, best), rng.uniform(-best, 0)):
            on, off = both(a=a, c=c, y_std=y_std, prior_std=prior_std, phi=rng.normal())
            assert off.exact_gradient(1) == pytest.approx(on.exact_gradient(1), rel=1e-10)
            assert (snr(off, "phi") > snr(on, "phi")) == (a > 0)
            for wrt in GROUPS["y gen"]:
                assert snr(off, wrt) == pytest.approx(snr(on, wrt), rel=1e-10)
            assert off.exact_moments("pathwise", 1, "prior_std")[1] > on.exact_moments("pathwise", 1, "prior_std")[1]
            assert (snr(off, "d") > snr(on, "d")) == (0 < a * c < 2)


def test_pattern_of_table_3():
    """The example of docs/theory/hierarchy.md: at small phi all five groups go the way of the table's first rows."""

    def ratio(phi):
        frame = TwoLevel(phi, 1.7, (0.15, 0.9), (0.85, 0.35, 0.6), 0.95, 1.6).exact_snr()
        return frame.snr[:5].to_numpy() / frame.snr[5:].to_numpy()

    assert ratio(0.1) == pytest.approx([1.07, 1.0, 0.56, 1.06, 0.99], abs=0.006)
    assert ratio(3.0)[2] == pytest.approx(0.98, abs=0.006)


@pytest.mark.parametrize("change, message", [
    ({"phi": math.nan}, "phi is nan: give a finite number"),
    ({"x": "high"}, "x is 'high': give a number"),
    ({"encode": (1.0,)}, r"encode is \(1.0,\): give 2 values \(a number, a number\)"),
    ({"encode": 0.5}, r"encode is 0.5: give 2 values"),
    ({"encode": (1.0, math.inf)}, "b is inf: give a finite number"),
    ({"decode": (1.0, 0.0)}, r"decode is \(1.0, 0.0\): give 3 values \(a number, a number, a number\)"),
    ({"decode": "abc"}, "decode is 'abc': give 3 values"),
    ({"decode": (1.0, 0.0, -1.0)}, "y_std is -1.0: give a standard deviation above 0"),
    ({"likelihood_std": 0}, "likelihood_std is 0.0: give a standard deviation"),
    ({"prior_std": -2}, "prior_std is -2.0: give a standard deviation"),
    ({"slope": math.nan}, "slope is nan"),
    ({"offset": None}, "offset is None: give a number"),
    ({"direct_y": 1}, "direct_y is 1: give True"),
])  # fmt: skip
def test_bad_settings(change, message):
    with pytest.raises(GradlabError, match=message):
        TwoLevel(**({"phi": 0.3, "x": 0.9, "encode": (0.6, 0.1), "decode": (0.8, -0.2, 0.7)} | change))


def test_bad_questions():
    problem, paired = make(), make(False)
    for ask in (problem.exact_gradient, lambda k, wrt: problem.exact_moments("pathwise", k, wrt)):
        with pytest.raises(GradlabError, match=r"unknown parameter .* 'prior_sd': did you mean 'prior_std'\?"):
            ask(2, "prior_sd")
    for k in (0, 1.5, True):
        with pytest.raises(GradlabError, match=r"k is .*: give a whole number of samples, at least 1"):
            problem.exact_bound(k)
        with pytest.raises(GradlabError, match=r"l is .*: give a whole number of samples of z, at least 1"):
            problem.exact_bound(2, k, "ms-nic-dms")
    with pytest.raises(GradlabError, match=r"unknown objective .* 'ms-nic-mux': did you mean 'ms-nic-mix'\?"):
        problem.exact_bound(2, 1, "ms-nic-mux")
    for objective in ("elbo", "iwae", "ms-nic-mix"):
        with pytest.raises(GradlabError, match=f"l is 2, but {objective} takes no l: use l = 1, or ms-nic-dms"):
            problem.exact_bound(2, 2, objective)
    for objective in ("ms-nic-mix", "ms-nic-dms", NESTED):
        for ask in (paired.exact_bound, lambda k, l, o: paired.exact_gradient(k, "phi", l, o)):
            with pytest.raises(GradlabError, match=f"{objective} combines samples .* each z is drawn from its y: use"):
                ask(2, 1, objective)
    with pytest.raises(GradlabError, match="each z is drawn from its y: use iwae-2level"):
        paired.under("ms-nic-mix")
    with pytest.raises(NotExact, match="k is 4 and l is 5, but ms-nic-dms is exact only if one is at most 3"):
        problem.exact_bound(4, 5, "ms-nic-dms")
    with pytest.raises(GradlabError, match="cannot be sampled: use ms-nic-dms"):
        problem.under(NESTED)
    with pytest.raises(NotExact, match="no estimator samples"):
        problem.exact_moments("pathwise", 2, "phi", 2, NESTED)
    with pytest.raises(NotExact, match=r"'pathwize': did you mean 'pathwise'\?"):
        problem.exact_moments("pathwize")
    with pytest.raises(GradlabError, match="noise has 3 columns"):
        problem.log_terms(torch.zeros(5, 3, dtype=torch.float64))
    with pytest.raises(GradlabError, match="noise has 2 columns"):
        problem.under("ms-nic-dms", 2).log_terms(torch.zeros(5, 2, dtype=torch.float64))
    with pytest.raises(GradlabError, match="'fi': did you mean 'phi'"):
        problem.log_terms(problem.draw_noise(2, 2), {"fi": torch.zeros(2)})
    with pytest.raises(GradlabError, match="k is 0: give a whole number of samples, at least 1"):
        problem.draw_noise(3, 0)
    narrow = make(values=VALUES | {"likelihood_std": 1e-5})
    with pytest.raises(GradlabError, match=r"log w varies by more .*: widen y_std, likelihood_std or prior_std"):
        narrow.exact_bound(2)
    with pytest.raises(GradlabError, match="log w varies"):
        make(values=VALUES | {"y_std": 0.03}).exact_bound(3, 3, "ms-nic-dms")
    assert narrow.exact_bound(1) < -1e6  # polynomials need no resolution
    # The objectives refuse what the oracle refuses.
    terms = paired.log_terms(paired.draw_noise(3, 2))
    for objective in ("ms-nic-mix", "ms-nic-dms"):
        with pytest.raises(GradlabError, match="use iwae-2level"):
            gl.OBJECTIVES[objective](terms)
