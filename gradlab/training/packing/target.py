"""Write the folder of packed files, so that at any time it contains the previous pack, the new pack, or both."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.runtime import files
from gradlab.training.packing import archive
from gradlab.training.packing.shards import FILE_NAME


def check_target(out: Path, target: Path) -> None:
    """Check that a folder can receive packed files.

    Args:
        out: output folder that is packed.
        target: folder for the packed files.

    Raises:
        GradlabError: ``target`` contains other files, or one of the two folders lies inside the other.
    """
    resolved = target.resolve()
    for folder in (out.resolve(), (out / "runs").resolve()):
        if resolved.is_relative_to(folder) or folder.is_relative_to(resolved):
            raise GradlabError(f"{target} and {out} overlap: pack into a folder outside {out}")
    for path in sorted(target.iterdir()) if target.is_dir() else ():
        if not (archive.is_packed(path) if path.name == archive.NAME else _is_ours(path)):
            raise GradlabError(f"{target} contains other files ({path.name}): pack into a new folder")


def _is_ours(path: Path) -> bool:
    """Return whether a file contains packed weights or is a temporary file that a killed writer left behind."""
    return bool(FILE_NAME.fullmatch(path.name) or re.fullmatch(r"\..*[0-9a-f]{8}\.tmp", path.name))


class Staging:
    """Collect new files in a hidden folder of ``out`` until all are complete.

    If ``out`` is not writable, files are written in place.
    """

    def __init__(self, out: Path, target: Path) -> None:
        self.sizes: dict[str, int] = {}
        self.new: list[str] = []
        mark = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:8]
        self._target, self._folder = target, out / f".pack-{mark}"
        self.close()  # remove leftovers of a killed process

    def put(self, name: str, content: bytes) -> None:
        """Add a file, unless the target already contains it."""
        self.sizes[name] = len(content)
        with contextlib.suppress(OSError):
            if (self._target / name).read_bytes() == content:
                return
        self.new.append(name)
        try:
            self._folder.mkdir(exist_ok=True)
            files.write_synced(self._folder / name, content)
        except OSError:  # read-only or full
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
            files.write_bytes(self._target / name, content)

    def publish(self, keep_weights: bool) -> None:
        """Move all files into place, then remove the files that they replace.

        Args:
            keep_weights: whether to keep old weights files.
        """
        for path in map(self._folder.joinpath, self.new):
            if not path.exists():  # written in place
                continue
            try:
                os.replace(path, self._target / path.name)
            except OSError:  # another disk
                files.write_bytes(self._target / path.name, path.read_bytes())
        for path in self._target.iterdir():
            if path.name not in self.sizes and _is_ours(path) and not (keep_weights and FILE_NAME.fullmatch(path.name)):
                files.remove(path)

    def close(self) -> None:
        """Remove the hidden folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
