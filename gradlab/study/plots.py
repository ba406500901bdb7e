"""Draw curves, bars, histograms and maps in one style: colour-blind safe, readable in grey, sized for a paper's column.

Each function draws rows of a CSV onto given axes. Lines also differ in dashes and markers, and bars in hatches. Figures
are made without pyplot, so that no global state changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.container import ErrorbarContainer
from matplotlib.ticker import LogFormatterSciNotation
from PIL import Image

from gradlab.errors import unknown
from gradlab.study.plotstyle import COLOURS, DASHES, HATCHES, MARKERS, figure, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = [
    "bars",
    "curves",
    "figure",
    "heat",
    "histograms",
    "photograph",
    "save",
    "shared_legend",
    "style",
    "title",
]

MODES = ("lines+markers", "lines", "markers")


def curves(
    ax: Axes,
    frame: DataFrame,
    x: str,
    y: str,
    yerr: str | None = None,
    hue: str | None = None,
    *,
    order: Sequence[str] | None = None,
    mode: str = "lines+markers",
    **axes: Any,
) -> None:
    """Draw one line of ``y`` over ``x`` per value of ``hue``, with error bars of plus and minus one ``yerr``.

    Further calls on the same axes continue the colours; a value of ``hue`` that is already drawn keeps its colour.

    Args:
        ax: axes to draw on.
        frame: rows with the columns ``x``, ``y``, ``yerr`` and ``hue``.
        x: column of the horizontal axis.
        y: column of the vertical axis.
        yerr: column of the standard error, or None.
        hue: column that selects the line of a row, or None for one line.
        order: values of ``hue`` in the order of the legend; the order of the rows by default.
        mode: ``"lines+markers"``, ``"lines"`` or ``"markers"``. Markers alone, e.g. Monte-Carlo values over exact
            curves, share the legend entry of their line in a ``shared_legend``.
        **axes: properties for ``Axes.set``, e.g. ``xlabel``, ``ylabel``, ``xscale="log"``, ``title``.

    Raises:
        GradlabError: a column or the mode is unknown.
    """
    _require(frame, x, y, yerr, hue)
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    labels = dict.fromkeys(str(container.get_label()) for container in ax.containers)
    numbers = {label: number for number, label in enumerate(labels)}
    with style():
        for name, rows in _groups(frame, hue, order):
            number = numbers.setdefault(name, len(numbers))
            rows = rows.sort_values(x)
            ax.errorbar(
                rows[x],
                rows[y],
                rows[yerr] if yerr else None,
                label=name,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)] if "markers" in mode else "",
                linestyle=DASHES[number % len(DASHES)] if "lines" in mode else "none",
                markeredgecolor="white",
                markeredgewidth=0.4,
            )
        ax.set(**axes)
        _plain_numbers(ax)
        if hue and "lines" in mode:
            ax.legend()


class _Plain(LogFormatterSciNotation):
    """Print the numbers of a short logarithmic axis in full: 6, not 6 x 10^0."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        axis: Any = self.axis
        low, high = sorted(axis.get_view_interval())
        text = super().__call__(x, pos)
        return f"{x:g}" if text and low >= 1e-3 and high < 1e4 and high < 300 * low else text


def _plain_numbers(ax: Axes) -> None:
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(_Plain())
            axis.set_minor_formatter(_Plain(minor_thresholds=(1.2, 0.5)))


def title(ax: Axes, text: str) -> None:
    """Set the title of one panel, in gradlab's font size."""
    with style():
        ax.set_title(text)


def photograph(ax: Axes, pixels: Any, text: str, frame: tuple[int, int, int] | None = None, *, shrink: int = 1) -> None:
    """Show an 8-bit photograph ``[H, W, 3]`` without smoothing, with a caption below it.

    Args:
        ax: axes to draw on.
        pixels: the photograph.
        text: caption.
        frame: top, left and side of a square to mark, in pixels of the photograph.
        shrink: side of the squares of pixels that are averaged into one, for smaller files.
    """
    image = Image.fromarray(pixels).reduce(shrink)
    right, bottom = image.width * shrink - 0.5, image.height * shrink - 0.5
    with style():
        ax.imshow(image, interpolation="none", extent=(-0.5, right, bottom, -0.5))
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)
        ax.set_xlabel(text, fontsize=7)
        if frame is not None:
            top, left, side = frame
            for colour, width in (("black", 2.2), ("white", 1.0)):  # visible on any background
                ax.plot([left, left + side, left + side, left, left], [top, top, top + side, top + side, top],
                        color=colour, linewidth=width)  # fmt: skip


def shared_legend(fig: Figure, axes: Iterable[Axes], at: Axes | None = None) -> None:
    """Draw one legend below the figure, or in the empty panel ``at``, instead of a legend in each of the axes.

    Args:
        fig: the figure.
        axes: axes whose legends to merge.
        at: empty panel for the legend.
    """
    entries: dict[str, list[Any]] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            # The legend entry combines the line of a curve and the marker of its points.
            entries.setdefault(label, []).append(handle)
        legend = ax.get_legend()
        if legend is not None:
            legend.remove()
    handles = [_legend_handle(drawn) for drawn in entries.values()]
    with style():
        if at is not None:
            at.axis("off")
            at.legend(handles, entries.keys(), loc="upper center")
            return
        # An entry needs half an inch for its handle and about 0.06 inches per letter.
        inches = 0.5 + 0.06 * max((len(label) for label in entries), default=0)
        columns = max(1, min(len(entries), int(fig.get_figwidth() // inches)))
        fig.legend(handles, entries.keys(), loc="outside lower center", ncols=columns)


def _legend_handle(handles: Sequence[Any]) -> Any:
    """Return the handle for all artists with one label: the first, or the first line with the first marker over it."""
    drawn = {bool(handle[0].get_linestyle() in ("None", "none", "")): handle
             for handle in reversed(handles) if isinstance(handle, ErrorbarContainer)}  # fmt: skip
    return (drawn[False], drawn[True]) if len(drawn) == 2 else handles[0]


def bars(
    ax: Axes,
    frame: DataFrame,
    category: str,
    value: str,
    error: str | None = None,
    hue: str | None = None,
    *,
    order: Sequence[str] | None = None,
    base: float = 0.0,
    **axes: Any,
) -> None:
    """Draw bars of ``value`` for each ``category``, side by side for each ``hue``, with error bars.

    Args:
        ax: axes to draw on.
        frame: rows, one per bar.
        category: column that selects the group of a bar, in the order of the rows.
        value: column of the height.
        error: column of the standard error, or None.
        hue: column that selects the bar within its group, or None for one bar.
        order: values of ``hue`` in the order of the legend.
        base: value where bars begin, e.g. 1 for ratios.
        **axes: properties for ``Axes.set``, e.g. ``xlabel``, ``ylabel``, ``yscale="log"``, ``title``.

    Raises:
        GradlabError: a column is unknown.
    """
    _require(frame, category, value, error, hue)
    positions = {name: position for position, name in enumerate(dict.fromkeys(frame[category]))}
    groups = _groups(frame, hue, order)
    width = 0.8 / len(groups)
    with style():
        for number, (name, rows) in enumerate(groups):
            centre = np.array([positions[c] for c in rows[category]]) + (number - (len(groups) - 1) / 2) * width
            ax.bar(
                centre,
                rows[value] - base,
                width,
                bottom=base,
                yerr=rows[error] if error else None,
                label=name,
                color=COLOURS[number % len(COLOURS)],
                hatch=HATCHES[number % len(HATCHES)],
                edgecolor="0.15",
                linewidth=0.6,
                error_kw={"elinewidth": 1.0, "capsize": 2, "ecolor": "0.1"},
            )
        ax.set_xticks(range(len(positions)), [str(name) for name in positions])
        ax.set_xlim(-0.55, len(positions) - 0.45)  # keep the place of a group whose bars are all undefined
        ax.grid(visible=False, axis="x")
        ax.set(**axes)
        _plain_numbers(ax)
        if hue:
            ax.legend()


def histograms(
    ax: Axes,
    frame: DataFrame,
    value: str,
    hue: str,
    *,
    weight: str | None = None,
    bins: int = 60,
    order: Sequence[str] | None = None,
    **axes: Any,
) -> None:
    """Draw outlines of histograms of log ``value`` on shared bins; each sums to 100 % with the values of 0 and below.

    Args:
        ax: axes to draw on.
        frame: the rows.
        value: column of the values to count; values of 0 and below are counted in the legend.
        hue: column that selects the histogram of a row.
        weight: column with the number of dimensions that a row stands for, for rows that were counted before; None for
            1.
        bins: number of bins.
        order: values of ``hue`` in the order of the legend.
        **axes: properties for ``Axes.set``; the default ``ylabel`` is the share of dimensions in percent.

    Raises:
        GradlabError: a column is unknown.
    """
    _require(frame, value, hue, weight)
    positive = frame[value][frame[value] > 0].to_numpy(float)
    low, high = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
    edges = np.geomspace(low, high if high > low else low * 1.01, bins + 1)
    edges[0], edges[-1] = low, max(edges[-1], high)  # geomspace may round the ends inwards
    with style():
        for number, (name, rows) in enumerate(_groups(frame, hue, order)):
            values = rows[value].to_numpy(float)
            counts = rows[weight].to_numpy(float) if weight else np.ones(len(rows))
            inside = values > 0
            total = counts.sum()
            height = 100 * np.histogram(values[inside], edges, weights=counts[inside])[0] / max(total, 1)
            left_out = counts[~inside].sum()
            label = f"{name} (n = {total:.0f}" + (f", {left_out:.0f} at 0)" if left_out else ")")
            colour = COLOURS[number % len(COLOURS)]
            ax.stairs(height, edges, label=label, color=colour, linestyle=DASHES[number % len(DASHES)], linewidth=1.4)
        ax.set(**{"xscale": "log", "ylabel": "share of dimensions (%)", **axes})
        ax.set_ylim(bottom=0)
        if len(frame):
            ax.legend()


def heat(
    ax: Axes,
    frame: DataFrame,
    row: str,
    column: str,
    value: str,
    *,
    label: str,
    norm: Normalize | None = None,
    empty: str = "n/a",
    **axes: Any,
) -> None:
    """Draw a map of ``value`` over ``row`` and ``column`` with the numbers in its cells.

    Args:
        ax: axes to draw on.
        frame: rows, one per cell.
        row: column of the vertical axis, from the top in the order of the rows.
        column: column of the horizontal axis.
        value: column of the colour and the number.
        label: label of the colour bar, with its unit.
        norm: scale of the colours, e.g. ``LogNorm()`` (values of 0 and below get the lowest colour) or ``Normalize(0,
            100)`` (larger values get the last colour, and the colour bar an arrow); linear by default.
        empty: text of cells without a value.
        **axes: properties for ``Axes.set``, e.g. ``xlabel``, ``ylabel``, ``title``.

    Raises:
        GradlabError: a column is unknown.
    """
    _require(frame, row, column, value)
    down, across = list(dict.fromkeys(frame[row])), list(dict.fromkeys(frame[column]))
    values = frame.set_index([row, column])[value].unstack(column).reindex(index=down, columns=across).to_numpy(float)
    log = isinstance(norm, LogNorm)
    known = values[np.isfinite(values) & ((values > 0) | (not log))]
    low, high = (known.min(), known.max()) if len(known) else (0.1, 1.0)
    extend = "neither"
    if norm is not None and norm.vmin is not None and norm.vmax is not None:
        extend = "max" if high > norm.vmax * (1 + 1e-6) else "neither"
        low, high = norm.vmin, norm.vmax
    elif not high > low:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    scale = LogNorm(low, high) if log else Normalize(low, high)
    colours = matplotlib.colormaps["cividis"]
    with style():
        ax.set_facecolor("0.93")
        ax.grid(visible=False)
        clipped = np.clip(values, low, high)
        mesh = ax.pcolormesh(clipped, cmap=colours, norm=scale, edgecolors="white", linewidth=1.0)
        for (i, j), number in np.ndenumerate(values):
            if math.isnan(number):
                ax.text(j + 0.5, i + 0.5, empty, ha="center", va="center", fontsize=6, color="0.35")
                continue
            red, green, blue, _ = colours(scale(clipped[i, j]))
            dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
            ink = "white" if dark else "black"
            ax.text(j + 0.5, i + 0.5, _short(number), ha="center", va="center", fontsize=6, color=ink)
        ax.set_xticks(np.arange(len(across)) + 0.5, [str(name) for name in across])
        ax.set_yticks(np.arange(len(down)) + 0.5, [str(name) for name in down])
        ax.invert_yaxis()
        ax.set(**axes)
        ax.figure.colorbar(mesh, ax=ax, label=label, extend=extend)


def _groups(frame: DataFrame, hue: str | None, order: Sequence[str] | None) -> list[tuple[str, DataFrame]]:
    if hue is None:
        return [("", frame)]
    names = list(order) if order is not None else list(dict.fromkeys(frame[hue]))
    return [(str(name), frame[frame[hue] == name]) for name in names]


def _require(frame: DataFrame, *names: str | None) -> None:
    for name in names:
        if name is not None and name not in frame.columns:
            raise unknown("column", name, map(str, frame.columns))


def _short(number: float) -> str:
    """Format a number to fit a cell: ``0.062``, ``5e-4``, ``12``, ``340``."""
    if number != 0 and not 0.01 <= abs(number) < 10_000:
        mantissa, _, exponent = f"{number:.0e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{number:.2g}" if abs(number) < 99.5 else f"{number:.0f}"
