"""Read weights from checkpoints of CompressAI and gradlab; only tensors are unpickled."""

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
    """Read the state dict of a checkpoint, with CompressAI's current parameter names.

    Args:
        path: a ``.safetensors`` file that gradlab wrote (weights only, or with optimizer state), or a ``torch.save``
            file with a state dict, or with a dictionary that holds one under ``"state_dict"``.

    Returns:
        The state dict.

    Raises:
        GradlabError: the file is missing, corrupt, or holds anything but tensors, or there is no state dict in it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from gradlab.codecs.loading import read_state_dict
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"g_a.0.weight": torch.zeros(2)}, Path(folder) / "weights.pth")
        ...     read_state_dict(Path(folder) / "weights.pth")
        {'g_a.0.weight': tensor([0., 0.])}
    """
    if path.suffix == ".safetensors":
        tensors = checkpoints.load(path).tensors
        return {name.removeprefix("model."): t for name, t in tensors.items() if not name.startswith("adam.")}
    if not path.is_file():
        raise GradlabError(f"there is no checkpoint {path}: give the path of a .pth, .pth.tar or .safetensors file")
    try:
        _refuse_bomb(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many exception types for damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GradlabError(
            f"checkpoint {path} is corrupt, or holds objects other than tensors, which are never executed "
            f"({reason[:120]}): save only the state dict"
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise GradlabError(
            f"checkpoint {path} holds no state dict: save model.state_dict(), or a dictionary with the key 'state_dict'"
        )
    # A tensor of a few bytes can have any shape with strides of 0. (The factor 4 allows tied weights, saved only once.)
    if sum(t.numel() * t.element_size() for t in content.values()) > 4 * path.stat().st_size:
        raise GradlabError(f"checkpoint {path} is damaged, its tensors are larger than the file: download it again")
    # Removes DataParallel's prefix and updates CompressAI's older parameter names.
    return load_pretrained({str(name): t for name, t in content.items()})


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive that grows when it is extracted; ``torch.save`` does not compress.

    Raises:
        GradlabError: the archive has compressed entries, its entries hold more bytes than the file, or a checksum does
            not match.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        stored = all(e.compress_type == zipfile.ZIP_STORED for e in entries)
        # torch does not verify the checksums of the archive.
        corrupt = archive.testzip() if stored else None
    if corrupt is not None:
        raise GradlabError(f"the checksum of {corrupt} in the archive does not match")
    if not stored or sum(e.file_size for e in entries) > path.stat().st_size:
        raise GradlabError("the archive expands to more than the size of the file, but torch.save never compresses")
