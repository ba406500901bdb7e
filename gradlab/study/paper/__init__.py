"""Provide the tables and claims of the paper, as printed.

Source: T. Xu, Y. Wang, D. He, C. Gao, H. Gao, K. Liu, H. Qin, "Multi-Sample Training for Neural Image Compression"
(MS-NIC), Tables 1 to 11. The file ``table<n>.csv`` holds Table n with the digits of the paper, including its errors.
These details are simplified:

- Rows: a citation after a name is omitted (``"Baseline"``, ``"IWAE"``); a citation that serves as the name becomes
  ``"Balle et al. 2018"``. The multiplication sign of Table 7 is an x (``"x8"``). Dashes are kept.
- Columns: the names of the paper in plain letters. ``PSNR`` is in dB, ``MSE`` is on the 0-255 scale, and ``y_bar`` is
  the rounded latent. ``sample_size`` is text because it holds ``"-"``, ``"x8"`` and ``"8, 8"``.
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
KEYS = ("method", "sample_size", "iteration")  # columns of text; all others hold numbers


@checked
def table(n: int) -> pandas.DataFrame:
    """Return Table ``n`` of the paper with numeric columns; a dash in a numeric column becomes NaN.

    Args:
        n: number of the table, 1 to 11.

    Returns:
        The rows in the order of the paper, with its column names.

    Raises:
        GradlabError: the paper has no such table.

    Example:
        >>> import gradlab as gl
        >>> table = gl.paper.table(4)
        >>> table["method"].tolist()
        ['Baseline', 'IWAE', 'MS-NIC-MIX', 'MS-NIC-DMS']
        >>> table["PSNR BD-BR (%)"].tolist()
        [0.0, 64.23, -3.847, -4.929]
    """
    frame = printed(n)
    for column in frame.columns.difference(list(KEYS)):
        frame[column] = frame[column].replace("-", "nan").astype("float64")
    return frame


@checked
def printed(n: int) -> pandas.DataFrame:
    """Return Table ``n`` of the paper with every cell as printed text, so that ``"1.000"`` keeps its zeros.

    Args:
        n: number of the table, 1 to 11.

    Raises:
        GradlabError: the paper has no such table.

    Example:
        >>> import gradlab as gl
        >>> gl.paper.printed(4)["PSNR BD-BR (%)"].tolist()
        ['0.000', '64.23', '-3.847', '-4.929']
    """
    if n not in CAPTIONS:
        raise GradlabError(f"the paper has no table {n!r}: give a number from 1 to {max(CAPTIONS)}")
    return pandas.read_csv(Path(__file__).with_name(f"table{n}.csv"), dtype=str, keep_default_na=False)


def claims() -> pandas.DataFrame:
    """Return the claims of the paper.

    Returns:
        Columns ``number``, ``source``, ``claim``, and the ``study`` and ``verdict`` that decide the claim; the last two
        are empty if no study decides it.

    Example:
        >>> import gradlab as gl
        >>> claims = gl.paper.claims()
        >>> list(claims.columns)
        ['number', 'source', 'claim', 'study', 'verdict']
    """
    return pandas.read_csv(Path(__file__).with_name("claims.csv"), dtype={"study": str, "verdict": str}).fillna("")


@checked
def value(n: int, column: str, **where: object) -> float:
    """Return one number of Table ``n``, from the only row that matches every condition.

    Table 5 does not list the BD metrics of IWAE; they are NaN.

    Args:
        n: number of the table.
        column: a numeric column, e.g. ``"bpp"``.
        **where: conditions ``column=value``, e.g. ``method="IWAE", sample_size=8``; ``lam`` stands for ``lambda``.

    Raises:
        GradlabError: the table or the column does not exist, or no row or several rows match.

    Example:
        >>> import gradlab as gl
        >>> gl.paper.value(1, "bpp", method="Baseline")
        0.5273
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
        raise GradlabError(f"table {n} of the paper has {count} with {conditions}: select one of {rows}")
    return float(match[column].iloc[0])
