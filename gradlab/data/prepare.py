"""Prepare a training set from a tree of photographs: the largest images, downsampled with noise (Balle et al. 2018).

``gradlab.data.downsampling`` describes and implements the processing of each image.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gradlab.data.downsampling import SATURATED, downsample, saturated_share
from gradlab.data.folders import require_folder
from gradlab.data.images import FORMATS, MAX_BYTES, MAX_PIXELS, SUFFIXES, read_picture
from gradlab.errors import GradlabError, needs
from gradlab.runtime import digests, files, provenance
from gradlab.runtime.progress import quiet
from gradlab.validation import checked, whole

MANIFEST, SKIPPED, NOTE = "manifest.csv", "skipped.csv", ".prepared.json"
COLUMNS = (
    *("file", "source", "sha256", "source_width", "source_height"),
    *("width", "height", "factor", "seed", "output_sha256"),
)


@dataclass(frozen=True)
class Prepared:
    """Result of ``prepare``.

    Attributes:
        manifest: one row per image of the set, the largest source first, with the columns ``file``; ``source``;
            ``sha256`` of the source; ``source_width``, ``source_height``, ``width`` and ``height`` in pixels;
            ``factor``, the ratio of the new to the old shorter side; ``seed``; and ``output_sha256``.
        skipped: ``source`` and ``reason`` of each image that was left out.
        done_before: number of images of the set that an earlier run finished.
        total: number of images in the tree.
    """

    manifest: pd.DataFrame
    skipped: pd.DataFrame
    done_before: int
    total: int


class _Job(NamedTuple):
    """An image to process: source file, name relative to the tree, output file and seed."""

    source: Path
    name: str
    target: Path
    seed: int


class _Result(NamedTuple):
    """The outcome of a job: a row of the manifest, or None and the reason; and whether an earlier run finished the
    image."""

    name: str
    row: dict[str, Any] | None
    reason: str = ""
    done_before: bool = False


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
    """Fill a folder with the ``count`` largest images of a tree, downsampled with noise.

    For a given seed, the output pixels depend only on the source file and its path in the tree, not on other files or
    on the number of processes. If an image is left out, the next largest takes its place. ``manifest.csv`` and
    ``skipped.csv`` are written next to the images. An interrupted run can be repeated: finished images are kept. Images
    of earlier runs that are not in the set, because ``count`` or the tree changed, are removed.

    Args:
        source: root of the tree. Hidden files and files without the suffix of an image are ignored.
        target: folder for the 8-bit PNG files, which are named by a hash of their path in the tree. It must lie outside
            ``source``.
        count: number of images; if the tree holds fewer, all are used.
        seed: seed of sizes and noise.
        workers: number of processes; by default one per available core.
        advance: progress callback, called as ``advance(n, note)`` after each finished image.
        read: progress callback, called in the same way after the header of each image of the tree was read, which
            happens first.

    Returns:
        The manifest and the images that were left out.

    Raises:
        GradlabError: ``source`` is not a folder or holds no images, one of ``source`` and ``target`` lies inside the
            other, ``count`` or ``workers`` is below 1, ``target`` holds other files or images of another seed, a file
            cannot be written, or a process died.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from gradlab.data.prepare import prepare
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = Path(folder) / "photographs"
        ...     source.mkdir()
        ...     Image.new("RGB", (700, 650)).save(source / "a.png")
        ...     done = prepare(source, Path(folder) / "train", count=1, workers=1)
        >>> done.manifest["source"].tolist(), done.total
        (['a.png'], 1)
    """
    with needs("gradlab data prepare"):
        import PIL  # before thousands of images are opened  # noqa: F401
    source, target = require_folder(source), Path(target)
    real_source, real_target = source.resolve(), target.resolve()
    if real_target.is_relative_to(real_source) or real_source.is_relative_to(real_target):
        raise GradlabError(f"{target} and {source} are nested: choose a target outside the source")
    count, seed = whole("count", count, 1, "images"), whole("seed", seed, 0)
    workers = None if workers is None else whole("workers", workers, 1, "processes")
    jobs, skipped = _by_size(source, target, seed, read)
    total = len(jobs) + len(skipped)
    if not total:
        raise GradlabError(f"there are no images in {source}: give a folder that contains PNG, JPEG or WebP files")
    files.ensure_folder(target)
    _claim(target, seed)
    rows: dict[str, dict[str, Any]] = {}
    done_before = 0
    waiting = iter(jobs)
    with _pool(workers or provenance.cores()) as run:
        # Submit only as many jobs as images are missing, so that no more images are read than needed.
        while batch := list(itertools.islice(waiting, count - len(rows))):
            for result in run(batch):
                if result.row is None:
                    skipped[result.name] = result.reason
                    continue
                rows[result.name] = result.row
                done_before += result.done_before
                advance(1, result.name)
    manifest = pd.DataFrame([rows[job.name] for job in jobs if job.name in rows], columns=list(COLUMNS))
    left_out = pd.DataFrame(sorted(skipped.items()), columns=["source", "reason"])
    _remove_unlisted(target, set(manifest["file"]))
    files.write_csv(target / MANIFEST, manifest)
    files.write_csv(target / SKIPPED, left_out)
    return Prepared(manifest, left_out, done_before, total)


def images_in(source: str | Path) -> int:
    """Count the files in a tree that have the suffix of an image.

    Args:
        source: root of the tree.

    Returns:
        The number of files; 0 if there is no such folder.

    Example:
        >>> from gradlab.data.prepare import images_in
        >>> images_in("no/such/folder")
        0
    """
    return sum(1 for _ in _image_paths(Path(source)))


def _by_size(source: Path, target: Path, seed: int, read: Callable[..., Any]) -> tuple[list[_Job], dict[str, str]]:
    """Return a job per image with a readable header, the largest first, and the reasons for skipping the others."""
    sizes, skipped = {}, {}
    for path in _image_paths(source):
        name = path.relative_to(source).as_posix()
        read(1, name)
        # Readable, and unique within the tree.
        output = target / f"{path.stem[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}.png"
        try:
            sizes[_Job(path, name, output, seed)] = _pixels_in_header(path)
        except GradlabError as error:
            skipped[name] = str(error)
    # Images of equal size are sorted by name, so that the order does not depend on the file system.
    return sorted(sizes, key=lambda job: (-sizes[job], job.source.as_posix())), skipped


def _image_paths(source: Path) -> Iterator[Path]:
    """Yield the files with the suffix of an image in sorted order, without hidden files or links to folders."""
    for folder, below, names in os.walk(source):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder) / name


def _pixels_in_header(path: Path) -> int:
    """Return the number of pixels according to the header, without decoding the image.

    Raises:
        GradlabError: the file is not an image, or is too large to be a photograph.
    """
    import warnings

    from PIL import Image

    try:
        if path.stat().st_size > MAX_BYTES:
            raise GradlabError(f"larger than {MAX_BYTES >> 20} MiB")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                pixels = int(image.width) * int(image.height)
    except GradlabError:
        raise
    except Exception as error:  # decoders raise arbitrary exceptions on damaged files
        raise GradlabError(f"cannot be read ({type(error).__name__})") from None
    if pixels > MAX_PIXELS:
        raise GradlabError(f"more than {MAX_PIXELS // 10**6} million pixels, possibly a decompression bomb")
    return pixels


def _claim(target: Path, seed: int) -> None:
    """Record the seed in the target; refuse images of another seed and images that ``prepare`` did not write."""
    note = target / NOTE
    if note.exists():
        earlier = files.read_json(note).get("seed")
        if earlier != seed:
            raise GradlabError(f"{target} was prepared with seed {earlier}, not {seed}: choose another folder")
        return
    foreign = sorted(p.name for p in target.iterdir() if p.suffix.lower() in SUFFIXES)
    if foreign:
        raise GradlabError(f"{target} already holds {foreign[0]}, which prepare did not write: choose an empty folder")
    files.write_json(note, {"seed": seed})


def _finished_row(job: _Job) -> dict[str, Any] | None:
    """Return the row of an image that an earlier run made from this source; None if the file is not complete."""
    try:
        row = files.read_json(_row_path(job.target))
        if not digests.is_whole(row) or row["file"] != job.target.name:
            return None
        complete = row["output_sha256"] == digests.of_file(job.target)
        same = (row["source"], row["seed"], row["sha256"]) == (job.name, job.seed, digests.of_file(job.source))
        return {c: row[c] for c in COLUMNS} if complete and same else None
    except (ValueError, KeyError, TypeError):  # GradlabError is a ValueError
        return None


def _row_path(target: Path) -> Path:
    return target.with_name(f".{target.stem}.json")


def _process(job: _Job) -> _Result:
    """Read, screen, downsample and write one image; finished images are only verified."""
    from PIL import Image

    finished = _finished_row(job)
    if finished is not None:
        return _Result(job.name, finished, done_before=True)
    try:
        picture = read_picture(job.source)
    except GradlabError as error:
        return _Result(job.name, None, str(error))
    pixels = picture.pixels.permute(1, 2, 0).numpy()
    share = saturated_share(pixels)
    if share > SATURATED:
        return _Result(job.name, None, f"not a photograph: {100 * share:.0f} % of its pixels are fully saturated")
    # Each file has its own random stream, derived from its path in the tree.
    digest = hashlib.sha256(f"{job.seed}/prepare/{job.name}".encode()).digest()
    output = downsample(pixels, np.random.default_rng(int.from_bytes(digest[:16], "big")))
    content = io.BytesIO()
    Image.fromarray(output).save(content, "PNG")
    files.write_bytes(job.target, content.getvalue())
    row = {
        "file": job.target.name,
        "source": job.name,
        "sha256": picture.sha256,
        "source_width": pixels.shape[1],
        "source_height": pixels.shape[0],
        "width": output.shape[1],
        "height": output.shape[0],
        "factor": min(output.shape[:2]) / min(pixels.shape[:2]),
        "seed": job.seed,
        "output_sha256": hashlib.sha256(content.getvalue()).hexdigest(),
    }
    # Written last: an image without its row counts as incomplete and is made again.
    files.write_json(_row_path(job.target), digests.sealed(row))
    return _Result(job.name, row)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Callable[[list[_Job]], Iterator[_Result]]]:
    """Run jobs in ``workers`` processes, in any order; a single worker runs in the current process."""
    if workers == 1:
        yield lambda jobs: map(_process, jobs)
        return
    # Spawn, because a fork would copy the locks of torch's threads.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield lambda jobs: (future.result() for future in as_completed([pool.submit(_process, job) for job in jobs]))
    except BrokenProcessPool:
        raise GradlabError("a process died, possibly out of memory: run it again with fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _remove_unlisted(target: Path, names: set[str]) -> None:
    """Remove images of earlier runs that are not in the manifest, with their notes."""
    for note in target.glob(".*.json"):
        name = note.name[1 : -len(".json")] + ".png"
        if note.name != NOTE and name not in names:
            (target / name).unlink(missing_ok=True)
            note.unlink()
