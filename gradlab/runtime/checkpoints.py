"""Checkpoints: safetensors with a JSON header in one file, which is written atomically.

Nothing is unpickled. ``load`` refuses files that were truncated, altered or written by a run with other settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.runtime import files


class Stored(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        tensors: by name, on the CPU.
        iteration: training iterations behind it.
        extra: JSON-able data stored with it.
        settings_hash: of the run that wrote it.
    """

    tensors: dict[str, Tensor]
    iteration: int
    extra: dict[str, Any]
    settings_hash: str

    def entries(self, *names: str) -> tuple[Any, ...]:
        """Return entries of ``extra``.

        Raises:
            GradlabError: one is missing.
        """
        for name in names:
            if name not in self.extra:
                raise GradlabError(f"a checkpoint of this run has no {name!r}: delete the run and train it again")
        return tuple(self.extra[name] for name in names)


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    settings_hash: str,
    iteration: int,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file.
        tensors: by name, any device.
        settings_hash: of the run that writes it.
        iteration: training iterations behind it.
        extra: JSON-able.
    """
    files.write_bytes(path, encoded(tensors, settings_hash, iteration, extra))


def encoded(
    tensors: Mapping[str, Tensor], settings_hash: str, iteration: int, extra: Mapping[str, Any] | None = None
) -> bytes:
    """Return the content of the file that ``save`` writes; equal arguments give equal bytes."""
    flat = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header = {"settings_hash": settings_hash, "iteration": iteration, "extra": dict(extra or {})}
    # Over the header too: a flipped digit of the iteration is as wrong as one of a weight.
    header = json.loads(json.dumps(header))
    header["seal"] = digest(flat, header)
    content: bytes = safetensors.torch.save(flat, metadata={"gradlab": json.dumps(header)})
    return content


def load(path: Path, settings_hash: str | None = None) -> Stored:
    """Read a checkpoint.

    Args:
        path: the file.
        settings_hash: of the run that must have written it; None accepts any.

    Raises:
        GradlabError: the file is missing, corrupt, not gradlab's, or of other settings.
    """
    if not path.exists():
        raise GradlabError(f"there is no checkpoint {path}: train the model first")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})["gradlab"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        seal = header.pop("seal")
        stored = Stored(tensors, int(header["iteration"]), header["extra"], header["settings_hash"])
        intact = seal == digest(tensors, header)
    except Exception as error:  # safetensors raises its own kinds for every kind of damage
        raise GradlabError(f"checkpoint {path} is corrupt ({error}): delete it and train again") from None
    if not intact:
        raise GradlabError(f"checkpoint {path} is corrupt (its digest does not match): delete it and train again")
    if settings_hash not in (None, stored.settings_hash):
        other = f"({stored.settings_hash}, not {settings_hash})"
        raise GradlabError(f"checkpoint {path} is of other settings {other}: delete it or choose another folder")
    return stored


def digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None = None) -> str:
    """Return the SHA-256 of the names, shapes, types and bytes of tensors on the CPU, and of their header."""
    sha = hashlib.sha256()
    if header is not None:
        sha.update(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach()
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        sha.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
