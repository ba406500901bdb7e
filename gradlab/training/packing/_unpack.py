"""Packed files back into an output folder, where ``gradlab run --resume`` goes on: ``gradlab unpack``.

What is finished in the folder stays as it is; what is not gives way to what is further.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints, digests, files, locks
from gradlab.training.packing import archive
from gradlab.training.packing.shards import NAME, Packed, Stored, read
from gradlab.training.run import FINAL, LAST

EVALUATED = "rate-distortion-"
TEXTS = ("settings.json", "log.csv")


@dataclass
class Unpacked:
    """What became of packed files.

    Attributes:
        sets: of weights that were put into the folder.
        files: how many others were.
        stayed: runs, studies and other files of the folder that were kept, though the pack has them too.
        incomplete: ``RUN/KIND (ITERATION)`` of weights of which files are missing.
    """

    sets: list[Packed] = field(default_factory=list)
    files: int = 0
    stayed: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)


def unpack(source: Path, out: Path) -> Unpacked:
    """Put packed files where ``gradlab run --out OUT --resume`` goes on from them.

    A finished run and a finished study in ``out`` stay. An unfinished run gives way to a packed one with more
    iterations, an unfinished study takes the packed files and keeps its other parts. Snapshots, evaluations and logs
    are added where there are none.

    Args:
        source: files that ``pack`` wrote, all of them or some.
        out: an output folder.

    Raises:
        GradlabError: no packed files, or one that is damaged or that ``pack`` does not write; or another process works
            in ``out``. Nothing is written then.
    """
    paths = sorted(path for path in source.glob("weights-*.safetensors") if NAME.fullmatch(path.name))
    there = (source / archive.NAME).exists()
    if not paths and not there:
        raise GradlabError(f"{source} holds neither {archive.NAME} nor weights: name a folder that gradlab pack wrote")
    whole, parts = read(paths, lambda run: "/" not in run and archive.is_plain(run))
    archived = archive.contents(source / archive.NAME) if there else {}
    done = Unpacked()
    runs: dict[str, tuple[list[Stored], dict[str, bytes]]] = {}
    for stored in whole:
        runs.setdefault(stored.one.run, ([], {}))[0].append(stored)
    studies: dict[str, dict[str, bytes]] = {}
    for name, content in archived.items():
        top, _, rest = name.partition("/")
        if top == "runs" and rest.count("/") == 1:
            run, _, file = rest.partition("/")
            runs.setdefault(run, ([], {}))[1][file] = content
        else:
            studies.setdefault(top if rest and top != "runs" else "", {})[name] = content
    files.ensure_folder(out)
    with locks.hold(out, "wait until it has ended, or unpack into another folder"):
        for run, (sets, others) in sorted(runs.items()):
            _put_run(out / "runs" / run, sets, others, done)
        for study, content_of in sorted(studies.items()):
            _put_study(out, study, content_of, done)
    done.incomplete = [f"{p.run}/{p.kind} ({p.iteration})" for p in parts if not any(_covers(w.one, p) for w in whole)]
    return done


def _covers(one: Packed, other: Packed) -> bool:
    """Whether a whole set makes another one unnecessary, which a killed process left in part."""
    further = one.kind == other.kind and one.iteration >= other.iteration
    return one.run == other.run and (further or (one.kind == "final" and other.kind == "last"))


def _put_run(folder: Path, sets: list[Stored], others: Mapping[str, bytes], done: Unpacked) -> None:
    best = max((s for s in sets if not s.one.kind.startswith("snapshot")), key=_far, default=None)
    further = best is not None and not (folder / FINAL).exists() and _far(best) > (False, _iteration(folder / LAST))
    if best is not None and further:
        texts = best.about["texts"]
        for name, content in others.items():
            if name not in TEXTS and not name.startswith(EVALUATED):
                _put(folder / name, content, done)
        for name in TEXTS:  # of the moment of the weights
            if texts.get(name):
                _put(folder / name, texts[name].encode(), done)
        _save(folder, best, done)
        if best.one.kind == "final":
            files.remove(folder / LAST)
    elif best is not None:
        done.stayed.append(f"runs/{folder.name}")
    for stored in sets:
        if stored.one.kind.startswith("snapshot") and not (folder / f"{stored.one.kind}.safetensors").exists():
            _save(folder, stored, done)
            for name in TEXTS[:1]:  # of a run of which nothing else came home
                if not (folder / name).exists():
                    _put(folder / name, stored.about["texts"].get(name, "").encode(), done)
    for name, content in others.items():
        if not (folder / name).exists():
            _put(folder / name, content, done)


def _far(stored: Stored) -> tuple[bool, int]:
    return stored.one.kind == "final", stored.one.iteration


def _iteration(checkpoint: Path) -> int:
    """Iterations behind a checkpoint; -1 where there is none that training could go on from."""
    try:
        return checkpoints.load(checkpoint).iteration
    except GradlabError:
        return -1


def _save(folder: Path, stored: Stored, done: Unpacked) -> None:
    files.ensure_folder(folder)
    path = folder / f"{stored.one.kind}.safetensors"
    checkpoints.save(path, stored.tensors, stored.about["settings_hash"], stored.one.iteration, stored.about["extra"])
    done.sets.append(stored.one)


def _put_study(out: Path, study: str, files: Mapping[str, bytes], done: Unpacked) -> None:
    """Put the files of a study, by their names below ``out``; those of no study have an empty name of it."""
    if study and _finished(out / study):
        done.stayed.append(study)
        return
    # The provenance comes last: it says that the study is finished.
    for name, content in sorted(files.items(), key=lambda item: item[0] == f"{study}/{digests.RECORD}"):
        path = out / name
        # A log may have grown; another file of the same name is not ours to replace.
        ours = study or name == archive.LISTED  # the list is of the pack that came last
        if not ours and path.exists() and not content.startswith(path.read_bytes()):
            done.stayed.append(name)
        else:
            _put(path, content, done)


def _finished(folder: Path) -> bool:
    try:
        return bool(digests.read_record(folder))
    except GradlabError:  # damaged
        return False


def _put(path: Path, content: bytes, done: Unpacked) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    files.ensure_folder(path.parent)
    files.write_bytes(path, content)
    done.files += 1
