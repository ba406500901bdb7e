"""CompressAI's models with ``log_terms``, gradlab's forward pass. Only this package imports compressai.

===============  ==================================================================================================
``zoo``          ``CODECS`` by name, ``build`` and ``load``
``base``         ``Codec``: the forward pass that all image codecs share
``factorized``   the factorised prior: y only
``hyperprior``   scale and mean-scale hyperpriors: y and z
``context``      autoregressive context models (Minnen et al. 2018, Cheng et al. 2020)
``video``        ``PFrame``: one P-frame of scale-space flow
``shared``       checks and tensor helpers that all codecs share
``entropy``      CompressAI's entropy models with likelihoods of samples that are already noisy
``precision``    transforms in float32, TF32 or bfloat16
``loading``      state dicts from checkpoint files
``loss``         ``Loss``, shared by training and evaluation
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
