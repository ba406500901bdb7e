"""Orderly stops: a signal or a deadline requests one, and work ends at the next point where nothing is lost.

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

_received: str | None = None  # of the process, as signals are
_deadline: float | None = None  # of the process too


@contextlib.contextmanager
def handled(deadline: float | None = None) -> Iterator[None]:
    """Take the signals and the deadline as requests to stop; earlier handlers are restored at the end.

    Only the main thread receives signals: in other threads only the deadline counts.

    Args:
        deadline: on ``time.monotonic()``.
    """
    global _received, _deadline

    def receive(number: int, frame: FrameType | None) -> None:
        global _received
        _received = signal.Signals(number).name

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {name: signal.signal(getattr(signal, name), receive) for name in SIGNALS if hasattr(signal, name)}
    outer, _deadline = _deadline, deadline
    try:
        yield
    finally:
        _deadline = outer
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
        _received = None


def stop_reason(deadline: float | None = None) -> str | None:
    """Return why work should stop now, as in "stopped by SIGTERM" or "stopped at the time limit"; None: continue.

    Args:
        deadline: on ``time.monotonic()``, in addition to that of ``handled``.
    """
    if _received is not None:
        return f"by {_received}"
    over = any(end is not None and time.monotonic() > end for end in (_deadline, deadline))
    return "at the time limit" if over else None


def raise_if_stopped(deadline: float | None = None) -> None:
    """Stop the work if a stop was requested.

    Raises:
        Stopped: with the reason.
    """
    reason = stop_reason(deadline)
    if reason is not None:
        raise Stopped(f"stopped {reason}")
