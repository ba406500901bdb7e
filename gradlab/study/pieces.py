"""Measure a study piece by piece, so that a time limit, a signal or a crash loses one piece at most.

Long pieces are kept in ``STUDY/parts/`` until the study is complete. ``--resume`` continues an interrupted study and
measures only the missing pieces. A kept piece is reused if it is intact, has the same ``key`` and was measured with the
same version of gradlab; otherwise it is measured again. The tables of an interrupted study are in ``STUDY/partial/``.
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
"""Rows of each table, by the name of its CSV."""


class Piece(NamedTuple):
    """Part of a study that is measured in one go.

    Attributes:
        name: a plain file name.
        measure: returns the rows of each table; ``Context.measure`` calls it with ``advance``.
        key: everything that the rows depend on, as strings and numbers, e.g. the digest of the weights. None for a
            piece that is not kept here, because it is quick or kept elsewhere.
        units: units on the progress bar, which kept pieces skip.
    """

    name: str
    measure: Callable[..., Tables]
    key: Mapping[str, Any] | None = None
    units: int = 1


class Parts:
    """The pieces of one study, stored as one JSON file each.

    Args:
        folder: folder of the study, in which pieces are kept; None keeps nothing.
        made: device and commit that measure the pieces, for the provenance; the version of gradlab is added.
    """

    def __init__(self, folder: Path | None = None, made: Mapping[str, Any] | None = None) -> None:
        self._study, self.made = folder, {"gradlab": provenance.version("gradlab"), **(made or {})}
        self._folder = None if folder is None else folder / "parts"
        self._elsewhere: set[str] = set()
        self._measured: list[Tables] = []

    def each(self, pieces: Sequence[Piece], advance: Callable[..., Any] = quiet) -> list[Tables]:
        """Return the rows of every piece, in order; kept pieces are read, the others are measured.

        Args:
            pieces: the pieces, in order.
            advance: counts kept pieces; ``measure`` counts its own units.

        Raises:
            Stopped: the deadline has passed or a signal has arrived; ``so_far`` returns the rows of the finished
                pieces.
        """
        tables: list[Tables] = []
        for piece in pieces:
            kept = None if piece.key is None else self.find(piece.name, piece.key)
            if kept is not None:
                skip(advance, piece.units)
                rows: Tables = kept
            else:
                stop_together()
                rows = piece.measure()
                rows = rows if piece.key is None else self.keep(piece.name, piece.key, rows)
            tables.append(rows)
            self._measured.append(rows)
        return tables

    def so_far(self) -> tuple[dict[str, DataFrame], int]:
        """Return the tables measured so far, and the number of pieces in them."""
        return joined(self._measured), len(self._measured)

    def find(self, name: str, key: Mapping[str, Any], folder: Path | None = None) -> dict[str, DataFrame] | None:
        """Return the rows kept under this name and key, or None; the result is the same in every process.

        Args:
            name: name of the piece.
            key: everything that the rows depend on.
            folder: folder of the piece, if it is not kept with the study.
        """
        group = distributed.group()
        record = group.broadcast(self._read(name, key, folder or self._folder) if group.is_main else None)
        if record is None:
            return None
        if record["made"] != self.made:
            self._elsewhere.add(", ".join(f"{what} {how}" for what, how in record["made"].items()))
        return {table: files.rows_of(text.encode(), name) for table, text in record["tables"].items()}

    def keep(self, name: str, key: Mapping[str, Any], rows: Tables, folder: Path | None = None) -> dict[str, DataFrame]:
        """Keep rows, and return them as ``find`` will return them.

        Args:
            name: name of the piece.
            key: everything that the rows depend on.
            rows: rows of each table.
            folder: folder of the piece, if it is not kept with the study.
        """
        texts = {table: files.csv_of(frame) for table, frame in rows.items()}
        folder = folder or self._folder
        if folder is not None:
            files.ensure_folder(folder)
            record = {"key": dict(key), "made": self.made, "tables": texts}
            files.write_json(folder / f"{name}.json", digests.sealed(record))
        return {table: files.rows_of(text.encode(), name) for table, text in texts.items()}

    def elsewhere(self) -> str:
        """Return the origin of kept pieces that were made on another device or commit; empty if there are none."""
        return "; ".join(sorted(self._elsewhere))

    def write_partial(self, tables: Tables, record: Mapping[str, Any]) -> Path | None:
        """Write the tables of an interrupted study to ``STUDY/partial``.

        Args:
            tables: tables by name.
            record: provenance, which records why the study is partial.

        Returns:
            The folder, or None if there are no tables.
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
        """Delete all kept pieces and the partial tables."""
        if self._study is None or self._folder is None or not distributed.group().is_main:
            return
        for folder, kinds in ((self._folder, ("*.json",)), (self._study / PARTIAL, ("*.csv", digests.RECORD))):
            if folder.is_dir():
                for path in [path for kind in kinds for path in folder.glob(kind)]:
                    files.remove(path)
                with contextlib.suppress(OSError):  # the folder holds other files
                    folder.rmdir()

    def _read(self, name: str, key: Mapping[str, Any], folder: Path | None) -> dict[str, Any] | None:
        if folder is None:
            return None
        try:
            record = files.read_json(folder / f"{name}.json")
        except GradlabError:  # missing or damaged
            return None
        if not (digests.is_whole(record) and record.get("key") == dict(key) and isinstance(record.get("tables"), dict)):
            return None
        versions = record["made"].get("gradlab"), self.made.get("gradlab")
        return record if provenance.same_version(*versions) else None


def joined(pieces: Iterable[Tables]) -> dict[str, DataFrame]:
    """Concatenate the rows of all pieces, table by table."""
    import pandas as pd

    tables: dict[str, list[DataFrame]] = {}
    for piece in pieces:
        for name, rows in piece.items():
            tables.setdefault(name, []).append(rows)
    return {name: pd.concat(each, ignore_index=True) for name, each in tables.items()}


def stop_together() -> None:
    """Stop all processes of this run if one of them was asked to stop.

    Raises:
        Stopped: a process was asked to stop; raised in all of them.
    """
    why = distributed.group().coalesce(signals.stop_reason())
    if why is not None:
        raise Stopped(f"stopped {why}")
