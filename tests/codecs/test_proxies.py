"""Proxies of rounding inside a codec: forward and backward against modules composed by hand."""

from __future__ import annotations

import math

import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.evaluation import gradients
from gradlab.noise import stream, uniform
from gradlab.objectives.proxies import PROXIES, SoftRounding
from gradlab.training import Loss, TrainSettings

LAM = 0.015
X = torch.rand(2, 3, 32, 32, generator=stream(0, "images"), dtype=torch.float64)


@pytest.fixture(scope="module")
def codec():
    model = gl.codecs.build("small-hyperprior", (6, 8), seed=1).double()
    with torch.no_grad():  # an untrained latent lies within one cell of the rounding
        model.g_a[-1].weight.mul_(4)
    return model


def terms_of(codec, proxy, k=3):
    return codec.log_terms(X, LAM, k, 1, stream(0, "noise"), proxy)


def test_additive_noise_is_the_default(codec):
    by_name, default = terms_of(codec, "noise"), codec.log_terms(X, LAM, 3, 1, stream(0, "noise"))
    assert torch.equal(by_name[0].log_w(), default[0].log_w()) and torch.equal(by_name[1], default[1])


@pytest.mark.parametrize("name", list(PROXIES))
def test_y_is_drawn_by_the_proxy_and_decoded_as_it_says(codec, name):
    p = SoftRounding(3.0) if name == "soft-rounding" else PROXIES[name]
    terms, x_hat = terms_of(codec, p)
    y_mean = codec.g_a(X)
    u = uniform((2, 3, *y_mean.shape[1:]), stream(0, "noise"), torch.float64)
    y = p.sample(y_mean[:, None], u)
    bound = codec.gaussian_conditional.likelihood_lower_bound.bound  # 1e-9 in float32
    assert torch.allclose(terms.samples[0], y, rtol=0, atol=1e-12)
    for i in range(3):
        by_hand = codec.g_s(p.decode(y[:, i]))
        assert torch.allclose(x_hat[:, i], by_hand, rtol=0, atol=1e-10)
        mse = ((255 * (X - by_hand)) ** 2).mean(dim=(1, 2, 3))
        assert torch.allclose(terms.log_lik[:, i, 0], -math.log(2) * 32 * 32 * LAM * mse, rtol=1e-10)
        z = terms.samples[1][:, 0]
        scored = codec.gaussian_conditional._likelihood(y[:, i], codec.h_s(z)).clamp(min=float(bound))
        assert torch.allclose(terms.log_py[:, i, 0], scored.log().sum(dim=(1, 2, 3)), rtol=1e-10)


def test_straight_through_rounds_and_passes_the_gradient_of_the_rounded_latent_on(codec):
    terms, _ = terms_of(codec, "straight-through")
    y = terms.samples[0]
    assert torch.equal(y[:, 0], y[:, 2]) and torch.equal(y.detach(), y.detach().round())
    (ours,) = torch.autograd.grad(terms.log_lik.sum(), codec.g_a[0].weight)
    y_mean = codec.g_a(X)
    leaf = y_mean.detach().round().requires_grad_()
    mse = ((255 * (X - codec.g_s(leaf))) ** 2).mean(dim=(1, 2, 3))
    (slope,) = torch.autograd.grad((-math.log(2) * 32 * 32 * LAM * mse).sum(), leaf)
    (by_hand,) = torch.autograd.grad((3 * slope * y_mean).sum(), codec.g_a[0].weight)
    assert torch.allclose(ours, by_hand, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(PROXIES))
def test_the_recorder_records_every_proxy(codec, name):
    table = gradients.record(codec, X, LAM, 17, loss=Loss(proxy=name, allow_biased=True)).summary().set_index("group")
    noisy = table["variance_trace"] > 0
    # Rounding leaves the decoder no noise; z has its own with every proxy.
    assert noisy.drop("y gen").all() and noisy["y gen"] == (name != "straight-through")
    assert table.loc["y infer", "snr"] > 0


def test_the_cost_is_the_mean_of_the_training_loss(codec):
    settings = TrainSettings(codec="small-hyperprior", channels=(6, 8), crop=32, loss=Loss(proxy="sga"))
    by_hand = [settings.loss(codec, X, LAM, stream(5, "recording", t)).item() for t in range(4)]
    mean, se = gradients.mean_loss(codec, X, LAM, 4, loss=Loss(proxy="sga"), seed=5)
    assert mean == pytest.approx(sum(by_hand) / 4, rel=1e-10)
    assert se == pytest.approx(torch.tensor(by_hand, dtype=torch.float64).std().item() / 2, rel=1e-8)
    with pytest.raises(GradlabError, match="draws is 1"):
        gradients.mean_loss(codec, X, LAM, 1)


def test_without_direct_y_z_is_read_from_what_the_proxy_drew():
    model = gl.codecs.build("small-hyperprior", (6, 8), direct_y=False, seed=1).double()
    terms, _ = model.log_terms(X, LAM, 2, 1, stream(0, "noise"), "straight-through")
    y, z = terms.samples
    drawn = torch.stack([model.h_a(y[:, i].abs()) for i in range(2)], dim=1)
    assert (z - drawn).abs().max().item() <= 0.5


def test_training_with_a_derivative_that_is_none_must_be_asked_for():
    with pytest.raises(GradlabError, match=r"biased for proxy 'straight-through'.*allow_biased=True"):
        TrainSettings(loss=Loss(proxy="straight-through"))
    assert TrainSettings(loss=Loss(proxy="straight-through", allow_biased=True)).loss.proxy == "straight-through"
    with pytest.raises(GradlabError, match=r"loss\.proxy is a SoftRounding object: give its name, e\.g\. 'sga:0\.25'"):
        TrainSettings(loss=Loss(proxy=SoftRounding(3.0)))
    for name in ("measure-valued", "dreg-boundary"):
        with pytest.raises(GradlabError, match=f"{name}.* is undefined for a codec at k = 1"):
            TrainSettings(loss=Loss(estimator=name, allow_biased=True))
    assert TrainSettings(loss=Loss(proxy="soft-rounding:8")).loss.proxy == "soft-rounding:8"
    with pytest.raises(GradlabError, match="unknown proxy 'rounding'"):
        TrainSettings(loss=Loss(proxy="rounding"))
    with pytest.raises(GradlabError, match="unknown proxy"):
        gl.codecs.build("small-hyperprior", (6, 8)).log_terms(X.float(), LAM, proxy="nose")
