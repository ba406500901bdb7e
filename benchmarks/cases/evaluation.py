"""Evaluation with real bitstreams: 24 Kodak images with ``--test-images``, the embedded photographs without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from harness import Case, Contender, Options, Work

sys.path.insert(0, str(Path(__file__).parent))

from _codec import LAM, channels


def ours(options: Options) -> Work:
    """``gradlab.evaluation.rate_distortion``."""
    import gradlab as gl

    model = gl.codecs.build("bmshj2018-hyperprior", channels(options)).eval()
    model.finish()
    images = _images(options)

    def work() -> None:
        gl.evaluation.rate_distortion(model, images, LAM)

    return work


def eval_model(options: Options) -> Work:
    """CompressAI's ``eval_model``: pad, compress, decompress, crop, PSNR and MS-SSIM, image by image."""
    import torch
    from compressai.utils.eval_model.__main__ import inference

    import gradlab as gl

    source = gl.codecs.build("bmshj2018-hyperprior", channels(options)).eval()
    source.finish()
    from compressai.models import ScaleHyperprior

    model = ScaleHyperprior.from_state_dict(source.state_dict()).eval()
    images = [x.float().div(255) if x.dtype == torch.uint8 else x for x in _pixels(options)]

    def work() -> None:
        with torch.no_grad():
            for x in images:
                inference(model, x)

    return work


def _pixels(options: Options) -> list[Any]:
    return [picture.pixels for picture in _images(options)]


def _images(options: Options) -> list[Any]:
    import gradlab as gl

    found = gl.data.load(options.images, "test")
    return list(found)[: 1 if options.quick else None]


CASES = (
    Case(
        name="evaluation, real bitstreams",
        ours=Contender("rate_distortion", ours, peers=False),
        peers=(Contender("CompressAI eval_model", eval_model, peers=False),),
        goal="0.7",
        ratio=0.7,
    ),
)
