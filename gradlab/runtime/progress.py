"""Show progress with the time left: a rich bar in a terminal, occasional lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from rich.markup import escape

from gradlab.runtime import distributed, signals

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console

LINE_SHARE, LINE_SECONDS, SHORTEST_SECONDS = 0.1, 15.0, 1.0


class Advance(Protocol):
    """Function that counts finished units and shows a note next to the count, e.g. ``"loss 1.02"``."""

    def __call__(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` more units.

        Args:
            n: number of units.
            note: text to show next to the count.

        Raises:
            Stopped: the deadline has passed, or a signal has arrived (``gradlab.runtime.signals``).
        """


def stop_if_requested() -> None:
    """Stop the work of a single process if the deadline has passed or a signal has arrived.

    Several processes stop together, at points where they agree to stop.

    Raises:
        Stopped: a stop was requested.
    """
    if distributed.group().size == 1:
        signals.raise_if_stopped()


def quiet(n: int = 1, note: str = "") -> None:
    """Count units without showing anything; an ``Advance``."""


def skip(advance: Callable[..., Any], n: int, note: str = "") -> None:
    """Count units of an earlier run, which affect neither the speed nor the time left.

    Args:
        advance: the result of ``track``, or any other function of ``n`` and ``note``.
        n: number of units.
        note: text to show next to the count.
    """
    getattr(advance, "skip", advance)(n, note)


class Combined:
    """An ``Advance`` that calls others in turn."""

    def __init__(self, *advances: Callable[..., Any]) -> None:
        self._advances = advances

    def __call__(self, n: int = 1, note: str = "") -> None:
        """Count with all of them."""
        for advance in self._advances:
            advance(n, note)

    def skip(self, n: int, note: str = "") -> None:
        """Skip with all of them."""
        for advance in self._advances:
            skip(advance, n, note)


class _Bar:
    """A task of a rich progress display."""

    def __init__(self, bars: rich.progress.Progress, description: str, total: int, done: int) -> None:
        self._bars = bars
        self._task = bars.add_task(escape(description), total=total, completed=done, note="")

    def __call__(self, n: int = 1, note: str = "") -> None:
        self._bars.update(self._task, advance=n, note=escape(note))
        stop_if_requested()

    def skip(self, n: int, note: str = "") -> None:
        done = int(self._bars.tasks[self._task].completed) + n
        self._bars.reset(self._task, completed=done, note=escape(note))  # also resets the speed estimate


class _Lines:
    """A few lines of progress, for output that is not a terminal."""

    def __init__(self, console: Console, description: str, total: int, done: int) -> None:
        self._console, self._description, self._total = console, description, total
        self._first = self._printed = self._done = done
        self._start = self._printed_at = time.monotonic()
        self._note = ""

    def __call__(self, n: int = 1, note: str = "") -> None:
        self._done, self._note = self._done + n, note or self._note
        now = time.monotonic()
        since = now - self._printed_at
        due = self._done - self._printed >= LINE_SHARE * self._total and since >= SHORTEST_SECONDS
        if self._done < self._total and (due or since >= LINE_SECONDS):
            self._printed, self._printed_at = self._done, now
            taken = now - self._start
            left = taken / max(self._done - self._first, 1) * (self._total - self._done)
            self._print(f", {duration(taken)}, {duration(left)} left")
        stop_if_requested()

    def skip(self, n: int, note: str = "") -> None:
        self._done, self._first, self._printed = self._done + n, self._first + n, self._printed + n
        self._note = note or self._note

    def finish(self) -> None:
        self._print(f" in {duration(time.monotonic() - self._start)}")

    def _print(self, times: str) -> None:
        note = f", {self._note}" if self._note else ""
        line = f"  {self._description}: {self._done}/{self._total}{times}{note}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Progress:
    """Show the progress of tasks on a console: bars in a terminal, lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: rich.progress.Progress | None = None

    @contextlib.contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Show the progress of one task.

        Args:
            description: title of the task.
            total: number of units.
            done: units of an earlier run, which do not affect the speed.
        """
        if not self._console.is_terminal:
            lines = _Lines(self._console, description, total, done)
            yield lines
            lines.finish()
        elif self._bars is not None:
            yield _Bar(self._bars, description, total, done)
        else:
            from rich import progress

            with progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=None),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[note]}"),
                console=self._console,
                expand=True,
                # One minute, so that steps of different duration do not make the estimate jump.
                speed_estimate_period=60.0,
            ) as self._bars:
                try:
                    yield _Bar(self._bars, description, total, done)
                finally:
                    self._bars = None


def duration(seconds: float) -> str:
    """Format a duration: ``8.5 s``, ``3 min 20 s``, ``2 h 05 min``.

    Example:
        >>> from gradlab.runtime.progress import duration
        >>> duration(200), duration(7500)
        ('3 min 20 s', '2 h 05 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
