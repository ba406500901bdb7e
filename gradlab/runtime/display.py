"""What a session and a notebook show of an object: a line for ``repr``, a small table for ``_repr_html_``.

``@shown`` describes a class by the arguments of its constructor, in the line only those that differ from their default,
as scikit-learn does. A class says more by defining ``_repr_line_`` (the text between the parentheses),
``_repr_rows_`` (name -> value of the table) or ``_repr_arguments_`` (argument -> value, where attributes have other
names).

Showing an object costs nothing: of a tensor the shape, and the value only of a single number on the CPU, so that no
accelerator is waited for. An object that is not complete, for an exception in its constructor, is shown with ``...``.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import inspect
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

Class = TypeVar("Class", bound=type)

LONGEST = 60
"""Characters of a value that gradlab did not define; longer ones are cut."""

MOST_LINES = 20
"""Lines in one cell of a table; further ones are counted."""

_LEFT = "text-align: left; vertical-align: top"


def shown(cls: Class) -> Class:
    """Give a class its ``__repr__`` and its ``_repr_html_``; the decorator goes above ``@dataclass``."""
    for name, method in (("__repr__", _line), ("_repr_html_", _html)):
        setattr(cls, name, method)
    return cls


def arguments(thing: object) -> dict[str, Any]:
    """Return the arguments that ``thing`` was built with, as far as it holds them, in the order of its constructor."""
    names = inspect.signature(type(thing)).parameters
    held: Callable[[], Mapping[str, Any]] | None = getattr(thing, "_repr_arguments_", None)
    found = held() if held else {name: getattr(thing, name) for name in names if hasattr(thing, name)}
    return {name: found[name] for name in names if name in found}


def brief(value: object) -> str:
    """Describe a value in a few characters: plain data as Python writes it, tensors by shape, functions by name."""
    if isinstance(value, (Tensor, np.ndarray)):
        return _array(value)
    if type(value) is tuple:
        return f"({', '.join(map(brief, value))}{',' * (len(value) == 1)})"
    if type(value) is list:
        return f"[{', '.join(map(brief, value))}]"
    if isinstance(value, bytes) and len(value) > LONGEST:
        return f"<{len(value):_} bytes>"
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, Path):
        return repr(str(value))
    if isinstance(value, functools.partial):
        return f"partial({brief(value.func)}, ...)"
    if inspect.isroutine(value):
        return str(value.__name__)
    if isinstance(value, nn.Module) or type(value).__repr__ is object.__repr__:
        return type(value).__name__
    try:
        text = repr(value)
    except Exception:  # another class's own
        return type(value).__name__
    ours = isinstance(value, (str, bytes)) or type(value).__repr__ is _line
    return text if ours or len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def counted(n: int, noun: str) -> str:
    """Write a number and what is counted, e.g. ``"1 group"`` or ``"1_200 draws"``."""
    return f"{n:_} {noun}{'' if n == 1 else 's'}"


def table(title: str, rows: Mapping[str, object]) -> str:
    """Write a table of two columns in HTML that needs no style sheet and suits light and dark pages.

    Args:
        title: the caption.
        rows: name -> value; strings are shown as they are, a mapping as lines ``name: value``, others by ``brief``.
    """
    cells = "".join(
        f'<tr><th style="{_LEFT}">{html.escape(name)}</th><td style="{_LEFT}">{_cell(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f'<table><caption style="{_LEFT}"><b>{html.escape(title)}</b></caption>{cells}</table>'


@reprlib.recursive_repr()
def _line(self: object) -> str:
    return f"{type(self).__name__}({_inside(self)})"


def _html(self: object) -> str:
    name = type(self).__name__
    rows: Callable[[], Mapping[str, object]] | None = getattr(self, "_repr_rows_", None)
    try:
        return table(name, rows() if rows else arguments(self))
    except (AttributeError, OSError, RecursionError):
        return table(name, {"...": "not complete"})


def _inside(thing: object) -> str:
    """The text between the parentheses."""
    line: Callable[[], str] | None = getattr(thing, "_repr_line_", None)
    try:
        return line() if line else _call(thing)
    except (AttributeError, OSError):  # half-built; a folder that cannot be read
        return "..."


def _call(thing: object) -> str:
    """The arguments that differ from their default, and ``...`` if the object does not hold them all."""
    held = arguments(thing)
    parameters = inspect.signature(type(thing)).parameters
    fields = getattr(thing, "__dataclass_fields__", {})
    parts = []
    for name, value in held.items():
        made = name in fields and fields[name].default_factory is not dataclasses.MISSING
        default = fields[name].default_factory() if made else parameters[name].default
        if not _equal(value, default):
            parts.append(f"{name}={brief(value)}")
    return ", ".join(parts + ["..."] * (held.keys() != parameters.keys()))


def _equal(value: object, default: object) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):  # a comparison would read them
        return False
    try:
        return value is default or bool(value == default)
    except Exception:  # another class's own comparison
        return False


def _array(value: Tensor | np.ndarray) -> str:
    device = str(value.device) if isinstance(value, Tensor) else "cpu"
    if value.ndim == 0 and device == "cpu" and type(value) in (Tensor, nn.Parameter, np.ndarray):
        try:
            number = value.item()
            return f"{number:.6g}" if isinstance(number, float) else str(number)
        except RuntimeError:  # inside of a transform of torch.func
            pass
    kind = "Tensor" if isinstance(value, Tensor) else "array"
    return f"{kind}[{', '.join(map(str, value.shape))}]" + ("" if device == "cpu" else f" on {device}")


def _cell(value: object) -> str:
    if not isinstance(value, Mapping):
        return html.escape(value if isinstance(value, str) else brief(value))
    lines = [f"{html.escape(str(name))}: {_cell(part)}" for name, part in [*value.items()][:MOST_LINES]]
    return "<br>".join(lines + [f"... and {len(value) - MOST_LINES} more"] * (len(value) > MOST_LINES))
