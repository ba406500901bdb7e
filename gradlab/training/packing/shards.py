"""Sets of weights in files of bounded size, each of which says which sets it holds tensors of."""

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

NAME = re.compile(r"weights-\d{2,}-[0-9a-f]{8}\.safetensors")
KIND = re.compile(r"final|last|snapshot-\d+")
HEAD = 1000  # bytes of the header of a file, of which each tensor takes ENTRY more, and its name
ENTRY = 200


@dataclass(frozen=True)
class Packed:
    """A set of weights in a pack.

    Attributes:
        run: name of the run's folder.
        kind: ``"final"``, ``"last"`` (of an unfinished run) or ``"snapshot-<iteration>"``.
        iteration: training iterations behind it.
        optimizer: whether the optimizer's state is there, so that training goes on to the same numbers.
        megabytes: of its tensors.
        digest: SHA-256 of names, shapes and values (``gradlab.runtime.checkpoints.digest``).
    """

    run: str
    kind: str
    iteration: int
    optimizer: bool
    megabytes: float
    digest: str


def packed(run: str, kind: str, iteration: int, state: Mapping[str, Tensor]) -> Packed:
    """Describe a set of weights."""
    size = sum(value.numel() * value.element_size() for value in state.values()) / MEGABYTE
    optimizer = any(name.startswith("adam.") for name in state)
    return Packed(run, kind, iteration, optimizer, size, checkpoints.digest(state))


class Shards:
    """Cuts sets of weights at tensors, and fills one file after the other.

    Args:
        limit: bytes of a file at most.
        files: how many at most; None: any number.
        total: bytes of all files at most.
        put: called with name and content of a file that is full.
    """

    def __init__(self, limit: float, files: int | None, total: float, put: Callable[[str, bytes], object]) -> None:
        self._limit, self._files, self._total, self._put = limit, files, total, put
        self._count, self._spent, self._used = 0, 0.0, float("inf")
        self._sets: list[dict[str, Any]] = []
        self._tensors: dict[str, Tensor] = {}

    def add(self, one: Packed, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
        """Add a set of weights, or nothing of it.

        Args:
            one: what it is.
            state: its tensors.
            about: JSON-able; stored with the first of them.

        Returns:
            Which limit leaves no space for it, and the remedy; empty if it is added.
        """
        brief = {"run": one.run, "kind": one.kind, "iteration": one.iteration, "digest": one.digest, "of": len(state)}
        full = brief | {"about": dict(about)}
        starts, used, spent, entry = set(), self._used, 0.0, _stored(full)
        for name, value in state.items():
            size = value.numel() * value.element_size() + len(name.encode()) + ENTRY + entry
            head = HEAD + _stored(brief)
            if head + size > self._limit:
                mb = (head + size) / MEGABYTE
                return f"{name} alone has {mb:.2g} MB: raise the limit of {self._limit / MEGABYTE:g} MB"
            if used + size > self._limit:
                starts.add(name)
                used, spent = head, spent + head
            used, spent, entry = used + size, spent + size, 0
        if self._files is not None and self._count + len(starts) > self._files:
            return (
                f"{self._files} files of {self._limit / MEGABYTE:g} MB are left for weights: raise --files or --limit"
            )
        if self._spent + spent > self._total:
            free = max(0.0, self._total - self._spent) / MEGABYTE
            return f"{free:.3g} MB of the total are left for weights: raise --total"
        said = full
        for at, (name, value) in enumerate(state.items()):
            if name in starts:
                self.close()
                self._count += 1
            if name in starts or at == 0:
                self._sets.append(said)
                said = brief
            self._tensors[f"{len(self._sets) - 1}/{name}"] = value
        self._used, self._spent = used, self._spent + spent
        return ""

    def close(self) -> None:
        """Give away the file that is being filled."""
        if self._tensors:
            content = checkpoints.encoded(self._tensors, "pack", self._count, {"sets": self._sets})
            mark = hashlib.sha256(content).hexdigest()[:8]
            self._put(f"weights-{self._count:02d}-{mark}.safetensors", content)
        self._sets, self._tensors = [], {}


def _stored(entry: Mapping[str, Any]) -> int:
    return len(json.dumps(json.dumps(entry))) + 2  # a text in a header of JSON


@dataclass
class Stored:
    """A set of weights that was found in files.

    Attributes:
        one: what it is; its size and optimizer are those of the tensors that are there.
        tensors: those of them that are there.
        about: what ``Shards.add`` was given.
        of: how many tensors the whole set has.
    """

    one: Packed
    of: int
    about: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def read(paths: Iterable[Path], is_plain: Callable[[str], bool]) -> tuple[list[Stored], list[Packed]]:
    """Read files of weights, of which some may be missing.

    Args:
        paths: the files.
        is_plain: whether a run may be called so.

    Returns:
        The sets that are whole, and the others.

    Raises:
        GradlabError: a file is corrupt, or what ``Shards`` does not write.
    """
    found: dict[tuple[str, str, str], Stored] = {}
    for path in paths:
        try:
            file = checkpoints.load(path, "pack")
        except GradlabError:
            raise GradlabError(f"{path} is corrupt: copy it again, or delete it to unpack the rest") from None
        try:
            sets = [_described(said) for said in file.extra["sets"]]
            for at, part in enumerate(sets):
                run, kind = part.one.run, part.one.kind
                if not (is_plain(run) and KIND.fullmatch(kind)):
                    raise GradlabError(f"it names {run!r}/{kind!r}, which is no plain name")
                sets[at] = found.setdefault((run, kind, part.one.digest), part)
                sets[at].about = part.about or sets[at].about
            for name, value in file.tensors.items():
                number, _, tensor = name.partition("/")
                sets[int(number)].tensors[tensor] = value
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise GradlabError(f"{path} is not what gradlab pack writes ({error}): pack again") from None
    whole, parts = [], []
    for part in found.values():
        one = part.one
        if len(part.tensors) < part.of or not part.about:
            parts.append(one)
            continue
        part.one = packed(one.run, one.kind, one.iteration, part.tensors)
        if part.one.digest != one.digest:
            raise GradlabError(f"the weights of {one.run}/{one.kind} do not match their digest: pack again")
        whole.append(part)
    return whole, parts


def _described(said: Mapping[str, Any]) -> Stored:
    run, kind, digest = (str(said[name]) for name in ("run", "kind", "digest"))
    about: dict[str, Any] = {}
    if "about" in said:
        about = {"settings_hash": str(said["about"]["settings_hash"]), "extra": dict(said["about"]["extra"])}
        about["texts"] = {str(name): str(text) for name, text in said["about"]["texts"].items()}
    return Stored(Packed(run, kind, int(said["iteration"]), False, 0.0, digest), int(said["of"]), about)
