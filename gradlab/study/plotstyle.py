"""Define the plotting style: sizes, colours, markers, and figure files that are reproducible to the byte."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradlab.errors import unknown
from gradlab.runtime import files
from gradlab.runtime.progress import stop_if_requested
from gradlab.study import palette

WIDTHS = {"column": 3.4, "page": 7.0}  # inches, as in two-column papers
COLOURS = [*sns.color_palette("colorblind", 10)]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
# As many dashes as colours, so that lines can be told apart in greyscale.
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (1.5, 2)),
    (0, (6, 1.2, 1, 1.2, 1, 1.2, 1, 1.2)),
    (0, (12, 3)),
    (0, (3, 1, 3, 3)),
    (0, (2.5, 1.2)),
)
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "oooo", "----", "||||", "****")
STYLE: dict[str, Any] = {
    **sns.axes_style("whitegrid"),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so the bytes are the same everywhere
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "0.2",
    "grid.linewidth": 0.5,
    "grid.color": "0.88",
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Apply gradlab's matplotlib settings inside the block."""
    with matplotlib.rc_context():
        # Not rc_context(rc=...), which rejects keys of a matplotlib newer than seaborn knows.
        settings: Any = {key: value for key, value in STYLE.items() if key in matplotlib.rcParams}
        matplotlib.rcParams.update(settings)
        yield


def figure(
    rows: int = 1, cols: int = 1, width: str = "column", height: float | None = None, **kwargs: Any
) -> tuple[Figure, Any]:
    """Create a figure and its axes in gradlab's style.

    Args:
        rows: number of rows of axes.
        cols: number of columns of axes.
        width: ``"column"`` (3.4 inches) or ``"page"`` (7 inches).
        height: height in inches; proportional to the width by default.
        **kwargs: arguments for ``Figure.subplots``, e.g. ``sharey=True``.

    Returns:
        The figure, and one axes or an array of them.

    Raises:
        GradlabError: the width is unknown.
    """
    if width not in WIDTHS:
        raise unknown("width of a figure", width, WIDTHS)
    inches = WIDTHS[width]
    with style():
        fig = Figure(figsize=(inches, height or 0.72 * inches / cols * rows), layout="constrained")
        FigureCanvasAgg(fig)
        return fig, fig.subplots(rows, cols, **kwargs)


def png(fig: Figure, **options: Any) -> bytes:
    """Return the figure as a small PNG (``gradlab.study.palette``).

    Args:
        fig: the figure.
        **options: arguments for ``Figure.savefig``.
    """
    content = io.BytesIO()
    fig.savefig(content, format="png", **options)
    return palette.light(content.getvalue())


def save(fig: Figure, path: str | Path) -> list[Path]:
    """Save a figure as a small PNG (300 dpi) and a PDF (vector); equal figures give equal bytes.

    Args:
        fig: the figure.
        path: path without a suffix.

    Returns:
        The paths of the two files.

    Raises:
        GradlabError: a file cannot be written.
        Stopped: the deadline has passed, or a signal has arrived (``gradlab.runtime.signals``).
    """
    stop_if_requested()
    # Omit the date and the version of the program.
    unnamed = {"CreationDate": None, "Creator": None, "Producer": None}
    vector = io.BytesIO()
    with style():
        raster = png(fig, metadata={"Software": None})
        fig.savefig(vector, format="pdf", metadata=unnamed)
    written = []
    for suffix, content in (("png", raster), ("pdf", vector.getvalue())):
        target = Path(f"{path}.{suffix}")  # with_suffix would cut a name at a dot
        files.write_bytes(target, content)
        written.append(target)
    return written
