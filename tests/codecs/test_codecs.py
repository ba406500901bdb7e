from __future__ import annotations

import math

import pytest
import torch
from compressai.models import ScaleHyperprior

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.estimators import ESTIMATORS
from gradlab.objectives import OBJECTIVES

LAM = 0.015
KINDS = ["bmshj2018-hyperprior", "small-hyperprior"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(b=2, size=64, seed=3):
    return torch.rand(b, 3, size, size, generator=generator(seed))


def small(direct_y=True, double=False):
    codec = gl.codecs.build("small-hyperprior", channels=(6, 8), direct_y=direct_y, seed=1)
    return codec.double() if double else codec


def test_terms_are_compressais_likelihoods_at_the_same_noise():
    """CompressAI's own forward, its quantize replaced by 'add this noise': nothing of our forward is used."""
    ours = gl.codecs.build("bmshj2018-hyperprior", channels=(6, 8), seed=1)
    reference = ScaleHyperprior(6, 8)
    reference.load_state_dict(ours.state_dict())
    x = images()
    terms, x_hat = ours.log_terms(x, LAM, generator=generator())
    g = generator()
    y_noise = torch.rand(2, 1, 8, 4, 4, generator=g)[:, 0] - 0.5
    z_noise = torch.rand(2, 1, 6, 1, 1, generator=g)[:, 0] - 0.5
    reference.gaussian_conditional.quantize = lambda inputs, mode, means=None: inputs + y_noise
    reference.entropy_bottleneck.quantize = lambda inputs, mode, means=None: (
        inputs + z_noise.transpose(0, 1).reshape(6, 1, -1)
    )
    out = reference.train()(x)
    assert torch.allclose(x_hat[:, 0], out["x_hat"], atol=1e-6)
    for name, value in (("y", terms.log_py), ("z", terms.log_pz)):
        assert torch.allclose(value[:, 0, 0], out["likelihoods"][name].log().sum((1, 2, 3)), rtol=1e-5)
    mse = ((255 * (out["x_hat"] - x)) ** 2).mean((1, 2, 3))
    assert torch.allclose(terms.log_lik[:, 0, 0], -math.log(2) * 64 * 64 * LAM * mse, rtol=1e-5)


@pytest.mark.parametrize("direct_y", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_one_sample_is_minus_the_rd_cost(name, direct_y):
    codec = gl.codecs.build(name, channels=(6, 8), direct_y=direct_y)
    terms, x_hat = codec.log_terms(images(), LAM, generator=generator())
    per_pixel = math.log(2) * terms.pixels
    bpp = -(terms.log_py + terms.log_pz)[:, 0, 0] / per_pixel
    mse = ((255 * (images() - x_hat[:, 0])) ** 2).mean((1, 2, 3))
    assert torch.allclose(OBJECTIVES["ms-nic-mix"](terms), -per_pixel * (bpp + LAM * mse), rtol=1e-5)
    assert torch.allclose(OBJECTIVES["ms-nic-mix"](terms, scale="bpp"), -(bpp + LAM * mse), rtol=1e-5)


@pytest.mark.parametrize("direct_y", [True, False])
def test_noise_is_injected_whatever_the_mode(direct_y):
    codec = small(direct_y)
    a, _ = codec.train().log_terms(images(), LAM, 2, generator=generator())
    b, _ = codec.eval().log_terms(images(), LAM, 2, generator=generator())
    c, _ = codec.log_terms(images(), LAM, 2, generator=generator(9))
    assert torch.equal(a.log_w(), b.log_w())
    assert not torch.equal(a.log_w(), c.log_w())


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    codec = small()
    codec.log_terms(images(), LAM, generator=generator())
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("direct_y", "k", "l"), [(True, 3, 1), (True, 3, 2), (False, 3, 1)])
def test_samples_are_scored_as_drawn_and_the_encoder_runs_once(direct_y, k, l):
    codec = small(direct_y, double=True)
    calls = []
    handle = codec.g_a.register_forward_hook(lambda *_: calls.append(1))
    x = images().double()
    terms, x_hat = codec.log_terms(x, LAM, k, l, generator())
    handle.remove()
    assert calls == [1]
    y, z = terms.samples
    assert terms.shape == (2, k, l)
    assert terms.paired == (not direct_y)
    for i in range(k):
        assert torch.allclose(x_hat[:, i], codec.g_s(y[:, i]), atol=1e-12)
        assert y[:, i].sub(codec.g_a(x)).abs().max() <= 0.5
        for j in range(l):
            zj = z[:, j] if direct_y else z[:, i]
            p_y = codec.gaussian_conditional.likelihood(y[:, i], codec.h_s(zj)).log().sum((1, 2, 3))
            p_z = codec.entropy_bottleneck.likelihood(zj).log().sum((1, 2, 3))
            assert torch.allclose(terms.log_py[:, i, j], p_y, atol=1e-9)
            assert torch.allclose(terms.log_pz[:, i if not direct_y else 0, 0 if not direct_y else j], p_z, atol=1e-9)
            mean = codec.h_a((codec.g_a(x) if direct_y else y[:, i]).abs())
            assert (zj - mean).abs().max() <= 0.5


@pytest.mark.parametrize(
    ("objective", "direct_y", "k", "l"),
    [
        ("ms-nic-mix", True, 3, 1),
        ("ms-nic-dms", True, 3, 2),
        ("iwae-2level", False, 3, 1),
    ],
)
@pytest.mark.parametrize("name", ["dreg", "dreg-squared"])
def test_dreg_on_a_codec_is_two_backward_passes_with_the_factor_between(name, objective, direct_y, k, l):
    """The same estimate without a hook: cut the graph at the samples, multiply, and push the cotangent through the encoder."""
    codec = small(direct_y, double=True)
    x = images().double()
    weights = [p for n, p in codec.named_parameters() if not n.endswith("quantiles")]
    terms, _ = codec.log_terms(x, LAM, k, l, generator())
    ours = torch.autograd.grad(ESTIMATORS[name](terms, objective, "joint", "bpp").sum(), weights)

    terms, _ = codec.log_terms(x, LAM, k, l, generator())
    y, z = terms.samples
    log_w = terms.log_w() / (math.log(2) * terms.pixels)
    w = torch.softmax(log_w.detach().flatten(1), 1).view_as(log_w)
    surrogate = (w * log_w).sum()
    taps = [t.value for t in terms.taps]
    cotangents = torch.autograd.grad(surrogate, taps, retain_graph=True)
    factor = {"y": w.sum(2), "z": w.sum(2) if terms.paired else w.sum(1)}
    pushed = sum(
        (factor[t.latent][..., None, None, None] * c * (y if t.latent == "y" else z)).sum()
        for t, c in zip(terms.taps, cotangents, strict=True)
    )
    infer = dict(codec.g_a.named_parameters(prefix="g_a")) | dict(codec.h_a.named_parameters(prefix="h_a"))
    expected = torch.autograd.grad(pushed, list(infer.values()), retain_graph=True)
    by_id = {id(p): g for p, g in zip(weights, ours, strict=True)}
    for (where, p), e in zip(infer.items(), expected, strict=True):
        assert torch.allclose(by_id[id(p)], e, rtol=1e-9, atol=1e-10), where
    gen = [p for m in (codec.g_s, codec.h_s) for p in m.parameters()]
    for p, e in zip(gen, torch.autograd.grad(surrogate, gen), strict=True):
        assert torch.allclose(by_id[id(p)], e, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("scale", ["nats", "bpp"])
@pytest.mark.parametrize("weighting", ["joint", "per-term"])
@pytest.mark.parametrize(
    ("objective", "direct_y", "l"), [("ms-nic-mix", True, 1), ("ms-nic-dms", True, 3), ("iwae-2level", False, 1)]
)
def test_dreg_squared_is_dreg_bit_for_bit_on_a_codec(objective, direct_y, l, weighting, scale):
    """A codec has no score, whose share of the weights ``dreg`` would correct for; in nats no weight is 1 at this lambda."""
    codec = gl.codecs.build("small-hyperprior", channels=(4, 6), direct_y=direct_y)
    weights = [p for n, p in codec.named_parameters() if not n.endswith("quantiles")]
    gradients = []
    for name in ("dreg", "dreg-squared", "pathwise"):
        terms, _ = codec.log_terms(images(), 1e-4, 3, l, generator())
        assert not terms.scores
        gradients.append(torch.autograd.grad(ESTIMATORS[name](terms, objective, weighting, scale).sum(), weights))
    dreg, ours, pathwise = gradients
    assert all(torch.equal(a, b) for a, b in zip(dreg, ours, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(pathwise, ours, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_groups_cover_every_parameter_once_but_the_quantiles(name):
    codec = gl.codecs.build(name, channels=(6, 8))
    in_groups = [id(p) for m in codec.groups().values() for p in m.parameters()]
    assert sorted(in_groups) == sorted(id(p) for p in codec.parameters())
    terms, _ = codec.log_terms(images(), LAM, generator=generator())
    OBJECTIVES["elbo"](terms).sum().backward()
    assert [n for n, p in codec.named_parameters() if p.grad is None] == ["entropy_bottleneck.quantiles"]


def test_state_dicts_and_bitstreams_are_compressais_both_ways():
    ours = gl.codecs.build("bmshj2018-hyperprior", channels=(6, 8), seed=1)
    ours.finish()
    reference = ScaleHyperprior(6, 8)
    reference.load_state_dict(ours.state_dict())
    assert list(reference.state_dict()) == list(ours.state_dict())
    again = gl.codecs.build("bmshj2018-hyperprior", channels=(6, 8), seed=2)
    again.load_state_dict(reference.state_dict())
    x = images()
    stream = ours.eval().compress(x)
    assert stream["strings"] == reference.eval().compress(x)["strings"]
    assert torch.equal(reference.decompress(**stream)["x_hat"], again.eval().decompress(**stream)["x_hat"])


@pytest.mark.parametrize("hyper_input", ["rounded", "mean"])
@pytest.mark.parametrize("direct_y", [True, False])
def test_forward_and_bitstream_use_one_rule_at_test_time(direct_y, hyper_input):
    codec = small(direct_y).eval()
    codec.hyper_input = hyper_input
    with torch.no_grad():
        codec.g_a[4].weight *= 30  # latents of several units, so that rounding matters
        codec.finish()
        x = images()
        out = codec(x)
        latents = codec.latents(x)
        decoded = codec.decompress(**codec.compress(x))["x_hat"]
    assert torch.equal(out["x_hat"].clamp(0, 1), decoded)
    read = latents.y if direct_y or hyper_input == "mean" else torch.round(latents.y)
    assert torch.equal(latents.z, codec.h_a(read.abs()))
    for bits, name in ((latents.y_bits, "y"), (latents.z_bits, "z")):
        assert torch.allclose(bits, -out["likelihoods"][name].log2().sum((1, 2, 3)), rtol=1e-6)


def test_forward_in_training_adds_noise():
    codec = small().train()
    a, b = codec(images())["x_hat"], codec(images())["x_hat"]
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        pytest.param(
            lambda: gl.codecs.build("bmshj2018-hyper", (6, 8)),
            "did you mean 'bmshj2018-hyperprior'",
            id="unknown codec",
        ),
        pytest.param(
            lambda: gl.codecs.build("small-hyperprior", (6,)), r"two positive integers \(N, M\)", id="one channel count"
        ),
        pytest.param(lambda: gl.codecs.build("small-hyperprior", (6, 0)), "two positive integers", id="no channels"),
        pytest.param(
            lambda: small().log_terms(torch.rand(2, 1, 64, 64), LAM),
            r"give a float tensor \[batch 3 height width\]",
            id="one colour",
        ),
        pytest.param(lambda: small().log_terms(torch.rand(2, 3, 60, 64), LAM), "multiples of 16", id="odd size"),
        pytest.param(
            lambda: small().log_terms(images(), LAM, k=0),
            "k is 0: give a whole number of samples of y, at least 1",
            id="no samples",
        ),
        pytest.param(lambda: small(False).log_terms(images(), LAM, k=2, l=2), "set l to 1", id="pairs with l = 2"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(GradlabError, match=match):
        call()
