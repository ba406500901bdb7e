"""Detect CSVs and records that were modified after writing, and refuse to read them.

A flipped digit in a CSV leaves a valid table with wrong numbers. Therefore ``provenance.json`` lists the SHA-256 of
each CSV of its study, and ends with its own digest. Digests detect accidents and forgotten edits; they are not
signatures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.errors import GradlabError
from gradlab.runtime import files

if TYPE_CHECKING:
    from pandas import DataFrame

MARK, SEAL, FILES = "sealed", "digest", "files"
RECORD = "provenance.json"


def of_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex.

    Raises:
        GradlabError: the file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise GradlabError(f"cannot read {path} ({error.strerror}): run its study again") from None


def of_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of each file, by name.

    Args:
        folder: folder of the files.
        names: names of the files.
    """
    return {name: of_file(folder / name) for name in names}


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with its own digest at the end, and at the beginning a mark that a digest exists.

    If part of the file is cut out, the remaining one of the two shows that the other is missing.
    """
    rest = {MARK: True, **{key: value for key, value in record.items() if key not in (MARK, SEAL)}}
    return {**rest, SEAL: _seal(rest)}


def is_whole(record: Mapping[str, Any]) -> bool:
    """Return whether a record is unchanged since ``sealed`` returned it."""
    return record.get(SEAL) == _seal({k: v for k, v in record.items() if k != SEAL})


def write_record(folder: Path, record: Mapping[str, Any], names: Iterable[str]) -> None:
    """Write the sealed provenance of a folder, with the digests of its files.

    Args:
        folder: folder of the study.
        record: the provenance.
        names: names of the files in the folder.
    """
    files.write_json(folder / RECORD, sealed({**record, FILES: of_files(folder, names)}))


def read_record(folder: Path) -> dict[str, Any]:
    """Read and verify the provenance of a folder; an empty dict if there is none.

    Raises:
        GradlabError: the file is not JSON, or was modified after writing.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    record = files.read_json(path)
    if not is_whole(record):
        raise GradlabError(f"{path} was modified after its study wrote it (digests differ): run its study again")
    return record


def read_table(path: Path, record: Mapping[str, Any]) -> DataFrame:
    """Read a CSV and verify its digest if ``record`` lists one.

    Args:
        path: path of the CSV.
        record: provenance of its folder.

    Raises:
        GradlabError: the file is damaged, or was modified after writing.
    """
    listed = record.get(FILES)
    expected = listed.get(path.name) if isinstance(listed, dict) else None
    if expected is not None and expected != of_file(path):
        raise GradlabError(f"{path} was modified after its study wrote it (digests differ): run its study again")
    return files.read_csv(path)


def _seal(record: Mapping[str, Any]) -> str:
    # Round trip through JSON: tuples become lists, keys become strings.
    text = json.dumps(record, default=files.plain)
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()
