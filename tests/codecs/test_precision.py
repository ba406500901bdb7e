"""Transforms may run in 16 bits; latents, noise, likelihoods and distortion never do."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import gradlab as gl
from gradlab.codecs import PFrame, precision, video
from gradlab.errors import GradlabError
from gradlab.noise import stream

LAM = 0.015
NAMES = {
    "small-hyperprior": (6, 8),
    "bmshj2018-factorized": (6, 8),
    "mbt2018-mean": (6, 8),
    "mbt2018": (6, 8),
    "cheng2020-anchor": (6,),
    "ssf2020": (6, 8),
}


def built(name):
    if name == "ssf2020":
        return video.build(NAMES[name], seed=1), torch.rand(1, 2, 3, 128, 128, generator=stream(0, "video"))
    return gl.codecs.build(name, NAMES[name], seed=1), torch.rand(2, 3, 64, 64, generator=stream(0, "images"))


def autocast(on=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=on)


@pytest.mark.parametrize("name", list(NAMES))
@pytest.mark.parametrize("how", ["autocast", "bf16"])
def test_only_transforms_lose_digits(name, how):
    codec, x = built(name)
    exact, _ = codec.log_terms(x, LAM, 2, generator=stream(0, "noise"))
    codec.precision = "bf16" if how == "bf16" else "float32"
    with autocast(how == "autocast"):
        terms, x_hat = codec.log_terms(x, LAM, 2, generator=stream(0, "noise"))
    tensors = [
        terms.log_lik,
        terms.log_py,
        torch.as_tensor(terms.log_pz),
        x_hat,
        *(s for s in terms.samples if s is not None),
    ]
    assert all(t.dtype == torch.float32 for t in tensors)
    # The noise is the very noise: y differs from its exact value by what the encoder lost, alike in both samples.
    moved = terms.samples[0] - exact.samples[0]
    assert 0 < moved.abs().max() < 0.1
    assert torch.allclose(moved[:, 0], moved[:, 1], atol=1e-6)
    assert not torch.equal(terms.log_lik, exact.log_lik)
    assert torch.allclose(terms.log_w(), exact.log_w(), rtol=0.05)


def test_the_noise_of_a_large_latent_is_not_rounded_away():
    """In bfloat16 300 + u is 300 for every u of the unit box."""
    codec, x = built("small-hyperprior")
    with torch.no_grad():
        codec.g_a[-1].weight.zero_()
        codec.g_a[-1].bias.fill_(300.0)
    with autocast():
        terms, _ = codec.log_terms(x, LAM, 4, generator=stream(0, "noise"))
    noise = terms.samples[0].detach() - 300
    assert noise.std() == pytest.approx(12**-0.5, rel=0.05) and noise.unique().numel() > 1000


@pytest.mark.parametrize("name", ["small-hyperprior", "bmshj2018-factorized", "mbt2018", "ssf2020"])
def test_likelihoods_of_given_latents_do_not_know_of_autocast(name):
    """The bottleneck multiplies matrices, which autocast would round to 8 bits."""
    codec, _ = built(name)
    bottleneck = codec.res_hyperprior.entropy_bottleneck if isinstance(codec, PFrame) else codec.entropy_bottleneck
    z = 3 * torch.randn(2, bottleneck.channels, 4, 4, generator=stream(0, "z"))
    plain = bottleneck.likelihood(z)
    with autocast():
        assert torch.equal(bottleneck.likelihood(z), plain)


def test_gradients_in_16_bits_are_near_those_in_32():
    codec, x = built("small-hyperprior")
    low = copy.deepcopy(codec)
    low.precision = "bf16"
    loss = gl.Loss("ms-nic-mix", k=2)
    for model in (codec, low):
        loss(model, x, LAM, stream(0, "noise")).backward()
    for (name, p), q in zip(codec.named_parameters(), low.parameters(), strict=True):
        if p.grad is not None:
            assert q.grad.dtype == torch.float32
            assert float((p.grad - q.grad).norm()) < 0.2 * float(p.grad.norm()), name
    exact = [p.grad for p in codec.entropy_bottleneck.parameters() if p.grad is not None]
    other = [p.grad for p in low.entropy_bottleneck.parameters() if p.grad is not None]
    assert all(float((a - b).norm()) < 1e-2 * float(a.norm()) for a, b in zip(exact, other, strict=True))


@pytest.mark.parametrize("name", ["small-hyperprior", "ssf2020"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_codec_of_16_bits_is_refused(name, dtype):
    codec, x = built(name)
    with pytest.raises(GradlabError, match=rf"the codec is {dtype}.*call codec\.float\(\).*precision = 'bf16'"):
        codec.to(dtype).log_terms(x.to(dtype), LAM)


def test_float64_stays_float64():
    codec, x = built("small-hyperprior")
    terms, _ = codec.double().log_terms(x.double(), LAM, generator=stream(0, "noise"))
    assert terms.log_w().dtype == torch.float64


@pytest.mark.parametrize(("name", "device", "match"), [
    ("fp16", None, "unknown precision 'fp16': did you mean 'bf16'"),
    ("tf32", "cpu", "precision 'tf32' is not available on device 'cpu': give float32"),
    ("bf16", "meta", "precision 'bf16' is not available on device 'meta'"),
])  # fmt: skip
def test_what_a_device_lacks(name, device, match):
    with pytest.raises(GradlabError, match=match):
        precision.check(name, device)
    precision.check("float32", "meta")
    precision.check("bf16", "cpu")


def test_an_older_accelerator_has_no_tf32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(
        GradlabError, match=r"'tf32' needs compute capability 8\.0, which Tesla T4 lacks: give --precision"
    ):
        precision.check("tf32", "cuda")


def flags():
    return [torch.backends.cudnn.benchmark, *(getattr(o, n) for o, n, _ in precision._flags("ieee"))]


@pytest.mark.parametrize("name", ["float32", "tf32", "bf16"])
def test_cudnn_is_set_and_put_back(name):
    cudnn, before = torch.backends.cudnn, flags()
    with pytest.raises(ZeroDivisionError), precision.cudnn_precision(name, torch.device("cuda")):
        expected = [value for _, _, value in precision._flags("tf32" if name == "tf32" else "ieee")]
        assert flags() == [True, *expected]
        raise ZeroDivisionError
    assert flags() == before
    cudnn.deterministic = True
    try:
        with precision.cudnn_precision(name, torch.device("cuda")):
            assert not cudnn.benchmark and cudnn.deterministic
    finally:
        cudnn.deterministic = False
    with precision.cudnn_precision(name, torch.device("cpu")):
        assert flags() == before


def test_training_in_16_bits(tmp_path):
    pictures = gl.data.embedded("train")[:1]
    settings = gl.training.TrainSettings(
        codec="small-hyperprior", channels=(4, 6), crop=32, batch=2, steps=3, precision="bf16"
    )
    low, full = (
        gl.train(s, pictures, tmp_path)
        for s in (settings, gl.training.TrainSettings(**{**vars(settings), "precision": "float32"}))
    )
    assert low.folder != full.folder  # the precision is part of a run
    a, b = (run.codec().g_a[0].weight for run in (low, full))
    assert low.codec().precision == "float32"  # evaluation is in full precision
    assert not torch.equal(a, b) and torch.allclose(a, b, atol=1e-3)
    assert math.isfinite(float(a.detach().sum()))
