"""The tables of the paper, as printed.

Source: T. Xu, Y. Wang, D. He, C. Gao, H. Gao, K. Liu, H. Qin, "Multi-Sample Training for Neural Image Compression"
(MS-NIC), Tables 1 to 11; ``table<n>.csv`` holds Table n. The digits are the paper's, slips included. Simplified are:

- rows: a citation after a name is left out (``"Baseline"``, ``"IWAE"``); where the citation is the name it reads
  ``"Balle et al. 2018"``. Table 7's multiplication sign is an x (``"x8"``); a dash stands where the paper has one.
- columns: the paper's names in plain letters. ``PSNR`` is in dB, ``MSE`` on the 0-255 scale, ``y_bar`` is the rounded
  latent. ``sample_size`` is text, since it holds ``"-"``, ``"x8"`` and ``"8, 8"``.
"""

from __future__ import annotations

from pathlib import Path

import pandas

from gradlab.errors import GradlabError, unknown
from gradlab.validation import checked

CAPTIONS = {
    1: "Effect of DReG gradient estimator in NIC",
    2: "Effects of direct-y on R-D performance",
    3: "Effects of direct-y on gradient SNR of different parts of the model",
    4: "Results based on Balle et al. 2018",
    5: "Results based on Cheng et al. 2020",
    6: "Average of per-dimension latent variance and Cov across Kodak, rounded latents, lambda 0.015",
    7: "Effect of sample size in MS-NIC",
    8: "Detailed results based on Balle et al. 2018",
    9: "Detailed results based on Cheng et al. 2020",
    10: "Average of per-dimension latent variance and Cov across Kodak, lambda 0.015",
    11: "R-D performance of UQ vs deterministic rounding on the first image of Kodak",
}
KEYS = ("method", "sample_size", "iteration")  # text; every other column is a number


@checked
def table(n: int) -> pandas.DataFrame:
    """Return Table ``n`` of the paper; a dash among the numbers is NaN.

    Raises:
        GradlabError: the paper has no such table.
    """
    frame = printed(n)
    for column in frame.columns.difference(list(KEYS)):
        frame[column] = frame[column].replace("-", "nan").astype("float64")
    return frame


@checked
def printed(n: int) -> pandas.DataFrame:
    """Return Table ``n`` with every cell as printed, as text: ``"1.000"`` keeps its zeros.

    Raises:
        GradlabError: the paper has no such table.
    """
    if n not in CAPTIONS:
        raise GradlabError(f"the paper has no table {n!r}: it has 1 to {max(CAPTIONS)}")
    return pandas.read_csv(Path(__file__).with_name(f"table{n}.csv"), dtype=str, keep_default_na=False)


def claims() -> pandas.DataFrame:
    """Return the claims of the paper: ``number source claim``, and the ``study`` and ``verdict`` that decide each."""
    return pandas.read_csv(Path(__file__).with_name("claims.csv"), dtype={"study": str, "verdict": str}).fillna("")


@checked
def value(n: int, column: str, **where: object) -> float:
    """Return one number of Table ``n``, from the one row that matches every ``where``.

    The BD metrics of IWAE in Table 5, which the paper leaves out, are NaN.

    Args:
        n: the table.
        column: one of its columns of numbers, e.g. ``"bpp"``.
        **where: ``column=value``, e.g. ``method="IWAE", sample_size=8``; ``lam`` stands for ``lambda``.

    Raises:
        GradlabError: unknown table or column; no row, or more than one, matches.
    """
    frame = table(n)
    numbers = [name for name in frame.columns if name not in KEYS]
    if column not in numbers:
        raise unknown(f"column of the paper's table {n}", column, numbers)
    match = frame
    for key, expected in where.items():
        name = "lambda" if key == "lam" else key
        if name not in frame.columns:
            raise unknown(f"column of the paper's table {n}", name, list(frame.columns))
        match = match[match[name].astype(str) == str(expected)]
    if len(match) != 1:
        conditions = ", ".join(f"{key}={repr(expected)[:40]}" for key, expected in where.items()) or "no condition"
        count = "no row" if match.empty else f"{len(match)} rows"
        rows = "; ".join(frame[[c for c in (*KEYS, "lambda") if c in frame]].astype(str).agg(" ".join, axis=1))
        raise GradlabError(f"table {n} of the paper has {count} with {conditions}: name one of {rows}")
    return float(match[column].iloc[0])
