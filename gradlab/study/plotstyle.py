"""The project's plotting style: sizes, colours, markers, and figures written whole, the same bytes each time."""

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
# As many as colours: a line that is told apart by its dashes alone is told apart in grey.
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
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same bytes everywhere
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
    """The project's settings of matplotlib, inside the block only."""
    with matplotlib.rc_context():
        # rcParams.update and not rc_context(rc=...): the latter refuses keys of a newer matplotlib than seaborn knows.
        settings: Any = {key: value for key, value in STYLE.items() if key in matplotlib.rcParams}
        matplotlib.rcParams.update(settings)
        yield


def figure(
    rows: int = 1, cols: int = 1, width: str = "column", height: float | None = None, **kwargs: Any
) -> tuple[Figure, Any]:
    """A figure and its axes (one, or an array of them), in the project's style.

    Args:
        rows: rows of axes; ``cols`` likewise.
        width: ``"column"`` (3.4 inches) or ``"page"`` (7 inches).
        height: inches; by default in proportion.
        **kwargs: for ``Figure.subplots``, e.g. ``sharey=True``.

    Raises:
        GradlabError: unknown width.
    """
    if width not in WIDTHS:
        raise unknown("width of a figure", width, WIDTHS)
    inches = WIDTHS[width]
    with style():
        made = Figure(figsize=(inches, height or 0.72 * inches / cols * rows), layout="constrained")
        FigureCanvasAgg(made)
        return made, made.subplots(rows, cols, **kwargs)


def png(fig: Figure, **options: Any) -> bytes:
    """The figure as a light PNG (``gradlab.study.palette``); ``options`` are those of ``Figure.savefig``."""
    content = io.BytesIO()
    fig.savefig(content, format="png", **options)
    return palette.light(content.getvalue())


def save(fig: Figure, path: str | Path) -> list[Path]:
    """Writes ``path`` as light PNG (300 dpi) and PDF (vector); the same figure gives the same bytes.

    Raises:
        GradlabError: the disk refuses.
        Stopped: time is up, or a signal has come (``gradlab.runtime.signals``).
    """
    stop_if_requested()
    # Neither date nor version of the writing program.
    unnamed = {"CreationDate": None, "Creator": None, "Producer": None}
    vector = io.BytesIO()
    with style():
        raster = png(fig, metadata={"Software": None})
        fig.savefig(vector, format="pdf", metadata=unnamed)
    written = []
    for suffix, content in (("png", raster), ("pdf", vector.getvalue())):
        target = Path(f"{path}.{suffix}")  # not with_suffix: a name may hold a dot
        files.write_bytes(target, content)
        written.append(target)
    return written
