"""Digests of results: a CSV or a record that was changed after it was written is told, not read.

A digit that flips in a CSV leaves a table that reads well and is wrong. So ``provenance.json`` lists the SHA-256 of
each CSV of its study, and ends with one of itself. They find accidents and forgotten edits, and are no signature.
Folders that were written before there were digests are read without.
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
BEFORE = ("study", "seed", "wall_s", "tables")  # what a record held when there were no digests


def of_file(path: Path) -> str:
    """SHA-256 of a file, hex.

    Raises:
        GradlabError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise GradlabError(f"cannot read {path} ({error.strerror}): run its study again") from None


def of_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name of each file to its digest."""
    return {name: of_file(folder / name) for name in names}


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the digest of itself at its end, and at its beginning the word that there is one.

    So whatever is cut out of the file, one of the two is left and misses the other.
    """
    rest = {MARK: True, **{key: value for key, value in record.items() if key not in (MARK, SEAL)}}
    return {**rest, SEAL: _seal(rest)}


def is_whole(record: Mapping[str, Any]) -> bool:
    """Whether a record is what ``sealed`` returned; one from before there were digests is taken as it is."""
    if SEAL not in record:
        return MARK not in record and FILES not in record and all(key in record for key in BEFORE)
    return record[SEAL] == _seal({k: v for k, v in record.items() if k != SEAL})


def write_record(folder: Path, record: Mapping[str, Any], names: Iterable[str]) -> None:
    """Write the provenance of a folder, sealed, with the digests of its files."""
    files.write_json(folder / RECORD, sealed({**record, FILES: of_files(folder, names)}))


def read_record(folder: Path) -> dict[str, Any]:
    """The provenance of a folder; empty where there is none.

    Raises:
        GradlabError: not JSON, or changed after it was written.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    record = files.read_json(path)
    if not is_whole(record):
        raise GradlabError(f"{path} is not what its study wrote (its digest differs): run its study again")
    return record


def read_table(path: Path, record: Mapping[str, Any]) -> DataFrame:
    """The rows of a CSV that ``record`` knows, or that no record speaks of.

    Raises:
        GradlabError: damaged, or changed after it was written.
    """
    known = record.get(FILES)
    expected = known.get(path.name) if isinstance(known, dict) else None
    if expected is not None and expected != of_file(path):
        raise GradlabError(f"{path} is not what its study wrote (its digest differs): run its study again")
    return files.read_csv(path)


def _seal(record: Mapping[str, Any]) -> str:
    # As JSON gives it back: tuples are lists there, keys are text.
    text = json.dumps(record, default=files.plain)
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()
