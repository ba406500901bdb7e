"""Check Tables 4 and 5 against Tables 8 and 9: Bjontegaard metrics, for each interpolation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from gradlab.errors import GradlabError
from gradlab.evaluation import bd_quality, bd_rate
from gradlab.evaluation.bd import METHODS
from gradlab.study import paper
from gradlab.study.audit.checks import Check, Rounded, equal, read

FIGURES = {"BD-BR (%)": bd_rate, "BD-Metric": bd_quality}
FROM = {4: 8, 5: 9}
CLAIMS = {n: f"the BD figures of Table {n} follow from Table {source}" for n, source in FROM.items()}


def deltas() -> Iterator[Check]:
    """Check every number of Tables 4 and 5 except the baseline's zeros."""
    for n, source in FROM.items():
        curves = {name: rows.to_dict("list") for name, rows in paper.printed(source).groupby("method")}
        for cells in paper.printed(n).to_dict("records"):
            method = cells["method"]
            if method == "Baseline":
                continue
            for metric, figure, interpolation in itertools.product(("PSNR", "MS-SSIM"), FIGURES, METHODS):
                points = [[read(text) for text in curves[name][column]] for name in ("Baseline", method)
                          for column in ("bpp", metric)]  # fmt: skip
                column = f"{metric} {figure}"
                printed = read(cells[column])
                recomputed, note = recompute(figure, points, interpolation)
                if math.isnan(printed.value):
                    note = "the paper gives none" + (f"; {note}" if note else "")
                yield equal(CLAIMS[n], str(n), method, column, printed, recomputed, note=note,
                            interpolation=interpolation)  # fmt: skip


def recompute(figure: str, points: list[list[Rounded]], interpolation: str) -> tuple[Rounded, str]:
    """Recompute a BD metric from rounded points.

    Args:
        figure: a key of ``FIGURES``.
        points: rates and qualities of the reference, then of the other curve.
        interpolation: the method of ``gradlab.evaluation.bd``.

    Returns:
        The metric, with the sum over all points of its change when a point moves by half a unit (to first order the
        largest effect of rounding); and the reason why it is undefined (NaN), otherwise empty.
    """
    function = FIGURES[figure]
    values = [np.array([point.value for point in column]) for column in points]
    try:
        centre = function(values[0], values[1], values[2], values[3], interpolation)
    except GradlabError as error:
        return Rounded(math.nan, math.nan), str(error)
    slack = 0.0
    for place, column in enumerate(points):
        for index, point in enumerate(column):
            moved = [value.copy() for value in values]
            moved[place][index] += point.half
            slack += abs(function(moved[0], moved[1], moved[2], moved[3], interpolation) - centre)
    return Rounded(centre, slack), ""
