"""Light PNGs: plots get a palette without visible change, photographs keep every colour, text and size stay."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from gradlab import data
from gradlab.study import palette, plots
from gradlab.study.plotstyle import png

NAMES = {"Software": "a program", "Title": "\u03bb"}  # Latin-1 text, and text that needs another kind of chunk


def opened(content: bytes) -> PngImageFile:
    image = Image.open(io.BytesIO(content))
    assert isinstance(image, PngImageFile)
    image.load()
    return image


def levels(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGBA"), np.int64)


def saved(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def lines() -> Any:
    fig, ax = plots.figure()
    for n in range(8):
        ax.plot([0, 1, 2], [0, n, 1], alpha=0.7)
    return fig


def written(fig: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    fig.savefig(content, format="png", **options)
    return content.getvalue()


def astronaut() -> Image.Image:
    (picture,) = (p for p in data.embedded("test") if p.name == "astronaut.png")
    return Image.fromarray(picture.pixels.permute(1, 2, 0).numpy())


def test_a_plot_gets_a_palette_without_visible_change() -> None:
    whole = written(lines())
    content = png(lines())
    assert content == png(lines())
    before, after = opened(whole), opened(content)
    assert after.mode == "P" and len(content) < len(whole) / 2
    assert len(before.convert("RGB").getcolors(1 << 24) or ()) > palette.COLOURS  # so that the palette is a choice
    change = np.abs(levels(before) - levels(after)).max(axis=-1)
    assert 0 < change.mean() < 0.2 and change.max() < palette.LARGEST_CHANGE
    white = (levels(before) == 255).all(axis=-1)
    assert white.mean() > 0.5 and not change[white].any()


def test_text_and_resolution_are_kept() -> None:
    for fig in (lines(), photographed()):
        image = opened(png(fig, dpi=200, metadata=NAMES))
        assert image.text == NAMES
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.01)
    assert opened(png(lines(), metadata={"Software": None})).text == {}


def photographed() -> Any:
    fig, ax = plots.figure()
    plots.photograph(ax, np.asarray(astronaut().crop((160, 40, 288, 168))), "caption")
    return fig


def test_a_photograph_keeps_every_colour() -> None:
    whole, content = opened(written(photographed())), opened(png(photographed()))
    assert content.mode == "RGB" and (levels(whole) == levels(content)).all()
    assert opened(palette.light(saved(astronaut()))).mode == "RGB"


def test_few_colours_and_transparent_images_are_exact() -> None:
    grey = astronaut().convert("L")
    clear = grey.convert("RGBA")
    clear.putalpha(grey)
    for image, mode in ((grey, "P"), (clear, "RGBA"), (Image.new("RGB", (3, 2), "red"), "P")):
        light = opened(palette.light(saved(image)))
        assert light.mode == mode and (levels(image) == levels(light)).all()


def test_saving_writes_light_files(tmp_path: Path) -> None:
    path = plots.save(lines(), tmp_path / "a")[0]
    image = opened(path.read_bytes())
    assert image.mode == "P" and image.text == {} and round(image.info["dpi"][0]) == 300
