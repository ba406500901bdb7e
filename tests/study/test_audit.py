"""The audit of the paper: check values worked out by hand or by plain numpy, and that it can tell a slip."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from gradlab.study import paper
from gradlab.study.audit import COLUMNS, audit, curves, tables
from gradlab.study.audit.checks import NO, UNDEFINED, YES, Rounded, at_least, at_most, equal, read


@pytest.fixture(scope="module")
def checks():
    return audit()


def find(checks, **where):
    for column, wanted in where.items():
        checks = checks[checks[column] == wanted]
    assert len(checks) == 1, where
    return checks.iloc[0]


def test_one_row_per_check_with_the_named_columns(checks):
    assert tuple(checks.columns) == COLUMNS
    assert set(checks["holds"]) == {YES, NO, UNDEFINED}
    assert not checks.duplicated(["claim", "table", "method", "metric", "interpolation", "note"]).any()
    assert (checks["holds"] == UNDEFINED).eq(checks["recomputed"].isna() | checks["paper"].isna()).all()


@pytest.mark.parametrize(("method", "interpolation", "expected", "holds"), [
    ("MS-NIC-MIX", "pchip", -3.78, YES),
    ("MS-NIC-DMS", "pchip", -4.95, YES),
    ("IWAE", "cubic", 64.25, YES),
    ("MS-NIC-MIX", "cubic", -3.50, NO),
])  # fmt: skip
def test_table_4_from_table_8(checks, method, interpolation, expected, holds):
    row = find(checks, table="4", method=method, metric="PSNR BD-BR (%)", interpolation=interpolation)
    assert row["recomputed"] == pytest.approx(expected, abs=0.005)
    assert row["holds"] == holds


def test_bd_rate_by_hand(checks):
    # The mean gap of log10(rate) over the shared PSNR, by SciPy's pchip and midpoints.
    points = {name: rows for name, rows in paper.table(8).groupby("method")}
    a, b = points["Baseline"], points["MS-NIC-DMS"]
    low, high = max(a["PSNR"].min(), b["PSNR"].min()), min(a["PSNR"].max(), b["PSNR"].max())
    grid = low + (high - low) * (np.arange(100_000) + 0.5) / 100_000
    gap = [PchipInterpolator(rows["PSNR"], np.log10(rows["bpp"]))(grid).mean() for rows in (a, b)]
    row = find(checks, table="4", method="MS-NIC-DMS", metric="PSNR BD-BR (%)", interpolation="pchip")
    assert row["recomputed"] == pytest.approx(100 * (10 ** (gap[1] - gap[0]) - 1), rel=1e-6)


@pytest.mark.parametrize("interpolation", ["pchip", "akima"])
def test_iwaes_rates_fold_back_and_that_is_said(checks, interpolation):
    for table, pair in (("4", "1.753 follows 1.886"), ("5", "3.445 follows 3.555")):
        row = find(checks, table=table, method="IWAE", metric="PSNR BD-BR (%)", interpolation=interpolation)
        assert row["holds"] == UNDEFINED
        assert pair in row["note"]
        assert f"{interpolation} is undefined" in row["note"]


def test_table_5_does_not_follow_from_table_9(checks):
    five = checks[(checks["table"] == "5") & (checks["claim"] == curves.CLAIMS[5])]
    assert set(five[five["method"] != "IWAE"]["holds"]) == {NO}
    repeated = checks[checks["claim"] == tables.OTHER]
    assert list(repeated["holds"]) == [NO] * 4 + [YES] * 3


@pytest.mark.parametrize(("table", "method", "recomputed", "holds"), [
    ("1", "Baseline", 0.5273 + 0.015 * 32.61, YES),  # 1.01645, printed 1.017: within rounding
    ("7", "MS-NIC-MIX, samples 3", 0.5238 + 0.015 * 31.80, NO),  # 1.0008, printed 1.000
    ("7", "MS-NIC-DMS, samples 16, 16", 0.5249 + 0.015 * 31.38, NO),
    ("11", "Deterministic Rounding", 0.3347 + 0.01418 + 0.015 * 26.86, NO),
    ("11", "Universal Quantization", 0.5379 + 0.01431 + 0.015 * 23.94, NO),
])  # fmt: skip
def test_costs(checks, table, method, recomputed, holds):
    row = find(checks, claim=tables.COST, table=table, method=method)
    assert row["recomputed"] == pytest.approx(recomputed, abs=1e-12)
    assert row["holds"] == holds


def test_the_printed_psnr_is_a_mean_over_images(checks):
    rows = checks[checks["claim"] == tables.PSNR]
    assert len(rows) == 3 + 2 + 17 + 28 + 28
    assert (rows["holds"] == YES).all()
    base = find(rows, table="1", method="Baseline")
    assert base["recomputed"] == pytest.approx(10 * math.log10(255**2 / 32.61))
    assert "+0.28 dB" in base["note"]


def test_slips_that_are_known(checks):
    baseline = find(checks, claim=tables.SAME, table="8", method="Baseline, 0.015", metric="MSE")
    assert (baseline["paper"], baseline["recomputed"], baseline["holds"]) == (32.78, 32.61, NO)
    grows = checks[(checks["claim"] == tables.SAMPLES) & (checks["holds"] == NO)]
    assert set(grows["method"]) == {
        "IWAE, samples 8",
        "IWAE, samples 16",
        "MS-NIC-MIX, samples 5",
        "MS-NIC-MIX, samples 16",
    }
    folds = checks[(checks["claim"] == tables.ORDER) & (checks["holds"] == NO)]
    assert set(zip(folds["table"], folds["method"], folds["metric"], strict=True)) == {
        ("8", "IWAE", "bpp"),
        ("9", "IWAE", "bpp"),
    }
    assert find(checks, metric="exponent of K", method="decoder")["recomputed"] == 0.5
    cov = checks[checks["claim"].str.startswith("Cov(y)")]
    assert cov.set_index(["method", "metric"])["holds"].to_dict() == {
        ("MS-NIC-MIX", "Cov(y)"): NO,
        ("MS-NIC-DMS", "Cov(y)"): YES,
        ("MS-NIC-MIX", "Cov(y_bar)"): NO,
        ("MS-NIC-DMS", "Cov(y_bar)"): YES,
    }
    assert find(checks, method="MS-NIC-MIX", metric="Cov(y)")["recomputed"] == pytest.approx(114.4 / 20.36)


def test_rounding_is_read_off_the_digits():
    assert read("1.000") == Rounded(1.0, 0.0005)
    assert read("0.01418").half == pytest.approx(5e-6)
    assert read("-2.318").value == -2.318
    assert math.isnan(read("-").value)


def test_rounding_adds_up():
    total = Rounded(1.0, 0.05) + 0.5 * Rounded(3.0, 0.5)
    assert (total.value, total.half) == (2.5, pytest.approx(0.3))
    assert -1 * Rounded(1.0, 0.05) == Rounded(-1.0, 0.05)


@pytest.mark.parametrize(("text", "recomputed", "slack", "holds"), [
    ("1.017", 1.0165, 0.0, YES),  # the end of the interval
    ("1.017", 1.01649, 0.0, NO),
    ("1.017", 1.0164, 0.0001, YES),
    ("-", 1.0, 0.0, UNDEFINED),
    ("1.0", math.nan, 0.0, UNDEFINED),
])  # fmt: skip
def test_equal(text, recomputed, slack, holds):
    assert equal("", "", "", "", read(text), Rounded(recomputed, slack)).holds == holds


def test_bounds():
    one, more = Rounded(1.0, 0.05), Rounded(1.1, 0.05)
    assert at_most("", "", "", "", one, more).holds == at_least("", "", "", "", more, one).holds == YES
    assert at_most("", "", "", "", more, one).holds == YES  # both may be 1.05
    assert at_most("", "", "", "", more, one, strict=True).holds == NO
    assert at_least("", "", "", "", one, one, strict=True).holds == NO
    assert at_least("", "", "", "", Rounded(0.8, 0.05), one).holds == NO


def test_a_slip_put_into_a_table_is_found(monkeypatch):
    whole = paper.printed

    def tampered(n):
        frame = whole(n)
        if n == 2:
            frame.loc[0, "R-D cost"] = "1.495"
        return frame

    assert next(c for c in tables.costs() if c.table == "2").holds == YES
    monkeypatch.setattr(paper, "printed", tampered)
    assert next(c for c in tables.costs() if c.table == "2").holds == NO
