"""Rate, by likelihoods, and distortion of a P-frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from torch import Tensor

from gradlab.codecs import PFrame
from gradlab.codecs.precision import cudnn_precision
from gradlab.evaluation.metrics import check_lambda, mse_255, psnr, to_8_bit
from gradlab.runtime.progress import quiet


def rate_distortion(codec: PFrame, videos: Tensor, lam: float, advance: Callable[..., Any] = quiet) -> pd.DataFrame:
    """Measure rate, by likelihoods, and distortion of the rounded last frame of each video.

    Args:
        codec: the codec, its quantiles solved.
        videos: ``[B, T, 3, H, W]`` in [0, 1], T at least 2.
        lam: lambda of the R-D cost.
        advance: called after each video.

    Returns:
        Per video: ``bpp`` = ``bpp_residual`` + ``bpp_motion`` (each with its hyperprior), ``mse`` (0-255, 8-bit),
        ``psnr`` (dB), ``rd_cost`` = bpp + lam * mse, and ``mse_repeated``, the MSE of repeating the frame before.

    Raises:
        GradlabError: lam not positive, a video of one frame or of another shape.
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
