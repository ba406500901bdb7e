"""An output folder in a few files of bounded size, to carry between machines: ``gradlab pack``.

An accelerator is often lent by the minute, behind a door that lets a few small files through, and may be gone at any
moment. ``pack`` writes tables, figures and logs to ``results.zip`` and trained weights, the most valuable first, to
``weights-<number>-<digest>.safetensors``; ``pack_every`` keeps them up to date while studies run.
``unpack`` puts them where ``gradlab run --resume`` goes on: a finished run is evaluated, an
unfinished one is trained further. Without the optimizer's state, which is twice as large as the weights, that is a warm
restart (``gradlab.training``).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints, digests, files, locks, signals
from gradlab.runtime.checkpoints import Stored
from gradlab.training.packing import archive
from gradlab.training.packing.archive import MEGABYTE, Found
from gradlab.training.packing.shards import Packed, Shards, packed
from gradlab.training.packing.target import Desk, check
from gradlab.training.run import FINAL

TRIES = 5
SHORTEST = 1.0  # seconds
IDLE = 60.0  # seconds without a process in the folder, after which nothing more is expected
FIRST = 5  # times as long before there is anything
WEIGHTS = re.compile(r"runs/([^/]+)/(final|last|snapshot-(\d+))\.safetensors")


@dataclass(frozen=True)
class PackOptions:
    """What is packed, and how much.

    Attributes:
        limit_mb: no file is larger, in units of 2^20 bytes.
        files: no more files, ``results.zip`` among them; None: any number.
        total_mb: no more in all files together; None: any size.
        snapshots: also the weights that were kept after these iterations, where there are any.
        optimizer: also the optimizer's state of unfinished runs.
        skip: leave out so many of the most valuable sets of weights, e.g. those that an earlier pack brought home.

    Raises:
        GradlabError: a limit that leaves no space, or a number that is negative.
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
            raise GradlabError(f"{self.files} files are too few: give 2 or more, one for results and one for weights")
        if self.skip < 0:
            raise GradlabError(f"{self.skip} sets of weights cannot be skipped: give 0 or more")


@dataclass(frozen=True, kw_only=True)
class Pack:
    """What a folder of packed files holds.

    Attributes:
        sets: of weights, the most valuable first.
        left_out: ``RUN/KIND`` of sets that did not fit or could not be read.
        notes: what else was left out.
        errors: why something that should be there is not.
        new: names of files that were written this time.
        files: how many there are; ``megabytes``: in all of them.
        found: what was there to be packed.
    """

    sets: tuple[Packed, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    errors: tuple[str, ...]
    new: tuple[str, ...]
    files: int
    megabytes: float
    found: Mapping[str, Found]


def pack(out: Path, target: Path, options: PackOptions | None = None) -> Pack:
    """Pack an output folder, or bring what was packed of it up to date.

    Args:
        out: what ``gradlab run --out`` wrote.
        target: a new folder, or one that holds an earlier pack. Whenever the process is killed, it holds either that or
            the new one; files whose content stays are not written again.
        options: what is packed, and how much; the defaults of ``PackOptions``.

    Raises:
        GradlabError: nothing to pack, a target that holds other things or overlaps ``out``, a limit that not even the
            most valuable set of weights fits, or a corrupt checkpoint. What fits and is whole is packed nevertheless.
    """
    check(out, target)
    made = _pack(out, target, options or PackOptions())
    if made.errors:
        raise GradlabError("; ".join(made.errors))
    return made


def pack_every(
    out: Path,
    target: Path,
    every: float,
    options: PackOptions | None = None,
    say: Callable[[str], object] = print,
    idle: float = IDLE,
) -> Pack | None:
    """Pack again and again, until a signal, Ctrl-C, or no process has worked in ``out`` for ``idle`` seconds.

    Before ``out`` holds anything, it waits five times as long. What goes wrong is said once, and tried again.

    Args:
        out, target, options: as for ``pack``.
        every: seconds from one beginning to the next, 1 or more.
        say: called with a line for each time that something was written.
        idle: seconds.

    Returns:
        What ``target`` holds at the end; None: there was nothing to pack.

    Raises:
        GradlabError: the last packing failed, or ``pack`` would refuse the target.
    """
    if not every >= SHORTEST:
        raise GradlabError(f"packing every {every:g} seconds is too often: give {SHORTEST:g} or more")
    check(out, target)
    options = options or PackOptions()
    made: Pack | None = None
    told: set[str] = set()
    failed: tuple[str, ...] = ()

    def again() -> None:
        nonlocal made, failed
        try:
            there = archive.survey(out)[0]
            if not there or (made is not None and made.found == there):
                return
            before, made = made, _pack(out, target, options)
            failed = made.errors
            if made.new:
                say(f"{time.strftime('%H:%M:%S')}  {made.files} files, {made.megabytes:.1f} MB; {_news(before, made)}")
        except (GradlabError, OSError) as error:
            failed = (str(error),)
        for one in failed:
            if (kind := re.sub(r"[\d.]+", "", one)) not in told:  # numbers may differ from one time to the next
                told.add(kind)
                say(f"{time.strftime('%H:%M:%S')}  not packed: {one}")

    worked = time.monotonic()

    def going_on() -> bool:
        patience = idle if made is not None else FIRST * idle
        return signals.stop_reason() is None and time.monotonic() - worked <= patience

    if not out.is_dir():
        say(f"{time.strftime('%H:%M:%S')}  waiting for {out}")
    with signals.handled():
        with contextlib.suppress(KeyboardInterrupt):
            while going_on():
                begin = time.monotonic()
                again()
                while going_on():
                    if _busy(out):
                        worked = time.monotonic()
                    if time.monotonic() - begin >= every:
                        break
                    time.sleep(min(0.25, every / 4))
        again()
    if failed:
        raise GradlabError("; ".join(failed))
    return made


def _busy(out: Path) -> bool:
    return any(locks.held(folder) for folder in (out, *(out / "runs").glob("*/")))


def _news(before: Pack | None, now: Pack) -> str:
    known = {(p.run, p.kind, p.digest) for p in before.sets} if before else set()
    words = [f"{p.run}/{p.kind} ({p.iteration})" for p in now.sets if (p.run, p.kind, p.digest) not in known]
    words = ["results"] * (archive.NAME in now.new) + words or [f"{len(now.new)} files of weights"]
    left = [(*made.left_out, *made.notes) for made in (before, now) if made]
    if left[-1] != (left[0] if before else ()):
        words.append(f"left out: {', '.join(left[-1]) or 'nothing'}")
    return f"new: {', '.join(words)}"


def _pack(out: Path, target: Path, options: PackOptions, tries: int = TRIES) -> Pack:
    found, odd = archive.survey(out)
    if not found:
        raise GradlabError(f"{out} holds no weights and no results: run a study with --out {out} first")
    if not target.is_dir():
        files.ensure_folder(target)
    with contextlib.closing(Desk(out, target)) as desk:
        made: Pack | GradlabError
        try:
            made = _made(found, options, desk, [f"names that cannot be unpacked: {', '.join(odd)}"] if odd else [])
        except OSError as error:
            made = GradlabError(f"cannot read {error.filename} ({error.strerror}): pack again")
        if tries > 1 and _ended(found, archive.survey(out)[0]):
            return _pack(out, target, options, tries - 1)
        if isinstance(made, GradlabError):
            raise made
        desk.publish(keep_weights=not made.sets and bool(made.errors))
        return made


def _ended(before: Mapping[str, Found], after: Mapping[str, Found]) -> bool:
    """Whether a run or a study ended while it was read.

    What it replaces then, a checkpoint or parts, is gone, and what it leaves may have come after its folder was listed.
    """
    marks = (digests.RECORD, FINAL)
    ends = [{name: file for name, file in found.items() if name.endswith(marks)} for found in (before, after)]
    return not before.keys() <= after.keys() or ends[0] != ends[1]


def _made(found: Mapping[str, Found], options: PackOptions, desk: Desk, notes: list[str]) -> Pack:
    import pandas as pd

    limit = options.limit_mb * MEGABYTE
    total = (options.total_mb or float("inf")) * MEGABYTE
    asked = _asked(found, options.snapshots)[options.skip :]
    reserved = 400 + 300 * len(asked)  # for the list
    errors: list[str] = []
    sets: list[Packed] = []
    left: list[str] = []
    tables = b""
    try:
        others = {name: file for name, file in found.items() if not name.lower().endswith(archive.WEIGHTS)}
        tables, pictures = archive.fitted(others, min(limit, total) - reserved)
        notes += [f"{pictures} pictures, which make {archive.NAME} too large"] if pictures else []
    except GradlabError as error:
        errors.append(str(error))
    most = None if options.files is None else options.files - 1
    shards = Shards(limit, most, total - len(tables) - reserved, desk.put)
    for at, (run, kind) in enumerate(asked):
        try:
            stored = checkpoints.load(found[f"runs/{run}/{kind}{archive.WEIGHTS}"].path)
        except GradlabError as error:
            errors.append(str(error))
            left.append(f"{run}/{kind}")
            continue
        state = {n: t for n, t in stored.tensors.items() if options.optimizer or not n.startswith("adam.")}
        one = packed(run, kind, stored.iteration, state)
        texts = {name: _text(found.get(f"runs/{run}/{name}")) for name in ("settings.json", "log.csv")}
        if lacking := shards.add(one, state, _about(stored, texts)):
            left += [f"{run}/{kind}" for run, kind in asked[at:]]
            if not sets:
                errors.append(f"not even {run}/{kind} fits, of {one.megabytes:.3g} MB: {lacking}")
            break
        sets.append(one)
    shards.close()
    if tables and sets:
        listed = files.csv_of(pd.DataFrame([vars(one) for one in sets]))
        tables = archive.extended(tables, archive.LISTED, listed)
    if tables:
        desk.put(archive.NAME, tables)
    size = sum(desk.sizes.values()) / MEGABYTE
    return Pack(
        sets=tuple(sets),
        left_out=tuple(left),
        notes=tuple(notes),
        errors=tuple(errors),
        new=tuple(desk.new),
        files=len(desk.sizes),
        megabytes=size,
        found=found,
    )


def _about(stored: Stored, texts: dict[str, str]) -> dict[str, object]:
    return {"settings_hash": stored.settings_hash, "extra": stored.extra, "texts": texts}


def _text(file: Found | None) -> str:
    return file.path.read_text("utf-8", errors="replace") if file is not None else ""


def _asked(found: Mapping[str, Found], snapshots: Sequence[int]) -> list[tuple[str, str]]:
    """Run and kind of the sets, the most valuable first: finals, the earliest first, so that a new one moves none."""
    ranks: list[tuple[int, int, str, str]] = []
    for name, file in found.items():
        match = WEIGHTS.fullmatch(name)
        if match is None or f"runs/{match[1]}/settings.json" not in found:
            continue
        run, kind, number = match.groups()
        if kind == "final":
            ranks.append((0, file.changed, run, kind))
        elif kind == "last" and f"runs/{run}/final{archive.WEIGHTS}" not in found:
            ranks.append((1, 0, run, kind))
        elif number and int(number) in snapshots:
            ranks.append((2, -int(number), run, kind))
    return [(run, kind) for _, _, run, kind in sorted(ranks)]
