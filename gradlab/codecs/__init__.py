"""CompressAI's models behind ``log_terms``. The only package that imports compressai.

===============  ==================================================================================================
``zoo``          ``CODECS`` by name, ``build``, ``load``
``base``         ``Codec``: the forward pass that all image codecs share
``factorized``   the factorised prior: y alone
``hyperprior``   scale and mean-scale hyperpriors: y and z
``context``      autoregressive context models (Minnen et al. 2018, Cheng et al. 2020)
``video``        ``PFrame``: one P-frame of scale-space flow
``shared``       checks and tensor helpers of all codecs
``entropy``      CompressAI's entropy models, given samples that are already noisy
``precision``    float32, TF32 or bfloat16 transforms
``loading``      state dicts from checkpoint files
``loss``         ``Loss``, which training and evaluation share
===============  ==================================================================================================
"""

from gradlab.errors import needs

with needs("gl.codecs"):
    from gradlab.codecs.base import Codec, Latents
    from gradlab.codecs.hyperprior import Hyperprior, SmallHyperprior
    from gradlab.codecs.loss import Loss, LossParts, PlainLoss
    from gradlab.codecs.video import PFrame
    from gradlab.codecs.zoo import CODECS, build, load

__all__ = [
    "CODECS",
    "Codec",
    "Hyperprior",
    "Latents",
    "Loss",
    "LossParts",
    "PFrame",
    "PlainLoss",
    "SmallHyperprior",
    "build",
    "load",
]
