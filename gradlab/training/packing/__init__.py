"""Pack an output folder into a few files of bounded size, to move it between machines (``gradlab pack``, ``unpack``).

===========  ============================================================================
``_pack``    writes the packed files, once or repeatedly
``_unpack``  restores the packed files into an output folder
``archive``  ``results.zip``: every file of an output folder except the weights
``shards``   ``weights-*.safetensors``: sets of weights, split between tensors
``target``   the folder of packed files, which holds a complete pack at any time
===========  ============================================================================
"""

from __future__ import annotations

from gradlab.training.packing._pack import Pack, PackOptions, pack, pack_every
from gradlab.training.packing._unpack import Unpacked, unpack

__all__ = ["Pack", "PackOptions", "Unpacked", "pack", "pack_every", "unpack"]
