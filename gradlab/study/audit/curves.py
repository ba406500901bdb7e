"""Tables 4 and 5 from Tables 8 and 9: Bjontegaard's figures, by each interpolation."""

from __future__ import annotations

import itertools
import math

import numpy as np

from gradlab.errors import GradlabError
from gradlab.evaluation import bd_quality, bd_rate
from gradlab.evaluation.bd import METHODS
from gradlab.study import paper
from gradlab.study.audit.checks import Check, equal, read

FIGURES = {"BD-BR (%)": bd_rate, "BD-Metric": bd_quality}
FROM = {4: 8, 5: 9}
CLAIMS = {n: f"the BD figures of Table {n} follow from Table {source}" for n, source in FROM.items()}


def deltas() -> list[Check]:
    """Every figure of Tables 4 and 5 but the baseline's zeros."""
    found = []
    for n, source in FROM.items():
        curves = {name: rows.to_dict("list") for name, rows in paper.printed(source).groupby("method")}
        for cells in paper.printed(n).to_dict("records"):
            if cells["method"] == "Baseline":
                continue
            for metric, figure, method in itertools.product(("PSNR", "MS-SSIM"), FIGURES, METHODS):
                points = [read_all(curves[name][column]) for name in ("Baseline", cells["method"])
                          for column in ("bpp", metric)]  # fmt: skip
                printed = read(cells[f"{metric} {figure}"])
                value, slack, note = recompute(figure, points, method)
                if math.isnan(printed.value):
                    note = "the paper gives none" + (f"; {note}" if note else "")
                column = f"{metric} {figure}"
                found.append(
                    equal(
                        CLAIMS[n],
                        str(n),
                        cells["method"],
                        column,
                        printed,
                        value,
                        slack=slack,
                        interpolation=method,
                        note=note,
                    )
                )
    return found


def read_all(column: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Values and half units of a column."""
    numbers = [read(text) for text in column]
    return np.array([p.value for p in numbers]), np.array([p.half for p in numbers])


def recompute(figure: str, points: list[tuple[np.ndarray, np.ndarray]], method: str) -> tuple[float, float, str]:
    """A BD figure, and by how much the rounding of the points it is computed from may move it.

    Args:
        figure: a key of ``FIGURES``.
        points: values and half units of the reference's rates and qualities, and of the other curve's.
        method: interpolation.

    Returns:
        The figure; the sum over all points of how far half a unit moves it (to first order the most that rounding can
        do); and, where it is undefined (NaN), why.
    """
    function = FIGURES[figure]
    values = [value for value, _ in points]
    try:
        centre = function(values[0], values[1], values[2], values[3], method)
    except GradlabError as error:
        return math.nan, math.nan, str(error)
    slack = 0.0
    for place, (value, half) in enumerate(points):
        for index in range(len(value)):
            moved = [v.copy() for v in values]
            moved[place][index] += half[index]
            slack += abs(function(moved[0], moved[1], moved[2], moved[3], method) - centre)
    return centre, slack, ""
