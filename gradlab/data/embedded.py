"""Photographs that ship with the scikit-image wheel: no download, and the same pixels everywhere.

Sources and terms, according to scikit-image (`skimage/data/_fetchers.py`):

==========================  =======  ==================================================================================
file                        split    source, terms
==========================  =======  ==================================================================================
``coffee.png``              train    Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0
``hubble_deep_field.jpg``   train    NASA, HubbleSite; public domain
``ihc.png``                 train    Center for Microscopy and Molecular Imaging; no known copyright restrictions
``motorcycle_left.png``     train    Middlebury 2014 stereo benchmark, downsampled by 4; no terms stated, cite
``motorcycle_right.png``    train    Scharstein et al., GCPR 2014 (both are used as installed, never redistributed)
``rocket.jpg``              train    SpaceX; public domain
``astronaut.png``           test     NASA Great Images (Eileen Collins); public domain, 512 x 512
``camera.png``              test     Lav Varshney; CC0 (grey), 512 x 512
``chelsea.png``             test     Stefan van der Walt; CC0, 451 x 300
``coins.png``               test     Brooklyn Museum; no known copyright restrictions (grey), 384 x 303
==========================  =======  ==================================================================================

No scene is in both splits. Drawings, masks, text, a blurred clock and images of mostly one colour are left out, and so
are close-ups of grass and gravel, because the errors of these grey textures would dominate those of the photographs.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from gradlab.data.images import Picture, read_picture
from gradlab.errors import GradlabError, unknown
from gradlab.validation import checked

SPLITS: dict[str, tuple[str, ...]] = {
    "train": (
        "coffee.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "rocket.jpg",
    ),
    "test": ("astronaut.png", "camera.png", "chelsea.png", "coins.png"),
}


@checked
def embedded(split: str) -> list[Picture]:
    """Load the embedded photographs, sorted by file name, without importing scikit-image.

    Args:
        split: ``"train"`` or ``"test"``.

    Returns:
        The photographs.

    Raises:
        GradlabError: the split is unknown, scikit-image is not installed, or its version does not ship these files.

    Example:
        >>> import gradlab as gl
        >>> [picture.name for picture in gl.data.embedded("test")]
        ['astronaut.png', 'camera.png', 'chelsea.png', 'coins.png']
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise GradlabError("the embedded photographs require scikit-image: install it, or give a folder of images")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    absent = [name for name in SPLITS[split] if not (folder / name).is_file()]
    if absent:
        raise GradlabError(
            f"the installed scikit-image does not ship {absent[0]}: install version 0.22 to 0.26, or give a folder"
        )
    return [read_picture(folder / name) for name in SPLITS[split]]
