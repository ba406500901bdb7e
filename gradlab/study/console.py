"""Print tables, verdicts and lines of text in a terminal; ``report`` shows the same tables and verdicts as HTML."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.study.formatting import columns
from gradlab.study.verdicts import WORDS, Verdict

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console
    from rich.table import Table

ROWS = 40


def print_line(console: Console, line: str) -> None:
    """Print text verbatim, without wrapping."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def plain_table(*heads: str, right: Collection[str] = ()) -> Table:
    """Return an empty table without borders.

    Args:
        *heads: column heads.
        right: heads of right-aligned columns.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left")
    return table


def show_table(console: Console, frame: DataFrame, path: Path) -> None:
    """Print the first rows, with the paper's numbers next to the measured ones.

    A table that is too wide is transposed if it has few rows, and loses columns otherwise.

    Args:
        console: where to print.
        frame: the table.
        path: path of the CSV with all rows.
    """
    heads, cells, right = [], [], ["paper"]
    for column in columns(frame.head(ROWS)):
        heads.append(column.name)
        cells.append(column.cells)
        right += [column.name] * column.numeric
        if column.paper:
            heads.append("paper")
            cells.append(column.paper)
    widths = _widths(heads, cells)
    if sum(widths) > console.width and len(frame) <= 6:
        # Few rows with many columns: print one line per column.
        heads, cells = ["", *cells[0]], [heads[1:], *map(list, zip(*cells[1:], strict=True))]
        right, widths = heads[1:], _widths(heads, cells)
    kept = len(heads)
    while kept > 2 and sum(widths[:kept]) > console.width:
        kept -= 1
    table = plain_table(*heads[:kept], right=right)
    for row in zip(*cells[:kept], strict=True):
        table.add_row(*row)
    console.print(table, markup=False)
    more = [f"{len(frame) - ROWS} more rows"] if len(frame) > ROWS else []
    more += [f"{len(heads) - kept} more columns"] if kept < len(heads) else []
    if more:
        print_line(console, f"{' and '.join(more)} in {path}")


def _widths(heads: list[str], cells: list[list[str]]) -> list[int]:
    return [max(map(len, [head, *column])) + 2 for head, column in zip(heads, cells, strict=True)]


def show_verdicts(console: Console, verdicts: Iterable[Verdict]) -> None:
    """Print one line per claim: ``holds``, ``not here`` or ``undecided``, and the evidence."""
    for verdict in verdicts:
        text = f"{WORDS[verdict.answer]:>9}  {verdict.claim} ({verdict.source}): {verdict.evidence}"
        console.print(text, markup=False, highlight=False)


def show_ledger(console: Console, entries: Iterable[tuple[int, str, str, str, str, str, str]]) -> None:
    """Print the claims ledger: number, claim with its source, verdict, and evidence with the study and its profile."""
    table = plain_table("no.", "claim", "verdict", "evidence")
    for column, share in zip(table.columns, (None, 3, None, 4), strict=True):
        column.ratio, column.no_wrap = share, share is None
    for number, source, claim, verdict, evidence, study, budget in entries:
        where = f" [{study}, {budget}]" if budget else ""
        table.add_row(str(number), f"{claim} ({source})", verdict, evidence + where)
    console.print(table, markup=False)


def show_checks(console: Console, rows: Iterable[tuple[str, int, float, float, float, float, str]]) -> None:
    """Print the checks of an estimator.

    Args:
        console: where to print.
        rows: tuples ``(problem, k, exact, mean, se, z, verdict)``.
    """
    table = plain_table("problem", "k", "exact", "mean", "bias", "z", "", right=("k", "exact", "mean", "bias", "z"))
    for problem, k, exact, mean, se, z, verdict in rows:
        bias = f"{mean - exact:+.2g} \u00b1 {se:.1g}"
        table.add_row(problem, str(k), f"{exact:.5g}", f"{mean:.5g}", bias, f"{z:.1f}", verdict)
    console.print(table, markup=False)


def show_packed(console: Console, weights: Sequence[Any], lines: Iterable[str]) -> None:
    """Print packed or unpacked weights, then some lines.

    Args:
        console: where to print.
        weights: records of type ``WeightSet``.
        lines: lines to print below them.
    """
    table = plain_table("run", "weights", "iteration", "optimizer", "MB", "SHA-256", right=("iteration", "MB"))
    for p in weights:
        optimizer = "-" if p.kind != "last" else "kept" if p.optimizer else "left out"
        table.add_row(p.run, p.kind, str(p.iteration), optimizer, f"{p.megabytes:.1f}", p.digest[:16])
    if weights:
        console.print(table, markup=False)
    for line in lines:
        print_line(console, line)
