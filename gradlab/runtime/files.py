"""Read and write files that are always complete.

Every file is written under a temporary name in the same folder and moved into place, so a process killed at any moment
leaves the old file or the new one, never half of one. This module imports nothing slow.
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


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a whole file or none: into a new file beside it, to the disk, then into place.

    Of several processes of one run (``gradlab.runtime.distributed``) the first writes.

    Raises:
        GradlabError: the disk or the folder refuses.
    """
    if not distributed.group().is_main:
        return
    path = Path(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise refusal(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def remove(path: str | Path) -> None:
    """Removes a file, if it is there.

    Raises:
        GradlabError: the folder refuses.
    """
    path = Path(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(path, error) from None


def write_text(path: str | Path, content: str) -> None:
    """Writes text as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON, indented and with keys in the order given, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=plain) + "\n")


def write_csv(path: str | Path, frame: DataFrame) -> None:
    """Writes rows without the index, floats with the digits that give the same float back: equal rows, equal bytes."""
    write_text(path, csv_of(frame))


def csv_of(frame: DataFrame) -> str:
    """The text that ``write_csv`` writes."""
    return frame.to_csv(index=False, lineterminator="\n")


def read_csv(path: str | Path) -> DataFrame:
    """The rows that ``write_csv`` wrote; only an empty cell is missing, so that a method may be called "None".

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
    """The rows that ``csv_of`` gave the text of; ``path`` is named in errors.

    Raises:
        GradlabError: cut off, or not a table.
    """
    import pandas

    remedy = "run its study again"
    if not content.endswith(b"\n"):
        raise GradlabError(f"{path} is cut off or empty: {remedy}")
    try:
        return pandas.read_csv(
            io.BytesIO(content), float_precision="round_trip", keep_default_na=False, na_values=[""], encoding="utf-8"
        )
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise GradlabError(f"{path} is not a table ({str(error).strip()}): {remedy}") from None


def read_json(path: str | Path) -> dict[str, Any]:
    """The object that ``write_json`` wrote.

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
    """Makes the folder, with its parents, and makes sure by a small file that it can be written to.

    Raises:
        GradlabError: it cannot be made or written to; names the folder and what to do.
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
        with open(probe, "xb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise refusal(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return path


def refusal(path: Path, error: OSError) -> GradlabError:
    """What to say where the disk or the folder refuses to take ``path``."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return GradlabError(f"cannot write to {path}: it, or a part of it, is a file; choose another folder")
    reason = error.strerror or type(error).__name__
    return GradlabError(f"cannot write to {path} ({reason}): free space, change permissions or choose another folder")


def plain(value: object) -> Any:
    """What JSON has no word for: paths, and numbers of numpy."""
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} is a {type(value).__name__}")
