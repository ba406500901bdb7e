"""Format tables of results: value and error in one cell, then the paper's number and the difference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pandas import DataFrame

ERROR, PAPER = "_se", "_paper"


class Column(NamedTuple):
    """One measured column as text, with the paper's numbers if there are any.

    Attributes:
        name: name of the column in the CSV.
        cells: ``value``, or ``value +- standard error``.
        numeric: whether to align the column right.
        paper: the paper's numbers; empty if there are none.
        difference: (measured - paper) / |paper| in percent; empty without the paper's numbers.
    """

    name: str
    cells: list[str]
    numeric: bool
    paper: list[str]
    difference: list[str]


def columns(frame: DataFrame) -> list[Column]:
    """Format the columns of ``frame``, merging ``<name>_se`` and ``<name>_paper`` into ``<name>``."""
    from pandas.api.types import is_numeric_dtype

    names = [str(name) for name in frame.columns]
    merged = {name + suffix for name in names for suffix in (ERROR, PAPER) if name + suffix in names}
    result = []
    for name in names:
        if name in merged:
            continue
        values = frame[name].tolist()
        if name + ERROR in merged:
            cells = [with_error(v, e) for v, e in zip(values, frame[name + ERROR].tolist(), strict=True)]
        else:
            cells = [text(value) for value in values]
        printed = frame[name + PAPER].tolist() if name + PAPER in merged else []
        difference = [_difference(value, number) for value, number in zip(values, printed, strict=False)]
        numeric = bool(is_numeric_dtype(frame[name]))
        result.append(Column(name, cells, numeric, [text(number) for number in printed], difference))
    return result


def text(value: object) -> str:
    """Format a value with four significant digits; integers in full, booleans as yes or no, missing values empty.

    Example:
        >>> from gradlab.study.formatting import text
        >>> [text(value) for value in (0.123456, 3.0, True, float("nan"))]
        ['0.1235', '3', 'yes', '']
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if math.isinf(value) or value == 0:
        return "inf" if value > 0 else "-inf" if value < 0 else "0"
    if value.is_integer() and abs(value) < 1e9:
        return str(int(value))
    size = math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, 3 - size)}f}" if -4 <= size < 6 else f"{value:.3e}"


def with_error(value: object, error: object) -> str:
    """Format ``0.527 +- 0.012`` with a plus-minus sign: two digits of the error, and as many decimals of the value."""
    if not isinstance(value, (int, float)) or not isinstance(error, (int, float)):
        return text(value)
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return text(value)
    size = math.floor(math.log10(error))
    if max(abs(value), error) >= 1e6 or size < -5:
        return f"{value:.4g} \u00b1 {error:.2g}"
    decimals = max(0, 1 - size)
    return f"{value:.{decimals}f} \u00b1 {error:.{decimals}f}"


def _difference(value: object, paper: object) -> str:
    if not isinstance(value, (int, float)) or not isinstance(paper, (int, float)):
        return ""
    if not (math.isfinite(value) and math.isfinite(paper)) or paper == 0:
        return ""
    return f"{100 * (value - paper) / abs(paper):+.1f} %"
