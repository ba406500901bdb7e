"""What every codec must satisfy, for each of ``CODECS``: a new one is picked up by itself."""

from __future__ import annotations

import math

import pytest
import torch

import gradlab as gl
from gradlab.data import Picture
from gradlab.errors import GradlabError
from gradlab.estimators import ESTIMATORS
from gradlab.evaluation import rate_distortion
from gradlab.evaluation.gradients import record
from gradlab.evaluation.latents import statistics
from gradlab.objectives import OBJECTIVES
from gradlab.training import Loss
from tests.codecs.codec_zoo import (
    HIERARCHICAL,
    LAM,
    NAMES,
    SWITCHED,
    amplified,
    build,
    channels,
    compressai_model,
    generator,
    images,
    off_the_bounds,
)

AUTOREGRESSIVE = ["mbt2018", "cheng2020-anchor", "cheng2020-attn"]
ALIKE = {"rtol": 1e-10, "atol": 1e-10}


def sizes(name, direct_y):
    return (3, 2) if direct_y and name in HIERARCHICAL else (3, 1)


def as_given(model):
    """CompressAI's entropy models take the sample that they get, in place of rounding it or adding noise."""
    for part in ("gaussian_conditional", "entropy_bottleneck"):
        if hasattr(model, part):
            getattr(model, part).quantize = lambda inputs, mode, means=None: inputs
    return model


def log_p(model, y, z):
    """log p(y | z) and log p(z) of ``[B, ...]`` samples, CompressAI's modules composed by hand."""
    if z is None:
        return model.entropy_bottleneck(y)[1].log().sum((1, 2, 3)), 0.0
    hyper = model.h_s(z)
    if hasattr(model, "context_prediction"):
        hyper = model.entropy_parameters(torch.cat((hyper, model.context_prediction(y)), dim=1))
    mean = None
    if hyper.shape[1] != y.shape[1]:
        hyper, mean = hyper.chunk(2, 1)
    log_py = model.gaussian_conditional(y, hyper, means=mean)[1].log().sum((1, 2, 3))
    return log_py, model.entropy_bottleneck(z)[1].log().sum((1, 2, 3))


def hyper_mean(model, name, y):
    return None if name not in HIERARCHICAL else model.h_a(y.abs() if "hyperprior" in name else y)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("name", "direct_y"), SWITCHED)
def test_terms_are_compressais_modules_composed_by_hand(name, direct_y, trained):
    """Every pair (i, j) on its own, at the noise of the generator; the encoder and the decoder run once."""
    codec = build(name, direct_y, trained, double=True)
    k, l = sizes(name, direct_y)
    x = images().double()
    calls = []
    handles = [getattr(codec, part).register_forward_hook(lambda *_, p=part: calls.append(p)) for part in
               ("g_a", "h_a", "h_s", "context_prediction", "g_s") if hasattr(codec, part)]  # fmt: skip
    terms, x_hat = codec.log_terms(x, LAM, k, l, generator(7))
    assert len(calls) == len(set(calls)) == len(handles)

    model = as_given(compressai_model(codec))
    g = generator(7)
    y_mean = model.g_a(x)
    y = y_mean[:, None] + torch.rand(2, k, *y_mean.shape[1:], generator=g, dtype=torch.float64) - 0.5
    z_means = [hyper_mean(model, name, y_mean if direct_y else y[:, i]) for i in range(l if direct_y else k)]
    z = [None]
    if z_means[0] is not None:
        noise = torch.rand(2, len(z_means), *z_means[0].shape[1:], generator=g, dtype=torch.float64) - 0.5
        z = [mean + noise[:, j] for j, mean in enumerate(z_means)]
    assert terms.shape == (2, k, l)
    log_pz = terms.log_pz + torch.zeros(2, k if terms.paired else 1, l)
    for i in range(k):
        decoded = model.g_s(y[:, i])
        mse = ((255 * (decoded - x)) ** 2).mean((1, 2, 3))
        assert torch.allclose(x_hat[:, i], decoded, **ALIKE)
        assert torch.allclose(terms.log_lik[:, i, 0], -math.log(2) * 64 * 64 * LAM * mse, **ALIKE)
        for j in range(l):
            py, pz = log_p(model, y[:, i], z[j if direct_y else i])
            assert torch.allclose(terms.log_py[:, i, j], py, **ALIKE)
            assert torch.allclose(log_pz[:, i if terms.paired else 0, j], pz + torch.zeros(2), **ALIKE)


@pytest.mark.parametrize(("name", "direct_y"), SWITCHED)
def test_gradients_are_finite_differences_away_from_the_bounds(name, direct_y):
    """Along a random direction in all parameters at once, so that every path through the samples is in it."""
    codec = off_the_bounds(build(name, direct_y, double=True))
    x = images().double()

    def value():
        # The weight 1e-5 brings the distortion of an untrained decoder down to the size of the rates.
        terms, _ = codec.log_terms(x, 1e-5, *sizes(name, direct_y), generator(5))
        return OBJECTIVES["iwae-2level" if not direct_y else "ms-nic-dms"](terms, scale="bpp").sum()

    weights = {n: p for n, p in codec.named_parameters() if not n.endswith("quantiles")}
    gradient = torch.autograd.grad(value(), list(weights.values()))
    g = generator(11)
    direction = [torch.randn(p.shape, generator=g, dtype=p.dtype) * (1e-3 + p.detach().abs()) for p in weights.values()]
    for n, d in zip(weights, direction, strict=True):
        if n == "context_prediction.weight":
            d *= codec.context_prediction.mask  # the masked taps are set to 0 in forward, whatever they are
    step = 1e-6
    values = []
    with torch.no_grad():
        before = [p.clone() for p in weights.values()]
        for sign in (1, -1):
            for p, start, d in zip(weights.values(), before, direction, strict=True):
                p.copy_(start + sign * step * d)
            values.append(float(value()))
    expected = (values[0] - values[1]) / (2 * step)
    assert sum(float((a * b).sum()) for a, b in zip(gradient, direction, strict=True)) == pytest.approx(
        expected, rel=2e-6
    )


def test_below_a_bound_only_a_gradient_that_leads_out_passes():
    """What the docstring of Codec says of the bounds: the value is constant there, and the gradient is not."""
    conditional = build("mbt2018-mean", double=True).gaussian_conditional
    for y, passes in ((0.0, False), (2.0, True)):  # a smaller scale is better for y = 0, a larger one for y = 2
        scale = torch.tensor([0.05], dtype=torch.float64, requires_grad=True)
        mass = conditional._likelihood(torch.tensor([y], dtype=torch.float64), scale)
        (-mass).sum().backward()
        assert bool(scale.grad < 0) is passes
        assert torch.equal(mass, conditional._likelihood(torch.tensor([y], dtype=torch.float64), scale * 1.5))


@pytest.mark.parametrize("estimator", ["dreg", "dreg-squared"])
@pytest.mark.parametrize("weighting", ["joint", "per-term"])
@pytest.mark.parametrize(("name", "direct_y"), [("mbt2018", True), ("mbt2018", False), ("cheng2020-anchor", True)])
def test_dreg_rescales_what_the_context_model_reads(name, direct_y, weighting, estimator):
    """By hand from samples cut off the graph: the cotangent of each term, times its weight, pushed through the encoder."""
    codec = build(name, direct_y, trained=True, double=True)
    x, lam = images().double(), 1e-4
    infer = [p for part in (codec.g_a, codec.h_a) for p in part.parameters()]
    objective = "ms-nic-mix" if direct_y else "iwae-2level"
    terms, _ = codec.log_terms(x, lam, 3, 1, generator())
    ours = torch.autograd.grad(ESTIMATORS[estimator](terms, objective, weighting, "bpp").sum(), infer)

    model = as_given(compressai_model(codec))
    for part in ("g_a", "h_a"):
        setattr(model, part, getattr(codec, part))  # so that gradients land on the same weights
    y, z = codec.log_terms(x, lam, 3, 1, generator())[0].samples
    leaf_y, leaf_z = (t.detach().requires_grad_() for t in (y, z))
    pixels = math.log(2) * 64 * 64
    columns = [log_p(model, leaf_y[:, i], leaf_z[:, 0 if direct_y else i]) for i in range(3)]
    lik = torch.stack([-lam * ((255 * (model.g_s(leaf_y[:, i]) - x)) ** 2).mean((1, 2, 3)) for i in range(3)], 1)
    py, pz = (torch.stack([c[n] for c in columns], 1) / pixels for n in (0, 1))
    if direct_y:
        pz = pz[:, :1]
    logits = {"lik": lik + py + pz, "py": lik + py + pz, "pz": lik + py + pz}
    if weighting == "per-term":
        logits = {"lik": lik, "py": py, "pz": pz}
    w = {n: torch.softmax(v.detach(), 1) for n, v in logits.items()}
    if direct_y:
        w["pz"] = torch.ones_like(pz)
    pushed = 0.0
    for term, values in (("lik", lik), ("py", py), ("pz", pz)):
        cotangents = torch.autograd.grad(
            (w[term].detach() * values).sum(), (leaf_y, leaf_z), retain_graph=True, allow_unused=True
        )
        for sample, cotangent in zip((y, z), cotangents, strict=True):
            if cotangent is not None:
                factor = torch.ones(2, 1) if sample is z and direct_y else w[term]
                pushed = pushed + (factor[..., None, None, None] * cotangent * sample).sum()
    for a, e in zip(ours, torch.autograd.grad(pushed, infer), strict=True):
        assert torch.allclose(a, e, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("hyper_input", ["rounded", "mean"])
@pytest.mark.parametrize(("name", "direct_y"), SWITCHED)
def test_compressais_own_class_decodes_our_bitstream(name, direct_y, hyper_input):
    codec = amplified(build(name, direct_y, trained=True)).eval()
    codec.hyper_input = hyper_input
    codec.finish()
    model = amplified(compressai_model(codec)).eval()
    x = images(b=3)
    with torch.no_grad():
        stream = codec.compress(x)
        latents = codec.latents(x)
        out = codec(x)
        decoded = model.decompress(**stream)["x_hat"]
        assert float(latents.y_hat.std()) > 1
        assert torch.equal(decoded, codec.g_s(latents.y_hat).clamp(0, 1))
        assert torch.equal(decoded, out["x_hat"].clamp(0, 1))
        if direct_y:
            assert stream["strings"] == model.compress(x)["strings"]
        elif name in HIERARCHICAL:
            read = torch.round(latents.y) if hyper_input == "rounded" else latents.y
            assert torch.equal(latents.z, hyper_mean(codec, name, read))
        for bits, latent in ((latents.y_bits, "y"), (latents.z_bits, "z")):
            log2_mass = out["likelihoods"].get(latent, torch.ones(3, 1, 1, 1)).log2().sum((1, 2, 3))
            assert torch.allclose(bits, -log2_mass, rtol=1e-6)
    assert ((latents.y_hat - latents.y).abs() <= 0.5 + 1e-5).all()


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_rounding_is_sequential(name):
    """Each position is its mean, given the rounded ones before it, plus an integer; CompressAI's forward rounds otherwise."""
    codec = amplified(build(name, trained=True, double=True)).eval()
    with torch.no_grad():
        latents = codec.latents(images().double())
        hyper = codec.entropy_parameters(
            torch.cat((codec.h_s(latents.z_hat), codec.context_prediction(latents.y_hat)), 1)
        )
        mean = hyper.chunk(2, 1)[1]
        integers = latents.y_hat - mean
        assert torch.allclose(integers, integers.round(), atol=1e-9)
        assert torch.allclose(integers, (latents.y - mean).round(), atol=1e-9)
    assert not torch.allclose(latents.y_hat, torch.round(latents.y), atol=0.05)


@pytest.mark.parametrize(("name", "direct_y"), SWITCHED)
def test_universal_quantization_scores_what_it_decodes(name, direct_y):
    codec = amplified(build(name, direct_y, trained=True)).eval()
    x = images()
    latents = codec.universal(x, generator(4))
    g = generator(4)
    with torch.no_grad():
        y = codec.g_a(x)
        u = torch.rand(y.shape, generator=g) - 0.5
        assert torch.equal(latents.y_hat, torch.round(y - u) + u)
        z_hat = None
        if name in HIERARCHICAL:
            z = hyper_mean(codec, name, y if direct_y else latents.y_hat)
            u = torch.rand(z.shape, generator=g) - 0.5
            z_hat = torch.round(z - u) + u
            assert torch.equal(latents.z_hat, z_hat)
        py, pz = log_p(as_given(compressai_model(codec)), latents.y_hat, z_hat)
    assert torch.allclose(latents.y_bits, -py / math.log(2), rtol=1e-5)
    assert torch.allclose(latents.z_bits, -pz / math.log(2) + torch.zeros(2), rtol=1e-5)
    error = latents.y_hat - latents.y  # uniform on the box, whatever y is (Schuchman 1964)
    n = error.numel()
    assert error.abs().max() <= 0.5 + 1e-5
    assert abs(float(error.mean())) < 4.5 / math.sqrt(12 * n)
    assert abs(float(error.square().mean()) - 1 / 12) < 4.5 / math.sqrt(180 * n)


@pytest.mark.parametrize("name", NAMES)
def test_training_adds_noise_from_the_global_generator_alone(name):
    codec = build(name).train()
    outputs = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            outputs.append(codec(images())["x_hat"])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("name", NAMES)
def test_groups_cover_every_parameter_once_but_the_quantiles(name):
    codec = build(name)
    in_groups = [id(p) for m in codec.groups().values() for p in m.parameters()]
    assert sorted(in_groups) == sorted(id(p) for p in codec.parameters())
    terms, _ = codec.log_terms(images(), LAM, generator=generator())
    OBJECTIVES["elbo"](terms).sum().backward()
    assert [n for n, p in codec.named_parameters() if p.grad is None] == ["entropy_bottleneck.quantiles"]


@pytest.mark.parametrize("name", NAMES)
def test_recording_evaluation_and_latent_statistics_take_every_codec(name):
    codec = build(name, trained=True)
    table = record(codec, images(), 1e-5, 4, loss=Loss(objective="ms-nic-mix", k=2)).summary().set_index("group")
    assert list(table.index) == list(codec.groups())
    assert (table["snr"] > 0).all()
    amplified(codec).finish()
    picture = Picture("noise", (images(1)[0, :, :50, :60] * 255).to(torch.uint8), "")
    row = rate_distortion(codec, [picture], LAM).iloc[0]
    assert row["bpp"] == row["bpp_y"] + row["bpp_z"] > 0
    assert (row["bpp_z"] > 0) == (name in HIERARCHICAL)
    assert list(statistics(codec, list(images()))["latent"]) == (
        ["y", "z", "y_hat", "z_hat"] if name in HIERARCHICAL else ["y", "y_hat"]
    )


@pytest.mark.parametrize("objective", [n for n in OBJECTIVES if n != "iwae-2level"])
def test_every_objective_takes_the_factorised_prior(objective):
    codec = build("bmshj2018-factorized", double=True)
    terms, _ = codec.log_terms(images().double(), LAM, 3, generator=generator())
    assert terms.samples[1] is None
    log_w = terms.log_lik + terms.log_py
    value = OBJECTIVES[objective](terms)
    if objective in ("iwae", "ms-nic-mix", "ms-nic-dms"):
        assert torch.allclose(value, torch.logsumexp(log_w, 1)[:, 0] - math.log(3), rtol=1e-12)
    assert torch.isfinite(value).all()


def factorized():
    return build("bmshj2018-factorized")


@pytest.mark.parametrize(("call", "match"), [
    pytest.param(lambda: gl.codecs.build("cheng2020-attn", (6, 8)), r"channels of cheng2020-attn are \(6, 8\): give one positive integer \(N\)", id="too many channel counts"),
    pytest.param(lambda: gl.codecs.build("mbt2018", (6,)), r"two positive integers \(N, M\)", id="too few channel counts"),
    pytest.param(lambda: gl.codecs.build("bmshj2018-factorized", (6, 8), direct_y=False), "bmshj2018-factorized has no z: leave direct_y at True", id="no z for direct_y"),
    pytest.param(lambda: factorized().log_terms(images(), LAM, k=2, l=2), "has no z: set l to 1", id="no z for l = 2"),
    pytest.param(lambda: setattr(factorized(), "direct_y", False), "leave direct_y at True", id="no switch"),
    pytest.param(lambda: build("mbt2018", False).log_terms(images(), LAM, k=2, l=2), "set l to 1", id="pairs with l = 2"),
    pytest.param(lambda: build("cheng2020-anchor").universal(torch.rand(1, 3, 32, 64)), "multiples of 64", id="odd size in evaluation"),
    pytest.param(lambda: build("cheng2020-anchor").compress(torch.rand(1, 3, 32, 64)), "multiples of 64", id="odd size in coding"),
])  # fmt: skip
def test_bad_input(call, match):
    with pytest.raises(GradlabError, match=match):
        call()


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_go_both_ways(name):
    codec = build(name, trained=True)
    codec.finish()
    model = compressai_model(codec)
    assert list(model.state_dict()) == list(codec.state_dict())
    again = gl.codecs.build(name, channels(name), seed=9)
    again.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), codec.state_dict().values(), strict=True))
