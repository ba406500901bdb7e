"""Allow one process at a time in a folder, with a lock of the operating system that always ends with its process."""

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
WAIT_SECONDS = 0.5  # between the attempts of a waiting process
TRY_SECONDS = 0.2  # for a process that does not wait; longer than ``held`` holds the lock
_TEMPORARY = re.compile(r"\..*[0-9a-f]{8}\.tmp")  # temporary files of files.write_bytes and files.ensure_folder


@contextlib.contextmanager
def hold(folder: Path, remedy: str, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Lock an existing folder, and remove temporary files that killed writers left in it.

    The empty lock file remains after the lock is released; only a living process can hold the lock.

    Args:
        folder: the folder.
        remedy: remedy to name in the error.
        waiting: called repeatedly with the name of the holder while another process holds the folder, instead of
            raising the error; it may raise an exception to give up.

    Raises:
        GradlabError: another process holds the folder (the message gives its PID and host), or the lock file cannot be
            written.
    """
    import filelock

    lock = filelock.FileLock(folder / LOCK)
    while True:
        try:
            lock.acquire(timeout=TRY_SECONDS if waiting is None else WAIT_SECONDS)
            break
        except filelock.Timeout:
            if waiting is None:
                raise GradlabError(f"{folder} is in use by {_holder(folder)}: {remedy}") from None
            waiting(_holder(folder))
        except OSError as error:
            raise files.refusal(folder / LOCK, error) from None
    try:
        _remove_temporary(folder)
        since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        holder = {"process": os.getpid(), "host": socket.gethostname(), "since": since, "command": provenance.command()}
        with contextlib.suppress(OSError):  # only information for other processes; it need not reach the disk
            (folder / HOLDER).write_text(json.dumps(holder))
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def held(folder: Path) -> bool:
    """Return whether a process holds the folder now, without creating a file; True if this is unknown."""
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
    """Remove temporary files of killed writers from all folders below ``root`` in which no process works."""
    for folder in sorted({path.parent for path in root.rglob(".*.tmp")} - {root}):
        with contextlib.suppress(GradlabError):
            if (folder / LOCK).exists():
                with hold(folder, "wait"):
                    pass
            else:
                _remove_temporary(folder)


def _remove_temporary(folder: Path) -> None:
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _holder(folder: Path) -> str:
    try:
        holder = files.read_json(folder / HOLDER)
        return f"process {holder['process']} on {holder['host']} (since {holder['since']}: {holder['command']})"
    except (GradlabError, KeyError):
        return "another process"  # it has just taken the lock
