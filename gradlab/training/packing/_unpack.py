"""Unpack files into an output folder, where ``gradlab run --resume`` continues.

Finished runs and studies in the folder are kept. Unfinished ones are replaced by packed ones that are further along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints, digests, files, locks, platforms
from gradlab.training.packing import archive
from gradlab.training.packing.shards import FILE_NAME, LoadedSet, WeightSet, read
from gradlab.training.run import FINAL, LAST

EVALUATED = "rate-distortion-"
TEXTS = ("settings.json", "log.csv")


@dataclass
class Unpacked:
    """Result of unpacking.

    Attributes:
        sets: sets of weights that were written.
        files: number of other files that were written.
        stayed: runs, studies and other files that were kept although the pack contains them too.
        incomplete: ``RUN/KIND (ITERATION)`` of weights whose files are incomplete.
    """

    sets: list[WeightSet] = field(default_factory=list)
    files: int = 0
    stayed: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)


def unpack(source: Path, out: Path) -> Unpacked:
    """Unpack files into an output folder, where ``gradlab run --out OUT --resume`` continues.

    Finished runs and finished studies in ``out`` are kept. An unfinished run is replaced by a packed one with more
    iterations. An unfinished study takes the packed files and keeps its other parts. Missing snapshots, evaluations and
    logs are added.

    Args:
        source: folder with all or some of the files that ``pack`` wrote.
        out: output folder.

    Returns:
        What was written and what was kept.

    Raises:
        GradlabError: there are no packed files, a file is corrupt or was not written by ``pack``, or another process
            works in ``out``. Nothing is written in these cases. On Windows.
    """
    platforms.require_posix("gradlab unpack")
    paths = sorted(path for path in source.glob("weights-*.safetensors") if FILE_NAME.fullmatch(path.name))
    archived = (source / archive.NAME).exists()
    if not paths and not archived:
        raise GradlabError(
            f"{source} contains neither {archive.NAME} nor weights: give a folder that gradlab pack wrote"
        )
    complete, incomplete = read(paths, lambda run: "/" not in run and archive.is_plain(run))
    contents = archive.read(source / archive.NAME) if archived else {}
    runs: dict[str, tuple[list[LoadedSet], dict[str, bytes]]] = {}
    for loaded in complete:
        runs.setdefault(loaded.weights.run, ([], {}))[0].append(loaded)
    studies: dict[str, dict[str, bytes]] = {}
    for name, content in contents.items():
        top, _, rest = name.partition("/")
        if top == "runs" and rest.count("/") == 1:
            run, _, file = rest.partition("/")
            runs.setdefault(run, ([], {}))[1][file] = content
        else:
            studies.setdefault(top if rest and top != "runs" else "", {})[name] = content
    files.ensure_folder(out)
    result = Unpacked()
    with locks.hold(out, "wait until it has finished, or unpack into another folder"):
        for run, (sets, others) in sorted(runs.items()):
            _put_run(out / "runs" / run, sets, others, result)
        for study, study_files in sorted(studies.items()):
            _put_study(out, study, study_files, result)
    lacking = [part for part in incomplete if not any(_covers(loaded.weights, part) for loaded in complete)]
    result.incomplete = [f"{part.run}/{part.kind} ({part.iteration})" for part in lacking]
    return result


def _covers(weights: WeightSet, other: WeightSet) -> bool:
    """Return whether a complete set makes an incomplete one unnecessary, e.g. one left behind by a killed process."""
    further = weights.kind == other.kind and weights.iteration >= other.iteration
    return weights.run == other.run and (further or (weights.kind == "final" and other.kind == "last"))


def _put_run(folder: Path, sets: list[LoadedSet], others: Mapping[str, bytes], result: Unpacked) -> None:
    snapshots = [loaded for loaded in sets if loaded.weights.kind.startswith("snapshot")]
    models = [loaded for loaded in sets if not loaded.weights.kind.startswith("snapshot")]
    best = max(models, key=_progress, default=None)
    if best is not None and not (folder / FINAL).exists() and _progress(best) > (False, _iteration(folder / LAST)):
        for name, content in others.items():
            if name not in TEXTS and not name.startswith(EVALUATED):
                _put(folder / name, content, result)
        for name in TEXTS:  # in the version that belongs to the weights
            if best.about["texts"].get(name):
                _put(folder / name, best.about["texts"][name].encode(), result)
        _save(folder, best, result)
        if best.weights.kind == "final":
            files.remove(folder / LAST)
    elif best is not None:
        result.stayed.append(f"runs/{folder.name}")
    for loaded in snapshots:
        if not (folder / f"{loaded.weights.kind}.safetensors").exists():
            _save(folder, loaded, result)
            settings = TEXTS[0]  # the pack may contain nothing else of this run
            if not (folder / settings).exists():
                _put(folder / settings, loaded.about["texts"].get(settings, "").encode(), result)
    for name, content in others.items():
        if not (folder / name).exists():
            _put(folder / name, content, result)


def _progress(loaded: LoadedSet) -> tuple[bool, int]:
    return loaded.weights.kind == "final", loaded.weights.iteration


def _iteration(checkpoint: Path) -> int:
    """Return the iterations of a checkpoint, or -1 if training cannot continue from it."""
    try:
        return checkpoints.load(checkpoint).iteration
    except GradlabError:
        return -1


def _save(folder: Path, loaded: LoadedSet, result: Unpacked) -> None:
    weights, about = loaded.weights, loaded.about
    path = files.ensure_folder(folder) / f"{weights.kind}.safetensors"
    checkpoints.save(path, loaded.tensors, about["settings_hash"], weights.iteration, about["extra"])
    result.sets.append(weights)


def _put_study(out: Path, study: str, contents: Mapping[str, bytes], result: Unpacked) -> None:
    """Write the files of a study.

    Args:
        out: output folder.
        study: name of the study; empty for files that belong to no study.
        contents: content of each file, by its name below ``out``.
        result: updated with what was written.
    """
    if study and _finished(out / study):
        result.stayed.append(study)
        return
    # The provenance comes last: it marks the study as finished.
    for name, content in sorted(contents.items(), key=lambda item: item[0] == f"{study}/{digests.RECORD}"):
        path = out / name
        # A log may have grown. Any other existing file of the same name is kept.
        ours = study or name == archive.LIST  # the list describes the last pack
        if not ours and path.exists() and not content.startswith(path.read_bytes()):
            result.stayed.append(name)
        else:
            _put(path, content, result)


def _finished(folder: Path) -> bool:
    try:
        return bool(digests.read_record(folder))
    except GradlabError:  # damaged
        return False


def _put(path: Path, content: bytes, result: Unpacked) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    files.ensure_folder(path.parent)
    files.write_bytes(path, content)
    result.files += 1
