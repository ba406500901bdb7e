"""Stop work in order: a signal or a deadline requests a stop, and work ends at the next point where nothing is lost.

Deadlines use the monotonic clock, which changes of the wall clock do not affect.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from gradlab.errors import Stopped

# Signals that schedulers send before SIGKILL: SLURM's default, and the one requested by --signal=USR1@60.
SIGNALS = ("SIGTERM", "SIGUSR1")

_received: str | None = None  # of the process, as signals are
_deadline: float | None = None  # of the process too


@contextlib.contextmanager
def handled(deadline: float | None = None) -> Iterator[None]:
    """Treat the signals and the deadline as requests to stop; restore the earlier handlers at the end.

    Only the main thread receives signals. In other threads only the deadline counts.

    Args:
        deadline: time on ``time.monotonic()``.
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
    """Return the reason to stop now, as in "stopped by SIGTERM" or "stopped at the time limit"; None to continue.

    Args:
        deadline: time on ``time.monotonic()``, in addition to the deadline of ``handled``.
    """
    if _received is not None:
        return f"by {_received}"
    over = any(end is not None and time.monotonic() > end for end in (_deadline, deadline))
    return "at the time limit" if over else None


def raise_if_stopped(deadline: float | None = None) -> None:
    """Stop the work if a stop was requested.

    Args:
        deadline: as for ``stop_reason``.

    Raises:
        Stopped: a stop was requested; the message gives the reason.
    """
    reason = stop_reason(deadline)
    if reason is not None:
        raise Stopped(f"stopped {reason}")
