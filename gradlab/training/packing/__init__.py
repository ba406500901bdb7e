"""An output folder in a few files of bounded size, to carry between machines: ``gradlab pack`` and ``gradlab unpack``.

===========  ==========================================================================
``_pack``    what goes into the files, once or again and again
``_unpack``  the files back into an output folder
``archive``  ``results.zip``: every file of an output folder except the weights
``shards``   ``weights-*.safetensors``: sets of weights, cut at tensors
``target``   the folder with the files, which is complete at every moment
===========  ==========================================================================
"""

from __future__ import annotations

from gradlab.training.packing._pack import Pack, PackOptions, pack, pack_every
from gradlab.training.packing._unpack import Unpacked, unpack

__all__ = ["Pack", "PackOptions", "Unpacked", "pack", "pack_every", "unpack"]
