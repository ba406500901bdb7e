from __future__ import annotations

import pytest
import torch

import gradlab as gl
from gradlab.data import Picture
from gradlab.errors import GradlabError
from gradlab.latents import aligned, spread, statistics, tiles


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
    found = spread(codec, images)
    m = medians[:, None].expand(-1, z.shape[1] // len(medians)).flatten()
    expected = {"y": y, "z": z, "y_hat": y.round(), "z_hat": (z - m).round() + m}
    for name, values in expected.items():
        assert torch.allclose(found[name].variance, values.var(0), rtol=1e-6, atol=1e-6), name
        assert torch.allclose(found[name].mean, values.mean(0), rtol=1e-6, atol=1e-6), name


def test_statistics(codec, images):
    table = statistics(codec, images).set_index("latent")
    found = spread(codec, images)
    assert list(table.index) == ["y", "z", "y_hat", "z_hat"]
    y = found["y"]
    assert table.loc["y", "dimensions"] == 6 * 4 * 6
    assert table.loc["y", "variance"] == pytest.approx(float(y.variance.mean()))
    cov = y.variance.sqrt() / y.mean.abs()
    assert table.loc["y", "cov"] == pytest.approx(float(cov.mean()))
    assert table.loc["y", "cov_median"] == pytest.approx(float(cov.median()))
    assert table.loc["y_hat", "dead"] == int((found["y_hat"].variance < 1e-3).sum())
    stream = [codec.latents(x[None]) for x in images]
    assert table.loc["y_hat", "bpp"] == pytest.approx(sum(float(s.y_bits) for s in stream) / 5 / (32 * 48), rel=1e-6)
    assert table["bpp"].isna().tolist() == [True, True, False, False]
    everything = statistics(codec, images, dead=1e9).set_index("latent")
    assert everything.loc["y", "dead"] == everything.loc["y", "dimensions"]


def test_portraits_are_rotated_and_sizes_made_equal():
    wide, tall = torch.rand(3, 35, 50), torch.rand(3, 60, 40)
    a, b = aligned([wide, tall], 16)
    assert a.shape == b.shape == (1, 3, 32, 48)
    upright = torch.rot90(tall, dims=(1, 2))
    assert torch.equal(b[0], upright[:, 4:36, 6:54])


def test_tiles_cover_the_picture_once():
    pixels = torch.arange(3 * 40 * 70).remainder(256).to(torch.uint8).reshape(3, 40, 70)
    found = tiles([Picture("p", pixels, "")], 16)
    assert len(found) == 2 * 4
    assert torch.equal(found[5], pixels[:, 16:32, 16:32].float() / 255)


@pytest.mark.parametrize(("images", "match"), [
    ([torch.rand(3, 32, 32)], "at least two"),
    ([torch.rand(3, 32, 32), torch.rand(3, 8, 32)], "below 16 pixels"),
])  # fmt: skip
def test_bad_input(codec, images, match):
    with pytest.raises(GradlabError, match=match):
        statistics(codec, images)
