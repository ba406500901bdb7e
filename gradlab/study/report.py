"""Make one self-contained HTML page of a run: tables next to the paper's, figures, verdicts, provenance."""

from __future__ import annotations

import base64
import math
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from gradlab.errors import GradlabError
from gradlab.runtime import digests, files
from gradlab.runtime.progress import duration
from gradlab.study.catalog import natural
from gradlab.study.claims import ledger, read_verdicts
from gradlab.study.formatting import Column, columns

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_ROWS = 400  # per table; the CSV has all rows
PNG = b"\x89PNG\r\n\x1a\n"
PIXELS = 2  # image pixels per CSS pixel: 300 dpi on paper is 150 dpi here, sharp on any screen
DETAILS = {
    "settings": "Settings",
    "assumed": "Assumed where the paper is silent",
    "inputs": "Inputs",
    "versions": "Versions",
}


@dataclass(frozen=True)
class Sheet:
    """A table on the page: its columns as text, and the number of rows shown."""

    name: str
    columns: list[Column]
    shown: int
    total: int

    @property
    def rows(self) -> list[list[tuple[str, str]]]:
        """Rows as pairs of CSS class and text."""
        cells: list[list[tuple[str, str]]] = [[] for _ in range(self.shown)]
        for column in self.columns:
            for row, cell in enumerate(column.cells):
                cells[row].append(("number" if column.numeric else "", cell))
                if column.paper:
                    cells[row].append(("number paper", column.paper[row]))
                    cells[row].append(("number paper", column.difference[row]))
        return cells

    @property
    def compared(self) -> bool:
        """Whether a column has numbers of the paper."""
        return any(column.paper for column in self.columns)


class Picture(NamedTuple):
    """A figure inside the page: name, PNG as a data URI, and width in CSS pixels."""

    name: str
    uri: str
    width: int


@dataclass(frozen=True)
class Part:
    """One study on the page."""

    name: str
    title: str
    description: list[str]
    main: Sheet | None
    further: list[Sheet]
    figures: list[Picture]
    verdicts: list[dict[str, str]]
    provenance: dict[str, str]
    details: dict[str, dict[str, str]]


def build(folder: str | Path) -> Path:
    """Write ``<folder>/report.html`` from the CSVs, figures and provenance of the studies in a folder.

    Args:
        folder: output folder of ``gradlab run``, or the folder of one study.

    Returns:
        The path of the page.

    Raises:
        GradlabError: the folder does not exist, holds no results, or its results are damaged.
    """
    import jinja2

    folder = Path(folder)
    if not folder.is_dir():
        raise GradlabError(f"no such folder: {folder}; give an output folder of 'gradlab run'")
    studies = sorted((path for path in folder.iterdir() if _is_study(path)), key=lambda path: natural(path.name))
    if not studies and _is_study(folder):
        studies = [folder]
    if not studies:
        raise GradlabError(f"no results in {folder}: give an output folder of 'gradlab run'")
    parts = [_part(path) for path in studies]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gradlab.study", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    verdicts = [{"study": part.name, **verdict} for part in parts for verdict in part.verdicts]
    page = environment.get_template("report.html").render(
        ledger=ledger(folder) if studies != [folder] else [],
        name=folder.resolve().name,
        parts=parts,
        verdicts=verdicts,
        counts=Counter(verdict["word"] for verdict in verdicts),
    )
    path = folder / "report.html"
    files.write_text(path, page)
    return path


def _is_study(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.csv"))


def _part(folder: Path) -> Part:
    record = digests.read_record(folder)
    name = str(record.get("study", folder.name))
    tables = {path.stem: path for path in sorted(folder.glob("*.csv")) if path.stem != "verdicts"}
    # Tables in the order of the study, then files of other or unfinished runs.
    listed = record.get("tables")
    order = [table for table in (listed if isinstance(listed, list) else [name]) if table in tables]
    sheets = [_sheet(digests.read_table(tables[table], record), table) for table in dict.fromkeys([*order, *tables])]
    main = sheets[0] if sheets and sheets[0].name == name else None
    title, _, rest = str(record.get("description", "")).partition("\n")
    return Part(
        name=name,
        title=title,
        description=[" ".join(paragraph.split()) for paragraph in rest.split("\n\n") if paragraph.strip()],
        main=main,
        further=sheets[1:] if main else sheets,
        figures=[_picture(path) for path in sorted(folder.glob("*.png"), key=lambda p: natural(p.name))],
        verdicts=read_verdicts(folder, record),
        provenance=_summary(record),
        details=_details(record),
    )


def _sheet(frame: DataFrame, name: str) -> Sheet:
    shown = frame.head(MOST_ROWS)
    return Sheet(name, columns(shown), len(shown), len(frame))


def _picture(path: Path) -> Picture:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GradlabError(f"cannot read {path} ({error.strerror}): run its study again") from None
    if content[:8] != PNG or content[12:16] != b"IHDR":
        raise GradlabError(f"{path} is not a PNG image: delete it, or run its study again")
    if not _whole(content):
        raise GradlabError(f"{path} is damaged (a checksum inside it does not match): run its study again")
    width = int.from_bytes(content[16:20], "big") // PIXELS
    return Picture(path.stem, "data:image/png;base64," + base64.b64encode(content).decode(), width)


def _whole(png: bytes) -> bool:
    """Return whether a PNG has all its chunks, each with the right CRC-32."""
    at = len(PNG)
    while at + 12 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if end > len(png) or zlib.crc32(png[at + 4 : end - 4]) != int.from_bytes(png[end - 4 : end], "big"):
            return False
        if png[at + 4 : at + 8] == b"IEND":
            return end == len(png)
        at = end
    return False


def _summary(record: dict[str, Any]) -> dict[str, str]:
    """Return the lines of the provenance that are always visible."""
    if not record:
        return {}
    commit = str(record.get("commit") or "not from a checkout")
    lines = {
        "profile": _profile(record),
        "device": record.get("device"),
        "processor": f"{record.get('cpu')}, {record.get('threads')} threads",
        "took": duration(took) if _is_time(took := record.get("wall_s")) else None,
        "begun": record.get("time"),
        "seed": record.get("seed"),
        "gradlab": record.get("gradlab"),
        "commit": commit + (" with changes" if record.get("dirty") else ""),
        "settings hash": record.get("settings_hash"),
        "command": record.get("command"),
    }
    return {key: str(value) for key, value in lines.items() if value is not None}


def _profile(record: dict[str, Any]) -> str | None:
    """Return the profile, and the settings that ``--set`` changed."""
    changed = record.get("set")
    return f"{record.get('profile')}, with {' '.join(map(str, changed))}" if changed else record.get("profile")


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _details(record: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return settings, assumptions, inputs and versions, as strings by name."""
    parts = {head: record.get(key) for key, head in DETAILS.items()}
    return {
        head: {str(key): str(value) for key, value in part.items()}
        for head, part in parts.items()
        if isinstance(part, dict) and part
    }
