"""Converters: each returns the value that a function works with, and raises ``GradlabError`` for all other values."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, SupportsIndex

from gradlab.errors import ArgumentError, GradlabError, brief, unknown


def whole(name: str, value: SupportsIndex, least: int | None = None, items: str = "") -> int:
    """Convert a whole number of any type (Python, numpy, torch) to ``int``.

    Args:
        name: name of the argument, for the error message.
        value: its value.
        least: smallest allowed value.
        items: what is counted, for the error message.

    Raises:
        ArgumentError: a bool, a float, or another value that is not a whole number, or one below ``least``.
    """
    if not is_whole(value) or (least is not None and operator.index(value) < least):
        expected = "a whole number" + f" of {items}" * bool(items)
        if least is not None:
            expected += f"{',' if items else ' of'} at least {least}"
        raise refused(name, value, expected)
    return operator.index(value)


def wholes(
    name: str,
    value: SupportsIndex | Iterable[SupportsIndex],
    least: int | None = None,
    items: str = "",
    *,
    empty: bool = False,
) -> list[int]:
    """Convert whole numbers, or a single one, to a list of ``int``.

    Raises:
        ArgumentError: none at all, unless ``empty`` is allowed, or an item that ``whole`` refuses.
    """
    if is_whole(value) or isinstance(value, (bool, float)):
        return [whole(name, value, least, items)]  # type: ignore[arg-type]
    values = several(name, value, (), "a whole number, or several", empty=empty)
    return [whole(f"{name}[{index}]", item, least, items) for index, item in enumerate(values)]


def real(name: str, value: float) -> float:
    """Convert a finite number to ``float``.

    Raises:
        ArgumentError: no number, or not a finite one.
    """
    if not is_number(value):
        raise ArgumentError(name, value, "a number")
    if not math.isfinite(value):
        raise ArgumentError(name, float(value), "a finite number")
    return float(value)


def several(name: str, value: Any, single: type | tuple[type, ...], expected: str, *, empty: bool = False) -> list[Any]:
    """List the items of an iterable, which is read once; a value of the type ``single`` is a list of one.

    Raises:
        ArgumentError: no iterable, or one without items, unless ``empty`` is allowed.
    """
    if isinstance(value, single):
        return [value]
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        raise ArgumentError(name, value, expected)
    items = [str(item) if isinstance(item, str) else item for item in value]  # numpy's texts too
    if not items and not empty:
        raise GradlabError(f"{name} is empty: give at least one")
    return items


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """Return a name that is one of ``names``.

    Raises:
        GradlabError: another name (with the nearest one), or no text.
    """
    if not isinstance(name, str) or name not in names:
        raise unknown(kind, name, names)
    return str(name)


def is_whole(value: object) -> bool:
    """Whether a value is a single whole number and no bool."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def is_truth(value: object) -> bool:
    """Whether a value is True or False, of Python or of numpy."""
    return isinstance(value, bool) or (type(value).__name__ in ("bool_", "bool") and hasattr(value, "dtype"))


def is_number(value: object) -> bool:
    """Whether a value is a single real number that a float can hold, NaN and infinity included, and no bool."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def require_columns(table: Any, columns: Iterable[str], what: str) -> None:
    """Refuse a table without rows or without one of the columns.

    Raises:
        GradlabError: names the column and what the table should be.
    """
    missing = [column for column in columns if column not in table.columns]
    if missing or not len(table):
        lacks = f"no column {missing[0]!r}" if missing else "no rows"
        raise GradlabError(f"the table has {lacks}: give {what}")


def device(name: Any) -> Any:
    """Return an available ``torch.device``.

    Raises:
        GradlabError: no such device.
    """
    import torch

    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError):
        available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        available += ["mps"] if torch.backends.mps.is_available() else []
        raise GradlabError(f"there is no device {brief(name)} here: give {' or '.join(available)}") from None
    return chosen


def refused(name: str, value: object, expected: str, function: str = "") -> ArgumentError:
    """Build the error, with an example where a float stands for a whole number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 and "a whole number" in expected:
        expected += f", e.g. {max(int(value), 1)}"
    return ArgumentError(name, value, expected, function)
