"""Tables and verdicts in a terminal; the page of ``report`` shows the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.study.formatting import columns

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

ROWS = 40
HOLDS = {True: "holds", False: "not here", None: "undecided"}


def show_table(console: Console, frame: DataFrame, path: Path) -> None:
    """Prints the first rows, the paper's numbers beside the measured; turned on its side or cut where too wide."""
    from rich.table import Table

    heads, cells, right = [], [], []
    for column in columns(frame.head(ROWS)):
        heads.append(column.name)
        cells.append(column.cells)
        right.append(column.numeric)
        if column.paper:
            heads.append("paper")
            cells.append(column.paper)
            right.append(True)
    widths = [max(map(len, [head, *cell])) + 2 for head, cell in zip(heads, cells, strict=True)]
    if sum(widths) > console.width and len(frame) <= 6:
        # Few rows of many columns: one line for each column.
        heads, cells = ["", *cells[0]], [heads[1:], *map(list, zip(*cells[1:], strict=True))]
        right = [False, *[True] * len(frame)]
        widths = [max(map(len, [head, *cell])) + 2 for head, cell in zip(heads, cells, strict=True)]
    kept = len(heads)
    while kept > 2 and sum(widths[:kept]) > console.width:
        kept -= 1
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, numeric in zip(heads[:kept], right, strict=False):
        table.add_column(_plain(head), justify="right" if numeric else "left")
    for row in zip(*cells[:kept], strict=True):
        table.add_row(*map(_plain, row))
    console.print(table)
    more = [f"{len(frame) - ROWS} more rows"] if len(frame) > ROWS else []
    more += [f"{len(heads) - kept} more columns"] if kept < len(heads) else []
    if more:
        console.print(f"{' and '.join(more)} in {path}", markup=False, highlight=False, soft_wrap=True)


def show_verdicts(console: Console, verdicts: Iterable[tuple[str, str, bool | None, str]]) -> None:
    """Prints one line for each claim: ``holds``, ``not here`` or ``undecided``, and why."""
    for claim, source, holds, evidence in verdicts:
        word = HOLDS[None if holds is None else bool(holds)]
        console.print(f"{word:>9}  {claim} ({source}): {evidence}", markup=False, highlight=False)


def show_ledger(console: Console, entries: Iterable[tuple[int, str, str, str, str, str, str]]) -> None:
    """Prints the claims ledger: number, claim with its source, verdict, evidence with the study and its profile."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", show_lines=False)
    for head, share in (("no.", None), ("claim", 3), ("verdict", None), ("evidence", 4)):
        table.add_column(head, ratio=share, no_wrap=share is None)
    for number, source, claim, verdict, evidence, study, budget in entries:
        where = f" [{study}, {budget}]" if budget else ""
        table.add_row(str(number), _plain(f"{claim} ({source})"), verdict, _plain(evidence + where))
    console.print(table)


def show_checks(console: Console, rows: Iterable[tuple[str, int, float, float, float, float, str]]) -> None:
    """Prints ``(posterior, k, exact, mean, se, z, verdict)`` of an estimator that was checked."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("problem", "k", "exact", "mean", "bias", "z", ""):
        table.add_column(head, justify="left" if head in ("problem", "") else "right")
    for problem, k, exact, mean, se, z, verdict in rows:
        bias = f"{mean - exact:+.2g} ± {se:.1g}"
        table.add_row(problem, str(k), f"{exact:.5g}", f"{mean:.5g}", bias, f"{z:.1f}", _plain(verdict))
    console.print(table)


def show_prepared(console: Console, made: int, done_before: int, skipped: DataFrame, asked: int, target: Path) -> None:
    """Prints what ``gradlab data prepare`` did: how many, what it left out and why, and what to do with the set."""
    if len(skipped):
        show_table(console, skipped, target / "skipped.csv")
    words = f"{made} images are in {target}, {done_before} of them done before; {len(skipped)} were left out"
    if made < asked:
        words += f"; {asked} were asked for, there are no more"
    hint = f"train on them with: gradlab run STUDY --train-images {target}" if made else "there is nothing to train on"
    console.print(f"{words}\n{hint}", markup=False, highlight=False, soft_wrap=True)


def show_packed(console: Console, found: Sequence[Any], lines: Iterable[str]) -> None:
    """Prints the weights that were packed or unpacked (``shards.WeightSet``), and what else there is to say."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("run", "weights", "iteration", "optimizer", "MB", "SHA-256"):
        table.add_column(head, justify="right" if head in ("iteration", "MB") else "left")
    for p in found:
        optimizer = "-" if p.kind != "last" else "kept" if p.optimizer else "left out"
        table.add_row(_plain(p.run), p.kind, str(p.iteration), optimizer, f"{p.megabytes:.1f}", p.digest[:16])
    if found:
        console.print(table)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)  # names such as "[Balle et al., 2018]" are not markup
