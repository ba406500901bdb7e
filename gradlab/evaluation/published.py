"""Published rate-distortion results on the 24 Kodak images, for comparison with measurements.

``reference/compressai_kodak.csv`` holds CompressAI's own results. They come from the files
``results/image/8bit-decoded/kodak/<model>_mse_ans_cuda.json`` of github.com/InterDigitalInc/CompressAI at commit
869a9f5 (BSD 3-Clause Clear), rounded to 7 decimals. All models were trained for MSE. As in ``rate_distortion``, rates
are lengths of real bitstreams, and PSNR and MS-SSIM are means over decoded 8-bit images.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from gradlab.errors import unknown
from gradlab.validation import checked, several

KODAK = tuple(f"kodim{number:02}" for number in range(1, 25))
"""Names of the 24 Kodak images without suffix."""


@checked
def published_results(model: str | None = None) -> pd.DataFrame:
    """Return CompressAI's published results on Kodak.

    Args:
        model: CompressAI's name of a model, for example ``"bmshj2018-hyperprior"``; all models by default.

    Returns:
        A table with one row per model and quality and the columns ``model``; ``quality``, 1 to 8 (1 to 6 for
        cheng2020); ``metric``, the metric that the model was trained for; ``lambda``, for an MSE on the 0-255 scale;
        ``bpp``; ``psnr`` in dB; and ``ms_ssim``.

    Raises:
        GradlabError: there are no results for ``model``.

    Example:
        >>> import gradlab as gl
        >>> gl.evaluation.published_results("mbt2018")[["quality", "bpp", "psnr"]].head(2).round(3)
           quality    bpp    psnr
        0        1  0.111  28.084
        1        2  0.187  29.640
    """
    table = pd.read_csv(Path(__file__).with_name("reference") / "compressai_kodak.csv")
    if model is None:
        return table
    if model not in set(table["model"]):
        raise unknown("model with published results", model, list(dict.fromkeys(table["model"])))
    return table[table["model"] == model].reset_index(drop=True)


@checked
def is_kodak(names: str | Iterable[str]) -> bool:
    """Check whether file names are those of the 24 Kodak images, ``kodim01.png`` to ``kodim24.png``.

    Args:
        names: one or several file names, in any order. Suffixes and case are ignored.

    Returns:
        True if every Kodak image occurs exactly once and there are no other names.

    Example:
        >>> import gradlab as gl
        >>> gl.evaluation.is_kodak([f"kodim{number:02}.png" for number in range(1, 25)])
        True
    """
    given = several("names", names, str, "names of files", empty=True)
    return sorted(Path(name).stem.lower() for name in given) == list(KODAK)
