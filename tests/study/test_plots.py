"""Figures: written as PNG and PDF, labelled, the same bytes each time, nothing global touched."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import LogNorm, Normalize

from gradlab.errors import GradlabError
from gradlab.study import plots
from gradlab.study.plotstyle import COLOURS, DASHES, HATCHES, MARKERS

CURVES = pd.DataFrame(
    {"k": [1, 2, 4] * 2, "snr": [1.0, 0.7, 0.5, 1.0, 1.4, 2.0], "se": 0.1, "estimator": ["a"] * 3 + ["b"] * 3}
)
HEAT = pd.DataFrame({"k": [1, 2, 1, 2], "e": ["a", "a", "b", "b"], "bias": [0.5, 0.0, 1e-4, math.nan]})
LATENTS = pd.DataFrame({"variance": [1e-3, 1e-2, 1.0, 0.0, 2.0, 3.0], "method": ["a"] * 4 + ["b"] * 2})


def draw_curves(ax: Any) -> None:
    plots.curves(ax, CURVES, "k", "snr", "se", "estimator", xlabel="k", ylabel="SNR", xscale="log", yscale="log")


def draw_bars(ax: Any) -> None:
    plots.bars(ax, CURVES, "k", "snr", "se", "estimator", xlabel="k", ylabel="SNR")


def draw_histograms(ax: Any) -> None:
    plots.histograms(ax, LATENTS, "variance", "method", xlabel="variance", bins=10)


def draw_heat(ax: Any) -> None:
    plots.heat(ax, HEAT, "e", "k", "bias", xlabel="k", ylabel="estimator", label="|bias| (nats)", norm=LogNorm())


DRAWERS = [draw_curves, draw_bars, draw_histograms, draw_heat]


@pytest.mark.parametrize("draw", DRAWERS)
def test_files_labels_and_bytes(tmp_path: Path, draw: Any) -> None:
    before = dict(matplotlib.rcParams)
    contents = []
    for name in ("one.v1", "two.v1"):  # a dot in the name is no suffix
        fig, ax = plots.figure()
        draw(ax)
        assert ax.get_xlabel() and ax.get_ylabel()
        written = plots.save(fig, tmp_path / name)
        assert [path.name for path in written] == [f"{name}.png", f"{name}.pdf"]
        contents.append([path.read_bytes() for path in written])
    assert contents[0] == contents[1]
    png, pdf = contents[0]
    assert png.startswith(b"\x89PNG") and pdf.startswith(b"%PDF")
    assert int.from_bytes(png[16:20], "big") == round(3.4 * 300)  # a column of a paper at 300 dpi
    assert dict(matplotlib.rcParams) == before


def test_curves_differ_in_more_than_colour() -> None:
    _, ax = plots.figure()
    draw_curves(ax)
    lines = [container[0] for container in ax.containers]
    assert [list(line.get_ydata()) for line in lines] == [[1.0, 0.7, 0.5], [1.0, 1.4, 2.0]]
    assert len({line.get_marker() for line in lines}) == len({line.get_linestyle() for line in lines}) == 2
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    bars = ax.containers[0][2][0].get_segments()
    np.testing.assert_allclose(bars[1][:, 1], [0.6, 0.8])  # one standard error up and down


def test_as_many_lines_as_colours_are_told_apart_in_grey() -> None:
    assert len(COLOURS) == len({str(dash) for dash in DASHES}) == len(set(MARKERS)) == len(set(HATCHES))
    # Lines and markers stand out from white paper, by the contrast that WCAG asks of graphics (3:1), or differ in dash.
    luminance = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in COLOURS]
    assert max(luminance[:5]) < 0.72 and max(luminance) < 0.9


def test_a_shared_legend_shows_line_and_marker_of_one_name() -> None:
    fig, axes = plots.figure(1, 2, width="page")
    plots.curves(axes[0], CURVES, "k", "snr", None, "estimator", xlabel="k", ylabel="SNR", mode="lines")
    plots.curves(axes[0], CURVES, "k", "snr", "se", "estimator", xlabel="k", ylabel="SNR", mode="markers")
    plots.shared_legend(fig, axes[:1], at=axes[1])
    legend = axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"] and not axes[1].axison
    lines = [handle for handle in legend.findobj(matplotlib.lines.Line2D) if handle.get_marker() == "o"]
    assert lines and axes[0].get_legend() is None


def test_ratios_stand_on_one_and_an_empty_group_keeps_its_place() -> None:
    ratios = pd.DataFrame({"group": ["a", "b", "c"], "ratio": [math.nan, 0.5, 3.0]})
    _, ax = plots.figure()
    plots.bars(ax, ratios, "group", "ratio", xlabel="", ylabel="ratio", yscale="log", base=1)
    tops = [(p.get_y(), p.get_y() + p.get_height()) for p in ax.patches[1:]]
    assert tops == [(1, 0.5), (1, 3.0)]
    assert ax.get_xlim()[0] < -0.5 and ax.get_xlim()[1] > 2.5


def test_short_logarithmic_axes_have_plain_numbers() -> None:
    for values, expected in (([2.0, 5.0, 20.0], "10"), ([1.0, 1e3, 1e6], "$\\mathdefault{10^{3}}$")):
        fig, ax = plots.figure()
        frame = pd.DataFrame({"k": [1, 2, 3], "snr": values})
        plots.curves(ax, frame, "k", "snr", xlabel="k", ylabel="SNR", yscale="log")
        fig.canvas.draw()
        assert expected in [tick.get_text() for tick in ax.get_yticklabels()]


def test_a_photograph_is_shown_pixel_by_pixel() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    _, ax = plots.figure()
    plots.photograph(ax, pixels, "caption", (1, 1, 2))
    assert (ax.images[0].get_array() == pixels).all() and ax.images[0].get_interpolation() == "none"
    assert ax.get_xlabel() == "caption" and len(ax.lines) == 2


def test_an_overview_of_a_photograph_keeps_its_coordinates() -> None:
    pixels = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    _, ax = plots.figure()
    plots.photograph(ax, pixels, "caption", (0, 1, 2), shrink=2)
    shown = ax.images[0]
    assert np.asarray(shown.get_array()).shape == (2, 3, 3) and list(shown.get_extent()) == [-0.5, 5.5, 3.5, -0.5]
    np.testing.assert_allclose(shown.get_array()[0, 0], pixels[:2, :2].mean(axis=(0, 1)), atol=0.51)


def test_bars_stand_side_by_side_with_hatches() -> None:
    _, ax = plots.figure()
    draw_bars(ax)
    groups = [container for container in ax.containers if hasattr(container, "patches")]
    edges = sorted((p.get_x(), p.get_x() + p.get_width()) for group in groups for p in group.patches)
    assert all(left[1] <= right[0] + 1e-9 for left, right in pairwise(edges))
    assert [p.get_height() for p in groups[1].patches] == [1.0, 1.4, 2.0]
    assert groups[0].patches[0].get_hatch() != groups[1].patches[0].get_hatch()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "4"]


def test_histograms_share_bins_and_count_all_dimensions() -> None:
    _, ax = plots.figure()
    draw_histograms(ax)
    first, second = (patch.get_data() for patch in ax.patches)
    assert (first.edges == second.edges).all()
    assert first.values.sum() == pytest.approx(75) and second.values.sum() == pytest.approx(100)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["a (n = 4, 1 at 0)", "b (n = 2)"]


def test_histograms_of_counted_rows() -> None:
    counted = pd.DataFrame({"variance": [0.1, 1.0], "method": "a", "count": [30, 10]})
    _, ax = plots.figure()
    plots.histograms(ax, counted, "variance", "method", xlabel="variance", weight="count", bins=2)
    assert ax.patches[0].get_data().values.tolist() == [75.0, 25.0]
    assert ax.get_legend().get_texts()[0].get_text() == "a (n = 40)"


@pytest.mark.parametrize("values", [[], [0.0], [1.0, 1.0]])
def test_histograms_of_next_to_nothing(tmp_path: Path, values: list[float]) -> None:
    fig, ax = plots.figure()
    frame = pd.DataFrame({"variance": values, "method": ["a"] * len(values)})
    plots.histograms(ax, frame, "variance", "method", xlabel="variance")
    assert plots.save(fig, tmp_path / "a")


def test_heat_writes_every_cell() -> None:
    _, ax = plots.figure()
    draw_heat(ax)
    plots.heat(
        plots.figure()[1], HEAT, "e", "k", "bias", xlabel="k", ylabel="e", label="|bias|", norm=Normalize(0, 0.1)
    )
    assert [text.get_text() for text in ax.texts] == ["0.5", "0", "1e-4", "n/a"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row on top


def test_grid_of_axes_and_bad_input() -> None:
    _, axes = plots.figure(1, 2, width="page")
    assert axes.shape == (2,)
    with pytest.raises(GradlabError, match="unknown width of a figure 'pages': did you mean 'page'"):
        plots.figure(width="pages")
    with pytest.raises(GradlabError, match="unknown column 'snrr': did you mean 'snr'"):
        plots.curves(axes[0], CURVES, "k", "snrr", xlabel="k", ylabel="SNR")


def test_no_window_is_ever_opened() -> None:
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()
