"""Photographs: image files, embedded photographs, and random crops of them.

================  =================================================================================================
``images``        ``Picture``; reading and validating image files
``folders``       ``load``: the images of a folder, or the embedded photographs
``embedded``      photographs that ship with scikit-image
``crops``         ``Crops``: batches of random crops
``videos``        ``VideoCrops``: batches of two-frame videos
``prepare``       a training set from a tree of photographs (``gradlab data prepare``)
``downsampling``  the processing of each image of that set
================  =================================================================================================
"""

from gradlab.data.crops import Crops
from gradlab.data.embedded import embedded
from gradlab.data.folders import load
from gradlab.data.images import Picture, fingerprint, floats, read_image
from gradlab.data.videos import VideoCrops

__all__ = ["Crops", "Picture", "VideoCrops", "embedded", "fingerprint", "floats", "load", "read_image"]
