"""The table and the picture of a run, from its rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console


def table(console: Console, frame: DataFrame, settings: Any) -> None:
    """One line per case and peer; ratios below 1 are faster than the peer."""
    title = f"seconds; ratio = ours / peer, medians of {settings.pairs} pairs, {settings.threads} threads"
    grid = Table(title=title, title_justify="left")
    for name in ("case", "peer"):
        grid.add_column(name, overflow="fold")
    for name in ("ours", "peer s", "ratio", "min-max", "MB", "peer MB", "limit", "goal"):
        grid.add_column(name, justify="right", overflow="fold")
    before = None
    for row in frame.to_dict("records"):
        new = row["case"] != before
        before = row["case"]
        span = f"{_number(row['ratio_min'])}-{_number(row['ratio_max'])}" if _known(row["ratio"]) else ""
        limit = f"{_number(row['limit_seconds'])} {row['limit_is']}" if _known(row["limit_seconds"]) and new else ""
        grid.add_row(
            row["case"] if new else "",
            row["peer"] or "-",
            _number(row["ours_seconds"]),
            _number(row["peer_seconds"]),
            _number(row["ratio"]),
            span,
            _number(row["ours_peak_mb"]),
            _number(row["peer_peak_mb"]),
            limit,
            (row["goal"] or "") if new else "",
        )
    console.print(grid)


def pictures(frame: DataFrame, folder: Path) -> None:
    """``bench.png`` and ``.pdf``: the ratio of each pair, with its range, on a logarithmic axis; below 1 is faster."""
    from gradlab.study.plotstyle import figure, save, style

    found = frame[frame["ratio"].notna()].reset_index(drop=True)
    if found.empty:
        return
    with style():
        fig, ax = figure(1, 1, width="page", height=0.6 + 0.16 * len(found))
        at = range(len(found))
        low, high = found["ratio"] - found["ratio_min"], found["ratio_max"] - found["ratio"]
        ax.errorbar(found["ratio"], at, xerr=[low, high], fmt="o", markersize=4, linewidth=1)
        ax.axvline(1, color="0.6", linewidth=0.8)
        ax.set_xscale("log")
        ax.set_yticks(list(at), [f"{c}: {p}" for c, p in zip(found["case"], found["peer"], strict=True)], fontsize=6)
        ax.set_ylim(len(found) - 0.4, -0.6)
        ax.set_xlabel("seconds of gradlab / seconds of the peer")
        save(fig, folder / "bench")


def growth(frame: DataFrame, folder: Path) -> None:
    """``growth.png`` and ``.pdf``: seconds and peak memory over the size, one curve per axis that grows."""
    from gradlab.study.plotstyle import figure, save, style

    rows = frame[frame["case"].str.startswith("growth, ")]
    if rows.empty:
        return
    split = rows["case"].str.removeprefix("growth, ").str.rsplit(" = ", n=1)
    axes_of, sizes = split.str[0], split.str[1].astype(float)
    with style():
        fig, (left, right) = figure(1, 2, width="page", height=2.4)
        for name in dict.fromkeys(axes_of):
            here = axes_of == name
            left.plot(sizes[here], rows["ours_seconds"][here], "o-", markersize=3, label=name)
            right.plot(sizes[here], rows["ours_peak_mb"][here], "o-", markersize=3, label=name)
        for ax, what in ((left, "seconds"), (right, "peak memory of the process, MB")):
            ax.set_xscale("log")
            ax.set_xlabel("size")
            ax.set_ylabel(what)
        left.set_yscale("log")
        right.set_ylim(bottom=0)
        right.legend(fontsize=6, loc="lower right")
        save(fig, folder / "growth")


def _known(value: Any) -> bool:
    return value is not None and value == value


def _number(value: Any) -> str:
    return f"{value:.3g}" if _known(value) else ""
