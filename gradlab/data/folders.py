"""Load the images of a folder, or the embedded photographs."""

from __future__ import annotations

from pathlib import Path

from gradlab.data.embedded import embedded
from gradlab.data.images import SUFFIXES, Picture, read_picture, require_size
from gradlab.errors import GradlabError
from gradlab.validation import checked, whole


@checked
def load(folder: str | Path | None, split: str, minimum: int = 1) -> list[Picture]:
    """Load every image of a folder, sorted by name, or the embedded photographs of ``split`` where ``folder`` is None.

    Args:
        folder: not searched recursively; files whose suffix is not an image's are ignored.
        split: ``"train"`` or ``"test"``.
        minimum: smallest allowed height and width, pixels.

    Raises:
        GradlabError: no such folder, no images in it, an image that ``read_image`` refuses or that is too small.
    """
    if folder is None:
        pictures = embedded(split)
    else:
        folder = require_folder(folder)
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not paths:
            raise GradlabError(f"there are no images in {folder}: put PNG, JPEG or WebP files there")
        pictures = [read_picture(path) for path in paths]
    minimum = whole("minimum", minimum, items="pixels")
    require_size(pictures, minimum, f"{minimum} x {minimum}")
    return pictures


def require_folder(path: str | Path) -> Path:
    """Return the path of an existing folder.

    Raises:
        GradlabError: no such folder, or a file.
    """
    folder = Path(path)
    if not folder.exists():
        raise GradlabError(f"there is no folder {folder}: check the path")
    if not folder.is_dir():
        raise GradlabError(f"{folder} is not a folder: give the folder that holds the images")
    return folder
