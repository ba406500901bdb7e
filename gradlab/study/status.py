"""How far a folder of studies has come, from its files alone: works while other processes write to it."""

from __future__ import annotations

import json
import math
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.errors import GradlabError
from gradlab.runtime import files, heartbeat
from gradlab.runtime.progress import duration
from gradlab.study.catalog import natural

if TYPE_CHECKING:
    from rich.console import Console

ORDER = ("failed", "running", "interrupted", "stopped", "waiting", "done")
STYLES = {"failed": "red", "running": "cyan", "done": "green", "interrupted": "yellow", "stopped": "yellow"}
# A header of safetensors is a few kilobytes; its length stands in the first eight bytes of the file.
LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Row:
    """One training run or one study.

    Attributes:
        name: of its folder.
        what: what is trained, of a run.
        status: ``"done"``, ``"running"``, ``"stopped"`` (in good order), ``"interrupted"`` (killed), ``"failed"``,
            ``"waiting"``.
        done: iterations, of a study 0; total: of so many.
        left: seconds until it is done; NaN where nobody can tell.
        note: the last loss, or why it failed.
        study: for which a run is trained now.
    """

    name: str
    what: str
    status: str
    done: int
    total: int
    left: float
    note: str
    study: str = ""


@dataclass(frozen=True)
class Survey:
    """What is in a folder.

    Attributes:
        runs: training runs.
        studies: that were begun.
        left: seconds until all runs are done, with as many at a time as now; NaN where nobody can tell.
    """

    folder: Path
    runs: list[Row]
    studies: list[Row]
    left: float


def survey(folder: Path) -> Survey:
    """Look at every run and every study in a folder.

    Raises:
        GradlabError: no such folder, or nothing in it that ``gradlab run`` wrote.
    """
    if not folder.is_dir():
        raise GradlabError(f"there is no folder {folder}: give the --out of a run")
    below = sorted((p for p in folder.iterdir() if p.is_dir() and p.name != "runs"), key=lambda p: natural(p.name))
    places = [p for p in below if (p / "provenance.json").exists() or (p / heartbeat.FILE).exists()]
    trained = folder / "runs"
    found = sorted(p for p in trained.iterdir() if p.is_dir()) if trained.is_dir() else []
    runs = [row for row in map(_run, found) if row is not None]
    if not runs and not places:
        raise GradlabError(f"{folder} holds neither runs nor studies: give the --out of a run")
    runs.sort(key=lambda row: ORDER.index(row.status))
    return Survey(folder, runs, [_study(place, runs) for place in places], _left(runs))


def _run(folder: Path) -> Row | None:
    """The state of a training run; None where the folder holds none."""
    state = heartbeat.read(folder)
    try:
        settings = files.read_json(folder / "settings.json")
    except GradlabError:
        if state is None:
            return None
        settings = {}
    steps = settings.get("steps")
    total = steps if isinstance(steps, int) else state.total if state is not None else 0
    what = _what(settings)
    if (folder / "final.safetensors").exists():
        return Row(folder.name, what, "done", total, total, 0.0, "")
    kept = iterations_of(folder / "last.safetensors")
    if state is None:
        return Row(folder.name, what, "interrupted", kept, total, math.nan, "")
    status = state.status
    gone = not state.alive if status == "running" else status == "waiting" and state.ended
    status = "interrupted" if gone else status
    done = state.done if status == "running" else kept
    left = (total - done) * state.seconds - (time.time() - state.time if status == "running" else 0)
    return Row(
        folder.name, what, status, done, total, max(0.0, left) if left == left else left, state.note, state.study
    )


def _study(folder: Path, runs: list[Row]) -> Row:
    state = heartbeat.read(folder)
    if state is None:
        try:
            took = f"took {duration(float(files.read_json(folder / 'provenance.json')['wall_s']))}"
        except (GradlabError, KeyError, TypeError, ValueError, OverflowError):
            took = ""  # written by another hand, or taken away just now
        return Row(folder.name, "", "done", 0, 0, 0.0, took)
    alive = state.status == "running" and state.alive
    status = "interrupted" if state.status == "running" and not alive else state.status
    mine = [row for row in runs if row.study == folder.name and row.status in ("running", "waiting")]
    return Row(folder.name, "", status, 0, 0, _left(mine) if alive and mine else math.nan, state.note)


def _left(runs: list[Row]) -> float:
    """Seconds until all are done that run or wait, with as many at a time as now."""
    now = [row for row in runs if row.status == "running"]
    paces = [row.left / (row.total - row.done) for row in now if row.left == row.left and row.total > row.done]
    if not paces:
        return math.nan
    pace = sum(paces) / len(paces)
    whole = sum(row.left if row.left == row.left else pace * (row.total - row.done) for row in now)
    whole += sum(pace * (row.total - row.done) for row in runs if row.status == "waiting")
    return max(whole / len(now), *(row.left for row in now if row.left == row.left))


def _what(settings: dict[str, Any]) -> str:
    if not settings:
        return ""
    parts = [f"{settings.get('codec', '?')}, lambda {settings.get('lam', '?')}"]
    loss = settings.get("loss")
    proxy = str(loss.get("proxy", "noise")) if isinstance(loss, dict) else "noise"
    parts += [] if proxy == "noise" else [proxy]
    return ", ".join([*parts, f"seed {settings.get('seed', '?')}"])


def iterations_of(checkpoint: Path) -> int:
    """Iterations behind a checkpoint, from its header alone: nothing of the tensors is read."""
    try:
        with open(checkpoint, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, LARGEST_HEADER)))
        return int(json.loads(header["__metadata__"]["gradlab"])["iteration"])
    except (OSError, struct.error, ValueError, KeyError, TypeError):
        return 0


def show(console: Console, found: Survey) -> None:
    """Print the runs, the studies and the time that is left."""
    from rich.markup import escape
    from rich.table import Table

    def styled(status: str) -> str:
        return f"[{STYLES[status]}]{status}[/]" if status in STYLES else status

    def told(row: Row) -> str:
        return duration(row.left) if row.status == "running" and row.left == row.left else ""

    if found.runs:
        table = Table(title=f"training runs in {escape(str(found.folder))}", title_justify="left")
        for head in ("run", "", "state", "iterations", "left", ""):
            table.add_column(head, overflow="fold", justify="right" if head in ("iterations", "left") else "left")
        for row in found.runs:
            cells = (escape(row.name), escape(row.what), styled(row.status), f"{row.done}/{row.total}", told(row))
            table.add_row(*cells, escape(row.note))
        console.print(table)
    if found.studies:
        table = Table(title="studies", title_justify="left")
        for head in ("study", "state", "left", ""):
            table.add_column(head, overflow="fold")
        for row in found.studies:
            table.add_row(escape(row.name), styled(row.status), told(row), escape(row.note))
        console.print(table)
    counts = {status: sum(row.status == status for row in found.runs) for status in ORDER}
    line = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "no training runs"
    left = f"; about {duration(found.left)} left" if found.left == found.left else ""
    console.print(f"{line}{left}", markup=False, highlight=False, soft_wrap=True)
