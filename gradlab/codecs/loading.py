"""Read weights from CompressAI's and gradlab's checkpoints; only tensors are unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from compressai.zoo.pretrained import load_pretrained
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint file, under CompressAI's present names.

    Args:
        path: ``.safetensors`` that gradlab wrote (weights alone, or with the optimizer's state), or else a file of
            ``torch.save``: a state dict, or a dict that holds one as ``state_dict``.

    Raises:
        GradlabError: missing, corrupt, more than tensors, or without a state dict.
    """
    if path.suffix == ".safetensors":
        tensors = checkpoints.load(path).tensors
        return {name.removeprefix("model."): t for name, t in tensors.items() if not name.startswith("adam.")}
    if not path.is_file():
        raise GradlabError(f"there is no checkpoint {path}: give the path of a .pth, .pth.tar or .safetensors file")
    try:
        _refuse_bomb(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises its own kinds for every kind of damage
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GradlabError(
            f"checkpoint {path} is corrupt, or holds more than tensors, which is never executed "
            f"({reason[:120]}): save its state dict alone"
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise GradlabError(
            f"checkpoint {path} holds no state dict: save model.state_dict(), or a dict with 'state_dict'"
        )
    # A tensor of a few bytes may claim any shape by strides of 0. (Tied weights are saved once and count as often.)
    if sum(t.numel() * t.element_size() for t in content.values()) > 4 * path.stat().st_size:
        raise GradlabError(f"checkpoint {path} claims more numbers than it has bytes: it is damaged, fetch it again")
    # DataParallel's prefix and the older names of CompressAI's parameters.
    return load_pretrained({str(name): t for name, t in content.items()})


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive that grows when it is unpacked: ``torch.save`` stores, it does not compress.

    Raises:
        GradlabError: compressed entries, more bytes in the entries than in the file, or a checksum that does not match.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        stored = all(e.compress_type == zipfile.ZIP_STORED for e in entries)
        # torch does not look at the checksums of the archive.
        corrupt = archive.testzip() if stored else None
    if corrupt is not None:
        raise GradlabError(f"the checksum of {corrupt} in its archive does not match")
    if not stored or sum(e.file_size for e in entries) > path.stat().st_size:
        raise GradlabError("its archive grows when it is unpacked, and torch.save never compresses")
