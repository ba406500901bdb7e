"""Rate, distortion, bitstreams, BD metrics, latent statistics, importance weights and gradients of codecs.

======================  ============================================================================================
``bitstream``           ``rate_distortion``: rate of real bitstreams and distortion of the decoded images
``likelihood``          rates without a bitstream: universal quantization, rounding, and the transforms alone
``container``           a file format for one compressed image
``metrics``             MSE, PSNR and MS-SSIM of 8-bit images
``bd``                  Bjontegaard rate and quality differences
``classical``           JPEG, JPEG 2000, WebP and AVIF through Pillow
``published``           CompressAI's published results on Kodak
``latents``             variance of latents over images, rounding residuals
``gradients``           gradient SNR of a codec: ``record``
``importance_weights``  effective sample size of the importance weights
``video``               rate and distortion of a P-frame
``images``              validation of the images passed to these functions
======================  ============================================================================================
"""

from gradlab.evaluation.bd import BD, bd, bd_quality, bd_rate, bd_table, check_lambdas
from gradlab.evaluation.bitstream import bitstream, rate_distortion, summary
from gradlab.evaluation.classical import CLASSICAL_CODECS, available_codecs, classical_codecs, classical_curves
from gradlab.evaluation.container import Container, decode, encode, pack, read, unpack, write
from gradlab.evaluation.images import named_images
from gradlab.evaluation.likelihood import deterministic_rounding, reconstruction, universal_quantization
from gradlab.evaluation.metrics import distortion, ms_ssim, mse_255, psnr, to_8_bit
from gradlab.evaluation.published import is_kodak, published_results

__all__ = [
    "BD",
    "CLASSICAL_CODECS",
    "Container",
    "available_codecs",
    "bd",
    "bd_quality",
    "bd_rate",
    "bd_table",
    "bitstream",
    "check_lambdas",
    "classical_codecs",
    "classical_curves",
    "decode",
    "deterministic_rounding",
    "distortion",
    "encode",
    "is_kodak",
    "ms_ssim",
    "mse_255",
    "named_images",
    "pack",
    "psnr",
    "published_results",
    "rate_distortion",
    "read",
    "reconstruction",
    "summary",
    "to_8_bit",
    "universal_quantization",
    "unpack",
    "write",
]
