from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

import gradlab as gl
from gradlab.data import Picture
from gradlab.errors import GradlabError
from gradlab.evaluation import bitstream, named_images, psnr, rate_distortion, summary
from gradlab.evaluation.bitstream import crop, pad

LAM = 0.015


@pytest.fixture(scope="module", params=[True, False])
def codec(request):
    model = gl.codecs.build("small-hyperprior", channels=(6, 8), direct_y=request.param, seed=1)
    with torch.no_grad():
        model.g_a[4].weight *= 20
        model.g_s[4].weight *= 2
        model.h_s[2].bias.fill_(4.0)  # scales that fit the latents, as training would bring
    model.finish()
    return model.eval()


@pytest.fixture(scope="module")
def chelsea():
    return next(p for p in gl.data.embedded("test") if p.name == "chelsea.png")  # 451 x 300: no multiple of anything


def test_rate_is_the_length_of_the_strings_over_unpadded_pixels(codec, chelsea):
    row = rate_distortion(codec, [chelsea], LAM).iloc[0]
    x = chelsea.pixels[None].float() / 255
    padded, _ = pad(x, 16)
    assert padded.shape[-2:] == (304, 464)
    y_strings, z_strings = codec.compress(padded)["strings"]
    pixels = 300 * 451
    assert row["bpp_y"] == 8 * len(y_strings[0]) / pixels
    assert row["bpp_z"] == 8 * len(z_strings[0]) / pixels
    assert row["bpp"] == row["bpp_y"] + row["bpp_z"]
    assert row["bpp_estimate"] == pytest.approx(row["bpp"], rel=0.05)
    assert row["rd_cost"] == row["bpp"] + LAM * row["mse"]


def test_distortion_is_that_of_the_decoded_8_bit_image(codec, chelsea):
    row = rate_distortion(codec, [chelsea], LAM).iloc[0]
    padded, margins = pad(chelsea.pixels[None].float() / 255, 16)
    decoded = crop(codec.decompress(**codec.compress(padded))["x_hat"], margins)
    ours = (decoded.clamp(0, 1) * 255).round().to(torch.uint8)[0].numpy()
    original = chelsea.pixels.numpy()
    assert row["mse"] == pytest.approx(np.mean((ours.astype(float) - original.astype(float)) ** 2), rel=1e-12)
    assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(original, ours, data_range=255), rel=1e-12)
    assert 0 < row["ms_ssim"] < 1


def test_summary_names_both_conventions_of_psnr(codec, chelsea):
    other = Picture("other", chelsea.pixels[:, :200, :200].flip(1) // 2, "")
    table = rate_distortion(codec, [chelsea, other], LAM)
    means = summary(table)
    assert means["psnr"] == pytest.approx(table["psnr"].mean())
    assert means["psnr_of_mean_mse"] == pytest.approx(10 * math.log10(255**2 / table["mse"].mean()))
    assert means["psnr_of_mean_mse"] <= means["psnr"]


def test_a_bitstream_that_decodes_to_something_else_is_caught(codec, chelsea, monkeypatch):
    whole = codec.compress

    def tampered(x):
        stream = whole(x)
        stream["strings"][1] = [bytes(len(s)) for s in stream["strings"][1]]
        return stream

    monkeypatch.setattr(codec, "compress", tampered)
    with pytest.raises(GradlabError, match="differs from the encoder's reconstruction"):
        bitstream(codec, chelsea.pixels[None, :, :64, :64].float() / 255)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 31)])
def test_any_size(codec, size):
    x = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    row = rate_distortion(codec, [x], LAM).iloc[0]
    assert row["bpp"] > 0
    assert math.isnan(row["ms_ssim"])


def test_padding_is_taken_off_again():
    x = torch.rand(1, 3, 30, 45)
    padded, margins = pad(x, 16)
    assert padded.shape == (1, 3, 32, 48)
    assert torch.equal(crop(padded, margins), x)
    assert float(padded.sum()) == pytest.approx(float(x.sum()), rel=1e-6)


def test_identical_images_have_infinite_psnr():
    assert psnr(0.0) == math.inf


@pytest.mark.parametrize(("images", "lam", "match"), [
    ([], LAM, "no images"),
    ([torch.rand(64, 64)], LAM, r"not a \[3, height, width\] tensor"),
    ([torch.full((3, 16, 16), math.nan)], LAM, "NaN"),
    ([torch.rand(3, 16, 16)], -1.0, "give a positive, finite lambda"),
])  # fmt: skip
def test_bad_input(codec, images, lam, match):
    with pytest.raises(GradlabError, match=match):
        rate_distortion(codec, images, lam)


def test_tables_must_be_built(chelsea):
    fresh = gl.codecs.build("small-hyperprior", channels=(4, 4))
    with pytest.raises(GradlabError, match="not built"):
        rate_distortion(fresh, [chelsea], LAM)


def test_batches_and_bytes_are_images_too():
    batch = torch.rand(2, 3, 16, 16)
    assert [x.shape for _, x in named_images(batch)] == [(1, 3, 16, 16)] * 2
    bytes_ = (torch.ones(3, 4, 4) * 255).to(torch.uint8)
    assert float(named_images([bytes_])[0][1].max()) == 1.0
