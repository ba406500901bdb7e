"""Universal quantization, rounding by likelihood, and the transforms alone."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.evaluation import (
    deterministic_rounding,
    rate_distortion,
    reconstruction,
    universal_quantization,
)
from gradlab.noise import stream

LAM = 0.015


@pytest.fixture(scope="module", params=[True, False])
def codec(request):
    model = gl.codecs.build("small-hyperprior", channels=(6, 8), direct_y=request.param, seed=1)
    with torch.no_grad():
        model.g_a[4].weight *= 20
        model.g_s[4].weight *= 2
        model.h_s[2].bias.fill_(4.0)
    model.finish()
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return list(torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(2)))


def test_the_error_is_the_noise_of_training_and_independent_of_the_latent(codec):
    """Moments of y_hat - y are those of U(-1/2, 1/2), and it is uncorrelated with y and with where y lies in its bin."""
    x = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    latents = codec.universal(x, stream(4, "test"))
    for value, coded in ((latents.y, latents.y_hat), (latents.z, latents.z_hat)):
        mean = value.double().flatten()
        noise = (coded.double() - value.double()).flatten()
        n = len(noise)
        assert float(noise.abs().max()) <= 0.5 + 1e-4
        # E u = 0, E u^2 = 1/12, E u^4 = 1/80, with the standard errors of the uniform distribution.
        for power, expected, se in (
            (1, 0, (1 / 12) ** 0.5),
            (2, 1 / 12, (1 / 180) ** 0.5),
            (4, 1 / 80, (1 / 3600) ** 0.5),
        ):
            assert abs((noise**power).mean() - expected) / (se / n**0.5) < 4.5, power
        for other in (mean, torch.cos(2 * math.pi * mean), torch.sin(2 * math.pi * mean), mean.abs()):
            other = (other - other.mean()) / other.std()
            assert abs(float((noise * other).mean())) / ((1 / 12) ** 0.5 / n**0.5) < 4.5
            assert abs(float(((noise**2 - 1 / 12) * other).mean())) / ((1 / 180) ** 0.5 / n**0.5) < 4.5


def test_what_is_sent_is_a_whole_number(codec, images):
    """The decoder knows the dither: y_hat minus it is the integer that the encoder sends."""
    x = images[0][None, :, :32, :48]
    latents = codec.universal(x, stream(7, "test"))
    again = stream(7, "test")
    for value in (latents.y_hat, latents.z_hat):
        dither = torch.rand(value.shape, generator=again) - 0.5
        sent = value - dither
        assert torch.allclose(sent, sent.round(), atol=1e-4)


def test_the_rate_is_minus_log2_of_the_likelihood_by_hand(codec, images):
    row = universal_quantization(codec, images, LAM, seed=5).iloc[1]
    padded = torch.nn.functional.pad(images[1][None], (7, 7, 4, 4))  # 40 x 50 to 48 x 64
    latents = codec.universal(padded, stream(5, "dither", 1))
    scales = codec.h_s(latents.z_hat).clamp(min=0.11).double()
    normal = stats.norm(scale=scales.detach().numpy())
    mass = normal.cdf(latents.y_hat.double().numpy() + 0.5) - normal.cdf(latents.y_hat.double().numpy() - 0.5)
    y_bits = -torch.from_numpy(mass).clamp(min=1e-9).log2().sum()
    logits = codec.entropy_bottleneck._logits_cumulative
    z = latents.z_hat.transpose(0, 1).reshape(6, 1, -1)
    mass = torch.sigmoid(logits(z + 0.5, stop_gradient=True)) - torch.sigmoid(logits(z - 0.5, stop_gradient=True))
    z_bits = -mass.log2().sum()
    assert row["bpp_y"] == pytest.approx(float(y_bits) / 2000, rel=1e-4)
    assert row["bpp_z"] == pytest.approx(float(z_bits) / 2000, rel=1e-3)
    assert row["bpp"] == row["bpp_y"] + row["bpp_z"]
    assert row["rd_cost"] == row["bpp"] + LAM * row["mse"]
    decoded = (255 * codec.g_s(latents.y_hat).detach()[0, :, 4:-4, 7:-7].clamp(0, 1)).round()
    assert row["mse"] == pytest.approx(float(((decoded - (255 * images[1]).round()) ** 2).mean()), rel=1e-6)


def test_the_seed_decides(codec, images):
    first = universal_quantization(codec, images, LAM, seed=1)
    assert first.equals(universal_quantization(codec, images, LAM, seed=1))
    assert (first["bpp"] != universal_quantization(codec, images, LAM, seed=2)["bpp"]).all()
    twice = universal_quantization(codec, [images[0], images[0]], LAM, seed=1)
    assert twice["bpp"][0] != twice["bpp"][1]  # each image has a dither of its own
    assert twice["bpp"][0] == first["bpp"][0]


def test_rounding_by_likelihood_is_the_estimate_beside_the_bitstream(codec, images):
    ours, coded = deterministic_rounding(codec, images, LAM), rate_distortion(codec, images, LAM)
    assert ours["bpp"].to_numpy() == pytest.approx(coded["bpp_estimate"].to_numpy(), rel=1e-6)
    assert ours["mse"].to_numpy() == pytest.approx(coded["mse"].to_numpy(), rel=1e-6)
    assert list(ours.columns) == ["image", "bpp", "bpp_y", "bpp_z", "mse", "psnr", "ms_ssim", "rd_cost"]


def test_reconstruction_is_that_of_the_transforms(codec, images):
    row = reconstruction(codec, images).iloc[0]
    with torch.no_grad():
        x_hat = codec.g_s(codec.g_a(torch.nn.functional.pad(images[0][None], (7, 7, 4, 4))))[..., 4:-4, 7:-7]
    ours = (255 * x_hat.clamp(0, 1)).round()
    mse = float(((ours - (255 * images[0]).round()) ** 2).mean())
    assert row["mse"] == pytest.approx(mse, rel=1e-6)
    assert row["psnr"] == pytest.approx(10 * math.log10(255**2 / mse), rel=1e-6)


def test_the_mode_is_left_as_it_was(codec, images):
    codec.train()
    universal_quantization(codec, images, LAM)
    reconstruction(codec, images)
    assert codec.training
    codec.eval()


@pytest.mark.parametrize(("images", "lam", "match"), [([], LAM, "no images"), ([torch.rand(3, 16, 16)], 0.0, "lambda")])
def test_bad_input(codec, images, lam, match):
    for evaluate in (universal_quantization, deterministic_rounding):
        with pytest.raises(GradlabError, match=match):
            evaluate(codec, images, lam)
