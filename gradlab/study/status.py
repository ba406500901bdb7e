"""Show the progress of an output folder from its files alone, while other processes write to it."""

from __future__ import annotations

import json
import math
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


@dataclass(frozen=True)
class Row:
    """One training run or one study.

    Attributes:
        name: name of its folder.
        status: ``"done"``, ``"running"``, ``"stopped"`` (in order), ``"interrupted"`` (killed), ``"failed"`` or
            ``"waiting"``.
        note: the last loss, or the error.
        done: finished iterations of a run.
        total: all iterations of a run.
        left: seconds until it is done; NaN if unknown.
        what: model that a run trains.
        study: study that a run is trained for.
    """

    name: str
    status: str
    note: str = ""
    done: int = 0
    total: int = 0
    left: float = math.nan
    what: str = ""
    study: str = ""


@dataclass(frozen=True)
class Survey:
    """The runs and studies in a folder.

    Attributes:
        folder: the folder.
        runs: training runs.
        studies: studies that were started.
        left: seconds until all runs are done, with as many in parallel as now; NaN if unknown.
    """

    folder: Path
    runs: list[Row]
    studies: list[Row]
    left: float


def survey(folder: Path) -> Survey:
    """Return the state of every run and every study in a folder.

    Args:
        folder: output folder of ``gradlab run``.

    Raises:
        GradlabError: the folder does not exist, or contains neither runs nor studies.
    """
    if not folder.is_dir():
        raise GradlabError(f"there is no folder {folder}: give the --out of a run")
    below = sorted((p for p in folder.iterdir() if p.is_dir() and p.name != "runs"), key=lambda p: natural(p.name))
    studies = [p for p in below if (p / "provenance.json").exists() or (p / heartbeat.FILE).exists()]
    runs = [row for row in map(_run, sorted((folder / "runs").glob("*"))) if row is not None]
    if not runs and not studies:
        raise GradlabError(f"{folder} contains neither runs nor studies: give the --out of a run")
    runs.sort(key=lambda row: ORDER.index(row.status))
    return Survey(folder, runs, [_study(path, runs) for path in studies], _left(runs))


def _run(folder: Path) -> Row | None:
    """Return the row of a training run, or None if the folder holds none."""
    state, settings = heartbeat.read(folder), _content(folder / "settings.json")
    if state is None and not settings:
        return None
    steps, what = settings.get("steps"), _what(settings)
    total = steps if isinstance(steps, int) else state.total if state is not None else 0
    if (folder / "final.safetensors").exists():
        return Row(folder.name, "done", "", total, total, 0.0, what)
    saved = iterations_of(folder / "last.safetensors")
    if state is None:
        return Row(folder.name, "interrupted", "", saved, total, what=what)
    done, left = (state.done, state.seconds_left) if state.current == "running" else (saved, math.nan)
    return Row(folder.name, state.current, state.note, done, total, left, what, state.study)


def _study(folder: Path, runs: list[Row]) -> Row:
    state = heartbeat.read(folder)
    if state is None:
        try:
            note = f"took {duration(float(_content(folder / 'provenance.json')['wall_s']))}"
        except (KeyError, TypeError, ValueError, OverflowError):
            note = ""  # written by another program, or just removed
        return Row(folder.name, "done", note)
    pending = [row for row in runs if row.study == folder.name and row.status in ("running", "waiting")]
    left = _left(pending) if state.current == "running" else math.nan
    return Row(folder.name, state.current, state.note, left=left)


def _content(path: Path) -> dict[str, Any]:
    try:
        return files.read_json(path)
    except GradlabError:
        return {}


def _left(runs: list[Row]) -> float:
    """Return the seconds until all running and waiting runs are done, with as many in parallel as now."""
    running = [row for row in runs if row.status == "running"]
    timed = [row for row in running if not math.isnan(row.left)]
    paces = [row.left / (row.total - row.done) for row in timed if row.total > row.done]
    if not paces:
        return math.nan
    pace = sum(paces) / len(paces)
    untimed = [row for row in runs if row.status in ("running", "waiting") and math.isnan(row.left)]
    total = sum(row.left for row in timed) + pace * sum(row.total - row.done for row in untimed)
    return max(total / len(running), *(row.left for row in timed))


def _what(settings: dict[str, Any]) -> str:
    if not settings:
        return ""
    loss = settings.get("loss")
    proxy = str(loss.get("proxy", "noise")) if isinstance(loss, dict) else "noise"
    parts = [f"{settings.get('codec', '?')}, lambda {settings.get('lam', '?')}"]
    return ", ".join([*parts, *([] if proxy == "noise" else [proxy]), f"seed {settings.get('seed', '?')}"])


def iterations_of(checkpoint: Path) -> int:
    """Return the iterations of a checkpoint from its header alone; 0 if it cannot be read."""
    import safetensors

    try:
        with safetensors.safe_open(str(checkpoint), framework="np") as file:
            return int(json.loads(file.metadata()["gradlab"])["iteration"])
    except Exception:  # safetensors raises various exceptions, depending on the damage
        return 0


def show(console: Console, results: Survey) -> None:
    """Print the runs, the studies and the time left."""
    from rich.markup import escape
    from rich.table import Table

    def styled(status: str) -> str:
        return f"[{STYLES[status]}]{status}[/]" if status in STYLES else status

    def left(row: Row) -> str:
        return duration(row.left) if row.status == "running" and not math.isnan(row.left) else ""

    if results.runs:
        table = Table(title=f"training runs in {escape(str(results.folder))}", title_justify="left")
        for head in ("run", "", "state", "iterations", "left", ""):
            table.add_column(head, overflow="fold", justify="right" if head in ("iterations", "left") else "left")
        for row in results.runs:
            cells = (escape(row.name), escape(row.what), styled(row.status), f"{row.done}/{row.total}", left(row))
            table.add_row(*cells, escape(row.note))
        console.print(table)
    if results.studies:
        table = Table(title="studies", title_justify="left")
        for head in ("study", "state", "left", ""):
            table.add_column(head, overflow="fold")
        for row in results.studies:
            table.add_row(escape(row.name), styled(row.status), left(row), escape(row.note))
        console.print(table)
    counts = {status: sum(row.status == status for row in results.runs) for status in ORDER}
    line = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "no training runs"
    total = "" if math.isnan(results.left) else f"; about {duration(results.left)} left"
    console.print(f"{line}{total}", markup=False, highlight=False, soft_wrap=True)
