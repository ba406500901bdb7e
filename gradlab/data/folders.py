"""Load the images of a folder, or the embedded photographs."""

from __future__ import annotations

from pathlib import Path

from gradlab.data.embedded import embedded
from gradlab.data.images import SUFFIXES, Picture, read_picture, require_size
from gradlab.errors import GradlabError
from gradlab.validation import checked, whole


@checked
def load(folder: str | Path | None, split: str, minimum: int = 1) -> list[Picture]:
    """Load all images of a folder, sorted by file name, or the embedded photographs.

    Args:
        folder: folder of images; None loads the embedded photographs. Subfolders, hidden files and files without the
            suffix of an image are ignored.
        split: ``"train"`` or ``"test"``, the split of the embedded photographs.
        minimum: smallest accepted height and width in pixels.

    Returns:
        The images.

    Raises:
        GradlabError: there is no such folder, it holds no images, or an image is unreadable, unsupported or too small.

    Example:
        >>> import gradlab as gl
        >>> len(gl.data.load(None, "train", minimum=256))
        6
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
    """Return a path if it is an existing folder.

    Args:
        path: path to check.

    Returns:
        The path.

    Raises:
        GradlabError: the path does not exist or is not a folder.

    Example:
        >>> from gradlab.data.folders import require_folder
        >>> require_folder(".").is_dir()
        True
    """
    folder = Path(path)
    if not folder.exists():
        raise GradlabError(f"there is no folder {folder}: check the path")
    if not folder.is_dir():
        raise GradlabError(f"{folder} is not a folder: give the folder that holds the images")
    return folder
