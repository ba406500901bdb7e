"""Bjontegaard delta metrics: average rate difference at equal quality and average quality difference at equal rate.

The BD-rate interpolates the base-10 logarithm of the rate as a function of quality, and the BD-quality interpolates
quality as a function of that logarithm. The difference between the two curves is then averaged over the interval that
both of them cover. The interpolation and the integrals come from the package ``bjontegaard``.

=========== ============================================================================================================
``pchip``   Shape-preserving piecewise cubic through every point; used by JCT-VC, JVET and our published figures.
``akima``   Piecewise cubic through every point, with Akima's slopes.
``cubic``   A *single* polynomial of degree 3, fitted by least squares. With more than 4 points it generally passes
            through none of them. It is the only method that accepts curves that are not monotone.
=========== ============================================================================================================

Source: G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33 (2001).
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
"""Interpolation methods. Published figures use the first."""

FEWEST = 4
"""Minimum number of points of a curve: the number of coefficients of a cubic."""

Points = Sequence[float] | np.ndarray


class BD(NamedTuple):
    """BD-rate and BD-quality of a codec relative to a reference.

    Attributes:
        rate: BD-rate in percent. Negative values mean that the codec needs less rate than the reference.
        quality: BD-quality in the unit of the given qualities (dB for PSNR, none for MS-SSIM). Positive values mean
            that the codec is better than the reference.
    """

    rate: float
    quality: float


@checked
def bd(reference_rate: Points, reference_quality: Points, rate: Points, quality: Points, method: str = "pchip") -> BD:
    """Compute BD-rate and BD-quality of a rate-distortion curve relative to a reference.

    Args:
        reference_rate: rates of the reference in bits per pixel, ordered by lambda. At least 4 points are required.
        reference_quality: qualities of the same points: PSNR in dB, MS-SSIM or another metric where larger is better.
        rate: rates of the codec in bits per pixel. It may have a different number of points than the reference.
        quality: qualities of the codec.
        method: interpolation, one of ``METHODS``.

    Returns:
        The BD-rate in percent and the BD-quality in the unit of the qualities.

    Raises:
        GradlabError: a curve has fewer than 4 points, different numbers of rates and qualities, NaN or infinite values,
            or a rate that is not positive; a curve is not monotone and the method is ``pchip`` or ``akima``; the curves
            have no rate or no quality in common; the method is unknown.

    Example:
        A codec that always needs 10 % less rate has a BD-rate of -10 %:

        >>> import gradlab as gl
        >>> rate, psnr = [0.2, 0.4, 0.7, 1.1], [28.0, 30.0, 32.5, 35.0]
        >>> figures = gl.evaluation.bd(rate, psnr, [0.9 * r for r in rate], psnr)
        >>> round(figures.rate, 3), figures.quality > 0
        (-10.0, True)

    Source:
        G. Bjontegaard, VCEG-M33 (2001).
    """
    curves = (reference_rate, reference_quality, rate, quality)
    return BD(bd_rate(*curves, method=method), bd_quality(*curves, method=method))


@checked
def bd_rate(
    reference_rate: Points, reference_quality: Points, rate: Points, quality: Points, method: str = "pchip"
) -> float:
    """Compute the BD-rate: the average difference in rate at equal quality, in percent.

    Args:
        reference_rate: rates of the reference in bits per pixel, ordered by lambda.
        reference_quality: qualities of the same points; larger is better.
        rate: rates of the codec in bits per pixel.
        quality: qualities of the codec.
        method: interpolation, one of ``METHODS``.

    Returns:
        The BD-rate in percent, negative if the codec needs less rate than the reference.

    Raises:
        GradlabError: see ``bd``.

    Example:
        >>> import gradlab as gl
        >>> rate, psnr = [0.2, 0.4, 0.7, 1.1], [28.0, 30.0, 32.5, 35.0]
        >>> round(gl.evaluation.bd_rate(rate, psnr, [2 * r for r in rate], psnr), 3)
        100.0
    """
    r0, q0, r1, q1 = _curves(reference_rate, reference_quality, rate, quality, method)
    _require_overlap("qualities", q0, q1)
    return float(100 * (10 ** _average(q0, np.log10(r0), q1, np.log10(r1), method) - 1))


@checked
def bd_quality(
    reference_rate: Points, reference_quality: Points, rate: Points, quality: Points, method: str = "pchip"
) -> float:
    """Compute the BD-quality: the average difference in quality at equal rate.

    Args:
        reference_rate: rates of the reference in bits per pixel, ordered by lambda.
        reference_quality: qualities of the same points; larger is better.
        rate: rates of the codec in bits per pixel.
        quality: qualities of the codec.
        method: interpolation, one of ``METHODS``.

    Returns:
        The BD-quality in the unit of the qualities, positive if the codec is better than the reference.

    Raises:
        GradlabError: see ``bd``.

    Example:
        >>> import gradlab as gl
        >>> rate, psnr = [0.2, 0.4, 0.7, 1.1], [28.0, 30.0, 32.5, 35.0]
        >>> round(gl.evaluation.bd_quality(rate, psnr, rate, [q + 0.5 for q in psnr]), 3)
        0.5
    """
    r0, q0, r1, q1 = _curves(reference_rate, reference_quality, rate, quality, method)
    _require_overlap("rates", r0, r1)
    return float(_average(np.log10(r0), q0, np.log10(r1), q1, method))


@checked
def bd_table(
    points: pd.DataFrame, reference: str, qualities: str | Iterable[str] = ("PSNR", "MS-SSIM"), rate: str = "bpp"
) -> pd.DataFrame:
    """Compare every method in a table with a reference, for each quality and each interpolation.

    Args:
        points: one row per point of a curve, ordered by lambda, with a column ``method`` and the columns named by
            ``qualities`` and ``rate``.
        reference: the method that the others are compared with. It also appears in the result, with zeros.
        qualities: name or names of the quality columns; larger values are better.
        rate: name of the rate column.

    Returns:
        One row per method and interpolation, with the columns ``method`` and ``interpolation``; ``<quality> BD-BR (%)``
        and ``<quality> BD-Metric`` for each quality, NaN where the figure is undefined; ``points``; ``overlap``, the
        fraction of the range of the first quality that both curves cover; and ``note``, the reason why figures are
        undefined, or an empty string.

    Raises:
        GradlabError: the reference is not in the table, a column is missing, the table is empty, or ``qualities`` is
            empty.

    Example:
        >>> import gradlab as gl
        >>> import pandas as pd
        >>> points = pd.DataFrame({
        ...     "method": ["baseline"] * 4 + ["ours"] * 4,
        ...     "bpp": [0.2, 0.4, 0.7, 1.1, 0.18, 0.36, 0.63, 0.99],
        ...     "PSNR": [28.0, 30.0, 32.5, 35.0] * 2,
        ... })
        >>> table = gl.evaluation.bd_table(points, reference="baseline", qualities=["PSNR"])
        >>> ours = table[(table["method"] == "ours") & (table["interpolation"] == "pchip")]
        >>> round(ours["PSNR BD-BR (%)"].item(), 2)
        -10.0
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
    """Compute the fraction of the interval spanned by two curves that both of them cover.

    Args:
        reference: qualities or rates of one curve.
        other: the same quantity of the other curve.

    Returns:
        Length of the intersection of the two ranges divided by the length of their union, from 0 to 1.

    Example:
        >>> from gradlab.evaluation.bd import overlap
        >>> overlap([28.0, 32.0], [30.0, 36.0])
        0.25
    """
    a, b = np.asarray(reference, float), np.asarray(other, float)
    shared = min(a.max(), b.max()) - max(a.min(), b.min())
    whole = max(a.max(), b.max()) - min(a.min(), b.min())
    return max(0.0, float(shared / whole)) if whole > 0 else 0.0


@checked
def describe_fold(rate: Points, quality: Points) -> str:
    """Describe the first step at which the rate or the quality of a rate-distortion curve does not increase.

    Args:
        rate: rates of the points, in ascending or descending order of lambda.
        quality: qualities of the same points.

    Returns:
        A description of that step, or an empty string if rate and quality both increase from point to point.

    Example:
        >>> from gradlab.evaluation.bd import describe_fold
        >>> describe_fold([0.2, 0.4, 0.7], [28.0, 31.0, 30.0])
        'quality 30 follows 31'
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
    """Validate the lambdas of a sweep and return them as floats.

    Args:
        values: one or several R-D trade-off parameters lambda, in ascending order.

    Returns:
        The lambdas as a tuple of floats.

    Raises:
        GradlabError: ``values`` is empty or not strictly increasing, or a lambda is not positive and finite.

    Example:
        >>> import gradlab as gl
        >>> gl.evaluation.check_lambdas([0.0016, 0.0032, 0.0075])
        (0.0016, 0.0032, 0.0075)
    """
    lams = tuple(real("a lambda", value) for value in several("lambdas", values, (int, float), "numbers"))
    for lam in lams:
        if lam <= 0:
            raise GradlabError(f"a lambda is {lam:g}: give positive, finite lambdas")
    for before, after in itertools.pairwise(lams):
        if not after > before:
            raise GradlabError(
                f"lambda {after:g} follows {before:g}: give the lambdas in ascending order, without repetition"
            )
    return lams


def _curves(
    reference_rate: Points, reference_quality: Points, rate: Points, quality: Points, method: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    known("interpolation", method, METHODS)
    reference = _curve("the reference", reference_rate, reference_quality, method)
    return (*reference, *_curve("the codec", rate, quality, method))


def _curve(name: str, rates: Points, qualities: Points, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Convert one curve to arrays and validate it; ``name`` identifies the curve in error messages.

    Raises:
        GradlabError: the figures are undefined for these points.
    """
    r, q = np.asarray(rates, float), np.asarray(qualities, float)
    if r.ndim != 1 or r.shape != q.shape:
        raise GradlabError(f"{name} has {r.size} rates and {q.size} qualities: give one quality for each rate")
    if len(r) < FEWEST:
        raise GradlabError(f"{name} has {len(r)} points: give at least {FEWEST}")
    for axis, values in (("rate", r), ("quality", q)):
        bad = ~np.isfinite(values)
        if bad.any():
            index = int(bad.argmax())
            raise GradlabError(f"the {axis} of point {index + 1} of {name} is {values[index]}: remove that point")
    if not (r > 0).all():
        raise GradlabError(f"{name} has a rate of {r.min():g}: give positive rates")
    fold = describe_fold(r, q)
    if fold and method != "cubic":
        raise GradlabError(
            f"{name} is not monotone ({fold}): {method} is undefined; "
            "remove the point or use method='cubic', a least-squares fit"
        )
    return r, q


def _require_overlap(what: str, reference: np.ndarray, other: np.ndarray) -> None:
    if overlap(reference, other) == 0:
        raise GradlabError(
            f"the curves have no {what} in common ({reference.min():.4g} to {reference.max():.4g} and "
            f"{other.min():.4g} to {other.max():.4g}): give curves that overlap"
        )


def _average(x0: np.ndarray, y0: np.ndarray, x1: np.ndarray, y1: np.ndarray, method: str) -> float:
    from bjontegaard import bd_linear  # imported here because it imports pyplot

    # The package requires ascending x for every method, although the order does not matter for the least-squares fit.
    (x0, y0), (x1, y1) = ((x[order], y[order]) for x, y in ((x0, y0), (x1, y1)) for order in [np.argsort(x)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns of a small overlap; ``overlap`` reports it
        return float(bd_linear(x0, y0, x1, y1, method=method, require_matching_points=False))
