"""Read and write files that are always complete.

Every file is written under a temporary name in the same folder and then moved into place. A process that is killed at
any moment leaves either the old file or the new one. Importing this module is fast.
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
    """Write a new file and wait until it is on disk.

    Args:
        path: path of the file, which must not exist.
        content: bytes to write.
    """
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically.

    The content goes to a temporary file in the same folder, is synced to disk, and is moved into place. If several
    processes share a run (``gradlab.runtime.distributed``), only the main process writes.

    Args:
        path: path of the file; an existing file is replaced.
        content: bytes to write.

    Raises:
        GradlabError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from gradlab.runtime import files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files.write_bytes(Path(folder) / "a.txt", b"complete")
        ...     [path.name for path in Path(folder).iterdir()]
        ['a.txt']
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
        GradlabError: the file cannot be removed.
    """
    path = Path(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(path, error) from None


def write_text(path: str | Path, content: str) -> None:
    """Write text atomically, encoded as UTF-8.

    Args:
        path: path of the file.
        content: the text.

    Raises:
        GradlabError: the file cannot be written.
    """
    write_bytes(path, content.encode())


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically, indented and with keys in the given order.

    Args:
        path: path of the file.
        content: JSON-serialisable data; paths and numpy numbers are converted.

    Raises:
        GradlabError: the file cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=plain) + "\n")


def write_csv(path: str | Path, frame: DataFrame) -> None:
    """Write a table atomically, without its index.

    Floats are written with all digits that are needed to read them back exactly. Equal tables give equal bytes.

    Args:
        path: path of the file.
        frame: the table.

    Raises:
        GradlabError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import pandas as pd
        >>> from gradlab.runtime import files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.csv"
        ...     files.write_csv(path, pd.DataFrame({"method": ["None"], "bpp": [0.1 + 0.2]}))
        ...     path.read_text()
        'method,bpp\\nNone,0.30000000000000004\\n'
    """
    write_text(path, csv_of(frame))


def csv_of(frame: DataFrame) -> str:
    """Return the text that ``write_csv`` writes."""
    return frame.to_csv(index=False, lineterminator="\n")


def read_csv(path: str | Path) -> DataFrame:
    """Read a table that ``write_csv`` wrote.

    Only empty cells are missing values, so that "None" can be the name of a method.

    Raises:
        GradlabError: the file does not exist, is truncated, or is not a table.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GradlabError(f"cannot read {path} ({error.strerror}): run its study again") from None
    return rows_of(content, path)


def rows_of(content: bytes, path: Path | str) -> DataFrame:
    """Parse the text that ``csv_of`` returned.

    Args:
        content: the text, encoded as UTF-8.
        path: path to name in errors.

    Raises:
        GradlabError: the text is truncated or is not a table.
    """
    import pandas

    remedy = "run its study again"
    if not content.endswith(b"\n"):
        raise GradlabError(f"{path} is truncated or empty: {remedy}")
    # The default is exact since 3.1, which deprecates the option.
    before = tuple(map(int, pandas.__version__.split(".")[:2])) < (3, 1)
    options: dict[str, Any] = {"float_precision": "round_trip"} if before else {}
    try:
        return pandas.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""], encoding="utf-8", **options)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise GradlabError(f"{path} is not a table ({str(error).strip()}): {remedy}") from None


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object that ``write_json`` wrote.

    Raises:
        GradlabError: the file does not exist, or is not a JSON object.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise GradlabError(f"cannot read {path} ({error.strerror}): run its study again") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GradlabError(f"{path} is not JSON ({error}): delete it and run its study again") from None
    if not isinstance(content, dict):
        raise GradlabError(f"{path} does not contain a JSON object: delete it and run its study again")
    return content


def ensure_folder(path: str | Path) -> Path:
    """Create a folder and its parents, and verify that files can be written to it.

    Args:
        path: path of the folder.

    Returns:
        The path.

    Raises:
        GradlabError: the folder cannot be created or written to.
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
        # Write a page to disk: a full disk accepts an empty file, and the superuser passes every permission check.
        write_synced(probe, bytes(4096))
    except OSError as error:
        raise refusal(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return path


def refusal(path: Path, error: OSError) -> GradlabError:
    """Build the error for a path that cannot be written.

    Args:
        path: the path.
        error: the error of the operating system.
    """
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return GradlabError(f"cannot write to {path}: it or one of its parents is a file; choose another folder")
    reason = error.strerror or type(error).__name__
    return GradlabError(f"cannot write to {path} ({reason}): free space, change permissions or choose another folder")


def plain(value: object) -> Any:
    """Convert paths and numpy numbers, which JSON cannot represent; a ``default`` for ``json.dumps``."""
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} is a {type(value).__name__}")
