"""The folder that packed files are written to: at every moment it holds the earlier pack, or the new one, or both."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.runtime import files
from gradlab.training.packing import archive
from gradlab.training.packing.shards import NAME


def check(out: Path, target: Path) -> None:
    """Refuse a target that is not for packed files.

    Raises:
        GradlabError: it holds other things, or lies in ``out``, or ``out`` in it.
    """
    at = target.resolve()
    for folder in (out.resolve(), (out / "runs").resolve()):
        if at.is_relative_to(folder) or folder.is_relative_to(at):
            raise GradlabError(f"{target} and {out} lie one in the other: pack into a folder outside")
    for path in sorted(target.iterdir()) if target.is_dir() else ():
        ours = archive.is_packed(path) if path.name == archive.NAME else _is_ours(path)
        if not ours:
            raise GradlabError(f"{target} holds other things ({path.name}): pack into a new folder")


def _is_ours(path: Path) -> bool:
    """Whether a file is one of weights, or what a killed writer left."""
    return bool(NAME.fullmatch(path.name) or re.fullmatch(r"\..*[0-9a-f]{8}\.tmp", path.name))


class Desk:
    """Holds new files until all are complete: in a hidden folder of ``out``, or where that cannot be, in place."""

    def __init__(self, out: Path, target: Path) -> None:
        self.sizes: dict[str, int] = {}
        self.new: list[str] = []
        mark = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:8]
        self._target, self._folder = target, out / f".pack-{mark}"
        self.close()  # what a killed one left

    def put(self, name: str, content: bytes) -> None:
        """Take a file, unless it is there."""
        self.sizes[name] = len(content)
        with contextlib.suppress(OSError):
            if (self._target / name).read_bytes() == content:
                return
        self.new.append(name)
        try:
            self._folder.mkdir(exist_ok=True)
            with open(self._folder / name, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # read-only, or full
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
            files.write_bytes(self._target / name, content)

    def publish(self, keep_weights: bool) -> None:
        """Move all into place, then remove what they replace."""
        for path in self._waiting():
            try:
                os.replace(path, self._target / path.name)
            except OSError:  # another disk
                files.write_bytes(self._target / path.name, path.read_bytes())
        for path in self._target.iterdir():
            if path.name not in self.sizes and _is_ours(path) and not (keep_weights and NAME.fullmatch(path.name)):
                files.remove(path)

    def close(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _waiting(self) -> Iterator[Path]:
        paths = [self._folder / name for name in self.new]
        return (path for path in paths if path.exists())
