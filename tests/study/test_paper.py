"""The paper's tables: every one parses, and the numbers are those that were printed."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from gradlab.errors import GradlabError
from gradlab.study import paper

SHAPES = {
    1: (3, 6),
    2: (2, 5),
    3: (6, 7),
    4: (4, 5),
    5: (4, 5),
    6: (3, 7),
    7: (17, 6),
    8: (28, 6),
    9: (28, 6),
    10: (3, 5),
    11: (2, 5),
}


@pytest.mark.parametrize("n", paper.CAPTIONS)
def test_every_table_parses(n: int) -> None:
    frame = paper.table(n)
    assert frame.shape == SHAPES[n]
    for column in frame.columns:
        numeric = column not in paper.KEYS
        assert (frame[column].dtype == "float64") == numeric
        if not numeric:
            assert (frame[column].str.len() > 0).all()
    missing = int(frame.isna().to_numpy().sum())
    assert missing == (4 if n == 5 else 0)  # the BD metrics of IWAE


@pytest.mark.parametrize(
    ("n", "column", "where", "expected"),
    [
        (1, "R-D cost", {"method": "MS-NIC-MIX (DReG gradient)"}, 1.058),
        (1, "PSNR", {"method": "Baseline"}, 33.28),
        (2, "bpp", {"method": "2-level VAE"}, 0.9968),
        (3, "z infer", {"iteration": "late", "method": "Balle et al. 2018"}, 0.5506),
        (3, "y infer", {"iteration": "early", "method": "2-level VAE"}, 2.287),
        (4, "MS-SSIM BD-Metric", {"method": "MS-NIC-DMS"}, 0.001976),
        (5, "PSNR BD-BR (%)", {"method": "MS-NIC-MIX"}, -1.852),
        (6, "Cov(y_bar)", {"method": "MS-NIC-MIX"}, 111.1),
        (7, "R-D cost", {"method": "MS-NIC-DMS", "sample_size": "16, 16"}, 0.9954),
        (7, "bpp", {"method": "IWAE", "sample_size": 16}, 1.273),
        (7, "MSE", {"method": "Baseline-BigBatch", "sample_size": "x8"}, 32.37),
        (8, "bpp", {"method": "IWAE", "lam": 0.045}, 1.886),
        (9, "MS-SSIM", {"method": "MS-NIC-DMS", "lam": 0.08}, 0.9918),
        (10, "Cov(z)", {"method": "Balle et al. 2018"}, 14.48),
        (11, "RD Cost", {"method": "Universal Quantization"}, 0.9080),
    ],
)
def test_values(n: int, column: str, where: dict[str, object], expected: float) -> None:
    assert paper.value(n, column, **where) == expected


def test_digits_are_kept_as_printed() -> None:
    rows = list(csv.DictReader(Path(paper.__file__).with_name("table1.csv").open(encoding="utf-8")))
    assert [row["PSNR"] for row in rows] == ["33.28", "33.38", "32.90"]


def test_slips_of_the_paper_are_kept() -> None:
    # Table 9's baseline repeats the first rows of Table 8's; that is the paper's slip and not ours to mend.
    eight, nine = (paper.table(n).query("method == 'Baseline'").head(4).to_numpy().tolist() for n in (8, 9))
    assert eight == nine


def test_bd_metrics_of_iwae_are_missing() -> None:
    assert math.isnan(paper.value(5, "PSNR BD-Metric", method="IWAE"))


def test_bad_questions() -> None:
    with pytest.raises(GradlabError, match="no table 12: give a number from 1 to 11"):
        paper.table(12)
    with pytest.raises(GradlabError, match=r"unknown column .* 'pp': did you mean 'bpp'"):
        paper.value(1, "pp", method="Baseline")
    with pytest.raises(GradlabError, match=r"unknown column .* 'sample'"):
        paper.value(1, "bpp", sample=5)
    with pytest.raises(GradlabError, match="no row with method='VAE': select one of"):
        paper.value(1, "bpp", method="VAE")
    with pytest.raises(GradlabError, match="2 rows with sample_size=5"):
        paper.value(1, "bpp", sample_size=5)
