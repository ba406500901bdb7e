"""Measure a study piece by piece, so that a time limit, a signal or a crash loses one piece at most.

A piece that takes long is kept in ``STUDY/parts/`` until the study is complete. A study that was cut goes on with
``--resume`` and measures only what is missing. A piece is read if it is whole, was measured of the same things
(``key``), and by the same version of gradlab; otherwise it is measured again. What was measured of a study that was cut
is in ``STUDY/partial/``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import digests, distributed, files, provenance, signals
from gradlab.runtime.progress import quiet, skip

if TYPE_CHECKING:
    from pandas import DataFrame

PARTIAL = "partial"
Tables = Mapping[str, "DataFrame"]
"""Rows, by the name of their CSV."""


class Piece(NamedTuple):
    """What a study measures in one go.

    Attributes:
        name: a plain file name.
        measure: gives the rows, by the table that they belong to; ``Context.measure`` calls it with ``advance``.
        key: what the rows depend on, text and numbers, e.g. the digest of the weights; None for a piece that is not
            kept here: it is quick, or kept elsewhere.
        units: of the progress bar, which a piece that was kept skips.
    """

    name: str
    measure: Callable[..., Tables]
    key: Mapping[str, Any] | None = None
    units: int = 1


class Parts:
    """The pieces of one study, a JSON file each.

    Args:
        folder: of the study, which they are kept below; None: nothing is kept.
        made: how pieces are made here besides the version of gradlab, for the provenance: device and commit.
    """

    def __init__(self, folder: Path | None = None, made: Mapping[str, Any] | None = None) -> None:
        self._study, self.made = folder, {"gradlab": provenance.version("gradlab"), **(made or {})}
        self._folder = None if folder is None else folder / "parts"
        self._elsewhere: set[str] = set()
        self._measured: list[Tables] = []

    def each(self, pieces: Sequence[Piece], advance: Callable[..., Any] = quiet) -> list[Tables]:
        """The rows of every piece, in order: kept before, or measured now.

        Args:
            pieces: what is wanted.
            advance: counts pieces that were kept before; ``measure`` counts its own.

        Raises:
            Stopped: time is up or a signal has come; ``so_far`` has the rows of the pieces before.
        """
        found: list[Tables] = []
        for piece in pieces:
            kept = None if piece.key is None else self.find(piece.name, piece.key)
            if kept is not None:
                skip(advance, piece.units)
                rows: Tables = kept
            else:
                stop_together()
                rows = piece.measure()
                rows = rows if piece.key is None else self.keep(piece.name, piece.key, rows)
            found.append(rows)
            self._measured.append(rows)
        return found

    def so_far(self) -> tuple[dict[str, DataFrame], int]:
        """What was measured of a study that was cut: its tables, and how many pieces that is."""
        return joined(self._measured), len(self._measured)

    def find(self, name: str, key: Mapping[str, Any], folder: Path | None = None) -> dict[str, DataFrame] | None:
        """The rows that were kept under this name and of these things, the same in every process; None: there are none.

        Args:
            name: of the piece.
            key: what the rows depend on.
            folder: where they lie, if not with those of the study.
        """
        group = distributed.group()
        record = group.broadcast(self._read(name, key, folder or self._folder) if group.is_main else None)
        if record is None:
            return None
        if record["made"] != self.made:
            self._elsewhere.add(", ".join(f"{what} {how}" for what, how in record["made"].items()))
        return {table: files.rows_of(text.encode(), name) for table, text in record["tables"].items()}

    def keep(self, name: str, key: Mapping[str, Any], rows: Tables, folder: Path | None = None) -> dict[str, DataFrame]:
        """Keep rows; returns them as ``find`` will give them."""
        texts = {table: files.csv_of(frame) for table, frame in rows.items()}
        if (place := folder or self._folder) is not None:
            files.ensure_folder(place)
            record = {"key": dict(key), "made": self.made, "tables": texts}
            files.write_json(place / f"{name}.json", digests.sealed(record))
        return {table: files.rows_of(text.encode(), name) for table, text in texts.items()}

    def elsewhere(self) -> str:
        """How pieces that were found had been made, where it was not as here; empty where there are none."""
        return "; ".join(sorted(self._elsewhere))

    def write_partial(self, tables: Tables, record: Mapping[str, Any]) -> Path | None:
        """Write what was measured of a study that was cut, beside its results; None where there is nothing.

        Args:
            tables: by name.
            record: the provenance, which says why the study is partial.
        """
        if self._study is None or not tables:
            return None
        folder = files.ensure_folder(self._study / PARTIAL)
        for table, rows in tables.items():
            files.write_csv(folder / f"{table}.csv", rows)
        if distributed.group().is_main:
            digests.write_record(folder, {**record, "tables": list(tables)}, [f"{table}.csv" for table in tables])
        return folder

    def clear(self) -> None:
        """Delete all of them, and what was written of a study that was cut."""
        if self._study is None or self._folder is None or not distributed.group().is_main:
            return
        for folder, kinds in ((self._folder, ("*.json",)), (self._study / PARTIAL, ("*.csv", digests.RECORD))):
            if folder.is_dir():
                for path in [path for kind in kinds for path in folder.glob(kind)]:
                    files.remove(path)
                with contextlib.suppress(OSError):  # something else lies there
                    folder.rmdir()

    def _read(self, name: str, key: Mapping[str, Any], folder: Path | None) -> dict[str, Any] | None:
        if folder is None:
            return None
        try:
            record = files.read_json(folder / f"{name}.json")
        except GradlabError:  # absent or damaged
            return None
        if not (digests.is_whole(record) and record.get("key") == dict(key) and isinstance(record.get("tables"), dict)):
            return None
        versions = record["made"].get("gradlab"), self.made.get("gradlab")
        return record if provenance.same_version(*versions) else None


def joined(pieces: Iterable[Tables]) -> dict[str, DataFrame]:
    """The rows of all pieces, one below the other in each table."""
    import pandas as pd

    tables: dict[str, list[DataFrame]] = {}
    for piece in pieces:
        for name, rows in piece.items():
            tables.setdefault(name, []).append(rows)
    return {name: pd.concat(each, ignore_index=True) for name, each in tables.items()}


def stop_together() -> None:
    """Ends the work if that was asked of any process of this run.

    Raises:
        Stopped: it was; in all of them.
    """
    why = distributed.group().coalesce(signals.stop_reason())
    if why is not None:
        raise Stopped(f"stopped {why}")
