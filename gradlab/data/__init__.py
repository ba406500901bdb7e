"""Photographs: read from files, taken from the ones that are already installed, and cut into random crops."""

from gradlab.data.crops import Crops
from gradlab.data.embedded import embedded
from gradlab.data.folders import load
from gradlab.data.images import Picture, fingerprint, floats, read_image
from gradlab.data.videos import VideoCrops

__all__ = ["Crops", "Picture", "VideoCrops", "embedded", "fingerprint", "floats", "load", "read_image"]
