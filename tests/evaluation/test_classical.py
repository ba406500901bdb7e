"""Classical codecs: sizes and pixels are those that Pillow itself gives, and more bits are never worse."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, features
from skimage.metrics import peak_signal_noise_ratio

from gradlab import data
from gradlab.errors import GradlabError
from gradlab.evaluation.classical import CLASSICAL_CODECS, available_codecs, classical_codecs, classical_curves


@pytest.fixture(scope="module")
def chelsea():
    return next(p for p in data.embedded("test") if p.name == "chelsea.png")  # 451 x 300: no multiple of 8


@pytest.fixture(scope="module")
def table(chelsea):
    return classical_codecs([chelsea])


def test_every_codec_that_pillow_has(table):
    assert set(available_codecs()) == {name for name, a in CLASSICAL_CODECS.items() if features.check(a.feature)}
    assert list(dict.fromkeys(table["codec"])) == list(available_codecs())
    assert "JPEG" in available_codecs()
    assert list(table.columns) == ["codec", "chroma", "quality", "image", "bpp", "mse", "psnr", "ms_ssim"]


def test_jpeg_by_hand(chelsea, table):
    pixels = chelsea.pixels.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=40, subsampling=2, optimize=True)
    decoded = np.asarray(Image.open(io.BytesIO(file.getvalue())))
    row = table[(table["codec"] == "JPEG") & (table["quality"] == 40)].iloc[0]
    assert row["bpp"] == 8 * len(file.getvalue()) / (300 * 451)
    assert row["mse"] == pytest.approx(np.mean((pixels.astype(float) - decoded) ** 2), rel=1e-12)
    assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(pixels, decoded, data_range=255), rel=1e-12)
    assert row["chroma"] == "4:2:0"


@pytest.mark.parametrize("codec", available_codecs())
def test_rate_and_quality_grow_together(table, codec):
    mine = table[table["codec"] == codec]
    for column in ("bpp", "psnr", "ms_ssim"):
        assert (mine[column].diff().dropna() > 0).all(), column
    assert 0.02 < mine["bpp"].min() < 0.7  # the range of learned codecs
    assert 1 < mine["bpp"].max() < 8
    assert mine["psnr"].min() > 20


@pytest.mark.parametrize("codec", available_codecs())
def test_chroma_is_as_stated(codec):
    # A checkerboard of two colours of one luma: 4:2:0 has nowhere to put it, 4:4:4 does.
    a, b = torch.tensor([200, 60, 120]), torch.tensor([20, 134, 174])
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    image = torch.where(board[None] == 0, a[:, None, None], b[:, None, None]).to(torch.uint8)
    best = classical_codecs([image], [codec], CLASSICAL_CODECS[codec].qualities[-1:]).iloc[0]
    assert (best["psnr"] > 25) == (CLASSICAL_CODECS[codec].chroma == "4:4:4")
    assert math.isnan(best["ms_ssim"])  # too small for five scales


def test_aimed_at_psnr_is_what_jpeg_2000_reaches(table):
    mine = table[table["codec"] == "JPEG 2000"]
    assert (mine["psnr"] - mine["quality"]).abs().max() < 1.5


def test_curves_are_means_over_images(chelsea):
    other = chelsea._replace(name="half", pixels=chelsea.pixels[:, ::2, ::2].contiguous())
    both = classical_codecs([chelsea, other], ["JPEG"], (10, 80))
    curves = classical_curves(both)
    assert list(curves["quality"]) == [10, 80]
    for column in ("bpp", "psnr", "mse"):
        assert curves[column].tolist() == pytest.approx(both.groupby("quality")[column].mean().tolist())


def test_bad_input(chelsea, monkeypatch):
    with pytest.raises(GradlabError, match="no images"):
        classical_codecs([])
    with pytest.raises(GradlabError, match="unknown classical codec 'JPG': did you mean 'JPEG'"):
        classical_codecs([chelsea], ["JPG"])
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    assert "AVIF" not in available_codecs()
    with pytest.raises(
        GradlabError, match="the installed Pillow does not support AVIF: install one that does, or use JPEG"
    ):
        classical_codecs([chelsea], ["AVIF"])
