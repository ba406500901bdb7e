"""``make bench``: every case beside its peers, in one run of isolated processes that take turns.

``python benchmarks/run.py [--quick] [--out DIR] [--case NAME ...] [--pairs N] [--threads N] [--test-images DIR]``

Finished cases are kept: a run that was cut off goes on with the case that it was at.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import show
from harness import HERE, MALLOC, Case, Child, Contender, Failed, Options, load
from rich.console import Console

from gradlab.errors import GradlabError
from gradlab.runtime import files, provenance

COLUMNS = (
    "case", "ours_seconds", "peer", "peer_seconds", "ratio", "ratio_min", "ratio_max",
    "ours_peak_mb", "peer_peak_mb", "limit_seconds", "limit_is", "goal",
)  # fmt: skip
ORDER = (
    "toy",
    "estimators",
    "exact",
    "recorder",
    "shared",
    "multisample",
    "training",
    "evaluation",
    "imports",
    "growth",
)


@dataclass(frozen=True)
class Settings:
    """What makes two runs comparable, hence what a run that was cut off must share to go on."""

    quick: bool
    pairs: int
    threads: int
    images: str
    malloc: dict[str, str]


def main() -> int:
    """Run what was asked for; 0 also where a peer failed: the table says so."""
    args = _arguments()
    console = Console() if sys.stdout.isatty() else Console(width=160)
    kind = f"cpu-{provenance.cores()}-cores"
    folder = files.ensure_folder(args.out / kind)
    settings = Settings(args.quick, args.pairs, args.threads, args.test_images or "embedded", MALLOC)
    options = Options(args.quick, args.threads, args.test_images)
    kept = _Kept(folder / ".unfinished.json", provenance.settings_hash(settings))
    begin = time.monotonic()
    for source, index, case in _cases(args.case, args.quick):
        key = f"{source.stem}/{case.name}"
        if key in kept.rows:
            continue
        try:
            rows = _measure(source, index, case, options, args.pairs, args.peers_python, console)
        except Failed as error:
            console.print(f"[red]{case.name}: ours failed: {error}[/red]", highlight=False)
            return 1
        kept.add(key, rows, time.monotonic() - begin)
        _write(folder, kept)
    frame = _write(folder, kept)
    show.table(console, frame, settings)
    record = provenance.provenance(settings, 0, "cpu", _lock(), kept.wall_s, {})
    files.write_json(folder / "provenance.json", record)
    show.pictures(frame, folder)
    show.growth(frame, folder)
    kept.forget()
    console.print(f"{folder}", highlight=False)
    return 0


def _measure(
    source: Path, index: int, case: Case, options: Options, pairs: int, python: str, console: Console
) -> list[dict[str, Any]]:
    """One row per peer, or one of ours alone. Ours stays one process, which takes turns with each peer's."""
    pairs = 1 if case.once else pairs
    limit: float | None = None
    if case.limit is not None:
        child = _start(source, index, "limit", case.limit, options, python)
        limit = statistics.median(child.go() for _ in range(pairs))
        child.end()
    common = {"case": case.name, "limit_seconds": limit, "limit_is": case.limit_is, "goal": case.goal}
    rows: list[dict[str, Any]] = []
    values: list[tuple[Contender, Any]] = []
    ours = _start(source, index, "ours", case.ours, options, python)
    try:
        for number, peer in enumerate(case.peers or (None,)):
            row, value = _turns(ours, source, index, number, peer, options, pairs, python)
            rows.append(common | row)
            if peer is not None:
                values.append((peer, value))
            _say(console, case, row)
        end = ours.end()
    finally:
        ours.kill()
    for peer, value in values:
        _compare(case, peer, end["value"], value)
    return [{c: (row | {"ours_peak_mb": round(end["peak_mb"], 1)}).get(c) for c in COLUMNS} for row in rows]


def _turns(
    ours: Child,
    source: Path,
    index: int,
    number: int,
    peer: Contender | None,
    options: Options,
    pairs: int,
    python: str,
) -> tuple[dict[str, Any], Any]:
    """Seconds of both, in turns, and what the peer returned."""
    if peer is None:
        return {"ours_seconds": statistics.median(ours.go() for _ in range(pairs))}, None
    mine: list[float] = []
    other: list[float] = []
    theirs: Child | None = None
    try:
        theirs = _start(source, index, str(number), peer, options, python)
        for _ in range(pairs):
            mine.append(ours.go())
            other.append(theirs.go())
        end = theirs.end()
    except Failed as error:
        seconds = statistics.median(mine or [ours.go()])
        return {"ours_seconds": seconds, "peer": f"{peer.name} (does not run: {error})"}, None
    finally:
        if theirs is not None:
            theirs.kill()
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    return {
        "ours_seconds": statistics.median(mine),
        "peer": peer.name,
        "peer_seconds": statistics.median(other),
        "peer_peak_mb": round(end["peak_mb"], 1),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }, end["value"]


def _say(console: Console, case: Case, row: dict[str, Any]) -> None:
    text = f"{case.name} | {row.get('peer', '-')}: ours {row['ours_seconds']:.4g} s"
    if "ratio" in row:
        text += f", peer {row['peer_seconds']:.4g} s, ratio {row['ratio']:.3g}"
    console.print(text, highlight=False, soft_wrap=True)


def _compare(case: Case, peer: Contender, ours: Any, theirs: Any) -> None:
    """Whether both did the same work, where they return numbers that say so."""
    if case.same is None or not ours or not theirs:
        return
    for mine, other in zip(ours, theirs, strict=False):
        if not abs(mine - other) <= case.same * max(abs(mine), abs(other), 1e-12):
            raise Failed(f"{peer.name} found {theirs}, ours {ours}: they did not do the same work")


def _start(source: Path, index: int, role: str, who: Contender, options: Options, python: str) -> Child:
    return Child(python if who.peers else sys.executable, source, index, role, options)


def _cases(wanted: list[str], quick: bool) -> Iterator[tuple[Path, int, Case]]:
    names = [n for n in ORDER if (HERE / "cases" / f"{n}.py").exists() and (not wanted or n in wanted)]
    for name in names:
        source = HERE / "cases" / f"{name}.py"
        for index, case in enumerate(load(source)):
            if case.quick or not quick:
                yield source, index, case


class _Kept:
    """Rows of the cases that are done, in a file, until the run is complete."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self._before = self.wall_s = 0.0
        if path.exists():
            try:
                found = files.read_json(path)
            except GradlabError:
                return
            if found.get("identity") == identity:
                self.rows, self._before = found["rows"], found["wall_s"]
                self.wall_s = self._before

    def add(self, key: str, rows: list[dict[str, Any]], elapsed: float) -> None:
        self.rows[key] = rows
        self.wall_s = self._before + elapsed
        files.write_json(self._path, {"identity": self._identity, "rows": self.rows, "wall_s": self.wall_s})

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def _write(folder: Path, kept: _Kept) -> Any:
    import pandas as pd

    frame = pd.DataFrame([row for rows in kept.rows.values() for row in rows], columns=list(COLUMNS))
    files.write_csv(folder / "bench.csv", frame)
    return frame


def _lock() -> dict[str, str]:
    import hashlib

    lock = HERE / "requirements.lock"
    return {"requirements.lock": hashlib.sha256(lock.read_bytes()).hexdigest()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--out", type=Path, default=Path("figures/bench"))
    parser.add_argument("--case", action="append", default=[], choices=ORDER, help="only this one; may be repeated")
    parser.add_argument("--pairs", type=int, default=0, help="5, or 3 with --quick")
    parser.add_argument("--threads", type=int, default=provenance.cores())
    parser.add_argument("--test-images", help="folder of images for the evaluation; default: embedded photographs")
    parser.add_argument("--peers-python", default=str(HERE / ".venv" / "bin" / "python"))
    args = parser.parse_args()
    args.pairs = args.pairs or (3 if args.quick else 5)
    return args


if __name__ == "__main__":
    sys.exit(main())
