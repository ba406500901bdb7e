"""One process at a time in a folder: a lock of the operating system, which ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.runtime import files, provenance

LOCK, HOLDER = ".lock", ".lock-holder.json"
PAUSE = 0.5  # seconds between attempts of one that waits
LOOK = 0.2  # seconds for which one that does not wait tries: longer than ``held`` has the lock
_TEMPORARY = re.compile(r"\..*[0-9a-f]{8}\.tmp")  # what results.write_bytes and results.ensure_folder write first


@contextlib.contextmanager
def hold(folder: Path, remedy: str, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Holds a folder that exists; what a killed writer left half-written beside its place is removed.

    The lock file stays when the lock is given back: it is empty, and only a process that is alive can hold it.

    Args:
        folder: which.
        remedy: what the error asks of whoever is refused.
        waiting: called again and again with the name of the holder while another process has the folder, instead of
            the error; it may raise, to give up.

    Raises:
        GradlabError: another process holds the folder (named with its host), or the disk refuses.
    """
    import filelock

    lock = filelock.FileLock(folder / LOCK)
    while True:
        try:
            lock.acquire(timeout=LOOK if waiting is None else PAUSE)
            break
        except filelock.Timeout:
            if waiting is None:
                raise GradlabError(f"{folder} is in use by {_holder(folder)}: {remedy}") from None
            waiting(_holder(folder))
        except OSError as error:
            raise files.refusal(folder / LOCK, error) from None
    try:
        _tidy(folder)
        since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        who = {"process": os.getpid(), "host": socket.gethostname(), "since": since, "command": provenance.command()}
        with contextlib.suppress(OSError):  # news for whoever is refused, no result: it need not reach the disk
            (folder / HOLDER).write_text(json.dumps(who))
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def held(folder: Path) -> bool:
    """Whether a process holds the folder now; makes no file. True also where that cannot be found out."""
    import filelock

    if not (folder / HOLDER).exists():
        return False
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError):
        return True
    lock.release()
    return False


def tidy(root: Path) -> None:
    """Removes what killed writers left beside its place, everywhere below ``root`` where no process works now."""
    for folder in sorted({path.parent for path in root.rglob(".*.tmp")} - {root}):
        with contextlib.suppress(GradlabError):
            if (folder / LOCK).exists():
                with hold(folder, "wait"):
                    pass
            else:
                _tidy(folder)


def _tidy(folder: Path) -> None:
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _holder(folder: Path) -> str:
    try:
        who = files.read_json(folder / HOLDER)
        return f"process {who['process']} on {who['host']} (since {who['since']}: {who['command']})"
    except (GradlabError, KeyError):
        return "another process"  # which has just taken it, and not said so yet
