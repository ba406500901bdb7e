"""Published R-D curves on the 24 Kodak images, for comparison with measured ones.

``reference/compressai_kodak.csv``: CompressAI's own results, from the files
``results/image/8bit-decoded/kodak/<model>_mse_ans_cuda.json`` of github.com/InterDigitalInc/CompressAI at commit
869a9f5 (BSD 3-Clause Clear), rounded to 7 decimals. Models trained for MSE; rates are the lengths of real bitstreams;
PSNR and MS-SSIM are means over images of decoded images in 8 bits: the conventions of ``rate_distortion``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from gradlab.errors import unknown
from gradlab.validation import checked, several

KODAK = tuple(f"kodim{number:02}" for number in range(1, 25))
"""Names of the 24 images, without suffix."""


@checked
def published_results(model: str | None = None) -> pd.DataFrame:
    """Read CompressAI's published results on Kodak.

    Args:
        model: one of its names, e.g. ``"bmshj2018-hyperprior"``; all by default.

    Returns:
        Per model and quality: ``model``, ``quality`` (1 to 8; 1 to 6 for cheng2020), ``metric`` (what was trained for),
        ``lambda`` (of MSE on the 0-255 scale), ``bpp``, ``psnr`` (dB), ``ms_ssim``.

    Raises:
        GradlabError: a model that is not among them.
    """
    table = pd.read_csv(Path(__file__).with_name("reference") / "compressai_kodak.csv")
    if model is None:
        return table
    if model not in set(table["model"]):
        raise unknown("model with published results", model, list(dict.fromkeys(table["model"])))
    return table[table["model"] == model].reset_index(drop=True)


@checked
def is_kodak(names: str | Iterable[str]) -> bool:
    """Check whether file names are those of the 24 Kodak images (``kodim01.png`` to ``kodim24.png``)."""
    given = several("names", names, str, "names of files", empty=True)
    return sorted(Path(name).stem.lower() for name in given) == list(KODAK)
