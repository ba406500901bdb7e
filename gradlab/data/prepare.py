"""A training set from a tree of photographs: the largest ones, made smaller, with noise (Balle et al. 2018).

What is done to each image is said, and done, in ``gradlab.data.downsampling``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gradlab.data.downsampling import SATURATED, downsample, saturated_share
from gradlab.data.images import FORMATS, MAX_BYTES, MAX_PIXELS, SUFFIXES, read_picture
from gradlab.errors import GradlabError
from gradlab.runtime import digests, files, provenance
from gradlab.runtime.progress import quiet
from gradlab.validation import checked

if TYPE_CHECKING:
    import pandas as pd

MANIFEST, SKIPPED, NOTE = "manifest.csv", "skipped.csv", ".prepared.json"
COLUMNS = (
    *("file", "source", "sha256", "source_width", "source_height"),
    *("width", "height", "factor", "seed", "output_sha256"),
)


@dataclass(frozen=True)
class Prepared:
    """What ``prepare`` did.

    Attributes:
        manifest: one row for each image of the set: ``file``, ``source``, ``sha256`` of the source, sizes in pixels,
            ``factor`` (new over old short edge), ``seed``, ``output_sha256``; the largest source first.
        skipped: ``source`` and ``reason`` of each that was left out.
        done_before: how many were there already.
        found: images in the tree.
    """

    manifest: pd.DataFrame
    skipped: pd.DataFrame
    done_before: int
    found: int


class _Job(NamedTuple):
    """An image to make: where it lies, its path in the tree, where it goes."""

    source: Path
    name: str
    target: Path
    seed: int


class _Made(NamedTuple):
    """What became of it: the row of the manifest, or None and the reason; whether it was there before."""

    job: _Job
    row: dict[str, Any] | None
    reason: str
    before: bool


@checked
def prepare(
    source: str | Path,
    target: str | Path,
    count: int,
    seed: int = 0,
    workers: int | None = None,
    advance: Callable[..., Any] = quiet,
    *,
    read: Callable[..., Any] = quiet,
) -> Prepared:
    """Fill a folder with the ``count`` largest images of a tree, made smaller; what is there already is kept.

    The same seed gives the same pixels for the same file, whatever else is in the tree and however many processes work.
    Where an image is left out the next largest takes its place. ``manifest.csv`` and ``skipped.csv`` stand beside the
    images. A run that was cut off goes on where it stopped; what an earlier run made and this one does not want (a
    smaller count, a changed tree) is removed, so that the folder is the set.

    Args:
        source: searched with all folders below it; hidden files and what has not the suffix of an image are ignored.
        target: where 8-bit PNG files go, named by the hash of their path in the tree.
        count: how many images; where the tree has fewer, it is all of them.
        seed: of sizes and noise.
        workers: processes; by default one for each core that this process may use.
        advance: called as ``advance(n, note)`` for every image that is in place.
        read: likewise for every image of the tree whose size was read, which comes first.

    Raises:
        GradlabError: no such folder, no images in it, ``target`` inside ``source`` or the other way round, count or
            workers below 1, a target that was made with another seed or holds other files, a disk that refuses, a
            process that died.
    """
    import pandas as pd

    source, target = _folders(Path(source), Path(target))
    if count < 1:
        raise GradlabError(f"count is {count}: ask for at least one image")
    if workers is not None and workers < 1:
        raise GradlabError(f"{workers} processes do nothing: give at least one")
    sizes, skipped = _largest(source, read)
    found = len(sizes) + len(skipped)
    if not found:
        raise GradlabError(
            f"there are no images in {source}: give a folder with PNG, JPEG or WebP files in it or below"
        )
    files.ensure_folder(target)
    _own(target, seed)
    jobs = [_Job(path, path.relative_to(source).as_posix(), _place(target, source, path), seed) for path in sizes]
    rows: dict[str, dict[str, Any]] = {}
    before = 0
    waiting = iter(jobs)
    with _pool(workers or provenance.cores()) as run:
        # Only as many as are missing: where an image is left out the next largest is read, and no more than that.
        while batch := list(itertools.islice(waiting, count - len(rows))):
            for made in run(batch):
                if made.row is None:
                    skipped[made.job.name] = made.reason
                    continue
                rows[made.job.name] = made.row
                before += made.before
                advance(1, made.job.name)
    manifest = pd.DataFrame([rows[job.name] for job in jobs if job.name in rows], columns=list(COLUMNS))
    left_out = pd.DataFrame(sorted(skipped.items()), columns=["source", "reason"])
    _tidy(target, set(manifest["file"]))
    files.write_csv(target / MANIFEST, manifest)
    files.write_csv(target / SKIPPED, left_out)
    return Prepared(manifest, left_out, before, found)


def images_in(source: str | Path) -> int:
    """How many files of a tree have the suffix of an image; 0 where there is no such folder."""
    return sum(1 for _ in _tree(Path(source)))


def _folders(source: Path, target: Path) -> tuple[Path, Path]:
    if not source.exists():
        raise GradlabError(f"there is no folder {source}: check the path")
    if not source.is_dir():
        raise GradlabError(f"{source} is not a folder: give the folder that holds the images")
    real, goal = source.resolve(), target.resolve()
    if goal == real or real in goal.parents or goal in real.parents:
        raise GradlabError(
            f"{target} and {source} lie one inside the other: choose a target outside, or its images become sources"
        )
    return source, target


def _largest(source: Path, read: Callable[..., Any]) -> tuple[list[Path], dict[str, str]]:
    """Every image whose header can be read, the one with the most pixels first; and the others, with the reason."""
    found: list[tuple[int, Path]] = []
    skipped = {}
    for path in _tree(source):
        name = path.relative_to(source).as_posix()
        read(1, name)
        try:
            pixels = _header(path)
        except GradlabError as error:
            skipped[name] = str(error)
            continue
        found.append((pixels, path))
    # Equal sizes by name, so that the order of the file system decides nothing.
    return [path for _, path in sorted(found, key=lambda entry: (-entry[0], entry[1].as_posix()))], skipped


def _tree(source: Path) -> Iterator[Path]:
    """Every file with the suffix of an image, sorted, not through links to folders, without what is hidden."""
    for folder, below, names in os.walk(source):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder) / name


def _header(path: Path) -> int:
    """Pixels that the header claims; nothing is decoded.

    Raises:
        GradlabError: no image, or one too large to be a photograph.
    """
    import warnings

    from PIL import Image

    try:
        if path.stat().st_size > MAX_BYTES:
            raise GradlabError(f"more than {MAX_BYTES >> 20} MiB")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                pixels = int(image.width) * int(image.height)
    except GradlabError:
        raise
    except Exception as error:  # decoders meet damaged files with whatever they stumble over
        raise GradlabError(f"cannot be read ({type(error).__name__})") from None
    if pixels > MAX_PIXELS:
        raise GradlabError(f"more than {MAX_PIXELS // 10**6} million pixels, taken for a decompression bomb")
    return pixels


def _place(target: Path, source: Path, path: Path) -> Path:
    """A name that two files of the tree never share, readable in part."""
    name = path.relative_to(source).as_posix()
    return target / f"{path.stem[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}.png"


def _own(target: Path, seed: int) -> None:
    """Refuse to mix with another seed's images, or with files that came from elsewhere."""
    note = target / NOTE
    if note.exists():
        before = files.read_json(note).get("seed")
        if before != seed:
            raise GradlabError(f"{target} was prepared with seed {before}, not {seed}: choose another folder")
        return
    strangers = sorted(p.name for p in target.iterdir() if p.suffix.lower() in SUFFIXES)
    if strangers:
        raise GradlabError(f"{target} already holds {strangers[0]}, which is not of this set: choose an empty folder")
    files.write_json(note, {"seed": seed})


def _done(job: _Job) -> dict[str, Any] | None:
    """The row of an image that is in place, whole and of this very source; None otherwise."""
    try:
        row = json.loads(_row_path(job.target).read_text("utf-8"))
        if not digests.is_whole(row) or row["file"] != job.target.name:
            return None
        whole = row["output_sha256"] == hashlib.sha256(job.target.read_bytes()).hexdigest()
        same = row["source"] == job.name and row["sha256"] == hashlib.sha256(job.source.read_bytes()).hexdigest()
        return {c: row[c] for c in COLUMNS} if whole and same and row["seed"] == job.seed else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _row_path(target: Path) -> Path:
    return target.with_name(f".{target.stem}.json")


def _one(job: _Job) -> _Made:
    """In a process of its own: read, judge, shrink, write; what is in place already is only checked."""
    from PIL import Image

    known = _done(job)
    if known is not None:
        return _Made(job, known, "", True)
    try:
        picture = read_picture(job.source)
    except GradlabError as error:
        return _Made(job, None, str(error), False)
    pixels = picture.pixels.permute(1, 2, 0).numpy()
    share = saturated_share(pixels)
    if share > SATURATED:
        return _Made(job, None, f"no photograph: {100 * share:.0f} % of its pixels are fully saturated", False)
    # One stream for each file, by its path in the tree: other files and other processes change nothing.
    digest = hashlib.sha256(f"{job.seed}/prepare/{job.name}".encode()).digest()
    made = downsample(pixels, np.random.default_rng(int.from_bytes(digest[:16], "big")))
    content = io.BytesIO()
    Image.fromarray(made).save(content, "PNG")
    files.write_bytes(job.target, content.getvalue())
    row = {
        "file": job.target.name,
        "source": job.name,
        "sha256": picture.sha256,
        "source_width": pixels.shape[1],
        "source_height": pixels.shape[0],
        "width": made.shape[1],
        "height": made.shape[0],
        "factor": min(made.shape[:2]) / min(pixels.shape[:2]),
        "seed": job.seed,
        "output_sha256": hashlib.sha256(content.getvalue()).hexdigest(),
    }
    # Last: an image without it was cut off, and is made again.
    files.write_json(_row_path(job.target), digests.sealed(row))
    return _Made(job, row, "", False)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Callable[[list[_Job]], Iterator[_Made]]]:
    """Runs jobs in so many processes, in any order; one process is this one."""
    if workers == 1:
        yield lambda jobs: map(_one, jobs)
        return
    # Spawned: a fork would copy the locks of the threads that torch runs.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield lambda jobs: (future.result() for future in as_completed([pool.submit(_one, job) for job in jobs]))
    except BrokenProcessPool:
        raise GradlabError("a process died, likely for want of memory: run it again with fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _tidy(target: Path, wanted: set[str]) -> None:
    """Remove the images, and their notes, that an earlier run made and that are not wanted any more."""
    for note in target.glob(".*.json"):
        name = note.name[1 : -len(".json")] + ".png"
        if note.name != NOTE and name not in wanted:
            (target / name).unlink(missing_ok=True)
            note.unlink()
