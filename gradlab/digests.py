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

from gradlab import results
from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from pandas import DataFrame

SEAL, FILES = "digest", "files"
RECORD = "provenance.json"


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
    """The record with the digest of itself at its end."""
    rest = {key: value for key, value in record.items() if key != SEAL}
    return {**rest, SEAL: _seal(rest)}


def is_whole(record: Mapping[str, Any]) -> bool:
    """Whether a record is what ``sealed`` returned; one without a digest is taken as it is."""
    return SEAL not in record or record[SEAL] == _seal({k: v for k, v in record.items() if k != SEAL})


def read_record(folder: Path) -> dict[str, Any]:
    """The provenance of a folder; empty where there is none.

    Raises:
        GradlabError: not JSON, or changed after it was written.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    record = results.read_json(path)
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
    return results.read_csv(path)


def _seal(record: Mapping[str, Any]) -> str:
    # As JSON gives it back: tuples are lists there, keys are text.
    text = json.dumps(record, default=results._plain)
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()
