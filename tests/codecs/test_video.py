from __future__ import annotations

import math

import pytest
import torch
from compressai.models.video import ScaleSpaceFlow

from gradlab.codecs import PFrame, video
from gradlab.errors import GradlabError
from gradlab.estimators import ESTIMATORS
from gradlab.objectives import OBJECTIVES

LAM = 1e-3
ALIKE = {"rtol": 1e-10, "atol": 1e-10}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def videos(b=2, frames=2, seed=3):
    return torch.rand(b, frames, 3, 128, 128, generator=generator(seed))


def small(double=False):
    """Its latents are several units large, so that rounding them shows."""
    codec = video.build((4, 6), seed=1)
    with torch.no_grad():
        for part in (codec.res_encoder, codec.motion_encoder):
            part[-1].weight *= 100
    return codec.double() if double else codec


def noise(like, g):
    return torch.rand(like.shape, generator=g, dtype=like.dtype) - 0.5


def log_p(hyperprior, y, z):
    """CompressAI's modules by hand; its entropy models take the sample as it is."""
    for model in (hyperprior.gaussian_conditional, hyperprior.entropy_bottleneck):
        model.quantize = lambda inputs, mode, means=None: inputs
    scales, means = hyperprior.hyper_decoder_scale(z), hyperprior.hyper_decoder_mean(z)
    py = hyperprior.gaussian_conditional(y, scales, means)[1].log().sum((1, 2, 3))
    return py, hyperprior.entropy_bottleneck(z)[1].log().sum((1, 2, 3))


def test_terms_are_compressais_modules_composed_by_hand():
    codec = small(double=True)
    x = videos(frames=3).double()
    calls = []
    parts = ("motion_encoder", "motion_decoder", "res_encoder", "res_decoder", "img_encoder")
    handles = [getattr(codec, p).register_forward_hook(lambda *_, p=p: calls.append(p)) for p in parts]
    terms, x_hat = codec.log_terms(x, LAM, 3, generator=generator(7))
    for handle in handles:
        handle.remove()
    assert sorted(calls) == sorted(parts[:-1])

    ref, cur, g = x[:, 1], x[:, 2], generator(7)
    m = codec.motion_encoder(torch.cat((cur, ref), 1))
    m_z = codec.motion_hyperprior.hyper_encoder(m)
    m = m + noise(m, g)
    m_z = m_z + noise(m_z, g)
    x_pred = codec.forward_prediction(ref, codec.motion_decoder(m))
    y_mean = codec.res_encoder(cur - x_pred)
    y = y_mean[:, None] + torch.rand(2, 3, *y_mean.shape[1:], generator=g, dtype=torch.float64) - 0.5
    z = codec.res_hyperprior.hyper_encoder(y_mean)
    z = z + noise(z, g)
    once = sum(log_p(codec.motion_hyperprior, m, m_z)) + log_p(codec.res_hyperprior, y[:, 0], z)[1]
    assert terms.shape == (2, 3, 1)
    assert torch.allclose(terms.log_pz[:, 0, 0], once, **ALIKE)
    for i in range(3):
        decoded = x_pred + codec.res_decoder(torch.cat((y[:, i], m), 1))
        assert torch.allclose(x_hat[:, i], decoded, **ALIKE)
        mse = ((255 * (decoded - cur)) ** 2).mean((1, 2, 3))
        assert torch.allclose(terms.log_lik[:, i, 0], -math.log(2) * 128 * 128 * LAM * mse, **ALIKE)
        assert torch.allclose(terms.log_py[:, i, 0], log_p(codec.res_hyperprior, y[:, i], z)[0], **ALIKE)


def test_mix_shares_the_motion_and_z_among_the_samples():
    terms, _ = small(double=True).log_terms(videos().double(), LAM, 3, generator=generator())
    inner = torch.logsumexp(terms.log_lik + terms.log_py, dim=(1, 2)) - math.log(3)
    assert torch.allclose(OBJECTIVES["ms-nic-mix"](terms), inner + terms.log_pz[:, 0, 0], **ALIKE)


def test_gradients_of_the_residual_are_finite_differences():
    """With scales of about 128: there the gradient of CompressAI's QReLU is its derivative. The warp is in float32."""
    codec = small(double=True)
    with torch.no_grad():
        codec.res_hyperprior.hyper_decoder_scale.deconv3.bias += 128
    x = videos().double()
    groups = {name: group for name, group in codec.groups().items() if name != "motion"}
    weights = [p for m in groups.values() for n, p in m.named_parameters() if not n.endswith("quantiles")]

    def value():
        terms, _ = codec.log_terms(x, 1e-5, 3, generator=generator(5))
        return OBJECTIVES["ms-nic-mix"](terms, scale="bpp").sum()

    gradient = torch.autograd.grad(value(), weights)
    g = generator(11)
    direction = [torch.randn(p.shape, generator=g, dtype=p.dtype) * (1e-3 + p.detach().abs()) for p in weights]
    before, values = [p.detach().clone() for p in weights], []
    with torch.no_grad():
        for sign in (1, -1):
            for p, start, d in zip(weights, before, direction, strict=True):
                p.copy_(start + sign * 1e-6 * d)
            values.append(float(value()))
    along = sum(float((a * b).sum()) for a, b in zip(gradient, direction, strict=True))
    assert along == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("name", ["dreg", "dreg-squared"])
def test_dreg_multiplies_what_reaches_the_residuals_encoder_by_the_weights(name):
    """From samples cut off the graph: the cotangent of y_i times w~_i, and of z times 1, pushed through the encoder."""
    codec = small(double=True)
    x = videos().double()
    infer = list(codec.res_encoder.parameters())
    terms, _ = codec.log_terms(x, 1e-4, 3, generator=generator())
    ours = torch.autograd.grad(ESTIMATORS[name](terms, "ms-nic-mix", "joint", "bpp").sum(), infer)
    terms, _ = codec.log_terms(x, 1e-4, 3, generator=generator())
    y, z = terms.samples
    log_w = (terms.log_lik + terms.log_py + terms.log_pz) / (math.log(2) * terms.pixels)
    w = torch.softmax(log_w.detach(), 1)
    cotangents = torch.autograd.grad((w * log_w).sum(), (y, z), retain_graph=True)
    # The paths that pass by the samples: x_pred, which is added to what is decoded, does not depend on res_encoder.
    pushed = (w[..., None, None] * cotangents[0] * y).sum() + (cotangents[1] * z).sum()
    for a, e in zip(ours, torch.autograd.grad(pushed, infer), strict=True):
        assert torch.allclose(a, e, rtol=1e-8, atol=1e-11)


def test_the_rounded_frame_is_what_compressai_encodes_and_decodes():
    codec = small().eval()
    codec.finish()
    x = videos(1)
    frame = codec.rounded(x)
    with torch.no_grad():
        encoded, coded = codec.encode_inter(x[:, 1], x[:, 0])
        decoded = codec.decode_inter(x[:, 0], coded["strings"], coded["shape"])
    assert torch.equal(frame.x_hat, encoded)
    assert torch.allclose(frame.x_hat, decoded, atol=1e-5)
    for bits, part in ((frame.residual_bits, "residual"), (frame.motion_bits, "motion")):
        hyperprior = codec.res_hyperprior if part == "residual" else codec.motion_hyperprior
        strings, shape = coded["strings"][part], coded["shape"][part]
        with torch.no_grad():
            y_hat = hyperprior.decompress(strings, shape)
            z_hat = hyperprior.entropy_bottleneck.decompress(strings[1], shape)
            assert float(bits) == pytest.approx(-float(sum(log_p(hyperprior, y_hat, z_hat))) / math.log(2), rel=1e-5)
        assert y_hat.std() > 1


def test_state_dicts_are_compressais_both_ways():
    ours, reference = video.build(seed=1), ScaleSpaceFlow()
    assert list(ours.state_dict()) == list(reference.state_dict())
    reference.load_state_dict(ours.state_dict())
    again = video.build(seed=2)
    again.load_state_dict(reference.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), ours.state_dict().values(), strict=True))


def test_groups_are_the_parts_that_a_p_frame_uses():
    codec = small()
    terms, _ = codec.log_terms(videos(), LAM, 2, generator=generator())
    OBJECTIVES["ms-nic-mix"](terms).sum().backward()
    grouped = [(n, p) for m in codec.groups().values() for n, p in m.named_parameters()]
    assert len({id(p) for _, p in grouped}) == len(grouped)
    assert {id(p) for n, p in grouped if not n.endswith("quantiles")} == {
        id(p) for p in codec.parameters() if p.grad is not None
    }
    assert isinstance(codec, PFrame)


@pytest.mark.parametrize(("call", "match"), [
    pytest.param(lambda: small().log_terms(videos(frames=1), LAM), "the video has one frame, .* at least two", id="one frame in training"),
    pytest.param(lambda: small().rounded(videos(frames=1)), "the video has one frame", id="one frame"),
    pytest.param(lambda: small().log_terms(torch.rand(2, 3, 128, 128), LAM), r"give \[batch, frames, 3, height, width\]", id="an image"),
    pytest.param(lambda: small().log_terms(torch.rand(1, 2, 3, 64, 128), LAM), "multiples of 128", id="odd size"),
    pytest.param(lambda: small().log_terms(videos(), LAM, l=2), "exactly one sample of z", id="two samples of z"),
    pytest.param(lambda: small().log_terms(videos(), LAM, k=0), "k is 0: give a whole number of samples of y, at least 1", id="no samples"),
    pytest.param(lambda: video.build((4,)), r"two positive integers \(N, M\)", id="one channel count"),
])  # fmt: skip
def test_bad_input(call, match):
    with pytest.raises(GradlabError, match=match):
        call()


def test_qrelu_is_compressais_without_a_synchronisation():
    from compressai.layers import QReLU

    x = torch.tensor([-300.0, -3.0, -1e-3, 0.0, 0.4, 100.0, 254.9, 255.0, 255.1, 256.0, 900.0])
    outputs = []
    for qrelu in (lambda t: QReLU.apply(t, 8, 100), video._QReLU.apply):
        leaf = x.clone().requires_grad_()
        y = qrelu(leaf)
        (gradient,) = torch.autograd.grad((y * torch.arange(1.0, len(x) + 1)).sum(), leaf)
        outputs.append((y.detach(), gradient))
    assert torch.equal(outputs[0][0], outputs[1][0]) and torch.equal(outputs[0][1], outputs[1][1])
    assert 0 < outputs[0][1][8] < 9  # between the bound and far beyond
