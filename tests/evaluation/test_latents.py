from __future__ import annotations

import pytest
import torch

import gradlab as gl
from gradlab.data import Picture
from gradlab.errors import GradlabError
from gradlab.evaluation.latents import (
    LatentMoments,
    align,
    channel_statistics,
    moments_over_images,
    residuals,
    statistics,
    tiles,
)
from gradlab.snr.moments import Moments


@pytest.fixture(scope="module")
def codec():
    model = gl.codecs.build("small-hyperprior", channels=(4, 6), seed=1)
    with torch.no_grad():
        model.g_a[4].weight *= 20
    model.finish()
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return list(torch.rand(5, 3, 32, 48, generator=torch.Generator().manual_seed(2)))


def test_spread_is_the_variance_of_each_dimension(codec, images):
    with torch.no_grad():
        y = torch.stack([codec.g_a(x[None])[0] for x in images]).flatten(1).double()
        z = torch.stack([codec.h_a(codec.g_a(x[None]).abs())[0] for x in images]).flatten(1).double()
        medians = codec.entropy_bottleneck.quantiles[:, 0, 1].double()
    latent_moments = moments_over_images(codec, images)
    m = medians[:, None].expand(-1, z.shape[1] // len(medians)).flatten()
    expected = {"y": y, "z": z, "y_hat": y.round(), "z_hat": (z - m).round() + m}
    for name, values in expected.items():
        assert torch.allclose(latent_moments[name].variance, values.var(0), rtol=1e-6, atol=1e-6), name
        assert torch.allclose(latent_moments[name].mean, values.mean(0), rtol=1e-6, atol=1e-6), name


def test_statistics(codec, images):
    table = statistics(codec, images).set_index("latent")
    latent_moments = moments_over_images(codec, images)
    assert list(table.index) == ["y", "z", "y_hat", "z_hat"]
    y = latent_moments["y"]
    assert table.loc["y", "dimensions"] == 6 * 4 * 6
    assert table.loc["y", "variance"] == pytest.approx(float(y.variance.mean()))
    cov = y.variance.sqrt() / y.mean.abs()
    assert table.loc["y", "cov"] == pytest.approx(float(cov.mean()))
    assert table.loc["y", "cov_median"] == pytest.approx(float(cov.median()))
    assert table.loc["y_hat", "dead"] == int((latent_moments["y_hat"].variance < 1e-3).sum())
    stream = [codec.latents(x[None]) for x in images]
    assert table.loc["y_hat", "bpp"] == pytest.approx(sum(float(s.y_bits) for s in stream) / 5 / (32 * 48), rel=1e-6)
    assert table["bpp"].isna().tolist() == [True, True, False, False]
    everything = statistics(codec, images, dead=1e9).set_index("latent")
    assert everything.loc["y", "dead"] == everything.loc["y", "dimensions"]


def test_a_mean_that_is_zero_but_for_rounding_is_left_out():
    state = Moments.init((2,))
    for value in (1.0, 1.0, -1.0, 0.0, 1.0, -2.0, 0.0):  # whole numbers that sum to 0
        state = state.update(torch.tensor([[value, value + 4]], dtype=torch.float64))
    row = LatentMoments(state.mean, state.variance(), float("nan"), 1).row(1e-3)
    expected = torch.tensor([5.0, 5, 3, 4, 5, 2, 4], dtype=torch.float64)
    assert row["cov"] == row["cov_median"] == pytest.approx(float(expected.std() / expected.mean()))


def test_portraits_are_rotated_and_sizes_made_equal():
    wide, tall = torch.rand(3, 35, 50), torch.rand(3, 60, 40)
    a, b = align([wide, tall], 16)
    assert a.shape == b.shape == (1, 3, 32, 48)
    upright = torch.rot90(tall, dims=(1, 2))
    assert torch.equal(b[0], upright[:, 4:36, 6:54])


def test_tiles_cover_the_picture_once():
    pixels = torch.arange(3 * 40 * 70).remainder(256).to(torch.uint8).reshape(3, 40, 70)
    crops = tiles([Picture("p", pixels, "")], 16)
    assert len(crops) == 2 * 4
    assert torch.equal(crops[5], pixels[:, 16:32, 16:32].float() / 255)


@pytest.mark.parametrize(("images", "match"), [
    ([torch.rand(3, 32, 32)], "at least two"),
    ([torch.rand(3, 32, 32), torch.rand(3, 8, 32)], "8 x 32 pixels is smaller than 16 x 16"),
])  # fmt: skip
def test_bad_input(codec, images, match):
    with pytest.raises(GradlabError, match=match):
        statistics(codec, images)


def test_channels_are_parts_of_the_whole(codec, images):
    table, whole = channel_statistics(codec, images), statistics(codec, images).set_index("latent")
    assert table.groupby("latent").size().to_dict() == {"y": 6, "z": 4, "y_hat": 6, "z_hat": 4}
    with torch.no_grad():
        y = torch.cat([codec.g_a(x[None]) for x in images]).double()
    row = table.set_index(["latent", "channel"]).loc[("y", 2)]
    assert row["variance"] == pytest.approx(float(y[:, 2].var(0).mean()))
    assert row["cov"] == pytest.approx(float((y[:, 2].std(0) / y[:, 2].mean(0).abs()).mean()))
    for latent, rows in table.groupby("latent"):
        assert rows["variance"].mean() == pytest.approx(whole.loc[latent, "variance"])
        assert rows["dead"].sum() == whole.loc[latent, "dead"]
        assert rows["dimensions"].sum() == whole.loc[latent, "dimensions"]


def test_residuals_are_counted_as_by_hand(codec, images):
    images = [*images[:2], torch.rand(3, 50, 33, generator=torch.Generator().manual_seed(3))]
    table = residuals(codec, images, bins=10)
    for index, x in enumerate(images):
        x = x[:, 1:49, 0:32] if index == 2 else x
        with torch.no_grad():
            values = codec.g_a(x[None]).flatten().tolist()
        for kept in ("all", "|y| >= 1/2"):
            rows = table[(table["image"] == str(index)) & (table["kept"] == kept)]
            chosen = [v for v in values if kept == "all" or abs(v) >= 0.5]
            counts = [0] * 10
            for v in chosen:
                counts[min(9, int((v - round(v) + 0.5) * 10))] += 1
            assert rows["count"].tolist() == counts, (index, kept)
            assert len(chosen) > 0 and rows["low"].iloc[0] == -0.5 and rows["high"].iloc[-1] == 0.5
    assert table["count"].sum() > 0


@pytest.mark.parametrize(("images", "bins", "match"), [
    ([], 10, "no images"), ([torch.rand(3, 8, 32)], 10, "8 x 32 pixels is smaller than 16 x 16"), ([torch.rand(3, 32, 32)], 0, "bins is 0: give a whole number of at least 1"),
])  # fmt: skip
def test_residuals_bad_input(codec, images, bins, match):
    with pytest.raises(GradlabError, match=match):
        residuals(codec, images, bins)
