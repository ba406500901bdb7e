"""Progress with an ETA: a bar in a terminal, a few quiet lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from gradlab.runtime import distributed, signals

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console

QUIET_SHARE, QUIET_SECONDS, SOONEST_SECONDS = 0.1, 15.0, 1.0


class Advance(Protocol):
    """Says that ``n`` more units are done; ``note`` is shown beside, e.g. ``"loss 1.02"``."""

    def __call__(self, n: int = 1, note: str = "") -> None:
        """Counts ``n`` units.

        Raises:
            Stopped: time is up, or a signal has asked for the end (``gradlab.runtime.signals``).
        """


def stop_if_requested() -> None:
    """Ends the work if time is up or a signal has come; several processes end together, where all of them are asked.

    Raises:
        Stopped: it was asked for.
    """
    if distributed.group().size == 1:
        signals.raise_if_stopped()


def quiet(n: int = 1, note: str = "") -> None:
    """An ``Advance`` that shows nothing."""


def skip(advance: Callable[..., Any], n: int, note: str = "") -> None:
    """Counts ``n`` units that were done by an earlier run: they do not count for the speed, and so for the ETA.

    Args:
        advance: what ``track`` gave, or any other function of ``n`` and ``note``.
        n: how many.
        note: shown beside.
    """
    getattr(advance, "skip", advance)(n, note)


class _Counter:
    """What ``track`` gives: counts, and ends the work when a signal or the time limit asks for that."""

    def __init__(self, count: Callable[[int, str, bool], None]) -> None:
        self._count = count

    def __call__(self, n: int = 1, note: str = "") -> None:
        self._count(n, note, True)
        stop_if_requested()

    def skip(self, n: int, note: str = "") -> None:
        self._count(n, note, False)


class Progress:
    """Shows how far tasks have come, on one console."""

    def __init__(self, console: Console) -> None:
        """Shows on ``console``: a bar where it is a terminal."""
        self._console = console
        self._bars: rich.progress.Progress | None = None

    @contextlib.contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Follows one task.

        Args:
            description: what is done.
            total: how many units there are.
            done: how many were done before, e.g. by the run that is resumed; they do not count for the speed.
        """
        show = self._bar if self._console.is_terminal else self._lines
        with show(description, total, done) as advance:
            yield advance

    @contextlib.contextmanager
    def _bar(self, description: str, total: int, done: int) -> Iterator[Advance]:
        from rich import progress
        from rich.markup import escape

        outermost = self._bars is None
        if self._bars is None:
            self._bars = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=None),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[note]}"),
                console=self._console,
                expand=True,
                # A minute: steps of different sizes, such as an evaluation between epochs, should not make it jump.
                speed_estimate_period=60.0,
            )
            self._bars.start()
        bars = self._bars
        task = bars.add_task(escape(description), total=total, completed=done, note="")

        def count(n: int, note: str, worked: bool) -> None:
            nonlocal done
            done += n
            if not worked:
                bars.reset(task, completed=done)  # forgets the speed, which such a leap would falsify
            bars.update(task, completed=done, note=escape(note))

        try:
            yield _Counter(count)
        finally:
            if outermost:
                bars.stop()
                self._bars = None

    @contextlib.contextmanager
    def _lines(self, description: str, total: int, done: int) -> Iterator[Advance]:
        start = said_at = time.monotonic()
        first = said = done
        last = ""

        def count(n: int, note: str, worked: bool) -> None:
            nonlocal done, first, said, said_at, last
            done, last = done + n, note or last
            if not worked:
                first, said = first + n, said + n
                return
            now = time.monotonic()
            due = done - said >= QUIET_SHARE * total and now - said_at >= SOONEST_SECONDS
            if done >= total or not (due or now - said_at >= QUIET_SECONDS):
                return
            said, said_at = done, now
            left = (now - start) / max(done - first, 1) * (total - done)
            self._say(f"{description}: {done}/{total}, {duration(now - start)}, {duration(left)} left", last)

        yield _Counter(count)
        self._say(f"{description}: {done}/{total} in {duration(time.monotonic() - start)}", last)

    def _say(self, line: str, note: str) -> None:
        text = f"  {line}, {note}" if note else f"  {line}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as a reader says them: ``8.5 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
