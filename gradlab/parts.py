"""Parts of a study: rows that take long to measure, kept one by one until the study is complete.

A study that was cut goes on with ``--resume`` and measures only what is missing. A part is read where it was measured
of the same things (``key``) and is whole; otherwise it is measured again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab import digests, ranks, results
from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from pandas import DataFrame


class Parts:
    """The parts of one study, a JSON file each.

    Args:
        folder: where they lie; None: nothing is kept.
        made: how parts are made here, for the provenance: device, commit and so on.
    """

    def __init__(self, folder: Path | None = None, made: Mapping[str, Any] | None = None) -> None:
        self._folder, self._made = folder, dict(made or {})
        self._before: set[str] = set()

    def find(self, name: str, key: Mapping[str, Any]) -> DataFrame | None:
        """The rows that were kept under this name and of these things, the same in every process; None: there are none.

        Args:
            name: of the part, a plain file name.
            key: what the rows depend on, text and numbers, e.g. the digest of the weights.
        """
        here = ranks.here()
        record = here.agreed(self._read(name, key) if here.first else None)
        if record is None:
            return None
        if record["made"] != self._made:
            self._before.add(", ".join(f"{what} {how}" for what, how in record["made"].items()))
        return results.rows_of(record["rows"].encode(), name)

    def keep(self, name: str, key: Mapping[str, Any], rows: DataFrame) -> DataFrame:
        """Keep rows; returns them as ``find`` will give them."""
        text = results.csv_of(rows)
        if self._folder is not None:
            results.ensure_folder(self._folder)
            record = {"key": dict(key), "made": self._made, "rows": text}
            results.write_json(self._folder / f"{name}.json", digests.sealed(record))
        return results.rows_of(text.encode(), name)

    def before(self) -> str:
        """How parts that were found had been made, where it was not as here; empty where there are none."""
        return "; ".join(sorted(self._before))

    def clear(self) -> None:
        """Delete all of them."""
        if self._folder is not None and self._folder.is_dir() and ranks.here().first:
            for path in self._folder.glob("*.json"):
                results.remove(path)
            with contextlib.suppress(OSError):  # something else lies there
                self._folder.rmdir()

    def _read(self, name: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
        if self._folder is None:
            return None
        try:
            record = results.read_json(self._folder / f"{name}.json")
        except GradlabError:  # absent or damaged
            return None
        return record if digests.is_whole(record) and record.get("key") == dict(key) else None
