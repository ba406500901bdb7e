"""Photographs that ship with the scikit-image wheel: no download, the same pixels everywhere.

Sources and terms, from scikit-image's own notes (`skimage/data/_fetchers.py`):

==========================  =======  ==================================================================================
file                        split    source, terms
==========================  =======  ==================================================================================
``coffee.png``              train    Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0
``hubble_deep_field.jpg``   train    NASA, HubbleSite; public domain
``ihc.png``                 train    Center for Microscopy and Molecular Imaging; no known copyright restrictions
``motorcycle_left.png``     train    Middlebury 2014 stereo benchmark, downsampled by 4; no terms stated, cite
``motorcycle_right.png``    train    Scharstein et al., GCPR 2014 (both are used as installed, never passed on)
``rocket.jpg``              train    SpaceX; public domain
``astronaut.png``           test     NASA Great Images (Eileen Collins); public domain, 512 x 512
``camera.png``              test     Lav Varshney; CC0 (grey), 512 x 512
``chelsea.png``             test     Stefan van der Walt; CC0, 451 x 300
``coins.png``               test     Brooklyn Museum; no known copyright restrictions (grey), 384 x 303
==========================  =======  ==================================================================================

No scene is in both splits. Drawings, masks, text, a blurred clock, pictures of mostly one colour, and close-ups of
grass and gravel are left out (the error of these grey textures would dominate that of the photographs).
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
    """Load the embedded photographs of ``"train"`` or ``"test"``, sorted by name; scikit-image is not imported.

    Raises:
        GradlabError: another split, or a scikit-image without these files.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise GradlabError("the embedded photographs need scikit-image: install it, or give a folder of images")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    absent = [name for name in SPLITS[split] if not (folder / name).is_file()]
    if absent:
        raise GradlabError(
            f"this scikit-image ships without {absent[0]}: install version 0.22 to 0.26, or give a folder"
        )
    return [read_picture(folder / name) for name in SPLITS[split]]
