"""Checkpoints: safetensors with a JSON header, in one file, so that writing it is one atomic step.

Nothing is unpickled. A file that was cut short, altered or written by a run of other settings is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from gradlab import results
from gradlab.errors import GradlabError


class Stored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        tensors: by name, on the CPU.
        iteration: training iterations behind it.
        extra: what else was stored with it.
        settings_hash: of the run that wrote it.
    """

    tensors: dict[str, Tensor]
    iteration: int
    extra: dict[str, Any]
    settings_hash: str


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
    flat = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header = {
        "settings_hash": settings_hash,
        "iteration": iteration,
        "digest": digest(flat),
        "extra": dict(extra or {}),
    }
    results.write_bytes(path, safetensors.torch.save(flat, metadata={"gradlab": json.dumps(header)}))


def load(path: Path, settings_hash: str | None = None) -> Stored:
    """Read a checkpoint.

    Args:
        path: the file.
        settings_hash: what it must have been written with; None takes any.

    Raises:
        GradlabError: missing, corrupt, not gradlab's, or of other settings.
    """
    if not path.exists():
        raise GradlabError(f"there is no checkpoint {path}: train the model first")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})["gradlab"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found, iteration, stored, extra = (header[key] for key in ("settings_hash", "iteration", "digest", "extra"))
    except Exception as error:  # safetensors raises its own kinds for every kind of damage
        raise GradlabError(f"checkpoint {path} is corrupt ({error}): delete it and train again") from None
    if stored != digest(tensors):
        raise GradlabError(f"checkpoint {path} is corrupt (its digest does not match): delete it and train again")
    if settings_hash is not None and found != settings_hash:
        raise GradlabError(
            f"checkpoint {path} is of other settings ({found}, not {settings_hash}): delete it or choose another folder"
        )
    return Stored(tensors, int(iteration), extra, found)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and values, in hexadecimal; the order of the names does not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
