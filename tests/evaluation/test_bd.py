"""Bjontegaard's figures against published tables, against exact answers, and with curves that have none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradlab import evaluation
from gradlab.errors import GradlabError
from gradlab.evaluation.bd import METHODS, check_lambdas, describe_fold, overlap
from gradlab.study import paper

# Rates and qualities that no interpolation can get wrong: log10(rate) is linear in quality.
QUALITY = np.array([28.0, 30.0, 32.0, 34.0, 36.0])
RATE = 10 ** ((QUALITY - 34) / 10)

# Models of CompressAI on Kodak against its bmshj2018-hyperprior, qualities 1 to 6, computed with bjontegaard 1.3.0 from
# the full digits of its result files: BD-rate (%) and BD-PSNR (dB).
PUBLISHED = {
    "bmshj2018-factorized": {"cubic": (26.515, -1.0093), "pchip": (26.434, -1.0077), "akima": (26.480, -1.0077)},
    "mbt2018-mean": {"cubic": (-7.435, 0.3554), "pchip": (-7.655, 0.3669), "akima": (-7.661, 0.3667)},
    "cheng2020-anchor": {"cubic": (-22.629, 1.1712), "pchip": (-22.759, 1.1854), "akima": (-22.790, 1.1855)},
    "cheng2020-attn": {"cubic": (-21.553, 1.1001), "pchip": (-21.668, 1.1093), "akima": (-21.670, 1.1087)},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", PUBLISHED)
def test_compressais_models_against_its_hyperprior(model, method):
    ours, other = (evaluation.published_results(name).head(6) for name in ("bmshj2018-hyperprior", model))
    result = evaluation.bd(ours["bpp"], ours["psnr"], other["bpp"], other["psnr"], method)
    rate, quality = PUBLISHED[model][method]
    assert abs(result.rate - rate) < 0.01
    assert abs(result.quality - quality) < 0.0002


def test_references_are_complete_and_monotone():
    table = evaluation.published_results()
    assert table.groupby("model").size().to_dict() == {
        "bmshj2018-factorized": 8,
        "bmshj2018-hyperprior": 8,
        "mbt2018-mean": 8,
        "mbt2018": 8,
        "cheng2020-anchor": 6,
        "cheng2020-attn": 6,
    }
    assert list(table.columns) == ["model", "quality", "metric", "lambda", "bpp", "psnr", "ms_ssim"]
    for _, rows in table.groupby("model"):
        assert describe_fold(rows["bpp"], rows["psnr"]) == describe_fold(rows["bpp"], rows["ms_ssim"]) == ""
        assert check_lambdas(rows["lambda"])
    one = evaluation.published_results("bmshj2018-hyperprior").iloc[0]
    assert (one["lambda"], round(one["bpp"], 4), round(one["psnr"], 3)) == (0.0018, 0.1313, 27.578)
    with pytest.raises(GradlabError, match="unknown model with published results 'mbt2019': did you mean 'mbt2018'"):
        evaluation.published_results("mbt2019")


@pytest.mark.parametrize("method", METHODS)
def test_exact_where_the_curves_are_straight(method):
    # 0.9 times the rate at every quality is -10 %; a line of slope 10 dB per decade turns that into -10 log10(0.9) dB.
    result = evaluation.bd(RATE, QUALITY, 0.9 * RATE, QUALITY, method)
    assert result.rate == pytest.approx(-10, abs=1e-9)
    assert result.quality == pytest.approx(-10 * math.log10(0.9), abs=1e-9)
    assert evaluation.bd(RATE, QUALITY, RATE, QUALITY, method) == pytest.approx((0, 0), abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_points_may_come_from_high_to_low_and_in_other_numbers(method):
    result = evaluation.bd(RATE, QUALITY, 0.9 * RATE[::-1], QUALITY[::-1], method)
    assert result == pytest.approx(evaluation.bd(RATE, QUALITY, 0.9 * RATE, QUALITY, method))
    assert evaluation.bd(RATE, QUALITY, RATE[:4], QUALITY[:4], method).rate == pytest.approx(0, abs=1e-9)


def test_the_papers_check_values():
    table = paper.table(8)
    points = {name: rows for name, rows in table.groupby("method")}
    base = points["Baseline"]

    def rate(name: str, method: str) -> float:
        return evaluation.bd_rate(base["bpp"], base["PSNR"], points[name]["bpp"], points[name]["PSNR"], method)

    assert rate("MS-NIC-MIX", "pchip") == pytest.approx(-3.78, abs=0.005)
    assert rate("MS-NIC-DMS", "pchip") == pytest.approx(-4.95, abs=0.005)
    assert rate("IWAE", "cubic") == pytest.approx(64.25, abs=0.005)
    for method in ("pchip", "akima"):
        with pytest.raises(GradlabError, match=rf"not monotone \(rate 1.753 follows 1.886\): {method} is undefined"):
            rate("IWAE", method)


FOLDED = np.array([*RATE[:3], RATE[4], RATE[3]])


def test_a_folded_quality_is_named_too():
    with pytest.raises(GradlabError, match=r"the reference is not monotone \(quality 34 follows 36\)"):
        evaluation.bd(RATE, QUALITY[[0, 1, 2, 4, 3]], RATE, QUALITY)
    with pytest.raises(GradlabError, match=r"the codec is not monotone \(rate 0.3981 follows 0.3981"):
        evaluation.bd(RATE, QUALITY, RATE[[0, 1, 1, 3, 4]], QUALITY)  # equal is not larger


def test_the_least_squares_fit_is_the_same_in_any_order():
    # Five points of a folded curve have one cubic in any order; the package itself fails where the ends cross.
    order = [4, 1, 2, 3, 0]
    first = evaluation.bd(RATE, QUALITY, FOLDED, QUALITY, "cubic")
    assert evaluation.bd(RATE, QUALITY, FOLDED[order], QUALITY[order], "cubic") == pytest.approx(first)
    polynomial = np.polyfit(QUALITY, np.log10(FOLDED), 3)
    fine = 28 + 8 * (np.arange(20_000) + 0.5) / 20_000  # midpoints
    gap = np.polyval(polynomial, fine) - (fine - 34) / 10
    assert first.rate == pytest.approx(100 * (10 ** (gap.mean()) - 1), rel=1e-6)


def test_overlap_is_a_share():
    assert overlap([1, 2], [3, 4]) == 0
    assert overlap([1, 3], [2, 4]) == pytest.approx(1 / 3)
    assert overlap(QUALITY, QUALITY) == 1


@pytest.mark.parametrize(("changes", "match"), [
    ({"rate": RATE[:3], "quality": QUALITY[:3]}, "the codec has 3 points: give at least 4"),
    ({"reference_rate": RATE[:3], "reference_quality": QUALITY[:3]}, "the reference has 3 points"),
    ({"rate": RATE[:4]}, "4 rates and 5 qualities"),
    ({"quality": [28, 30, math.nan, 34, 36]}, "the quality of point 3 of the codec is nan: remove that point"),
    ({"rate": [0.1, math.inf, 0.3, 0.4, 0.5]}, "the rate of point 2 of the codec is inf"),
    ({"rate": [0.0, *RATE[1:]]}, "the codec has a rate of 0: give positive rates"),
    ({"quality": QUALITY + 20, "rate": RATE}, "the curves have no qualities in common"),
    ({"method": "spline"}, "unknown interpolation 'spline'"),
])  # fmt: skip
def test_figures_that_are_undefined_say_why(changes, match):
    given = {"reference_rate": RATE, "reference_quality": QUALITY, "rate": RATE, "quality": QUALITY, "method": "pchip"}
    with pytest.raises(GradlabError, match=match):
        evaluation.bd(**(given | changes))


def test_curves_may_share_qualities_and_no_rates():
    assert evaluation.bd_rate(RATE, QUALITY, 100 * RATE, QUALITY) == pytest.approx(9900)
    with pytest.raises(GradlabError, match="the curves have no rates in common"):
        evaluation.bd_quality(RATE, QUALITY, 100 * RATE, QUALITY)


@pytest.mark.parametrize(("values", "match"), [
    ((0.0016, 0.03, 0.015), "lambda 0.015 follows 0.03: give the lambdas in ascending order"),
    ((0.01, 0.01), "lambda 0.01 follows 0.01"),
    ((-0.01, 0.01), "a lambda is -0.01: give positive, finite lambdas"),
    ((0.01, math.nan), "a lambda is nan"),
    ((), "lambdas is empty: give at least one"),
])  # fmt: skip
def test_bad_lambdas(values, match):
    with pytest.raises(GradlabError, match=match):
        check_lambdas(values)


def test_kodak_is_known_by_its_names():
    names = [f"kodim{n:02}.png" for n in range(1, 25)]
    assert evaluation.is_kodak(names[::-1])
    assert not evaluation.is_kodak(names[:23])
    assert not evaluation.is_kodak([*names, "kodim25.png"])


def test_the_table_of_methods_says_what_is_undefined():
    points = paper.table(8)
    table = evaluation.bd_table(points, "Baseline")
    assert list(table["method"].unique()) == ["Baseline", "IWAE", "MS-NIC-MIX", "MS-NIC-DMS"]
    by = table.set_index(["method", "interpolation"])
    assert by.loc[("MS-NIC-DMS", "pchip"), "PSNR BD-BR (%)"] == pytest.approx(-4.95, abs=0.005)
    assert by.loc[("MS-NIC-DMS", "pchip"), "MS-SSIM BD-BR (%)"] == pytest.approx(-5.49, abs=0.005)
    assert by.loc[("IWAE", "cubic"), "PSNR BD-BR (%)"] == pytest.approx(64.25, abs=0.005)
    lost = by.loc[("IWAE", "pchip")]
    assert math.isnan(lost["PSNR BD-BR (%)"])
    assert "rate 1.753 follows 1.886" in lost["note"]
    assert by.loc[("IWAE", "cubic"), "note"] == ""
    assert (by.loc["Baseline", ["PSNR BD-BR (%)", "MS-SSIM BD-Metric"]].abs() < 1e-9).all(axis=None)
    assert 0.9 < by.loc[("MS-NIC-MIX", "pchip"), "overlap"] <= 1
    with pytest.raises(GradlabError, match="unknown method 'baseline': did you mean 'Baseline'"):
        evaluation.bd_table(points, "baseline")


def test_the_table_keeps_what_is_defined_of_a_curve():
    # Table 9's IWAE shares qualities with the baseline, but no rates.
    row = evaluation.bd_table(paper.table(9), "Baseline").set_index(["method", "interpolation"]).loc[("IWAE", "cubic")]
    assert row["PSNR BD-BR (%)"] > 700
    assert math.isnan(row["PSNR BD-Metric"])
    assert "no rates in common" in row["note"]
