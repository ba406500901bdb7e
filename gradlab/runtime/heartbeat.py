"""Maintain the state of a training run or a study in ``state.json`` of its folder, for ``gradlab status``.

The working process rewrites the file atomically every few seconds, from a thread. Finished work has no state file, but
``final.safetensors`` or ``provenance.json``. A killed process leaves its last state behind.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import distributed, files

if TYPE_CHECKING:
    from gradlab.runtime.progress import Advance, Progress

FILE = "state.json"
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


@dataclass(frozen=True)
class State:
    """Last known state of a run or a study.

    Attributes:
        status: ``"waiting"``, ``"running"``, ``"stopped"`` or ``"failed"``.
        total: iterations of a run; 0 for a study.
        done: finished iterations.
        seconds: seconds per iteration; NaN until two iterations are done.
        note: last message, e.g. the loss, or the error after a failure.
        study: study that the run is trained for.
        host: host of the process that wrote the state.
        pid: ID of this process.
        time: time of writing, in seconds since 1970.
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
    def current(self) -> str:
        """``status``, or ``"interrupted"`` if the process is gone: by PID on this host, by heartbeat age elsewhere.

        On Windows by heartbeat age alone.
        """
        stale = self.status == "running" and abs(time.time() - self.time) >= STALE_SECONDS
        gone = self.status in ("running", "waiting") and (stale or self._exited)
        return "interrupted" if gone else self.status

    @property
    def seconds_left(self) -> float:
        """Seconds until a running run is done; NaN if its speed is not known yet."""
        return max((self.total - self.done) * self.seconds - (time.time() - self.time), 0.0)  # NaN stays NaN

    @property
    def _exited(self) -> bool:
        # On Windows os.kill ends processes: signal 0 is Ctrl-C there.
        if self.host == socket.gethostname() and sys.platform != "win32":
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return True
            except OSError:
                pass  # a process of another user
        return False


def write(folder: Path, state: State) -> None:
    """Write the state of an existing folder.

    Args:
        folder: folder of the work.
        state: state to write.
    """
    files.write_json(folder / FILE, {n: None if v != v else v for n, v in asdict(state).items()})


def read(folder: Path) -> State | None:
    """Return the state of a folder, or None if there is none or it is damaged."""
    try:
        content = files.read_json(folder / FILE)
        if content["seconds"] is None:
            content["seconds"] = math.nan
        return State(**{name: kind(content[name]) for name, kind in get_type_hints(State).items()})
    except (GradlabError, KeyError, TypeError, ValueError, OverflowError):
        return None


def clear(folder: Path) -> None:
    """Remove the state of a folder."""
    if distributed.group().is_main:
        (folder / FILE).unlink(missing_ok=True)


class Heartbeat:
    """Count units of work and write the state of their folder.

    Args:
        folder: folder of the work.
        state: initial state.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self._folder, self._state = folder, state
        self._first: tuple[float, int] | None = None

    def __call__(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` more units."""
        done, now = self._state.done + n, time.monotonic()
        if self._first is None:  # earlier work does not affect the speed
            self._first = now, done
        since, before = self._first
        seconds = (now - since) / (done - before) if done > before else math.nan
        self._state = replace(self._state, done=done, seconds=seconds, note=note or self._state.note)

    def skip(self, n: int, note: str = "") -> None:
        """Count units of an earlier run, which do not affect the speed.

        Args:
            n: number of units.
            note: message to show.
        """
        self._state = replace(self._state, done=self._state.done + n, note=note or self._state.note)
        self._first = time.monotonic(), self._state.done

    def write(self, status: str = "running", note: str = "") -> None:
        """Write the state; a failed write is ignored, because the work itself fails when it writes its own files.

        Args:
            status: as in ``State``.
            note: as in ``State``; the last note by default.
        """
        with contextlib.suppress(GradlabError):
            write(self._folder, replace(self._state, status=status, note=note or self._state.note, time=time.time()))


@contextlib.contextmanager
def running(folder: Path, total: int = 0, study: str = "") -> Iterator[Heartbeat]:
    """Keep the state of ``folder`` up to date while the context is open, and record how the work ended.

    Args:
        folder: folder of the work; created if needed.
        total: number of units of work.
        study: study that a run is trained for.
    """
    files.ensure_folder(folder)
    heartbeat = Heartbeat(folder, State("running", total, study=study))
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            heartbeat.write()

    thread = threading.Thread(target=beat, daemon=True)
    heartbeat.write()
    thread.start()
    status, note = "", ""
    try:
        yield heartbeat
    except (Stopped, KeyboardInterrupt, GeneratorExit):
        status = "stopped"
        raise
    except BaseException as error:
        status, note = "failed", str(error) or type(error).__name__
        raise
    finally:
        over.set()
        thread.join()
        if status:
            heartbeat.write(status, note)
        else:
            clear(folder)


@contextlib.contextmanager
def waiting(totals: Mapping[Path, int], study: str) -> Iterator[None]:
    """Mark folders as ``waiting`` until a process works on them.

    ``gradlab status`` then includes them in the time left.

    Args:
        totals: units of work, by folder.
        study: study that the runs are trained for.
    """
    for folder, total in totals.items():
        write(folder, State("waiting", total, study=study))
    try:
        yield
    finally:
        for folder in totals:
            state = read(folder)
            if state is not None and state.status == "waiting" and state.pid == os.getpid():
                clear(folder)


class Follower(contextlib.ExitStack):
    """Show the progress of work in other processes, read from the state files of its folders.

    Args:
        progress: where to show it.
        title: title of the bar for all work.
        tasks: title and units of work, by folder.
    """

    def __init__(self, progress: Progress, title: str, tasks: Mapping[Path, tuple[str, int]]) -> None:
        super().__init__()
        self._progress, self._tasks = progress, tasks
        self._overall = self.enter_context(progress.track(title, sum(total for _, total in tasks.values())))
        self._bars: dict[Path, tuple[contextlib.ExitStack, Advance]] = {}
        self._shown = Counter[Path]()
        self._ended = 0

    def update(self) -> None:
        """Read the states and show the progress since the last call."""
        for folder in self._tasks:
            state = read(folder)
            if state is not None and state.status == "running":
                self._show(folder, state.done, state.note)

    def end(self, folder: Path, complete: bool) -> None:
        """Close the bar of a folder whose work has ended.

        Args:
            folder: the folder.
            complete: whether all of its work is done.
        """
        self._ended += 1
        if complete:
            self._show(folder, self._tasks[folder][1], "")
        if folder in self._bars:
            self._bars.pop(folder)[0].close()

    def _show(self, folder: Path, done: int, note: str) -> None:
        if folder not in self._bars:
            stack = self.enter_context(contextlib.ExitStack())
            self._bars[folder] = stack, stack.enter_context(self._progress.track(*self._tasks[folder]))
        new = done - self._shown[folder]
        if new > 0:
            self._shown[folder] = done
            self._bars[folder][1](new, note)
            self._overall(new, f"{self._ended} of {len(self._tasks)} ended")
