"""Trained weights in a few files of bounded size, to carry between machines: ``gradlab pack`` and ``gradlab unpack``.

An accelerator is often lent by the hour, behind a door that lets small files through. What was trained there is packed
into shards, and unpacked into the output folder of another machine, where ``gradlab run --resume`` goes on with it: a
finished run is evaluated, an unfinished one is trained further. Without the optimizer's state, which is twice as large
as the weights, that is a warm restart (``gradlab.training``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gradlab import checkpoints, results
from gradlab.checkpoints import Stored
from gradlab.errors import GradlabError

MEGABYTE = 2**20
PLAIN_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Packed:
    """A set of weights in a pack.

    Attributes:
        run: name of the run's folder.
        kind: ``"final"``, ``"last"`` (of an unfinished run) or ``"snapshot-<iteration>"``.
        iteration: training iterations behind it.
        optimizer: whether the optimizer's state is there, so that training goes on to the same numbers.
        megabytes: of its tensors.
        digest: SHA-256 of names, shapes and values (``gradlab.checkpoints.digest``).
    """

    run: str
    kind: str
    iteration: int
    optimizer: bool
    megabytes: float
    digest: str


def pack(
    out: Path, target: Path, limit_mb: float = 15.0, *, snapshots: Sequence[int] = (), optimizer: bool = False
) -> list[Packed]:
    """Pack the weights of the runs in an output folder.

    Args:
        out: what ``gradlab run --out`` wrote.
        target: a folder for the shards ``weights-00001-of-00003.safetensors`` and their list ``weights.csv``; new or
            empty.
        limit_mb: no shard is larger, in units of 2^20 bytes.
        snapshots: also the weights that were kept after these iterations, where there are any.
        optimizer: also the optimizer's state of unfinished runs.

    Returns:
        What was packed.

    Raises:
        GradlabError: no runs, a tensor larger than the limit, a corrupt checkpoint, or a target that is not empty.
    """
    import pandas as pd

    if not limit_mb > 0:
        raise GradlabError(f"the limit is {limit_mb:g} MB: give more than 0")
    if target.exists() and any(target.iterdir()):
        raise GradlabError(f"{target} is not empty: pack into a new folder")
    found, manifest = [], {}
    tensors: dict[str, Tensor] = {}
    for run, kind, stored in _weights(out, snapshots):
        state = stored.tensors
        if not optimizer:
            state = {name: value for name, value in state.items() if not name.startswith("adam.")}
        entry = _packed(run, kind, stored.iteration, state)
        found.append(entry)
        manifest[f"{run}/{kind}"] = {
            "digest": entry.digest,
            "settings_hash": stored.settings_hash,
            "iteration": stored.iteration,
            "extra": stored.extra,
            "settings": (out / "runs" / run / "settings.json").read_text("utf-8"),
            "log": _text(out / "runs" / run / "log.csv"),
        }
        tensors |= {f"{run}/{kind}/{name}": value for name, value in state.items()}
    if not found:
        raise GradlabError(f"{out} holds no trained weights: run a study that trains with --out {out} first")
    shards = _shards(tensors, limit_mb, len(json.dumps(manifest)) * 2)  # quotes are escaped where it is stored
    results.ensure_folder(target)
    for at, shard in enumerate(shards, 1):
        extra: dict[str, Any] = {"of": len(shards), "manifest": manifest if at == 1 else {}}
        checkpoints.save(target / f"weights-{at:05d}-of-{len(shards):05d}.safetensors", shard, "pack", at, extra)
    results.write_csv(target / "weights.csv", pd.DataFrame([vars(entry) for entry in found]))
    return found


def unpack(source: Path, out: Path) -> list[Packed]:
    """Put packed weights where ``gradlab run --out OUT --resume`` finds them; what is there already stays.

    Args:
        source: the folder that ``pack`` wrote.
        out: an output folder.

    Returns:
        What was put there.

    Raises:
        GradlabError: no shards, a shard that is missing or corrupt, or weights that do not match their digest.
    """
    shards = [checkpoints.load(path, "pack") for path in sorted(source.glob("weights-*.safetensors"))]
    if not shards:
        raise GradlabError(f"{source} holds no weights-*.safetensors: name a folder that gradlab pack wrote")
    there, wanted = [shard.iteration for shard in shards], int(shards[0].extra["of"])
    if there != list(range(1, wanted + 1)):
        missing = sorted(set(range(1, wanted + 1)) - set(there))
        raise GradlabError(f"{source} lacks shards {missing} of {wanted}: copy them there, or pack again")
    tensors = {name: value for shard in shards for name, value in shard.tensors.items()}
    found = []
    for key, entry in shards[0].extra["manifest"].items():
        run, _, kind = key.partition("/")
        if not (PLAIN_NAME.fullmatch(run) and PLAIN_NAME.fullmatch(kind)):
            raise GradlabError(f"{source} names a run {key!r}, which is no plain name: pack again")
        state = {name[len(key) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{key}/")}
        packed = _packed(run, kind, entry["iteration"], state)
        if packed.digest != entry["digest"]:
            raise GradlabError(f"the weights of {key} in {source} do not match their digest: pack again")
        folder = out / "runs" / run
        finished = (folder / "final.safetensors").exists()
        if (folder / f"{kind}.safetensors").exists() or (finished and kind == "last"):
            continue
        results.ensure_folder(folder)
        results.write_text(folder / "settings.json", entry["settings"])
        if entry["log"]:
            results.write_text(folder / "log.csv", entry["log"])
        path = folder / f"{kind}.safetensors"
        checkpoints.save(path, state, entry["settings_hash"], entry["iteration"], entry["extra"])
        found.append(packed)
    return found


def _packed(run: str, kind: str, iteration: int, state: dict[str, Tensor]) -> Packed:
    size = sum(value.numel() * value.element_size() for value in state.values()) / MEGABYTE
    optimizer = any(name.startswith("adam.") for name in state)
    return Packed(run, kind, iteration, optimizer, size, checkpoints.digest(state))


def _weights(out: Path, snapshots: Sequence[int]) -> Iterator[tuple[str, str, Stored]]:
    for folder in sorted((out / "runs").glob("*/")):
        if not (folder / "settings.json").exists():
            continue
        end = "final" if (folder / "final.safetensors").exists() else "last"
        for kind in (end, *(f"snapshot-{iteration}" for iteration in snapshots)):
            if (folder / f"{kind}.safetensors").exists():
                yield folder.name, kind, checkpoints.load(folder / f"{kind}.safetensors")


def _shards(tensors: dict[str, Tensor], limit_mb: float, reserved: int) -> list[dict[str, Tensor]]:
    """The tensors in order, a new shard whenever the next does not fit; ``reserved`` bytes of the first are taken."""
    shards: list[dict[str, Tensor]] = [{}]
    room = limit_mb * MEGABYTE - reserved
    for name, value in tensors.items():
        size = value.numel() * value.element_size() + 2 * len(name) + 200  # its entry in the header
        if size > limit_mb * MEGABYTE:
            raise GradlabError(f"{name} alone has {size / MEGABYTE:.2g} MB: raise the limit of {limit_mb:g} MB")
        if size > room:
            shards.append({})
            room = limit_mb * MEGABYTE
        shards[-1][name] = value
        room -= size
    return shards


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""
