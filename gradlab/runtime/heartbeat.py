"""What a training run or a study is doing, in ``state.json`` of its folder, for whoever looks: ``gradlab status``.

A thread writes it anew every few seconds, whole or not at all. What is finished has none: ``final.safetensors`` or
``provenance.json`` say so. A process that is killed leaves its last state behind, whose age tells.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import distributed, files

FILE = "state.json"
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


@dataclass(frozen=True)
class State:
    """What a run or a study was doing when it last said so.

    Attributes:
        status: ``"waiting"``, ``"running"``, ``"stopped"`` or ``"failed"``.
        total: iterations of the run; 0 of a study.
        done: of them.
        seconds: an iteration takes, NaN before two are done.
        note: what the run said last, e.g. its loss; of a failure, the sentence.
        study: for which the run is trained.
        host, pid: who says so; time: when, seconds since 1970.
    """

    status: str
    total: int = 0
    done: int = 0
    seconds: float = math.nan
    note: str = ""
    study: str = ""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    time: float = field(default_factory=time.time)

    @property
    def alive(self) -> bool:
        """Whether the process that said so still runs: by its id on this machine, by the age of its word elsewhere."""
        return not self.ended and abs(time.time() - self.time) < STALE_SECONDS

    @property
    def ended(self) -> bool:
        """Whether the process that said so was on this machine and is gone."""
        if self.host == socket.gethostname():
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return True
            except OSError:
                pass  # it is another user's
        return False


def write(folder: Path, state: State) -> None:
    """Write the state of what lives in ``folder``, which is there."""
    files.write_json(folder / FILE, {n: None if v != v else v for n, v in asdict(state).items()})


def read(folder: Path) -> State | None:
    """The state of what lives in ``folder``; None where it has none, or one that is no state."""
    try:
        said: dict[str, Any] = files.read_json(folder / FILE)
        return State(
            str(said["status"]),
            int(said["total"]),
            int(said["done"]),
            math.nan if said["seconds"] is None else float(said["seconds"]),
            str(said["note"]),
            str(said["study"]),
            str(said["host"]),
            int(said["pid"]),
            float(said["time"]),
        )
    except (GradlabError, KeyError, TypeError, ValueError, OverflowError):
        return None


def clear(folder: Path) -> None:
    """Nothing is going on in ``folder``."""
    if distributed.group().is_main:
        (folder / FILE).unlink(missing_ok=True)


class Pulse:
    """Counts units of work, and writes the state of them from a thread of its own."""

    def __init__(self, folder: Path, state: State) -> None:
        """Nothing is written yet."""
        self._folder, self._state = folder, state
        self._first: tuple[float, int] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __call__(self, n: int = 1, note: str = "") -> None:
        """``n`` more units are done."""
        done, now = self._state.done + n, time.monotonic()
        if self._first is None:  # what was done before does not count for the speed
            self._first = now, done
        since, before = self._first
        seconds = (now - since) / (done - before) if done > before else math.nan
        self._state = replace(self._state, done=done, seconds=seconds, note=note or self._state.note)

    def skip(self, n: int, note: str = "") -> None:
        """``n`` units were done before; they do not count for the speed."""
        self._state = replace(self._state, done=self._state.done + n, note=note or self._state.note)
        self._first = time.monotonic(), self._state.done

    def start(self) -> None:
        """Write the state now, and every few seconds from now on."""
        self._write(self._state)
        if distributed.group().is_main:
            self._thread.start()

    def end(self, status: str | None, note: str = "") -> None:
        """Write the last state; None for what is finished, and has none."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if status is None:
            clear(self._folder)
        else:
            self._write(replace(self._state, status=status, note=note or self._state.note))

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self._write(self._state)

    def _write(self, state: State) -> None:
        # Work goes on where its state cannot be told: what it writes itself will say that the disk is full.
        with contextlib.suppress(GradlabError):
            write(self._folder, replace(state, time=time.time()))


@contextlib.contextmanager
def running(folder: Path, total: int = 0, study: str = "") -> Iterator[Pulse]:
    """Says what goes on in ``folder`` while the context is open, and how it ended.

    Args:
        folder: is made where it is not there.
        total: units of work.
        study: for which a run is trained.
    """
    files.ensure_folder(folder)
    pulse = Pulse(folder, State("running", total, study=study))
    pulse.start()
    try:
        yield pulse
    except (Stopped, KeyboardInterrupt, GeneratorExit):
        pulse.end("stopped")
        raise
    except BaseException as error:
        pulse.end("failed", str(error) or type(error).__name__)
        raise
    pulse.end(None)
