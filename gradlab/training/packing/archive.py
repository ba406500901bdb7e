"""Write all files of an output folder except its weights to one zip file; equal files give equal bytes.

``scan`` lists the files, ``build`` makes the zip, and ``read`` reads one from an untrusted source.
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

NAME, LIST, WEIGHTS = "results.zip", "weights.csv", ".safetensors"
MEGABYTE = 2**20
PICTURES = (".png", ".pdf", ".svg", ".html")
COMMENT = b"gradlab pack"
LEVELS = 4
LARGEST, RATIO, SMALL = 2**30, 200, 2**26  # bytes unpacked; unpacked / packed size, checked above SMALL bytes
PLAIN = re.compile(r"[\w(][\w .,()+=@%~-]*")  # name of a file or folder: no leading dot, slash or shell character


class SourceFile(NamedTuple):
    """A file to pack; ``inode``, ``size`` or ``changed`` differ after a modification."""

    path: Path
    size: int
    changed: int
    inode: int


def scan(out: Path) -> tuple[dict[str, SourceFile], list[str]]:
    """List the files of an output folder that are to be packed.

    Skips locks, hidden files, ``state.json`` and links that lead outside. Follows linked folders only for ``runs``, and
    at the top level if they lead inside.

    Args:
        out: output folder.

    Returns:
        Files by name below ``out`` (with slashes, weights included), and names that ``read`` would reject.
    """
    inside = [os.path.realpath(folder) + os.sep for folder in (out, out / "runs")]
    sources, refused = {}, []
    for name, path in _walk(out, ""):
        if name == LIST or not path.is_file():  # LIST comes from an earlier pack
            continue
        if path.is_symlink() and not os.path.realpath(path).startswith(tuple(inside)):
            continue
        with contextlib.suppress(FileNotFoundError):  # the file was just removed
            status = path.stat()
            if is_plain(name):
                sources[name] = SourceFile(path, status.st_size, status.st_mtime_ns, status.st_ino)
            else:
                refused.append(name)
    return sources, refused


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
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
            yield from _walk(path, f"{name}/")


def _inside(link: Path, folder: Path) -> bool:
    return os.path.realpath(link).startswith(os.path.realpath(folder) + os.sep)


def is_plain(name: str) -> bool:
    """Return whether a name is a short path of plain names, which stays below the folder that it is unpacked into."""
    parts = name.split("/")
    return len(parts) <= LEVELS and all(PLAIN.fullmatch(part) for part in parts)


def build(sources: Mapping[str, SourceFile], limit: float) -> tuple[bytes, int]:
    """Make the zip, without pictures if it would otherwise be too large.

    Args:
        sources: files to pack, by name.
        limit: maximum size in bytes.

    Returns:
        The bytes of the zip, and the number of pictures that were left out.

    Raises:
        GradlabError: the zip is too large even without pictures.
        OSError: a file cannot be read.
    """
    if not sources:
        return _zipped({}), 0
    tables = {name: file for name, file in sources.items() if not name.lower().endswith(PICTURES)}
    content = b""
    for chosen in (sources, tables):
        raw = sum(file.size for file in chosen.values())
        if raw <= LARGEST:
            content = _zipped(chosen)
            if len(content) <= limit and not _grows(raw, len(content)):
                return content, len(sources) - len(chosen)
    largest = max(tables or sources, key=lambda name: sources[name].size)
    takes, free, unpacked, most = (n / MEGABYTE for n in (len(content), limit, raw, sources[largest].size))
    raise GradlabError(
        f"tables and logs need {takes:.3g} MB ({unpacked:.3g} MB unpacked), but only {max(0.0, free):.3g} MB are "
        f"available: raise the limit, or remove {largest} ({most:.3g} MB) from the folder"
    )


def _zipped(sources: Mapping[str, SourceFile]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = COMMENT
        for name in sorted(sources):
            _add(archive, name, sources[name].path.read_bytes())
    return buffer.getvalue()


def with_file(content: bytes, name: str, text: str) -> bytes:
    """Return the zip with one more file.

    Args:
        content: bytes of the zip.
        name: name of the file.
        text: content of the file.
    """
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        _add(archive, name, text.encode())
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980, so that the bytes do not depend on the time of packing
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 6)


def is_packed(path: Path) -> bool:
    """Return whether a file is a zip that ``build`` made."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == COMMENT
    except (OSError, zipfile.BadZipFile):
        return False


def read(path: Path) -> dict[str, bytes]:
    """Return the content of each file in a zip, by name, after verifying all of it; writes nothing.

    Raises:
        GradlabError: the zip is damaged or too large, or contains a name that no output folder has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                kind = stat.S_IFMT(entry.external_attr >> 16)
                name = entry.filename
                known = kind in (0, stat.S_IFREG) and entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                if not (known and is_plain(name)) or name.lower().endswith(WEIGHTS):
                    raise GradlabError(f"{path} contains {name!r}, which gradlab pack does not write: copy it again")
            raw = sum(entry.file_size for entry in entries)
            if _grows(raw, path.stat().st_size):
                raise GradlabError(f"{path} would unpack to {raw / MEGABYTE:.3g} MB: copy it again")
            return {entry.filename: archive.read(entry) for entry in entries}  # reads at most file_size bytes
    except GradlabError:
        raise
    except (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise GradlabError(
            f"{path} is damaged ({error}): copy it again, or delete it to unpack only the weights"
        ) from None


def _grows(raw: int, packed: int) -> bool:
    return raw > LARGEST or raw > max(SMALL, RATIO * packed)
