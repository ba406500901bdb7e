"""Orderly ends: a signal or a deadline asks for a stop, and work ends at the next place where nothing is lost.

Deadlines are on the monotonic clock, which no change of the wall clock moves.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from gradlab.errors import Stopped

# What schedulers send ahead of SIGKILL: SLURM's default, and the one that its --signal=USR1@60 asks for.
SIGNALS = ("SIGTERM", "SIGUSR1")

_asked: str | None = None  # of the process, as signals are
_deadline: float | None = None  # of the process too


@contextlib.contextmanager
def listening(deadline: float | None = None) -> Iterator[None]:
    """From here on the signals, and the deadline, ask for a stop; before and after signals do what they did.

    Only the main thread can listen to signals: elsewhere the deadline alone counts.

    Args:
        deadline: on ``time.monotonic()``.
    """
    global _asked, _deadline

    def ask(number: int, frame: FrameType | None) -> None:
        global _asked
        _asked = signal.Signals(number).name

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {name: signal.signal(getattr(signal, name), ask) for name in SIGNALS if hasattr(signal, name)}
    outer, _deadline = _deadline, deadline
    try:
        yield
    finally:
        _deadline = outer
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
        _asked = None


def cause(deadline: float | None = None) -> str | None:
    """Why work should end now, as in "stopped by SIGTERM" or "stopped at the time limit"; None: go on.

    Args:
        deadline: on ``time.monotonic()``, besides that of ``listening``.
    """
    if _asked is not None:
        return f"by {_asked}"
    over = any(end is not None and time.monotonic() > end for end in (_deadline, deadline))
    return "at the time limit" if over else None


def check(deadline: float | None = None) -> None:
    """Ends the work if that was asked for.

    Raises:
        Stopped: it was; says why.
    """
    why = cause(deadline)
    if why is not None:
        raise Stopped(f"stopped {why}")
