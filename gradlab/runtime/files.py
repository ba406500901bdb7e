"""Read and write files that are always complete.

Every file is written under a temporary name in the same folder and moved into place, so a process killed at any moment
leaves the old file or the new one. This module imports nothing slow.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.errors import GradlabError
from gradlab.runtime import distributed

if TYPE_CHECKING:
    from pandas import DataFrame


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically: into a temporary file in the same folder, to the disk, then into place.

    Among several processes of one run (``gradlab.runtime.distributed``), only the main one writes.

    Raises:
        GradlabError: the disk or the folder refuses.
    """
    if not distributed.group().is_main:
        return
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write_synced(temporary, content)
        os.replace(temporary, path)
    except OSError as error:
        raise refusal(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove(path: str | Path) -> None:
    """Remove a file if it exists.

    Raises:
        GradlabError: the folder refuses.
    """
    path = Path(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(path, error) from None


def write_text(path: str | Path, content: str) -> None:
    """Write text as UTF-8, atomically."""
    write_bytes(path, content.encode())


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically, indented and with keys in the given order."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=plain) + "\n")


def write_csv(path: str | Path, frame: DataFrame) -> None:
    """Write a table without its index, floats with all digits needed to read them back: equal rows, equal bytes."""
    write_text(path, csv_of(frame))


def csv_of(frame: DataFrame) -> str:
    """Return the text that ``write_csv`` writes."""
    return frame.to_csv(index=False, lineterminator="\n")


def read_csv(path: str | Path) -> DataFrame:
    """Read a table of ``write_csv``; only empty cells are missing values, so that a method may be called "None".

    Raises:
        GradlabError: no such file, cut off, or not a table.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GradlabError(f"cannot read {path} ({error.strerror}): run its study again") from None
    return rows_of(content, path)


def rows_of(content: bytes, path: Path | str) -> DataFrame:
    """Parse the text of ``csv_of``; errors name ``path``.

    Raises:
        GradlabError: cut off, or not a table.
    """
    import pandas

    remedy = "run its study again"
    if not content.endswith(b"\n"):
        raise GradlabError(f"{path} is cut off or empty: {remedy}")
    # The default is exact since 3.1, which deprecates the option.
    before = tuple(map(int, pandas.__version__.split(".")[:2])) < (3, 1)
    options: dict[str, Any] = {"float_precision": "round_trip"} if before else {}
    try:
        return pandas.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""], encoding="utf-8", **options)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise GradlabError(f"{path} is not a table ({str(error).strip()}): {remedy}") from None


def read_json(path: str | Path) -> dict[str, Any]:
    """Read the object of ``write_json``.

    Raises:
        GradlabError: no such file, or not a JSON object.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise GradlabError(f"cannot read {path} ({error.strerror}): run its study again") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GradlabError(f"{path} is not JSON ({error}): delete it and run its study again") from None
    if not isinstance(content, dict):
        raise GradlabError(f"{path} holds no JSON object: delete it and run its study again")
    return content


def ensure_folder(path: str | Path) -> Path:
    """Create a folder with its parents, and check with a small file that it is writable.

    Raises:
        GradlabError: it cannot be created or written to; names the folder and the remedy.
    """
    path = Path(path)
    if not distributed.group().is_main:
        return path
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(path, error) from None
    probe = path / f".{secrets.token_hex(4)}.tmp"
    try:
        # A page, to the disk: a full disk takes an empty file, and the superuser passes every check of permissions.
        write_synced(probe, bytes(4096))
    except OSError as error:
        raise refusal(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return path


def refusal(path: Path, error: OSError) -> GradlabError:
    """Return the error for a disk or folder that refuses ``path``."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return GradlabError(f"cannot write to {path}: it, or a part of it, is a file; choose another folder")
    reason = error.strerror or type(error).__name__
    return GradlabError(f"cannot write to {path} ({reason}): free space, change permissions or choose another folder")


def plain(value: object) -> Any:
    """Convert what JSON cannot represent: paths, and numpy numbers."""
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} is a {type(value).__name__}")
