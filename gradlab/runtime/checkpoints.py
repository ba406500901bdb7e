"""Store checkpoints: tensors and a JSON header in one safetensors file, written atomically.

Nothing is unpickled. ``load`` refuses files that are truncated, modified, or written by a run with other settings.
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
    """Content of a checkpoint.

    Attributes:
        tensors: tensors on the CPU, by name.
        iteration: number of training iterations.
        extra: JSON-serialisable data stored with the tensors.
        settings_hash: settings hash of the run that wrote it.
    """

    tensors: dict[str, Tensor]
    iteration: int
    extra: dict[str, Any]
    settings_hash: str

    def entries(self, *names: str) -> tuple[Any, ...]:
        """Return entries of ``extra``.

        Raises:
            GradlabError: an entry is missing.
        """
        for name in names:
            if name not in self.extra:
                raise GradlabError(f"a checkpoint of this run has no entry {name!r}: delete the run and train it again")
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
        path: path of the file.
        tensors: tensors on any device, by name.
        settings_hash: settings hash of the run that writes it.
        iteration: number of training iterations.
        extra: JSON-serialisable data.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from gradlab.runtime import checkpoints
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "last.safetensors"
        ...     checkpoints.save(path, {"weight": torch.ones(2)}, "0123456789ab", iteration=10)
        ...     checkpoints.load(path, "0123456789ab").iteration
        10
    """
    files.write_bytes(path, encoded(tensors, settings_hash, iteration, extra))


def encoded(
    tensors: Mapping[str, Tensor], settings_hash: str, iteration: int, extra: Mapping[str, Any] | None = None
) -> bytes:
    """Return the bytes that ``save`` writes; equal arguments give equal bytes.

    Args:
        tensors: as for ``save``.
        settings_hash: as for ``save``.
        iteration: as for ``save``.
        extra: as for ``save``.
    """
    flat = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header = {"settings_hash": settings_hash, "iteration": iteration, "extra": dict(extra or {})}
    # The digest covers the header too: a flipped digit in the iteration is as bad as one in a weight.
    header = json.loads(json.dumps(header))
    header["seal"] = digest(flat, header)
    content: bytes = safetensors.torch.save(flat, metadata={"gradlab": json.dumps(header)})
    return content


def load(path: Path, settings_hash: str | None = None) -> Stored:
    """Read and verify a checkpoint.

    Args:
        path: path of the file.
        settings_hash: settings hash of the run that must have written it; None accepts any run.

    Raises:
        GradlabError: the file is missing, corrupt, not written by gradlab, or belongs to other settings.
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
    except Exception as error:  # safetensors raises various exceptions, depending on the damage
        raise GradlabError(f"checkpoint {path} is corrupt ({error}): delete it and train again") from None
    if not intact:
        raise GradlabError(f"checkpoint {path} is corrupt (its digest does not match): delete it and train again")
    if settings_hash not in (None, stored.settings_hash):
        other = f"({stored.settings_hash}, not {settings_hash})"
        raise GradlabError(f"checkpoint {path} belongs to other settings {other}: delete it or choose another folder")
    return stored


def digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None = None) -> str:
    """Return the SHA-256 of tensors on the CPU: of their names, shapes, types and bytes, and of an optional header.

    Args:
        tensors: tensors by name.
        header: JSON-serialisable data to include.
    """
    sha = hashlib.sha256()
    if header is not None:
        sha.update(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach()
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        sha.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
