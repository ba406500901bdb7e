"""Bjontegaard's figures: average difference in rate at equal quality, and in quality at equal rate.

Source: G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33 (2001), computed by the
package ``bjontegaard``. The logarithm (base 10) of the rate is interpolated over quality for the BD-rate, quality over
that logarithm for the BD-quality; the difference of the two curves is averaged over the interval they share.

=========== ============================================================================================================
``pchip``   shape-preserving piecewise cubic, through every point; what JCT-VC and JVET use, and what we publish
``akima``   piecewise cubic with Akima's slopes, through every point
``cubic``   *one* polynomial of degree 3 fitted by least squares: with more than 4 points it passes through none of
            them, and it is defined where the points fold back, which the other two refuse
=========== ============================================================================================================
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gradlab.errors import GradlabError, unknown
from gradlab.validation import checked, known, real, require_columns, several

METHODS = ("pchip", "cubic", "akima")
"""Interpolations; the first is published."""

FEWEST = 4
"""Points of a curve, as many as a cubic has coefficients."""

Points = Sequence[float] | np.ndarray


class BD(NamedTuple):
    """Bjontegaard's two figures.

    Attributes:
        rate: BD-rate, percent; negative where the codec needs less rate than the reference.
        quality: BD-quality, in the unit of the quality given (dB of PSNR; MS-SSIM has none); positive is better.
    """

    rate: float
    quality: float


@checked
def bd(reference_rate: Points, reference_quality: Points, rate: Points, quality: Points, method: str = "pchip") -> BD:
    """Compute BD-rate and BD-quality of one R-D curve against a reference.

    Args:
        reference_rate: bits per pixel of the reference's points, in the order of their lambda; at least 4.
        reference_quality: PSNR (dB), MS-SSIM, or any quality of which more is better, of the same points.
        rate: rates of the other codec; the number of points may differ.
        quality: qualities of the other codec.
        method: one of ``METHODS``.

    Raises:
        GradlabError: fewer than 4 points, different numbers of rates and qualities, NaN or infinite values, a rate
            that is not positive; for ``pchip`` and ``akima`` rates or qualities that are not monotone (the error names
            the point); curves that share no rate or no quality.
    """
    curves = (reference_rate, reference_quality, rate, quality)
    return BD(bd_rate(*curves, method=method), bd_quality(*curves, method=method))


@checked
def bd_rate(
    reference_rate: Points, reference_quality: Points, rate: Points, quality: Points, method: str = "pchip"
) -> float:
    """Compute the average difference in rate at equal quality, percent; arguments and errors as for ``bd``."""
    r0, q0, r1, q1 = _curves(reference_rate, reference_quality, rate, quality, method)
    _require_overlap("qualities", q0, q1)
    return float(100 * (10 ** _average(q0, np.log10(r0), q1, np.log10(r1), method) - 1))


@checked
def bd_quality(
    reference_rate: Points, reference_quality: Points, rate: Points, quality: Points, method: str = "pchip"
) -> float:
    """Compute the average difference in quality at equal rate, in its unit; arguments and errors as for ``bd``."""
    r0, q0, r1, q1 = _curves(reference_rate, reference_quality, rate, quality, method)
    _require_overlap("rates", r0, r1)
    return float(_average(np.log10(r0), q0, np.log10(r1), q1, method))


@checked
def bd_table(
    points: pd.DataFrame, reference: str, qualities: str | Iterable[str] = ("PSNR", "MS-SSIM"), rate: str = "bpp"
) -> pd.DataFrame:
    """Tabulate Bjontegaard's figures of every method against a reference, by every interpolation.

    Args:
        points: one row per point of a curve, in the order of lambda; column ``method`` and the columns named below.
        reference: the method that the others are compared with; it is in the table too, with zeros.
        qualities: columns of which more is better; one, or several.
        rate: column of the rate.

    Returns:
        Per method and interpolation: ``method``, ``interpolation``, per quality ``<quality> BD-BR (%)`` and
        ``<quality> BD-Metric`` (NaN where undefined), ``points``, ``overlap`` (share of the range of the first quality
        that both curves cover) and ``note`` (why figures are undefined, else empty).

    Raises:
        GradlabError: the reference is not among the methods.
    """
    qualities = several("qualities", qualities, str, "names of columns")
    require_columns(points, ["method", rate, *qualities], "one row for each point of a curve")
    curves = {str(name): group for name, group in points.groupby("method", sort=False)}
    if reference not in curves:
        raise unknown("method", reference, curves)
    anchor = curves[reference]
    rows = []
    for name, curve in curves.items():
        for method in METHODS:
            row: dict[str, Any] = {"method": name, "interpolation": method}
            reasons = []
            for quality in qualities:
                for column, figure in (("BD-BR (%)", bd_rate), ("BD-Metric", bd_quality)):
                    try:
                        pair = (anchor[rate], anchor[quality], curve[rate], curve[quality])
                        row[f"{quality} {column}"] = figure(*pair, method=method)
                    except GradlabError as error:
                        row[f"{quality} {column}"] = math.nan
                        reasons.append(f"{quality}: {error}")
            row["points"] = len(curve)
            row["overlap"] = overlap(anchor[qualities[0]].to_numpy(), curve[qualities[0]].to_numpy())
            row["note"] = "; ".join(dict.fromkeys(reasons))
            rows.append(row)
    return pd.DataFrame(rows)


@checked
def overlap(reference: Points, other: Points) -> float:
    """Compute the length of the interval that two curves share over that of the interval they span, 0 to 1."""
    a, b = np.asarray(reference, float), np.asarray(other, float)
    shared = min(a.max(), b.max()) - max(a.min(), b.min())
    whole = max(a.max(), b.max()) - min(a.min(), b.min())
    return max(0.0, float(shared / whole)) if whole > 0 else 0.0


@checked
def describe_fold(rate: Points, quality: Points) -> str:
    """Describe where an R-D curve folds back; empty if rate and quality both grow from point to point.

    Args:
        rate: of points in the order of their lambda, either way.
        quality: of the same points.
    """
    rates, qualities = np.asarray(rate, float), np.asarray(quality, float)
    if len(rates) and rates[0] > rates[-1] and qualities[0] > qualities[-1]:
        rates, qualities = rates[::-1], qualities[::-1]
    for name, values in (("rate", rates), ("quality", qualities)):
        for before, after in itertools.pairwise(values):
            if not after > before:
                return f"{name} {after:.4g} follows {before:.4g}"
    return ""


@checked
def check_lambdas(values: float | Iterable[float]) -> tuple[float, ...]:
    """Check the lambdas of a sweep and return them as floats.

    Raises:
        GradlabError: none at all, one that is not positive and finite, or one that is not larger than the one before.
    """
    lams = tuple(real("a lambda", value) for value in several("lambdas", values, (int, float), "numbers"))
    for lam in lams:
        if lam <= 0:
            raise GradlabError(f"a lambda is {lam:g}: every lambda must be positive and finite")
    for before, after in itertools.pairwise(lams):
        if not after > before:
            raise GradlabError(f"lambda {after:g} follows {before:g}: give the lambdas in ascending order, each once")
    return lams


def _curves(
    reference_rate: Points, reference_quality: Points, rate: Points, quality: Points, method: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    known("interpolation", method, METHODS)
    reference = _curve("the reference", reference_rate, reference_quality, method)
    return (*reference, *_curve("the codec", rate, quality, method))


def _curve(name: str, rates: Points, qualities: Points, method: str) -> tuple[np.ndarray, np.ndarray]:
    """One curve as arrays; ``name`` is its name in errors.

    Raises:
        GradlabError: points for which the figures are undefined.
    """
    r, q = np.asarray(rates, float), np.asarray(qualities, float)
    if r.ndim != 1 or r.shape != q.shape:
        raise GradlabError(f"{name} has {r.size} rates and {q.size} qualities: give one quality for each rate")
    if len(r) < FEWEST:
        raise GradlabError(f"{name} has {len(r)} points: Bjontegaard's figures need at least {FEWEST}")
    for axis, values in (("rate", r), ("quality", q)):
        bad = ~np.isfinite(values)
        if bad.any():
            index = int(bad.argmax())
            raise GradlabError(f"point {index + 1} of {name} has {axis} {values[index]}: leave it out")
    if not (r > 0).all():
        raise GradlabError(f"{name} has the rate {r.min():g}: every rate must be positive")
    fold = describe_fold(r, q)
    if fold and method != "cubic":
        raise GradlabError(
            f"{name} is not monotone ({fold}): {method} is undefined, "
            "and only 'cubic', a least-squares fit, gives a number"
        )
    return r, q


def _require_overlap(what: str, reference: np.ndarray, other: np.ndarray) -> None:
    if overlap(reference, other) == 0:
        raise GradlabError(
            f"the curves share no {what} ({reference.min():.4g} to {reference.max():.4g} and "
            f"{other.min():.4g} to {other.max():.4g}): Bjontegaard's figure is undefined"
        )


def _average(x0: np.ndarray, y0: np.ndarray, x1: np.ndarray, y1: np.ndarray, method: str) -> float:
    from bjontegaard import bd_linear  # pyplot comes with it

    # By x, whatever the order of lambda: the package asserts it, also for the least-squares fit, where it is the same.
    (x0, y0), (x1, y1) = ((x[order], y[order]) for x, y in ((x0, y0), (x1, y1)) for order in [np.argsort(x)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a small overlap, which ``overlap`` reports
        return float(bd_linear(x0, y0, x1, y1, method=method, require_matching_points=False))
