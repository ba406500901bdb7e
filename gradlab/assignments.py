"""``--set base.crop=128``: settings of a study changed from the command line, by name and typed."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from gradlab import arguments
from gradlab.errors import GradlabError, unknown

T = TypeVar("T")


def assigned(settings: T, assignments: Iterable[str]) -> T:
    """A copy of frozen settings with some fields changed.

    Args:
        settings: a frozen dataclass, in whose fields others may lie.
        assignments: ``"field=value"`` or ``"field.field=value"``, values as Python writes them (``128``, ``1e-4``,
            ``(1000, 2000)``, ``None``, ``True``); what is none of these is text.

    Raises:
        GradlabError: no such field (with the nearest name), a value of another kind, no ``=``, or values that the
            settings refuse.

    Example::

        assigned(TrainSettings(), ["crop=128", "loss.k=8"])
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise GradlabError(f"--set {assignment!r} assigns nothing: give NAME=VALUE, e.g. base.crop=128")
        settings = _with(settings, path.strip().split("."), text.strip(), path.strip())
    return settings


def _with(settings: Any, names: list[str], text: str, path: str) -> Any:
    known = {f.name for f in dataclasses.fields(settings) if f.init}
    name, rest = names[0], names[1:]
    if name not in known:
        raise unknown("setting", path, [path[: len(path) - len(".".join(names))] + one for one in known])
    value = getattr(settings, name)
    if rest:
        if not dataclasses.is_dataclass(value):
            raise GradlabError(f"--set {path}: {name} is {value!r} and has no parts; give {name}=VALUE")
        return dataclasses.replace(settings, **{name: _with(value, rest, text, path)})
    if dataclasses.is_dataclass(value):
        parts = ", ".join(f.name for f in dataclasses.fields(value) if f.init)
        raise GradlabError(f"--set {path} is a group of settings: set one of its parts ({parts}), as {path}.PART=VALUE")
    hint = typing.get_type_hints(type(settings)).get(name, Any)
    new = _read(text)
    if not arguments.fits(new, hint):
        new = text  # e.g. a codec's name that reads as a number
    arguments.require(f"--set {path}", new, hint)
    return dataclasses.replace(settings, **{name: tuple(new) if isinstance(new, list) else new})


def _read(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
