"""All files of an output folder but its weights, in one zip file: equal files, equal bytes.

``survey`` lists what travels, ``packed`` writes the zip, ``contents`` reads one that may come from elsewhere.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from gradlab.errors import GradlabError
from gradlab.runtime import heartbeat

NAME, LISTED, WEIGHTS = "results.zip", "weights.csv", ".safetensors"
MEGABYTE = 2**20
PICTURES = (".png", ".pdf", ".svg", ".html")
COMMENT = b"gradlab pack"
LEVELS = 4
LARGEST, RATIO, SMALL = 2**30, 200, 2**26  # bytes unpacked; times the size of the zip, where it is more than SMALL
PLAIN = re.compile(r"[\w(][\w .,()+=@%~-]*")  # of one folder or file: no dot in front, no slash, nothing of a shell


class Found(NamedTuple):
    """A file that travels; a file that changes has another ``inode``, ``size`` or ``changed``."""

    path: Path
    size: int
    changed: int
    inode: int


def survey(out: Path) -> tuple[dict[str, Found], list[str]]:
    """List what travels of an output folder.

    Locks, hidden files and states of processes stay, and so do links that lead outside. Of folders that are links
    ``runs`` is read, and those at the top that lead to a folder inside.

    Returns:
        Name below ``out``, with slashes, to file, weights included; and the names that ``contents`` would refuse.
    """
    inside = [os.path.realpath(folder) + os.sep for folder in (out, out / "runs")]
    found, odd = {}, []
    for name, path in _below(out, ""):
        if name == LISTED or not path.is_file():  # LISTED: of an earlier pack
            continue
        if path.is_symlink() and not os.path.realpath(path).startswith(tuple(inside)):
            continue
        with contextlib.suppress(FileNotFoundError):  # it vanished just now
            said = path.stat()
            if is_plain(name):
                found[name] = Found(path, said.st_size, said.st_mtime_ns, said.st_ino)
            else:
                odd.append(name)
    return found, odd


def _below(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    try:
        paths = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in paths:
        name = prefix + path.name
        if path.name.startswith(".") or path.name == heartbeat.FILE:
            continue
        if not path.is_dir():
            yield name, path
        elif not path.is_symlink() or name == "runs" or (not prefix and _inside(path, folder)):
            yield from _below(path, f"{name}/")


def _inside(link: Path, folder: Path) -> bool:
    return os.path.realpath(link).startswith(os.path.realpath(folder) + os.sep)


def is_plain(name: str) -> bool:
    """Whether a name stays below the folder that it is unpacked into: a few plain names, with slashes between."""
    parts = name.split("/")
    return len(parts) <= LEVELS and all(PLAIN.fullmatch(part) for part in parts)


def fitted(found: Mapping[str, Found], limit: float) -> tuple[bytes, int]:
    """The zip of files, without pictures where it would be too large otherwise.

    Returns:
        The zip, and how many pictures are left out.

    Raises:
        GradlabError: too large all the same.
        OSError: a file cannot be read.
    """
    if not found:
        return _zipped({}), 0
    tables = {name: file for name, file in found.items() if not name.lower().endswith(PICTURES)}
    content = b""
    for kept in (found, tables):
        raw = sum(file.size for file in kept.values())
        if raw <= LARGEST:
            content = _zipped(kept)
            if len(content) <= limit and not _grows(raw, len(content)):
                return content, len(found) - len(kept)
    largest = max(tables or found, key=lambda name: found[name].size)
    takes, free, unpacked, most = (n / MEGABYTE for n in (len(content), limit, raw, found[largest].size))
    raise GradlabError(
        f"tables and logs take {takes:.3g} MB of {max(0.0, free):.3g} MB that are free for them ({unpacked:.3g} MB "
        f"unpacked): raise the limit, or take {largest} ({most:.3g} MB) out of the folder"
    )


def _zipped(found: Mapping[str, Found]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = COMMENT
        for name in sorted(found):
            _add(archive, name, found[name].path.read_bytes())
    return buffer.getvalue()


def extended(content: bytes, name: str, text: str) -> bytes:
    """The zip with one file more."""
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        _add(archive, name, text.encode())
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # of 1980, so that the time of packing changes no byte
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 6)


def is_packed(path: Path) -> bool:
    """Whether a file is a zip that ``fitted`` made."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == COMMENT
    except (OSError, zipfile.BadZipFile):
        return False


def contents(path: Path) -> dict[str, bytes]:
    """Name to content of a zip, all of it checked; nothing is written.

    Raises:
        GradlabError: damaged, too large, or with a name that no output folder has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                kind = stat.S_IFMT(entry.external_attr >> 16)
                name = entry.filename
                known = kind in (0, stat.S_IFREG) and entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                if not (known and is_plain(name)) or name.lower().endswith(WEIGHTS):
                    raise GradlabError(f"{path} holds {name!r}, which gradlab pack does not write: get it anew")
            raw = sum(entry.file_size for entry in entries)
            if _grows(raw, path.stat().st_size):
                raise GradlabError(f"{path} grows to {raw / MEGABYTE:.3g} MB when it is unpacked: get it anew")
            return {entry.filename: archive.read(entry) for entry in entries}  # no more than file_size is read
    except GradlabError:
        raise
    except (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise GradlabError(
            f"{path} is damaged ({error}): copy it again, or delete it to unpack weights alone"
        ) from None


def _grows(raw: int, packed: int) -> bool:
    return raw > LARGEST or raw > max(SMALL, RATIO * packed)
