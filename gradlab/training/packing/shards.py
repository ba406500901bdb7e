"""Store sets of weights in files of bounded size; the header of each file lists the sets whose tensors it contains."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints
from gradlab.training.packing.archive import MEGABYTE

FILE_NAME = re.compile(r"weights-\d{2,}-[0-9a-f]{8}\.safetensors")
KIND = re.compile(r"final|last|snapshot-\d+")
HEAD = 1000  # bytes of a file header; each tensor adds ENTRY bytes and its name
ENTRY = 200


@dataclass(frozen=True)
class WeightSet:
    """A set of weights in a pack.

    Attributes:
        run: name of the run's folder.
        kind: ``"final"``, ``"last"`` (of an unfinished run) or ``"snapshot-<iteration>"``.
        iteration: number of training iterations.
        optimizer: whether the optimizer state is included, so that training continues exactly.
        megabytes: size of the tensors, in units of 2^20 bytes.
        digest: SHA-256 of names, shapes and values (``gradlab.runtime.checkpoints.digest``).
    """

    run: str
    kind: str
    iteration: int
    optimizer: bool
    megabytes: float
    digest: str


def describe(run: str, kind: str, iteration: int, state: Mapping[str, Tensor]) -> WeightSet:
    """Describe a set of weights.

    Args:
        run: name of the run's folder.
        kind: as in ``WeightSet``.
        iteration: number of training iterations.
        state: the tensors.
    """
    size = sum(value.numel() * value.element_size() for value in state.values()) / MEGABYTE
    optimizer = any(name.startswith("adam.") for name in state)
    return WeightSet(run, kind, iteration, optimizer, size, checkpoints.digest(state))


class Shards:
    """Distribute the tensors of sets of weights over files, filling one file after the other.

    Args:
        limit: maximum size of a file, in bytes.
        files: maximum number of files; None for no limit.
        total: maximum size of all files, in bytes.
        put: called with the name and the content of each complete file.
    """

    def __init__(self, limit: float, files: int | None, total: float, put: Callable[[str, bytes], object]) -> None:
        self._limit, self._files, self._total, self._put = limit, files, total, put
        self._count, self._spent, self._used = 0, 0.0, float("inf")
        self._sets: list[dict[str, Any]] = []
        self._tensors: dict[str, Tensor] = {}

    def add(self, weights: WeightSet, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
        """Add a set of weights completely, or not at all if it does not fit.

        Args:
            weights: description of the set.
            state: its tensors.
            about: JSON-serialisable data, stored with the first tensor.

        Returns:
            Empty if the set was added; otherwise the limit that it exceeds and the remedy.
        """
        brief = {"run": weights.run, "kind": weights.kind, "iteration": weights.iteration, "digest": weights.digest}
        brief["of"] = len(state)
        full = brief | {"about": dict(about)}
        starts, used, spent, entry_bytes = set(), self._used, 0.0, _header_bytes(full)
        for name, value in state.items():
            size = value.numel() * value.element_size() + len(name.encode()) + ENTRY + entry_bytes
            head = HEAD + _header_bytes(brief)
            if head + size > self._limit:
                mb = (head + size) / MEGABYTE
                return f"{name} alone needs {mb:.2g} MB: raise the limit of {self._limit / MEGABYTE:g} MB"
            if used + size > self._limit:
                starts.add(name)
                used, spent = head, spent + head
            used, spent, entry_bytes = used + size, spent + size, 0
        if self._files is not None and self._count + len(starts) > self._files:
            return (
                f"{self._files} files of {self._limit / MEGABYTE:g} MB are left for weights: raise --files or --limit"
            )
        if self._spent + spent > self._total:
            free = max(0.0, self._total - self._spent) / MEGABYTE
            return f"{free:.3g} MB of the total are left for weights: raise --total"
        entry = full
        for at, (name, value) in enumerate(state.items()):
            if name in starts:
                self.close()
                self._count += 1
            if name in starts or at == 0:
                self._sets.append(entry)
                entry = brief
            self._tensors[f"{len(self._sets) - 1}/{name}"] = value
        self._used, self._spent = used, self._spent + spent
        return ""

    def close(self) -> None:
        """Complete the current file."""
        if self._tensors:
            content = checkpoints.encoded(self._tensors, "pack", self._count, {"sets": self._sets})
            mark = hashlib.sha256(content).hexdigest()[:8]
            self._put(f"weights-{self._count:02d}-{mark}.safetensors", content)
        self._sets, self._tensors = [], {}


def _header_bytes(entry: Mapping[str, Any]) -> int:
    return len(json.dumps(json.dumps(entry))) + 2  # JSON text inside a JSON header


@dataclass
class LoadedSet:
    """A set of weights read from files.

    Attributes:
        weights: description of the set; size and optimizer are those of the loaded tensors.
        of: number of tensors in the complete set.
        about: the argument of ``Shards.add``.
        tensors: the loaded tensors.
    """

    weights: WeightSet
    of: int
    about: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def read(paths: Iterable[Path], is_plain: Callable[[str], bool]) -> tuple[list[LoadedSet], list[WeightSet]]:
    """Read weights files, some of which may be missing.

    Args:
        paths: the files.
        is_plain: returns whether the name of a run is allowed.

    Returns:
        The complete sets, and the incomplete ones.

    Raises:
        GradlabError: a file is corrupt, or was not written by ``Shards``.
    """
    loaded: dict[tuple[str, str, str], LoadedSet] = {}
    for path in paths:
        try:
            file = checkpoints.load(path, "pack")
        except GradlabError:
            raise GradlabError(f"{path} is corrupt: copy it again, or delete it to unpack the rest") from None
        try:
            sets = []
            for part in map(_parsed, file.extra["sets"]):
                run, kind = part.weights.run, part.weights.kind
                if not (is_plain(run) and KIND.fullmatch(kind)):
                    raise GradlabError(f"{run!r}/{kind!r} is not a plain name")
                sets.append(loaded.setdefault((run, kind, part.weights.digest), part))
                sets[-1].about = part.about or sets[-1].about
            for name, value in file.tensors.items():
                number, _, tensor = name.partition("/")
                sets[int(number)].tensors[tensor] = value
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise GradlabError(f"{path} was not written by gradlab pack ({error}): pack again") from None
    complete, incomplete = [], []
    for part in loaded.values():
        weights = part.weights
        if len(part.tensors) < part.of or not part.about:
            incomplete.append(weights)
            continue
        part.weights = describe(weights.run, weights.kind, weights.iteration, part.tensors)
        if part.weights.digest != weights.digest:
            raise GradlabError(f"the weights of {weights.run}/{weights.kind} do not match their digest: pack again")
        complete.append(part)
    return complete, incomplete


def _parsed(entry: Mapping[str, Any]) -> LoadedSet:
    run, kind, digest = (str(entry[name]) for name in ("run", "kind", "digest"))
    about: dict[str, Any] = {}
    if "about" in entry:
        about = {"settings_hash": str(entry["about"]["settings_hash"]), "extra": dict(entry["about"]["extra"])}
        about["texts"] = {str(name): str(text) for name, text in entry["about"]["texts"].items()}
    return LoadedSet(WeightSet(run, kind, int(entry["iteration"]), False, 0.0, digest), int(entry["of"]), about)
