"""Rate from likelihoods and distortion of a P-frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from gradlab.codecs import PFrame
from gradlab.codecs.precision import cudnn_precision
from gradlab.evaluation.metrics import check_lambda, mse_255, psnr, to_8_bit
from gradlab.runtime.progress import quiet

if TYPE_CHECKING:
    from jaxtyping import Float


def rate_distortion(
    codec: PFrame, videos: Float[Tensor, "batch frames 3 height width"], lam: float, advance: Callable[..., Any] = quiet
) -> pd.DataFrame:
    """Measure the rate and distortion of the last frame of each video, with rounded latents and rates from likelihoods.

    Args:
        codec: P-frame codec (call ``codec.finish()`` after training).
        videos: at least two frames each, in [0, 1].
        lam: R-D trade-off parameter lambda, for an MSE on the 0-255 scale.
        advance: progress callback, called after each video.

    Returns:
        A table with one row per video and the columns

        - ``video``: index of the video
        - ``bpp``, ``bpp_residual``, ``bpp_motion``: rate in bits per pixel, in total and for each of the two latents
          with their hyperpriors
        - ``mse``: mean squared error of the 8-bit frame on the 0-255 scale
        - ``psnr``: PSNR in dB
        - ``rd_cost``: ``bpp + lam * mse``
        - ``mse_repeated``: MSE of repeating the previous frame

    Raises:
        GradlabError: ``lam`` is not positive, a video has fewer than two frames, or its shape does not fit the codec.

    Example:
        >>> import torch
        >>> from gradlab.codecs import video
        >>> from gradlab.evaluation.video import rate_distortion
        >>> codec = video.build(channels=(4, 4))
        >>> codec.finish()
        >>> rate_distortion(codec, torch.rand(1, 2, 3, 128, 128), lam=0.01).columns.tolist()
        ['video', 'bpp', 'bpp_residual', 'bpp_motion', 'mse', 'psnr', 'rd_cost', 'mse_repeated']
    """
    check_lambda(lam)
    rows = []
    for index, video in enumerate(videos):
        with cudnn_precision(codec.precision, video.device):
            frame = codec.rounded(video[None])
        pixels = video.shape[-2] * video.shape[-1]
        residual, motion = float(frame.residual_bits) / pixels, float(frame.motion_bits) / pixels
        x, repeated = to_8_bit(video[-1:]), to_8_bit(video[-2:-1])
        mse = mse_255(x, to_8_bit(frame.x_hat))
        rows.append(
            {
                "video": index,
                "bpp": residual + motion,
                "bpp_residual": residual,
                "bpp_motion": motion,
                "mse": mse,
                "psnr": psnr(mse),
                "rd_cost": residual + motion + lam * mse,
                "mse_repeated": mse_255(x, repeated),
            }
        )
        advance(1)
    return pd.DataFrame(rows)
