from __future__ import annotations

import math

import pytest
import torch

from gradlab.errors import GradlabError
from gradlab.estimators import ESTIMATORS
from gradlab.problems.rainforth import RainforthModel
from gradlab.problems.scaling import rainforth_snr, slope


def per_draw(model, name, k, draws, seed=0):
    n, d = model.x.shape
    noise = torch.randn(draws, n, k, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    b = model.b.expand(draws, n, -1).clone().requires_grad_()
    mu = model.mu.expand(draws, n, -1).clone().requires_grad_()
    value = ESTIMATORS[name](model.log_terms(noise, b, mu), "iwae").sum()
    return noise, dict(zip(("b", "mu"), torch.autograd.grad(value, (b, mu)), strict=True))


def test_a_single_sample_has_the_closed_form_mean_and_variance():
    model = RainforthModel(data=3, dim=4, perturbation=0.3)
    draws = 20_000
    _, grads = per_draw(model, "pathwise", 1, draws)
    exact, variance = model.exact_gradient_single(), model.exact_variance_single()
    for name, g in grads.items():
        z = (g.mean(0) - exact[name]) / (g.std(0) / math.sqrt(draws))
        assert z.abs().max() < 4.5
        z = (g.var(0) - variance[name]) / (variance[name] * math.sqrt(2 / draws))  # normal draws
        assert z.abs().max() < 4.5
    assert grads["b"].var(0).mean() == pytest.approx(8 / 3, rel=0.02)  # 2/3 is a covariance, not a standard deviation


def test_dreg_and_pathwise_are_their_formulas_draw_by_draw():
    model = RainforthModel(data=2, dim=3, perturbation=0.3)
    for name, power in (("pathwise", 1), ("dreg", 2)):
        noise, grads = per_draw(model, name, 5, 7)
        m = (model.x @ model.a.T + model.b)[None, :, None]
        z = m + math.sqrt(2 / 3) * noise
        x, mu = model.x[None, :, None], model.mu
        log_w = (-0.5 * (x - z) ** 2 - 0.5 * (z - mu) ** 2 + 0.75 * (z - m) ** 2).sum(-1)
        w = torch.softmax(log_w, dim=2)[..., None]
        path = (x - z) - (z - mu)  # the total derivative in b: log q at m + eps does not move with b
        if name == "dreg":
            path = path + 1.5 * (z - m)  # q's parameters held still
        assert torch.allclose(grads["b"], (w**power * path).sum(2), rtol=0, atol=1e-10)
        assert torch.allclose(grads["mu"], (w * (z - mu)).sum(2), rtol=0, atol=1e-10)


def test_rainforths_law():
    """Slopes and levels: notes of an independent simulation give an SNR of mu of 2.98 at K = 16 and 5.96 at K = 64."""
    table = rainforth_snr(RainforthModel(), (16, 64), (1,), 64)
    b, mu = (table[table["parameter"] == p] for p in ("b", "mu"))
    assert slope(b, "k").value == pytest.approx(-0.5, abs=0.05)
    assert slope(mu, "k").value == pytest.approx(0.5, abs=0.05)
    assert mu["snr"].tolist() == pytest.approx([2.98, 5.96], rel=0.05)
    over_m = rainforth_snr(RainforthModel(), (1,), (1, 8), 64)
    assert slope(over_m[over_m["parameter"] == "b"], "m").value == pytest.approx(0.5, abs=0.05)


def test_the_interval_covers_itself_and_shrinks():
    few, many = (rainforth_snr(RainforthModel(data=4), (4, 16), (1,), n) for n in (32, 512))
    a, b = (slope(t[t["parameter"] == "mu"], "k") for t in (few, many))
    assert a.low < a.value < a.high
    assert b.high - b.low < a.high - a.low
    assert a.low < b.value < a.high


def test_chunks_do_not_change_what_is_measured(monkeypatch):
    from gradlab.problems import scaling

    whole = rainforth_snr(RainforthModel(data=2), (2,), (1,), 32)
    monkeypatch.setattr(scaling, "CHUNK", 2 * 2 * 20)
    parts = rainforth_snr(RainforthModel(data=2), (2,), (1,), 32)
    # Other noise (each chunk has its own stream), the same law.
    assert parts["snr"].tolist() == pytest.approx(whole["snr"].tolist(), rel=0.5)


@pytest.mark.parametrize(("call", "match"), [
    pytest.param(lambda: RainforthModel(data=0), "data is 0: give a whole number of points, at least 1", id="no data"),
    pytest.param(lambda: RainforthModel(perturbation=float("nan")), "perturbation is nan: give a finite number", id="perturbation nan"),
    pytest.param(lambda: rainforth_snr(RainforthModel(data=1), (1,), (1,), 8), "draws is 8", id="few draws"),
    pytest.param(lambda: slope(rainforth_snr(RainforthModel(data=1), (1,), (1,), 32), "k"), "fewer than two values of k: give at least two", id="one k"),
])  # fmt: skip
def test_bad_input(call, match):
    with pytest.raises(GradlabError, match=match):
        call()
