"""Pack an output folder into a few files of bounded size.

Accelerators are often available only for minutes, and some allow only small downloads. ``pack`` writes tables, figures
and logs to ``results.zip`` and trained weights, the most valuable first, to ``weights-<number>-<digest>.safetensors``.
``pack_every`` keeps these files up to date while studies run. After ``unpack``, ``gradlab run --resume`` evaluates
finished runs and continues unfinished ones. By default the optimizer state is not packed, because it is twice as large
as the weights; continuing is then a warm restart.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints, digests, files, locks, platforms, signals
from gradlab.training.packing import archive
from gradlab.training.packing.archive import MEGABYTE, SourceFile
from gradlab.training.packing.shards import Shards, WeightSet, describe
from gradlab.training.packing.target import Staging, check_target
from gradlab.training.run import FINAL

TRIES = 5
SHORTEST_SECONDS = 1.0
IDLE_SECONDS = 60.0  # packing ends when no process has worked in the folder for this long
START_FACTOR = 5  # multiplies the idle time until there is something to pack
WEIGHTS = re.compile(r"runs/([^/]+)/(final|last|snapshot-(\d+))\.safetensors")


@dataclass(frozen=True)
class PackOptions:
    """Options of ``pack``.

    Attributes:
        limit_mb: maximum size of a file, in units of 2^20 bytes.
        files: maximum number of files, including ``results.zip``; None for no limit.
        total_mb: maximum size of all files together, in units of 2^20 bytes; None for no limit.
        snapshots: iterations whose snapshots to pack too, if they exist.
        optimizer: whether to pack the optimizer state of unfinished runs too.
        skip: number of most valuable sets of weights to skip, e.g. those of an earlier pack.

    Raises:
        GradlabError: a limit is too small, or a number is negative.

    Example:
        >>> from gradlab.training.packing import PackOptions
        >>> PackOptions(limit_mb=25, snapshots=(1000,)).files is None
        True
    """

    limit_mb: float = 15.0
    files: int | None = None
    total_mb: float | None = None
    snapshots: Sequence[int] = ()
    optimizer: bool = False
    skip: int = 0

    def __post_init__(self) -> None:
        for name, value in (("limit", self.limit_mb), ("total", self.total_mb)):
            if value is not None and not value > 0:
                raise GradlabError(f"the {name} is {value:g} MB: give more than 0")
        if self.files is not None and self.files < 2:
            raise GradlabError(f"{self.files} files are too few: give at least 2, one for results and one for weights")
        if self.skip < 0:
            raise GradlabError(f"skip is {self.skip}: give 0 or more sets of weights to skip")


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Content of a folder of packed files.

    Attributes:
        sets: packed sets of weights, the most valuable first.
        left_out: ``RUN/KIND`` of sets that did not fit or could not be read.
        notes: other things that were left out.
        errors: reasons why something is missing.
        new: names of the files that this call wrote.
        files: number of files.
        megabytes: size of all files, in units of 2^20 bytes.
        sources: files of the output folder, by name.
    """

    sets: tuple[WeightSet, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    errors: tuple[str, ...]
    new: tuple[str, ...]
    files: int
    megabytes: float
    sources: Mapping[str, SourceFile]


def pack(out: Path, target: Path, options: PackOptions | None = None) -> Pack:
    """Pack an output folder, or update an earlier pack of it.

    Args:
        out: output folder of ``gradlab run``.
        target: a new folder, or one with an earlier pack. If the process is killed, it holds either the earlier pack or
            the new one. Files whose content is unchanged are not rewritten.
        options: what to pack, and how much; ``PackOptions()`` by default.

    Returns:
        The content of ``target``.

    Raises:
        GradlabError: there is nothing to pack, ``target`` holds other files or overlaps ``out``, the limits exclude
            even the most valuable set of weights, or a checkpoint is corrupt. In the last two cases everything else is
            still packed. On Windows.
    """
    platforms.require_posix("gradlab pack")
    check_target(out, target)
    result = _pack(out, target, options or PackOptions())
    if result.errors:
        raise GradlabError("; ".join(result.errors))
    return result


def pack_every(
    out: Path,
    target: Path,
    every: float,
    options: PackOptions | None = None,
    say: Callable[[str], object] = print,
    idle: float = IDLE_SECONDS,
) -> Pack | None:
    """Pack repeatedly until a signal, Ctrl-C, or until no process has worked in ``out`` for ``idle`` seconds.

    While ``out`` is empty, the idle time is five times as long. Each error is reported once, and packing is retried.

    Args:
        out: as for ``pack``.
        target: as for ``pack``.
        every: seconds between the starts of two packs, at least 1.
        options: as for ``pack``.
        say: called with a line whenever files were written or an error occurred.
        idle: idle time in seconds.

    Returns:
        The last pack, or None if there was nothing to pack.

    Raises:
        GradlabError: the last attempt failed, or ``pack`` cannot use ``target``, or on Windows.
    """
    platforms.require_posix("gradlab pack")
    if not every >= SHORTEST_SECONDS:
        raise GradlabError(f"every is {every:g} seconds: give at least {SHORTEST_SECONDS:g}")
    check_target(out, target)
    options = options or PackOptions()
    result: Pack | None = None
    reported: set[str] = set()
    errors: tuple[str, ...] = ()

    def update() -> None:
        nonlocal result, errors
        try:
            sources = archive.scan(out)[0]
            if not sources or (result is not None and result.sources == sources):
                return
            before, result = result, _pack(out, target, options)
            errors = result.errors
            if result.new:
                report(f"{result.files} files, {result.megabytes:.1f} MB; {_news(before, result)}")
        except (GradlabError, OSError) as error:
            errors = (str(error),)
        for message in errors:
            if (kind := re.sub(r"[\d.]+", "", message)) not in reported:  # the same error with other numbers
                reported.add(kind)
                report(f"not packed: {message}")

    def report(line: str) -> None:
        say(f"{time.strftime('%H:%M:%S')}  {line}")

    worked = time.monotonic()

    def active() -> bool:
        patience = idle if result is not None else START_FACTOR * idle
        return signals.stop_reason() is None and time.monotonic() - worked <= patience

    if not out.is_dir():
        report(f"waiting for {out}")
    with signals.handled():
        with contextlib.suppress(KeyboardInterrupt):
            while active():
                begin = time.monotonic()
                update()
                while active():
                    if _busy(out):
                        worked = time.monotonic()
                    if time.monotonic() - begin >= every:
                        break
                    time.sleep(min(0.25, every / 4))
        update()
    if errors:
        raise GradlabError("; ".join(errors))
    return result


def _busy(out: Path) -> bool:
    return any(locks.held(folder) for folder in (out, *(out / "runs").glob("*/")))


def _news(before: Pack | None, now: Pack) -> str:
    known = {(p.run, p.kind, p.digest) for p in before.sets} if before else set()
    words = [f"{p.run}/{p.kind} ({p.iteration})" for p in now.sets if (p.run, p.kind, p.digest) not in known]
    words = ["results"] * (archive.NAME in now.new) + words or [f"{len(now.new)} files of weights"]
    left_out = (*now.left_out, *now.notes)
    if left_out != ((*before.left_out, *before.notes) if before else ()):
        words.append(f"left out: {', '.join(left_out) or 'nothing'}")
    return f"new: {', '.join(words)}"


def _pack(out: Path, target: Path, options: PackOptions, tries: int = TRIES) -> Pack:
    sources, refused = archive.scan(out)
    if not sources:
        raise GradlabError(f"{out} contains neither weights nor results: run a study with --out {out} first")
    if not target.is_dir():
        files.ensure_folder(target)
    with contextlib.closing(Staging(out, target)) as staging:
        result: Pack | GradlabError
        try:
            notes = [f"files whose names cannot be unpacked: {', '.join(refused)}"] if refused else []
            result = _stage(sources, options, staging, notes)
        except OSError as error:
            result = GradlabError(f"cannot read {error.filename} ({error.strerror}): pack again")
        if tries > 1 and _ended(sources, archive.scan(out)[0]):
            return _pack(out, target, options, tries - 1)
        if isinstance(result, GradlabError):
            raise result
        staging.publish(keep_weights=not result.sets and bool(result.errors))
        return result


def _ended(before: Mapping[str, SourceFile], after: Mapping[str, SourceFile]) -> bool:
    """Return whether a run or a study ended while its files were read.

    Its checkpoint or parts are then removed, and its last files may be newer than the listing of its folder.
    """
    marks = (digests.RECORD, FINAL)
    ends = [{name: file for name, file in listing.items() if name.endswith(marks)} for listing in (before, after)]
    return not before.keys() <= after.keys() or ends[0] != ends[1]


def _stage(sources: Mapping[str, SourceFile], options: PackOptions, staging: Staging, notes: list[str]) -> Pack:
    limit = options.limit_mb * MEGABYTE
    total = (options.total_mb or float("inf")) * MEGABYTE
    ranked = _ranked(sources, options.snapshots)[options.skip :]
    reserved = 400 + 300 * len(ranked)  # for weights.csv
    errors: list[str] = []
    sets: list[WeightSet] = []
    left_out: list[str] = []
    tables = b""
    try:
        others = {name: file for name, file in sources.items() if not name.lower().endswith(archive.WEIGHTS)}
        tables, pictures = archive.build(others, min(limit, total) - reserved)
        notes += [f"{pictures} pictures, because {archive.NAME} would be too large"] if pictures else []
    except GradlabError as error:
        errors.append(str(error))
    most = None if options.files is None else options.files - 1
    shards = Shards(limit, most, total - len(tables) - reserved, staging.put)
    for at, (run, kind) in enumerate(ranked):
        try:
            stored = checkpoints.load(sources[f"runs/{run}/{kind}{archive.WEIGHTS}"].path)
        except GradlabError as error:
            errors.append(str(error))
            left_out.append(f"{run}/{kind}")
            continue
        state = {n: t for n, t in stored.tensors.items() if options.optimizer or not n.startswith("adam.")}
        weights = describe(run, kind, stored.iteration, state)
        texts = {name: _text(sources.get(f"runs/{run}/{name}")) for name in ("settings.json", "log.csv")}
        about = {"settings_hash": stored.settings_hash, "extra": stored.extra, "texts": texts}
        if lacking := shards.add(weights, state, about):
            left_out += [f"{run}/{kind}" for run, kind in ranked[at:]]
            if not sets:
                errors.append(f"not even {run}/{kind} ({weights.megabytes:.3g} MB) fits: {lacking}")
            break
        sets.append(weights)
    shards.close()
    if tables and sets:
        tables = archive.with_file(tables, archive.LIST, files.csv_of(pd.DataFrame(map(vars, sets))))
    if tables:
        staging.put(archive.NAME, tables)
    return Pack(
        sets=tuple(sets),
        left_out=tuple(left_out),
        notes=tuple(notes),
        errors=tuple(errors),
        new=tuple(staging.new),
        files=len(staging.sizes),
        megabytes=sum(staging.sizes.values()) / MEGABYTE,
        sources=sources,
    )


def _text(file: SourceFile | None) -> str:
    return file.path.read_text("utf-8", errors="replace") if file is not None else ""


def _ranked(sources: Mapping[str, SourceFile], snapshots: Sequence[int]) -> list[tuple[str, str]]:
    """Return run and kind of the sets of weights, the most valuable first.

    Final weights come first, the oldest before newer ones so that a new model does not move the others; then unfinished
    runs, then snapshots.
    """
    ranks: list[tuple[int, int, str, str]] = []
    for name, file in sources.items():
        match = WEIGHTS.fullmatch(name)
        if match is None or f"runs/{match[1]}/settings.json" not in sources:
            continue
        run, kind, number = match.groups()
        if kind == "final":
            ranks.append((0, file.changed, run, kind))
        elif kind == "last" and f"runs/{run}/final{archive.WEIGHTS}" not in sources:
            ranks.append((1, 0, run, kind))
        elif number and int(number) in snapshots:
            ranks.append((2, -int(number), run, kind))
    return [(run, kind) for _, _, run, kind in sorted(ranks)]
